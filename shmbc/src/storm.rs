//! Tells a peer that rings because it has moved bytes from one that merely rings.

use std::time::{Duration, Instant};

/// Most rings in a second that find nothing to do. An honest peer rings because it has moved bytes; one that merely rings
/// costs us a wake-up each, and this is the point where we have had enough.
pub(crate) const VAIN_MAX: u32 = 10_000;

/// Counts the rings that found nothing to do.
#[derive(Debug, Default)]
pub(crate) struct Storm {
    /// Bytes moved each way when the last ring came.
    moved: [u64; 2],
    vain: u32,
    since: Option<Instant>,
}

impl Storm {
    /// Takes note of a ring. True: it is one of too many.
    pub(crate) fn rung(&mut self, moved: [u64; 2]) -> bool {
        if moved != self.moved {
            (self.moved, self.vain, self.since) = (moved, 0, None);
            return false;
        }
        self.vain += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.vain < VAIN_MAX {
            return false;
        }
        (self.vain, self.since) = (0, None);
        since.elapsed() < Duration::from_secs(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storm_when_no_byte_moves_is_noticed_and_when_some_do_is_none() {
        let mut storm = Storm::default();
        for n in 0..u64::from(VAIN_MAX) * 3 {
            assert!(!storm.rung([n, 0]) && !storm.rung([n, 1]));
        }
        // Bytes that moved begin a new count.
        storm.since = Instant::now().checked_sub(Duration::from_secs(5));
        assert!(!storm.rung([1, 1]) && storm.since.is_none());
        let mut storm = Storm::default();
        let started = Instant::now();
        let noticed = (0..VAIN_MAX).any(|_| storm.rung([0, 0]));
        assert_eq!(noticed, started.elapsed() < Duration::from_secs(1));
    }
}
