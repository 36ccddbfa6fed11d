//! A connection that rests gives back the memory that its last burst took.
//!
//! Done by whoever reads, before it sleeps: both sides of a stream are at hand there, and nearly every connection that rests has
//! somebody who waits for its next bytes. It costs one wake-up, a while after the last byte. (The agent could do it alone only if
//! every write took a lock.)

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Driver, ReadSide, WriteSide};
use crate::agent;
use crate::reactor::Socket;

/// How long nothing moves before memory is given back: making it anew takes 0.2 us a page, a millisecond for a whole block.
const REST: Duration = Duration::from_millis(400);

/// How long nothing has moved.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Bytes taken from one ring, and put into the other.
    moved: [u64; 2],
    /// Since when that is so. Nothing once the memory is given back.
    since: Option<Instant>,
}

impl<S: Socket> Driver<S> {
    /// The reading side is about to sleep.
    pub(super) fn rest(&self, read: &mut ReadSide, write: &Mutex<WriteSide>) {
        // A writer at work is no rest.
        let (Some(consumer), Ok(mut write)) = (read.link.ring(), write.try_lock()) else { return };
        let Some(producer) = write.link.ring() else { return };
        if !producer.is_spread() && !consumer.is_spread() {
            return;
        }
        let moved = [consumer.consumed(), producer.produced()];
        let rest = &mut read.rest;
        if rest.moved != moved {
            *rest = Rest { moved, since: Some(Instant::now()) };
        }
        if let Some(since) = rest.since {
            if since.elapsed() < REST {
                agent::wake_later(&self.upgrade, REST);
            } else {
                rest.since = None;
                // A fault is found again by whoever uses the ring next.
                let _ = producer.rest();
            }
        }
    }
}
