//! What the host service knows: which containers there are, and which connections.

pub(crate) mod connections;
pub(crate) mod containers;
