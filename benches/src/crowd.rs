//! Many processes at one host service: what it costs, how fast it is, and what one of them can do to the others.
//!
//! `scale`, `tables` and `flood` are the measures. They start a host service in a process of its own (`service`) and processes
//! that connect to each other (`peers` starts and asks them, `peer` is what they do), some of which mean no good (`attacker`).
//! `engine` pretends to be Docker, `process` asks the kernel what others cost, `figures` prints.

pub(crate) mod attacker;
mod engine;
mod figures;
pub(crate) mod flood;
pub(crate) mod peer;
mod peers;
mod process;
pub(crate) mod scale;
pub(crate) mod service;
pub(crate) mod tables;
