//! What the tests across the crates share: real processes, namespaces, sockets and a host service to run them against.
//!
//! [`suite()`] runs tests and says which ones this machine cannot run, and why. [`Peer`] is one end of a connection in a process
//! of its own (`shmbc-peer`), told by a test what to do with the words of [`script`]; [`HostProcess`] the real service;
//! [`NetNs`] two machines; [`Image`] makes a container of a program. [`raw`] has the system calls for which no crate has a safe function; it is the only file here
//! with `unsafe` in it. Nothing here stands in for a part of SHMBC.

pub mod docker;
pub mod host;
pub mod netns;
pub mod pattern;
pub mod peer;
pub mod process;
pub mod raw;
pub mod script;
pub mod sockets;
pub mod suite;

pub use docker::{Image, docker};
pub use host::HostProcess;
pub use netns::NetNs;
pub use pattern::Pattern;
pub use peer::{Peer, Setup};
pub use suite::{Need, suite, test};
