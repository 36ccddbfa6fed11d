//! A process at one end of a connection, told what to do by a test.

fn main() {}
