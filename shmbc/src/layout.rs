//! Every byte of the shared format: where each word of the header stands and where the rings begin.
//!
//! Constants and arithmetic only; no memory is touched here. Both ends and the host compile the same
//! numbers in; [`VERSION`] changes when any of them does.
//!
//! ```text
//! 0        identification: magic, version, capacities                                  128 bytes
//! 128      direction A to B: six cache lines of 128 bytes                              768 bytes
//! 896      direction B to A: likewise                                                  768 bytes
//! 4096     both rings, piece by piece, A to B and B to A by turns: the first 2048 bytes of each in one page,
//!          2048 bytes of each in a page of its own, then 4096 of each, 8192, ... until each has its capacity
//! ```
//!
//! A ring's first bytes are its hottest: a producer starts there again whenever it can. So they stand together: a connection of
//! small messages takes two pages of memory and one page of each end's page table (rings of 4 MiB one behind the other: three and
//! two).
//!
//! All words are `u64`, naturally aligned, each with exactly one writer, but for the two need-wakeup marks,
//! which one side sets and the other takes, and the word in which one side switches unless the other forbids it. Words with different writers never share 128 bytes (two lines:
//! processors fetch lines in pairs).

use std::ops::Range;

/// First word of every block: `SHMBC` and the byte order mark.
pub const MAGIC: u64 = u64::from_le_bytes(*b"SHMBC\0\x01\x02");

/// Version of this layout.
pub const VERSION: u64 = 2;

/// In [`Words::switched`]: the consumer has closed, no token may follow.
pub const FORBIDDEN: u64 = u64::MAX;

/// Spacing between words of different writers, in bytes.
pub const LINE: usize = 128;

/// Size of the header, in bytes: one page of the smallest page size.
pub const HEADER: usize = 4096;

/// Smallest ring, in bytes: one page. (Two bytes where a model explores every interleaving.)
pub const MIN_CAPACITY: u64 = if cfg!(loom) { 2 } else { 4096 };

/// First piece of each ring, in bytes: half a page, so that both fit into one. (One byte where a model explores every
/// interleaving.)
pub const FIRST_PIECE: u64 = if cfg!(loom) { 1 } else { 2048 };

/// Largest ring, in bytes. Bounds what a grant can make us map: two of these and the header.
pub const MAX_CAPACITY: u64 = 1 << 30;

/// Which way bytes flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From end A to end B.
    AToB,
    /// From end B to end A.
    BToA,
}

impl Direction {
    /// Both directions, in the order in which they stand in the block.
    pub const BOTH: [Self; 2] = [Self::AToB, Self::BToA];

    /// 0 for A to B, 1 for B to A.
    pub const fn index(self) -> usize {
        match self {
            Self::AToB => 0,
            Self::BToA => 1,
        }
    }
}

/// Offset of a 64-bit word of the header, in bytes. Only this module makes one, so every `Word` is aligned and
/// lies inside the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Word(usize);

impl Word {
    const fn at(offset: usize) -> Self {
        assert!(offset.is_multiple_of(8) && offset + 8 <= HEADER);
        Self(offset)
    }

    /// The offset from the start of the block, in bytes.
    pub const fn offset(self) -> usize {
        self.0
    }
}

/// [`MAGIC`].
pub const MAGIC_WORD: Word = Word::at(0);
/// [`VERSION`].
pub const VERSION_WORD: Word = Word::at(8);
/// Capacity of each direction's ring, in bytes.
pub const CAPACITY_WORDS: [Word; 2] = [Word::at(16), Word::at(24)];

/// The words of one direction.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// Producer: next byte to write, counted from the switch on, never wrapped.
    pub tail: Word,
    /// Producer: the CPU it last published from, plus one; 0 = not yet known.
    pub producer_cpu: Word,
    /// Producer: the byte number that stands at the ring's first byte. Changes only while the ring is empty, before the tail does.
    pub origin: Word,
    /// 0; the number of bytes the producer sent by TCP before it switched, plus one; or [`FORBIDDEN`], if the consumer closed
    /// first. Whoever comes first sets it, once.
    pub switched: Word,
    /// Producer: not 0 once it has shut its write side and will go on reading.
    pub half_closed: Word,
    /// Producer: doorbells it rang.
    pub producer_doorbells: Word,
    /// Producer: times it went to sleep.
    pub producer_sleeps: Word,
    /// Producer: times it found the ring full.
    pub full: Word,
    /// Consumer: next byte to read.
    pub head: Word,
    /// Consumer: the CPU it last published from, plus one; 0 = not yet known.
    pub consumer_cpu: Word,
    /// Consumer: doorbells it rang.
    pub consumer_doorbells: Word,
    /// Consumer: times it went to sleep.
    pub consumer_sleeps: Word,
    /// Consumer: times it found the ring empty.
    pub empty: Word,
    /// Need-wakeup mark of the consumer: it sets it before it sleeps, the producer takes it.
    pub consumer_waits: Word,
    /// Need-wakeup mark of the producer: it sets it before it sleeps, the consumer takes it.
    pub producer_waits: Word,
}

const LINES_PER_DIRECTION: usize = 6;

impl Words {
    const fn starting_at(base: usize) -> Self {
        Self {
            tail: Word::at(base),
            producer_cpu: Word::at(base + 8),
            origin: Word::at(base + 16),
            switched: Word::at(base + LINE),
            half_closed: Word::at(base + LINE + 8),
            producer_doorbells: Word::at(base + LINE + 16),
            producer_sleeps: Word::at(base + LINE + 24),
            full: Word::at(base + LINE + 32),
            head: Word::at(base + 2 * LINE),
            consumer_cpu: Word::at(base + 2 * LINE + 8),
            consumer_doorbells: Word::at(base + 3 * LINE),
            consumer_sleeps: Word::at(base + 3 * LINE + 8),
            empty: Word::at(base + 3 * LINE + 16),
            consumer_waits: Word::at(base + 4 * LINE),
            producer_waits: Word::at(base + 5 * LINE),
        }
    }

    /// The words of `direction`.
    pub const fn of(direction: Direction) -> Self {
        Self::starting_at(LINE + direction.index() * LINES_PER_DIRECTION * LINE)
    }

    /// All of them, for whoever walks the header (statistics, models).
    pub const fn all(&self) -> [Word; 15] {
        [
            self.tail,
            self.producer_cpu,
            self.origin,
            self.switched,
            self.half_closed,
            self.producer_doorbells,
            self.producer_sleeps,
            self.full,
            self.head,
            self.consumer_cpu,
            self.consumer_doorbells,
            self.consumer_sleeps,
            self.empty,
            self.consumer_waits,
            self.producer_waits,
        ]
    }
}

const _: () = assert!(LINE + 2 * LINES_PER_DIRECTION * LINE <= HEADER);

/// The sizes of one block: the capacity of each direction's ring. Each is a power of two between
/// [`MIN_CAPACITY`] and [`MAX_CAPACITY`]; a `Sizes` cannot hold anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sizes {
    capacity: [u64; 2],
}

/// A capacity that no block can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ring capacity {0} is not a power of two between {MIN_CAPACITY} and {MAX_CAPACITY}")]
pub struct BadCapacity(pub u64);

impl Sizes {
    /// Sizes with these capacities, A to B first.
    ///
    /// # Errors
    ///
    /// [`BadCapacity`] names the first one that is not a power of two within the limits.
    pub const fn new(capacity: [u64; 2]) -> Result<Self, BadCapacity> {
        let mut i = 0;
        while i < 2 {
            let c = capacity[i];
            if !c.is_power_of_two() || c < MIN_CAPACITY || c > MAX_CAPACITY {
                return Err(BadCapacity(c));
            }
            i += 1;
        }
        Ok(Self { capacity })
    }

    /// Capacity of `direction`'s ring, in bytes.
    pub const fn capacity(&self, direction: Direction) -> u64 {
        self.capacity[direction.index()]
    }

    /// Size of the whole block, in bytes.
    pub const fn block_len(&self) -> usize {
        let [a, b] = self.capacity;
        HEADER + (PAGE + 2 * if a > b { a } else { b }) as usize
    }
}

/// Smallest page that Linux has. (Two bytes where a model explores every interleaving.)
const PAGE: u64 = 2 * FIRST_PIECE;

/// Those pieces of `direction`'s ring of `capacity` bytes that share no page with the other's, in bytes from the start of the block.
pub fn own_pieces(direction: Direction, capacity: u64) -> impl Iterator<Item = Range<usize>> {
    let doubling = std::iter::successors(Some(PAGE), |offset| Some(offset * 2));
    std::iter::once(FIRST_PIECE).chain(doubling).take_while(move |&offset| offset < capacity).map(move |offset| {
        let (start, len) = place(direction, offset);
        start..start + len.max(PAGE as usize)
    })
}

/// Where byte `offset` of `direction`'s ring stands, in bytes from the start of the block, and how many follow it in one piece.
#[inline]
pub const fn place(direction: Direction, offset: u64) -> (usize, usize) {
    let behind = direction.index() as u64;
    if offset < FIRST_PIECE {
        return (HEADER + (behind * FIRST_PIECE + offset) as usize, (FIRST_PIECE - offset) as usize);
    }
    if offset < PAGE {
        return (HEADER + ((1 + behind) * PAGE + offset - FIRST_PIECE) as usize, (PAGE - offset) as usize);
    }
    // The pieces before take a page and twice as many bytes as stand before this one in the ring.
    let piece = 1 << offset.ilog2();
    (HEADER + (PAGE + (1 + behind) * piece + offset) as usize, (2 * piece - offset) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_different_writers_when_laid_out_share_no_line() {
        let mut lines = std::collections::HashMap::new();
        for direction in Direction::BOTH {
            let w = Words::of(direction);
            let producer = [
                w.tail,
                w.producer_cpu,
                w.origin,
                w.switched,
                w.half_closed,
                w.producer_doorbells,
                w.producer_sleeps,
                w.full,
            ];
            let consumer = [w.head, w.consumer_cpu, w.consumer_doorbells, w.consumer_sleeps, w.empty];
            let owners = producer
                .iter()
                .map(|w| (w, "producer"))
                .chain(consumer.iter().map(|w| (w, "consumer")))
                .chain([(&w.consumer_waits, "consumer's mark"), (&w.producer_waits, "producer's mark")]);
            for (word, who) in owners {
                let owner = (direction, who);
                assert_eq!(*lines.entry(word.offset() / LINE).or_insert(owner), owner, "{word:?}");
            }
        }
        assert!(!lines.contains_key(&0), "identification stands alone");
    }

    #[test]
    fn sizes_when_not_a_power_of_two_or_out_of_range_are_refused() {
        for bad in [0, 1, 2048, 4097, 5000, MAX_CAPACITY * 2, u64::MAX] {
            assert_eq!(Sizes::new([4096, bad]), Err(BadCapacity(bad)));
            assert_eq!(Sizes::new([bad, 4096]), Err(BadCapacity(bad)));
        }
        let sizes = Sizes::new([4096, 8192]).unwrap();
        assert_eq!(sizes.block_len(), 4096 + 4096 + 2 * 8192);
    }

    #[test]
    fn rings_when_laid_out_share_no_byte_and_fill_the_block() {
        let sizes = Sizes::new([1 << 16; 2]).unwrap();
        let mut owners: Vec<Option<(Direction, u64)>> = vec![None; sizes.block_len()];
        for direction in Direction::BOTH {
            for offset in 0..sizes.capacity(direction) {
                let (at, rest) = place(direction, offset);
                assert!(at >= HEADER && rest > 0);
                assert_eq!(place(direction, offset + rest as u64 - 1).0, at + rest - 1, "in one piece");
                assert_eq!(owners[at].replace((direction, offset)), None, "{direction:?} {offset}");
            }
            for page in own_pieces(direction, sizes.capacity(direction)).flat_map(|piece| piece.step_by(4096)) {
                let mut here = owners[page..page + 4096].iter().flatten();
                assert!(page % 4096 == 0 && here.all(|&(owner, _)| owner == direction), "{direction:?} {page}");
            }
        }
        let own = Direction::BOTH.into_iter().flat_map(|direction| own_pieces(direction, 1 << 16));
        assert_eq!(own.map(|piece| piece.len()).sum::<usize>(), sizes.block_len() - HEADER - 4096);
        assert!(owners[sizes.block_len() - 1].is_some());
    }
}
