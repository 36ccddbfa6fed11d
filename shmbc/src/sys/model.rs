//! The heap-backed twin of a mapping, for loom: every word an atomic of loom's, every payload byte a cell of loom's,
//! so that a missing acquire or release shows up as a race on the payload.

use std::collections::BTreeMap;

use loom::cell::UnsafeCell;

use crate::layout::{Direction, HEADER, Sizes, Word, Words};
use crate::sync::AtomicU64;

/// Stands for a mapped block.
#[derive(Debug)]
pub struct Mapping {
    words: BTreeMap<Word, AtomicU64>,
    payload: Vec<UnsafeCell<u8>>,
}

// SAFETY: the payload cells are only reached through `copy_in` and `copy_out`; loom itself checks at run time that no
// two threads are there at once without an ordering between them.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// A zeroed block.
    pub fn model(sizes: Sizes) -> Self {
        let words = Direction::BOTH.iter().flat_map(|&d| Words::of(d).all());
        Self {
            words: words.map(|w| (w, AtomicU64::new(0))).collect(),
            payload: (HEADER..sizes.block_len()).map(|_| UnsafeCell::new(0)).collect(),
        }
    }

    /// One word of the header.
    pub(crate) fn word(&self, word: Word) -> &AtomicU64 {
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
}

/// Always the same CPU: where a thread runs must not change what a model does the second time.
pub const fn current_cpu() -> u32 {
    0
}
