//! One ring: a single producer and a single consumer in two processes, no locks.
//!
//! Each side keeps its own cursor in private memory and publishes it; the other side's cursor is a claim that
//! `cursor` checks before it means anything. Cursors count bytes and never wrap.
//!
//! ```text
//!  publish:  copy, tail.store(Release), fence(SeqCst), look at the consumer's mark: set? take it and ring
//!  sleep:    set the mark, fence(SeqCst), tail.load(Acquire): still empty? sleep
//! ```
//!
//! Either the producer sees the mark or the consumer sees the new tail; without both fences each could miss the
//! other's store (store buffering) and the consumer would sleep on a full ring. The other way round for a full ring.
//! Nobody sleeping means no system call. `models/ring.rs` holds the loom models.

mod consumer;
mod cursor;
mod producer;

pub use consumer::Consumer;
pub use producer::Producer;

/// The peer broke the format. The connection is to be reset; nothing outside of the block has been touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// Its cursor went backwards, or further than there is room for.
    #[error("peer fault: cursor {claim} is not between {least} and {most}")]
    Cursor {
        /// What stands in the block.
        claim: u64,
        /// The least it can be.
        least: u64,
        /// The most it can be.
        most: u64,
    },
    /// It says that it switched at a byte that lies behind those already received.
    #[error("peer fault: switched after {claim} bytes, but {received} have come by TCP")]
    SwitchedInThePast {
        /// What stands in the block.
        claim: u64,
        /// Bytes that came by TCP.
        received: u64,
    },
    /// What follows the last byte sent by TCP is not the switch token.
    #[error("peer fault: wrong switch token")]
    WrongToken,
    /// It keeps ringing without moving a byte.
    #[error("peer fault: {rings} doorbells within a second without a byte")]
    Storm {
        /// How many are let pass in a second.
        rings: u32,
    },
    /// It keeps sending by TCP after the switch.
    #[error("peer fault: more than {limit} bytes by TCP after the switch")]
    StrayBytes {
        /// How many are let pass, as probes.
        limit: u64,
    },
}

/// Whether a publication found the other side asleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a sleeping peer that is not rung sleeps on"]
pub enum Wake {
    /// It sleeps and its mark is taken: ring its doorbell, now.
    Peer,
    /// Nobody sleeps.
    Nobody,
}

#[cfg(all(test, not(loom)))]
mod tests;
