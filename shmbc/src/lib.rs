//! Shared memory links between processes that do not trust each other.
//!
//! This crate is the core of SHMBC: what one connection is made of, without a runtime, without I/O
//! loops and without any knowledge of containers. `shmbc-tokio` builds the types people use on it,
//! `shmbc-host` the service that brings the two ends together.
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
//! Walk 1, bytes: [`link`] -> [`ring`] -> `sys/access` -> [`doorbell`]. Walk 2, upgrade: [`control`] ->
//! [`block`] -> [`link`]. All `unsafe` of this crate is in `sys/`.

#![cfg_attr(docsrs, feature(doc_cfg))]

// A block is a memfd; models have a twin of the mapped memory instead (`sys/model.rs`).
#[cfg(not(loom))]
pub mod block;
pub mod control;
pub mod doorbell;
pub mod eventfd;
pub mod layout;
pub mod link;
pub mod locality;
#[cfg(all(test, loom))]
mod models;
pub mod ring;
mod sync;
pub mod sys;

pub use ring::PeerFault;
