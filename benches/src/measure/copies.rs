//! Limits of `stream`: bytes copied from one place to another, and nothing said about it.
//!
//! Done by the serving process alone; the connecting one has nothing to do.

use std::fs;
use std::hint;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

use super::Announce;
use super::stream::{BUFFER, Rate, writes_between_looks};
use crate::names::Contender;
use crate::placement;
use crate::protocol::{Outcome, Place, Times, Work};

/// Pieces of the buffer of `memcpy2`: while one is filled the others are emptied.
const SLOTS: usize = 4;
/// The L2 cache where the kernel does not say.
const L2: usize = 1 << 20;

/// Copies for as long as a sample lasts.
pub(super) fn serve(limit: Contender, work: Work, place: &Place, announce: Announce) -> io::Result<Outcome> {
    announce(vec!["none".into()])?;
    let outcome = match (limit, work) {
        (Contender::Memcpy, Work::Stream { size, times }) => one(size, place.ring as usize, times),
        (_, Work::Stream { size, times }) => two(size, &place.cpus, times),
        (_, other) => return Err(super::bare::unsuited(other)),
    };
    // The other end has sent nothing, and what both say is compared.
    Ok(Outcome { bytes: 0, ..outcome })
}

/// One thread copies `size` bytes again and again to the next place of a buffer, as a producer does.
fn one(size: usize, ring: usize, times: Times) -> Outcome {
    // Not at the same offset in a page as the buffer: the C library copies such half as fast on some processors.
    const ASIDE: usize = 512;
    let message = vec![1_u8; ASIDE + size];
    let mut buffer = vec![1_u8; ring.max(size)];
    let mut rate = Rate::begin(times);
    let mut at = 0;
    while rate.goes_on() {
        for _ in 0..writes_between_looks(size) {
            if at + size > buffer.len() {
                at = 0;
            }
            hint::black_box(&mut buffer)[at..at + size].copy_from_slice(hint::black_box(&message[ASIDE..]));
            at += size;
            rate.add(size);
        }
    }
    rate.outcome()
}

/// One thread copies in, one out: writes of `size` bytes, reads of what a stream's reader reads.
fn two(size: usize, cpus: &[usize], times: Times) -> Outcome {
    let slot = l2() / SLOTS;
    let slots: Vec<Slot> = (0..SLOTS).map(|_| Slot::new(slot)).collect();
    let over = AtomicBool::new(false);
    // Before one of them spins, each is on its own CPU.
    let pinned = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(cpus.first());
            pinned.wait();
            let message = vec![1; size];
            let mut rest: &[u8] = &message;
            'slots: for slot in slots.iter().cycle() {
                while slot.full.load(Ordering::Acquire) {
                    if over.load(Ordering::Relaxed) {
                        break 'slots;
                    }
                    hint::spin_loop();
                }
                slot.with(|mut place| {
                    while !place.is_empty() {
                        let n = rest.len().min(place.len());
                        place[..n].copy_from_slice(&rest[..n]);
                        (place, rest) = (&mut place[n..], &rest[n..]);
                        if rest.is_empty() {
                            rest = hint::black_box(&message);
                        }
                    }
                });
                slot.full.store(true, Ordering::Release);
            }
        });
        let reader = scope.spawn(|| {
            pin(cpus.last());
            pinned.wait();
            let mut buffer = vec![0; BUFFER];
            let mut rate = Rate::begin(times);
            for slot in slots.iter().cycle() {
                while !slot.full.load(Ordering::Acquire) {
                    hint::spin_loop();
                }
                slot.with(|bytes| {
                    for piece in bytes.chunks(BUFFER) {
                        hint::black_box(&mut buffer)[..piece.len()].copy_from_slice(piece);
                        rate.add(piece.len());
                    }
                });
                if !rate.goes_on() {
                    break;
                }
                slot.full.store(false, Ordering::Release);
            }
            over.store(true, Ordering::Relaxed);
            rate.outcome()
        });
        reader.join().unwrap_or_default()
    })
}

/// A piece of the buffer between two threads. The lock is never waited for: the flag says whose it is.
struct Slot {
    full: AtomicBool,
    bytes: Mutex<Vec<u8>>,
}

impl Slot {
    fn new(size: usize) -> Self {
        Self { full: AtomicBool::new(false), bytes: Mutex::new(vec![0; size]) }
    }

    fn with(&self, work: impl FnOnce(&mut [u8])) {
        if let Ok(mut bytes) = self.bytes.lock() {
            work(&mut bytes);
        }
    }
}

/// Where it cannot be pinned it runs where it is.
fn pin(cpu: Option<&usize>) {
    if let Some(&cpu) = cpu {
        let _ = placement::pin(&[cpu]);
    }
}

/// Bytes of a core's L2 cache.
fn l2() -> usize {
    let size = fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").unwrap_or_default();
    let kib = size.trim().strip_suffix('K').and_then(|kib| kib.parse::<usize>().ok());
    kib.map_or(L2, |kib| kib << 10)
}
