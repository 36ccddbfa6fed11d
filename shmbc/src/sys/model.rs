//! The heap-backed twin of a mapping, for loom: every word an atomic of loom's, every payload byte a cell of loom's,
//! so that a missing acquire or release shows up as a race on the payload.

use std::collections::BTreeMap;
use std::ops::Range;

use loom::cell::UnsafeCell;

use crate::layout::{Direction, HEADER, Sizes, Word, Words};
use crate::sync::{AtomicU64, Ordering};

/// Stands for a mapped block.
#[derive(Debug)]
pub struct Mapping {
    words: BTreeMap<Word, WordCell>,
    payload: Vec<UnsafeCell<u8>>,
}

// SAFETY: the payload cells are only reached through `copy_in` and `copy_out`; loom itself checks at run time that no
// two threads are there at once without an ordering between them.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// A zeroed block.
    pub fn model(sizes: Sizes) -> Self {
        let words = Direction::BOTH.iter().flat_map(|&d| {
            let words = Words::of(d);
            let marks = [words.consumer_waits, words.producer_waits];
            words.all().map(|w| (w, WordCell { value: AtomicU64::new(0), is_mark: marks.contains(&w) }))
        });
        Self { words: words.collect(), payload: (HEADER..sizes.block_len()).map(|_| UnsafeCell::new(0)).collect() }
    }

    /// One word of the header.
    pub(crate) fn word(&self, word: Word) -> &WordCell {
        &self.words[&word]
    }

    /// Copies `from` to the block at `offset`.
    pub(crate) fn copy_in(&self, offset: usize, from: &[u8]) {
        for (i, &byte) in from.iter().enumerate() {
            self.payload[offset - HEADER + i].with_mut(|p| {
                // SAFETY: loom has just checked that nobody else is in this cell.
                unsafe { *p = byte }
            });
        }
    }

    /// Copies from the block at `offset` to `to`.
    pub(crate) fn copy_out(&self, offset: usize, to: &mut [u8]) {
        for (i, byte) in to.iter_mut().enumerate() {
            self.payload[offset - HEADER + i].with(|p| {
                // SAFETY: loom has just checked that nobody is writing this cell.
                *byte = unsafe { *p };
            });
        }
    }

    /// Zeros, as nobody may be there.
    pub(crate) fn give_back(&self, range: Range<usize>) {
        self.copy_in(range.start, &vec![0; range.len()]);
    }

    /// Nothing: the memory stays as it is.
    pub(crate) const fn forget(&self) {}

    /// Nothing: a hint changes no order.
    pub(crate) const fn prefetch_to_write(&self, _offset: usize, _len: usize) {}
}

/// One word of the header.
#[derive(Debug)]
pub(crate) struct WordCell {
    value: AtomicU64,
    /// A need-wakeup mark: the only words that both sides write more than once.
    is_mark: bool,
}

impl WordCell {
    pub(crate) fn load(&self, order: Ordering) -> u64 {
        self.value.load(order)
    }

    /// Stores; a mark by swapping. Loom 0.7 does not know that a swap stands directly behind the store it read: it lets a
    /// mark that was set after the other side's swap be overwritten by that swap, and then reports a lost wake-up that no
    /// memory model allows. A swap of the same ordering puts the stores of a mark in one order and synchronizes nothing more.
    pub(crate) fn store(&self, value: u64, order: Ordering) {
        if self.is_mark {
            self.value.swap(value, order);
        } else {
            self.value.store(value, order);
        }
    }

    pub(crate) fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.value.swap(value, order)
    }

    pub(crate) fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.value.compare_exchange(current, new, success, failure)
    }
}

/// Always the same CPU: where a thread runs must not change what a model does the second time.
pub const fn current_cpu() -> u32 {
    0
}
