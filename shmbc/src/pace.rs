//! How often a consumer looks at the producer's cursor while small writes come in close order.
//!
//! Each look takes the cursor's cache line away from the producer, which must fetch it back for its next write. A consumer
//! that looks as often as it can gets one write a look, and both then work at the speed of that line. Looking once a
//! microsecond lets a dozen writes gather: 2.3 times as many writes of 256 bytes a second, a third more of 64 (where a line takes
//! 300 ns from core to core and back). A stream whose looks find nothing as often as something, a request and its answer among
//! them, is never paced.

use std::time::{Duration, Instant};

/// One consumer's recent looks at the producer's cursor.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// One more for each look that found a little, half for each that found nothing.
    dense: u32,
    /// The last look, while the stream is dense.
    last: Option<Instant>,
}

/// From here on a stream is dense.
const DENSE: u32 = 8;

/// What is remembered of a dense stream: three looks in vain, and it is none.
const DENSEST: u32 = 32;

/// What a look may find at most to be followed by a pause. Copying more takes as long as the pause.
const LITTLE: u64 = 4096;

/// From one look to the next.
const PAUSE: Duration = Duration::from_micros(1);

impl Pace {
    /// Whether it is too early for another look.
    #[inline]
    pub(crate) fn is_too_early(&self) -> bool {
        self.last.is_some_and(|last| last.elapsed() < PAUSE)
    }

    /// A look found so many bytes.
    #[inline]
    pub(crate) fn found(&mut self, bytes: u64) {
        self.dense = match bytes {
            0 => self.dense / 2,
            1..=LITTLE => (self.dense + 1).min(DENSEST),
            _ => self.dense,
        };
        let pause = self.dense >= DENSE && bytes <= LITTLE;
        self.last = pause.then(Instant::now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After looks that found so much each: whether the next one has to wait.
    fn paced(looks: impl IntoIterator<Item = u64>) -> bool {
        let mut pace = Pace::default();
        for bytes in looks {
            pace.found(bytes);
        }
        pace.last.is_some()
    }

    #[test]
    fn pace_when_every_look_finds_a_little_is_kept() {
        assert!(paced([64; 100]));
        assert!(!paced([64; 7]), "not from the first one on");
    }

    #[test]
    fn pace_when_looks_are_vain_is_given_up() {
        assert!(paced([64; 100].into_iter().chain([0, 0])));
        assert!(!paced([64; 100].into_iter().chain([0, 0, 0])));
    }

    #[test]
    fn pace_when_answers_are_awaited_or_much_is_there_is_not_kept() {
        assert!(!paced([64, 0].into_iter().cycle().take(1000)), "requests and answers");
        assert!(!paced([64 * 1024; 100]), "bulk");
        assert!(!paced([64; 100].into_iter().chain([1 << 20])), "a little, then much");
    }
}
