//! Whether a connection has shown that it lives on, and so is worth an upgrade.
//!
//! Both ends see the same traffic, so they come to it at about the same time. A one-shot connection (connect, one
//! request, one answer, close) turns around once and never asks.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::reactor::Way;

/// Changes between writing and reading after which a connection is worth an upgrade: the second request of a client (write, read,
/// write) and of a server (read, write, read).
const TURNAROUNDS: u64 = 2;

/// Bytes after which it is, in one direction: 20 times what the upgrade itself costs in time.
const BYTES: u64 = 256 * 1024;

/// Counts until the decision. One word, so that two tasks can count at once; which of them wins a race does not matter.
/// Bits 0-1: the last way; 2-15: turnarounds; 16-63: bytes since the last turnaround.
#[derive(Debug, Default)]
pub(crate) struct Traffic(AtomicU64);

impl Traffic {
    /// Takes note of `n` bytes and says whether the connection has now shown that it lives on.
    pub(crate) fn note(&self, way: Way, n: usize) -> bool {
        let old = self.0.load(Ordering::Relaxed);
        let (last, turns, bytes) = (old & 3, old >> 2 & 0x3fff, old >> 16);
        let turned = last != 0 && last != way as u64;
        let turns = (turns + u64::from(turned)).min(TURNAROUNDS);
        let bytes = (if turned { 0 } else { bytes } + n as u64).min(BYTES);
        self.0.store(way as u64 | turns << 2 | bytes << 16, Ordering::Relaxed);
        turns >= TURNAROUNDS || bytes >= BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_when_it_does_one_exchange_is_not_worth_it_and_with_two_it_is() {
        for [first, second] in [[Way::Out, Way::In], [Way::In, Way::Out]] {
            let traffic = Traffic::default();
            assert!(!traffic.note(first, 100));
            assert!(!traffic.note(first, 100));
            assert!(!traffic.note(second, 1000));
            assert!(!traffic.note(second, 1000));
            assert!(traffic.note(first, 1));
        }
    }

    #[test]
    fn connection_when_it_moves_much_in_one_direction_is_worth_it() {
        let traffic = Traffic::default();
        assert!(!traffic.note(Way::Out, BYTES as usize - 1));
        assert!(traffic.note(Way::Out, 1));
        assert!(Traffic::default().note(Way::In, usize::MAX >> 1));
    }
}
