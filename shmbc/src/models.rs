//! Loom models of the core: ring, doorbell, sleeping and the link, run under every interleaving of their threads (up to a
//! bound on preemptions) and every value that a load may return.
//!
//! Built only with `--cfg loom`, where `sys/model.rs` stands in for the mapped block: words are loom's atomics, so a load
//! may return an old value, and payload bytes are loom's cells, so reading one without an ordering is an error. A lost
//! wake-up shows up as a deadlock. What is not concurrent (how many bytes, where the switch lies, where a process dies) is
//! counted through in plain loops around the models.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p shmbc --release --lib models
//! ```
//!
//! `scripts/loom-mutations` breaks one fence, one ordering or one step at a time and expects a model here to fail.

mod close;
mod end;
mod host;
mod kernel;
mod orders;
mod ring;
mod switch;

use std::sync::Arc;

use crate::control::message::End as Letter;
use crate::layout::Sizes;
use crate::link::{Granted, SwitchToken};
use crate::sync;
use crate::sys::Mapping;

/// Thread switches that a model may make where the code under test could make another choice. Nearly all known bugs need
/// two at most; `LOOM_MAX_PREEMPTIONS` overrides it.
const PREEMPTIONS: usize = 3;

/// Runs `model` under every interleaving.
fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    builder.check(model);
}

/// Rings of `capacity` bytes each way.
fn sizes(capacity: u64) -> Sizes {
    Sizes::new([capacity, capacity]).unwrap()
}

/// What the program at one end sends: no byte of it occurs in a token.
fn program_bytes(n: usize) -> Vec<u8> {
    (1..=n as u8).collect()
}

/// The two halves of one grant.
fn grant(capacity: u64) -> (Arc<Granted>, Arc<Granted>) {
    let memory = sync::Arc::new(Mapping::model(sizes(capacity)));
    let tokens =
        [[0xa0_u8; 16], [0xb0; 16]].map(|token| SwitchToken::from_bytes(std::array::from_fn(|i| token[i] + i as u8)));
    let half = |end, send, receive| {
        let half = Granted::shared(sync::Arc::clone(&memory), sizes(capacity), end, send, receive);
        Arc::new(half)
    };
    (half(Letter::A, tokens[0], tokens[1]), half(Letter::B, tokens[1], tokens[0]))
}
