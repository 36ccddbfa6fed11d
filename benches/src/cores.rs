//! How far two cores are apart: the time that one cache line takes from one to the other and back.
//!
//! Everything that goes through shared memory rests on it, and in a virtual machine it changes while a run lasts, when
//! the virtual CPUs are moved on the machine beneath: figures that jump are told apart from figures that are bad.

use std::hint;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::placement;

/// Round trips that are timed together: long against reading the clock, short against a time slice.
const BATCH: u32 = 500;
/// How long the whole measurement lasts at most; with a busy neighbour one batch can take a few time slices.
const LIMIT: Duration = Duration::from_millis(20);
/// Tells the other thread to end.
const END: u32 = u32::MAX;

/// A cache line to itself, and the one that the hardware fetches beside it.
#[repr(align(128))]
struct Line(AtomicU32);

/// Round trip of a cache line between two CPUs in nanoseconds: the fastest batch. Nothing if they cannot be used.
pub(crate) fn round_trip(here: usize, there: usize) -> Option<f64> {
    let (ping, pong) = (Line(AtomicU32::new(0)), Line(AtomicU32::new(0)));
    thread::scope(|scope| {
        scope.spawn(|| {
            // Unpinned it still answers, so that the other thread never waits in vain.
            let _ = placement::pin(&[there]);
            let mut seen = 0;
            while seen != END {
                let now = ping.0.load(Ordering::Acquire);
                if now != seen {
                    pong.0.store(now, Ordering::Release);
                    seen = now;
                }
                hint::spin_loop();
            }
        });
        let measuring = scope.spawn(|| {
            let pinned = placement::pin(&[here]);
            let (begin, mut best, mut n) = (Instant::now(), None::<f64>, 0_u32);
            while pinned.is_ok() && begin.elapsed() < LIMIT {
                let from = Instant::now();
                for _ in 0..BATCH {
                    n += 1;
                    ping.0.store(n, Ordering::Release);
                    while pong.0.load(Ordering::Acquire) != n {
                        hint::spin_loop();
                    }
                }
                let each = from.elapsed().as_nanos() as f64 / f64::from(BATCH);
                best = Some(best.map_or(each, |best| best.min(each)));
            }
            ping.0.store(END, Ordering::Release);
            best
        });
        measuring.join().ok().flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_ends_with_a_figure_even_when_both_are_on_one_core() {
        let cpus = placement::allowed().expect("the kernel knows");
        let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
        assert!(round_trip(first, last).is_some_and(|ns| ns > 0.0));
        assert_eq!(round_trip(usize::MAX, first), None);
    }
}
