//! Shared memory links between processes that do not trust each other.
//!
//! This crate is the core of SHMBC: what one connection is made of, without a runtime and without any knowledge of containers.
//! `shmbc-host` is the service that brings the two ends together. What people use: with tokio the crate `shmbc-tokio`; without it
//! [`blocking`] for threads, `mio` and `futures` behind the features of these names. The rest is for those who build such
//! streams.
//!
//! # A connection
//!
//! ```text
//!   process A                                                process B
//!   ---------                                                ---------
//!   write -> link::Sending --- TCP bytes, switch token -----> link::Receiving -> read
//!                    \                                        /
//!                     `-> Producer ==[ block: ring A to B ]==> Consumer
//!                            |                                   |
//!                            '------------ doorbell -------------'
//!   read <- link::Receiving <- ... the same again from B to A ... <- link::Sending <- write
//! ```
//!
//! A connection begins as, and stays, a TCP connection made by the kernel. The two ends *offer* it to
//! the host service, which proves both offers, *grants* them one [`Block`](block::Block) of shared
//! memory, and says *go* once both have mapped it. Each end then *switches* the direction it writes:
//! it publishes how many bytes it sent by TCP, writes a 16-byte switch token as its last TCP bytes, and
//! writes to the ring from then on. The TCP connection remains as the lifeline: its FIN and RST mean
//! what they always mean.
//!
//! # What is guaranteed
//!
//! * Every byte once and in order, before, during and after the switch.
//! * Nothing a peer writes into the block makes us touch memory outside of it, loop, block or panic: what
//!   it says is a claim, loaded once, checked, and refused as a [`PeerFault`].
//! * Nobody's crash leaves the other side waiting: the kernel closes the lifeline.
//!
//! # Who may do what
//!
//! The host service creates and seals the block; both ends verify it before they map it. The peer may write
//! anything anywhere in the block at any time. It cannot shrink it (sealed), and it never shares an open
//! file description with us that we use for a blocking call (see [`doorbell`]).
//!
//! # Files
//!
//! Walk 1, bytes: [`connection`] -> `driver` -> [`link`] -> [`ring`] -> `sys/access` -> [`doorbell`]; `wait` decides whether to
//! sleep and [`reactor`] how. Walk 2, upgrade: `traffic` -> `agent` (the process's talk with the host) -> [`control`] ->
//! [`block`] -> `upgrade` (what the agent and one stream share). All `unsafe` of this crate is in `sys/`.

#![cfg_attr(docsrs, feature(doc_cfg))]

// A block is a memfd; models have a twin of the mapped memory instead (`sys/model.rs`).
#[cfg(not(loom))]
mod agent;
#[cfg(not(loom))]
pub mod block;
#[cfg(not(loom))]
pub mod blocking;
#[cfg(not(loom))]
mod config;
#[cfg(not(loom))]
pub mod connection;
pub mod control;
pub mod doorbell;
#[cfg(not(loom))]
mod driver;
pub mod eventfd;
#[cfg(all(feature = "futures", not(loom)))]
pub mod futures;
pub mod layout;
pub mod link;
pub mod locality;
#[cfg(all(feature = "mio", not(loom)))]
pub mod mio;
#[cfg(all(test, loom))]
mod models;
#[cfg(not(loom))]
mod over_tcp;
#[cfg(not(loom))]
mod own;
#[cfg(not(loom))]
mod pace;
#[cfg(not(loom))]
mod polled;
#[cfg(not(loom))]
pub mod reactor;
pub mod ring;
#[cfg(not(loom))]
mod storm;
mod sync;
pub mod sys;
#[cfg(not(loom))]
mod traffic;
#[cfg(not(loom))]
mod upgrade;
#[cfg(not(loom))]
mod wait;

#[cfg(not(loom))]
pub use agent::{Listener, query};
#[cfg(not(loom))]
pub use config::{AlreadyInstalled, Config, ConfigError, When};
pub use ring::PeerFault;
#[cfg(not(loom))]
pub use wait::Wait;
