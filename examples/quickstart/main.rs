//! q.
fn main() {}
