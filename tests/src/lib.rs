//! What the tests across the crates share: real processes, namespaces, sockets and a host service to run them against.
//!
//! [`suite`] runs tests and says which ones this machine cannot run, and why. [`raw`] has the system calls for which no crate
//! has a safe function; it is the only file here with `unsafe` in it. Nothing here stands in for a part of SHMBC.

pub mod raw;
pub mod sockets;
pub mod suite;

pub use suite::{Need, suite, test};
