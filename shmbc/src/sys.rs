//! *** The only `unsafe` of the core. ***
//!
//! `mapping` maps and unmaps a checked block, `access` reaches into it: copies and words; `numa` says where its
//! pages are to be. Nothing else in the
//! crate sees a pointer into shared memory, and nobody, these files included, ever makes a reference to shared
//! payload bytes: another process writes there at any time.

#![allow(unsafe_code)]

#[cfg(not(loom))]
mod access;
#[cfg(not(loom))]
mod cpu;
#[cfg(not(loom))]
mod mapping;
#[cfg(loom)]
mod model;
#[cfg(not(loom))]
mod numa;
mod tcp;

#[cfg(not(loom))]
pub use cpu::current_cpu;
#[cfg(not(loom))]
pub use mapping::Mapping;
#[cfg(loom)]
pub use model::{Mapping, current_cpu};
#[cfg(not(loom))]
pub use numa::Node;
pub use tcp::{TcpPosition, tcp_position};
#[cfg(not(loom))]
pub(crate) use tcp::{close_only, tcp_peer_has_ended};
