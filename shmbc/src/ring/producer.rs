//! The producing end of a ring. Owns its tail; publishes it; believes the consumer's head only after a check.

use std::io::IoSlice;

use crate::layout::{Direction, FIRST_PIECE, Sizes, Words, own_pieces};
use crate::sync::{Arc, Ordering, fence};
use crate::sys::{Mapping, current_cpu};

use super::cursor::{self, Piece};
use super::{PeerFault, Wake};

/// Most bytes copied before they are published: the consumer starts on them while the next ones are copied.
///
/// 64 KiB at 40 GB/s are 1.6 us, long enough that the fence and the cache line that a publication costs do not show.
pub(super) const PUBLISH_MAX: usize = 64 * 1024;

/// How far ahead of a small write its successors' cache lines are fetched, in bytes, and what is small.
///
/// The consumer has them from the last time around. A publication waits until the bytes before it are visible, so without this each
/// write waits for its lines: 1 KiB writes reach 10.1 GB/s with it, 7.7 without (where a line takes 300 ns from core to core
/// and back). The processor's own prefetching does as much for longer ones.
const PREFETCH: usize = 512;
const PREFETCH_MAX: usize = 4096;

/// The end of a ring that writes.
#[derive(Debug)]
pub struct Producer {
    memory: Arc<Mapping>,
    words: Words,
    direction: Direction,
    capacity: u64,
    /// Next byte to write. Only ever read from here; the copy in the block is for the consumer.
    tail: u64,
    /// The consumer's head when it was last looked at, checked.
    cached_head: u64,
    /// The byte number at the ring's first byte.
    origin: u64,
    /// Bytes from the origin on that are in use, of `capacity`.
    window: u64,
    /// Where the window ends: whoever writes beyond looks whether the ring is empty.
    turn: u64,
    /// Where the next bytes go.
    piece: Piece,
    /// What stands in the block.
    published_cpu: u64,
    published_origin: u64,
    /// Statistics, published when they change.
    doorbells: u64,
    sleeps: u64,
    full: u64,
}

impl Producer {
    /// The producer of `direction`, at the start of a fresh block.
    pub fn new(memory: Arc<Mapping>, sizes: Sizes, direction: Direction) -> Self {
        Self {
            memory,
            words: Words::of(direction),
            direction,
            capacity: sizes.capacity(direction),
            tail: 0,
            cached_head: 0,
            origin: 0,
            window: FIRST_PIECE,
            turn: FIRST_PIECE,
            piece: Piece::default(),
            published_cpu: 0,
            published_origin: 0,
            doorbells: 0,
            sleeps: 0,
            full: 0,
        }
    }

    /// Size of the ring in bytes.
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes published so far.
    pub const fn produced(&self) -> u64 {
        self.tail
    }

    /// Bytes that the consumer has taken out.
    ///
    /// # Errors
    ///
    /// [`PeerFault`] when the consumer's head is impossible.
    pub fn consumed(&mut self) -> Result<u64, PeerFault> {
        self.free()?;
        Ok(self.cached_head)
    }

    /// Bytes that can be written now.
    ///
    /// # Errors
    ///
    /// [`PeerFault`] when the consumer's head is impossible.
    #[inline]
    pub fn free(&mut self) -> Result<u64, PeerFault> {
        // Pairs with the Release in `Consumer::publish`: the bytes it read are read before we write over them.
        let head = self.memory.word(self.words.head).load(Ordering::Acquire);
        let free = cursor::free(self.tail, self.cached_head, head, self.capacity)?;
        self.cached_head = head;
        Ok(free)
    }

    /// Copies and publishes as much of `from` as fits, at most 64 KiB. 0 bytes: the ring is full.
    ///
    /// # Errors
    ///
    /// [`PeerFault`] when the consumer's head is impossible.
    #[inline]
    pub fn write(&mut self, from: &[u8]) -> Result<(usize, Wake), PeerFault> {
        let n = self.stage(from, 0)?;
        Ok((n, if n > 0 { self.publish(n) } else { Wake::Nobody }))
    }

    /// Like [`write`](Self::write), for several slices in one publication: the consumer sees them together.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    pub fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> Result<(usize, Wake), PeerFault> {
        let mut staged = 0;
        for slice in from {
            let n = self.stage(slice, staged)?;
            staged += n;
            if n < slice.len() {
                break;
            }
        }
        Ok((staged, if staged > 0 { self.publish(staged) } else { Wake::Nobody }))
    }

    /// Copies what fits of `from` behind `staged` bytes that are copied and not yet published.
    #[inline]
    fn stage(&mut self, from: &[u8], staged: usize) -> Result<usize, PeerFault> {
        let wanted = from.len().min(PUBLISH_MAX - staged);
        let mut free = self.capacity - (self.tail - self.cached_head);
        if free < (staged + wanted) as u64 {
            free = self.free()?;
            if free == 0 && wanted > 0 {
                self.full += 1;
                self.memory.word(self.words.full).store(self.full, Ordering::Relaxed);
            }
        }
        let n = wanted.min(free as usize - staged);
        let (from, position) = (&from[..n], self.tail + staged as u64);
        if position + n as u64 > self.piece.end() {
            self.stage_across(from, staged)?;
        } else {
            self.memory.copy_in(self.piece.place(position), from);
        }
        if n <= PREFETCH_MAX && position + (n + PREFETCH) as u64 <= self.piece.end() {
            self.memory.prefetch_to_write(self.piece.place(position) + PREFETCH, n);
        }
        Ok(n)
    }

    /// [`stage`](Self::stage) of bytes that do not all belong into the present piece of the ring.
    #[cold]
    fn stage_across(&mut self, mut from: &[u8], staged: usize) -> Result<(), PeerFault> {
        let mut position = self.tail + staged as u64;
        let end = position + from.len() as u64;
        if end > self.turn {
            self.turn(staged, end)?;
        }
        loop {
            self.piece = Piece::of(self.direction, position, self.origin, self.capacity);
            let (here, behind) = from.split_at(from.len().min((self.piece.end() - position) as usize));
            self.memory.copy_in(self.piece.place(position), here);
            position += here.len() as u64;
            if behind.is_empty() {
                return Ok(());
            }
            from = behind;
        }
    }

    /// The end of the window is reached by a write that ends at `end`: begins at the ring's first byte again if the ring is empty,
    /// else goes on into what follows.
    #[cold]
    fn turn(&mut self, staged: usize, end: u64) -> Result<(), PeerFault> {
        if staged == 0 && self.free()? == self.capacity {
            self.origin = self.tail;
            self.window = FIRST_PIECE;
        }
        while self.window < self.capacity && end - self.origin > self.window {
            self.window *= 2;
        }
        self.turn = self.origin + self.window;
        if end > self.turn {
            // All of the ring is in use: around its end.
            self.turn = end + self.window;
        }
        Ok(())
    }

    /// For a connection that rests: begins at the ring's first byte again if the ring is empty, and gives the memory of all pages that
    /// only this ring has back to the machine, and this process's page table of the whole block. Both are made anew when
    /// they are touched.
    ///
    /// # Errors
    ///
    /// [`PeerFault`] when the consumer's head is impossible.
    pub fn rest(&mut self) -> Result<(), PeerFault> {
        if self.is_spread() && self.free()? == self.capacity {
            (self.origin, self.window, self.turn) = (self.tail, FIRST_PIECE, self.tail + FIRST_PIECE);
            self.piece = Piece::default();
            own_pieces(self.direction, self.capacity).for_each(|piece| self.memory.give_back(piece));
        }
        self.memory.forget();
        Ok(())
    }

    /// Whether the ring has used more than the page that both rings share.
    pub const fn is_spread(&self) -> bool {
        self.window > FIRST_PIECE
    }

    /// The rule for publishing: cursor, fence, mark. `n` bytes have been copied behind the tail.
    #[inline]
    fn publish(&mut self, n: usize) -> Wake {
        self.tail += n as u64;
        let cpu = u64::from(current_cpu()) + 1;
        if cpu != self.published_cpu {
            self.published_cpu = cpu;
            self.memory.word(self.words.producer_cpu).store(cpu, Ordering::Relaxed);
        }
        if self.origin != self.published_origin {
            self.published_origin = self.origin;
            self.memory.word(self.words.origin).store(self.origin, Ordering::Relaxed);
        }
        // Pairs with the Acquire in `Consumer::filled`: who sees the tail sees the bytes before it, and the origin.
        self.memory.word(self.words.tail).store(self.tail, Ordering::Release);
        // Prevents the lost wake-up: pairs with the fence in `Consumer::arm`. Without it the load below could be done
        // before the store above is seen, while the consumer sets its mark and still sees the old tail.
        fence(Ordering::SeqCst);
        let mark = self.memory.word(self.words.consumer_waits);
        if mark.load(Ordering::Relaxed) == 0 || mark.swap(0, Ordering::Relaxed) == 0 {
            return Wake::Nobody;
        }
        self.doorbells += 1;
        self.memory.word(self.words.producer_doorbells).store(self.doorbells, Ordering::Relaxed);
        Wake::Peer
    }

    /// Sets the need-wakeup mark and looks again. True: still full, sleep now; the consumer will ring once a worthwhile
    /// part of the ring is free. False: there is room; the mark may stay set, at the cost of one needless ring.
    ///
    /// # Errors
    ///
    /// [`PeerFault`] when the consumer's head is impossible.
    pub fn arm(&mut self) -> Result<bool, PeerFault> {
        self.memory.word(self.words.producer_waits).store(1, Ordering::Relaxed);
        // Prevents the lost wake-up: pairs with the fence in `Consumer::publish`.
        fence(Ordering::SeqCst);
        let full = self.free()? == 0;
        if full {
            self.sleeps += 1;
            self.memory.word(self.words.producer_sleeps).store(self.sleeps, Ordering::Relaxed);
        } else {
            self.memory.word(self.words.producer_waits).store(0, Ordering::Relaxed);
        }
        Ok(full)
    }

    /// The CPU on which the consumer last published or armed; nothing before it first did.
    #[inline]
    pub fn consumer_cpu(&self) -> Option<u64> {
        self.memory.word(self.words.consumer_cpu).load(Ordering::Relaxed).checked_sub(1)
    }
}
