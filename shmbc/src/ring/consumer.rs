//! The consuming end of a ring. Owns its head; publishes it; believes the producer's tail only after a check.

use crate::layout::{Direction, FIRST_PIECE, Sizes, Words};
use crate::sync::{Arc, Ordering, fence};
use crate::sys::{Mapping, current_cpu};

use super::cursor::{self, Piece};
use super::{PeerFault, Wake};

/// Most bytes copied before the room they leave is published, so that the producer can go on in it.
pub(super) const RELEASE_MAX: usize = 64 * 1024;

/// A sleeping producer is woken when one part in this many of the ring is free: waking it for less would make both sides
/// take turns at a system call for every few bytes. (TCP wakes a writer at one third.)
const WORTHWHILE: u64 = 2;

/// The end of a ring that reads.
#[derive(Debug)]
pub struct Consumer {
    memory: Arc<Mapping>,
    words: Words,
    direction: Direction,
    capacity: u64,
    /// Next byte to read. Only ever read from here; the copy in the block is for the producer.
    head: u64,
    /// The producer's tail when it was last looked at, checked.
    cached_tail: u64,
    /// The byte number at the ring's first byte, as claimed with that tail.
    origin: u64,
    /// Where the next bytes stand.
    piece: Piece,
    /// What stands in the block.
    published_cpu: u64,
    /// Statistics, published when they change.
    doorbells: u64,
    sleeps: u64,
    empty: u64,
}

impl Consumer {
    /// The consumer of `direction`, at the start of a fresh block.
    pub fn new(memory: Arc<Mapping>, sizes: Sizes, direction: Direction) -> Self {
        Self {
            memory,
            words: Words::of(direction),
            direction,
            capacity: sizes.capacity(direction),
            head: 0,
            cached_tail: 0,
            origin: 0,
            piece: Piece::default(),
            published_cpu: 0,
            doorbells: 0,
            sleeps: 0,
            empty: 0,
        }
    }

    /// Size of the ring in bytes.
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes taken out so far.
    pub const fn consumed(&self) -> u64 {
        self.head
    }

    /// Whether the ring has used more than the page that both rings share, as far as the producer says.
    pub const fn is_spread(&self) -> bool {
        self.head.wrapping_sub(self.origin) > FIRST_PIECE
    }

    /// Bytes that can be read now.
    ///
    /// # Errors
    ///
    /// [`PeerFault`] when the producer's tail is impossible.
    #[inline]
    pub fn filled(&mut self) -> Result<u64, PeerFault> {
        // Pairs with the Release in `Producer::publish`.
        let tail = self.memory.word(self.words.tail).load(Ordering::Acquire);
        let filled = cursor::filled(self.head, self.cached_tail, tail, self.capacity)?;
        self.cached_tail = tail;
        // The one that belongs to this tail: it may be newer only if there is nothing to read.
        let origin = self.memory.word(self.words.origin).load(Ordering::Relaxed);
        if origin != self.origin {
            (self.origin, self.piece) = (origin, Piece::default());
        }
        Ok(filled)
    }

    /// Bytes that were there at the last look and have not been read.
    #[inline]
    pub const fn unread(&self) -> u64 {
        self.cached_tail - self.head
    }

    /// Bytes that can be read now, looking at the shared cursor only when none were left the last time.
    ///
    /// # Errors
    ///
    /// As [`filled`](Self::filled).
    #[inline]
    pub fn available(&mut self) -> Result<u64, PeerFault> {
        match self.unread() {
            0 => self.filled(),
            n => Ok(n),
        }
    }

    /// Moves bytes to `to`, at most 64 KiB. 0 bytes: the ring is empty.
    ///
    /// # Errors
    ///
    /// [`PeerFault`] when the producer's tail is impossible.
    #[inline]
    pub fn read(&mut self, to: &mut [u8]) -> Result<(usize, Wake), PeerFault> {
        let limit = to.len().min(RELEASE_MAX);
        let n = self.peek(&mut to[..limit])?;
        if n == 0 {
            return Ok((0, Wake::Nobody));
        }
        self.head += n as u64;
        Ok((n, self.publish()?))
    }

    /// Copies bytes to `to` and leaves them in the ring. 0 bytes: the ring is empty.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    #[inline]
    pub fn peek(&mut self, to: &mut [u8]) -> Result<usize, PeerFault> {
        let mut available = self.unread();
        if available < to.len() as u64 {
            available = self.filled()?;
        }
        let n = to.len().min(available as usize);
        let (to, position) = (&mut to[..n], self.head);
        if position + n as u64 > self.piece.end() {
            self.peek_across(to);
        } else {
            self.memory.copy_out(self.piece.place(position), to);
        }
        Ok(n)
    }

    /// [`peek`](Self::peek) of bytes that do not all stand in the present piece of the ring.
    #[cold]
    fn peek_across(&mut self, mut to: &mut [u8]) {
        let mut position = self.head;
        loop {
            let piece = Piece::of(self.direction, position, self.origin, self.capacity);
            if position == self.head {
                self.piece = piece;
            }
            let (here, behind) = to.split_at_mut(to.len().min((piece.end() - position) as usize));
            self.memory.copy_out(piece.place(position), here);
            position += here.len() as u64;
            if behind.is_empty() {
                return;
            }
            to = behind;
        }
    }

    /// The rule for publishing: cursor, fence, mark.
    #[inline]
    fn publish(&mut self) -> Result<Wake, PeerFault> {
        self.publish_cpu();
        // Pairs with the Acquire in `Producer::free`: we have read the bytes before they are written over.
        self.memory.word(self.words.head).store(self.head, Ordering::Release);
        // Prevents the lost wake-up: pairs with the fence in `Producer::arm`.
        fence(Ordering::SeqCst);
        if self.memory.word(self.words.producer_waits).load(Ordering::Relaxed) == 0 {
            return Ok(Wake::Nobody);
        }
        // The mark stays set until enough is free; this is looked at again at every publication, and the ring only
        // becomes emptier while its producer sleeps.
        let free = self.capacity - self.filled()?;
        let mark = self.memory.word(self.words.producer_waits);
        if free < self.capacity / WORTHWHILE || mark.swap(0, Ordering::Relaxed) == 0 {
            return Ok(Wake::Nobody);
        }
        self.doorbells += 1;
        self.memory.word(self.words.consumer_doorbells).store(self.doorbells, Ordering::Relaxed);
        Ok(Wake::Peer)
    }

    #[inline]
    fn publish_cpu(&mut self) {
        let cpu = u64::from(current_cpu()) + 1;
        if cpu != self.published_cpu {
            self.published_cpu = cpu;
            self.memory.word(self.words.consumer_cpu).store(cpu, Ordering::Relaxed);
        }
    }

    /// Sets the need-wakeup mark and looks again. True: still empty, sleep now; the producer will ring. False: there
    /// are bytes.
    ///
    /// # Errors
    ///
    /// [`PeerFault`] when the producer's tail is impossible.
    pub fn arm(&mut self) -> Result<bool, PeerFault> {
        self.publish_cpu();
        self.memory.word(self.words.consumer_waits).store(1, Ordering::Relaxed);
        // Prevents the lost wake-up: pairs with the fence in `Producer::publish`.
        fence(Ordering::SeqCst);
        let empty = self.filled()? == 0;
        if empty {
            self.sleeps += 1;
            self.memory.word(self.words.consumer_sleeps).store(self.sleeps, Ordering::Relaxed);
        } else {
            self.memory.word(self.words.consumer_waits).store(0, Ordering::Relaxed);
        }
        Ok(empty)
    }

    /// Counts that the ring was found empty, for the statistics.
    pub fn found_empty(&mut self) {
        self.empty += 1;
        self.memory.word(self.words.empty).store(self.empty, Ordering::Relaxed);
    }

    /// The CPU from which the producer last published; nothing before it first did.
    #[inline]
    pub fn producer_cpu(&self) -> Option<u64> {
        self.memory.word(self.words.producer_cpu).load(Ordering::Relaxed).checked_sub(1)
    }
}
