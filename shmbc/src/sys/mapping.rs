//! Maps and unmaps one block. Owns the address range; [`access`](super::access) is the only file that dereferences it.

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::layout::HEADER;

/// A mapped block: shared with another process, which may change any byte of it at any time.
///
/// `MmapRaw` and never `MmapMut`: a `&mut [u8]` would claim that nobody else writes here.
pub struct Mapping {
    raw: MmapRaw,
}

impl Mapping {
    /// Maps the first `len` bytes of `fd` for reading and writing.
    ///
    /// The caller has checked that `fd` has at least `len` bytes and cannot shrink
    /// ([`verify`](crate::block::verify)); otherwise a later access can raise SIGBUS.
    ///
    /// # Errors
    ///
    /// Those of `mmap(2)`; `InvalidInput` for less than a header.
    pub fn of(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        if len < HEADER {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a block is at least its header"));
        }
        let raw = MmapOptions::new().len(len).map_raw(fd.as_raw_fd())?;
        Ok(Self { raw })
    }

    /// Asks the kernel for huge pages: whole ones for every part that is touched from now on and has none yet.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the kernel has none.
    pub(crate) fn advise_huge_pages(&self) -> io::Result<()> {
        self.raw.advise(Advice::HugePage)
    }

    /// Gives the memory of `range` back to the machine, for everybody who has it mapped: it reads zeros from now on. Best effort:
    /// where the kernel does not (locked memory), it stays as it is.
    pub(crate) fn give_back(&self, range: Range<usize>) {
        self.advise(range, libc::MADV_REMOVE);
    }

    /// Gives back what this process's page table holds for everything behind the first two pages (Linux 6.14; before, only the
    /// entries go). The memory stays as it is.
    pub(crate) fn forget(&self) {
        self.advise(2 * HEADER..self.len(), libc::MADV_DONTNEED);
    }

    fn advise(&self, range: Range<usize>, advice: libc::c_int) {
        self.check(range.start, range.len());
        // SAFETY: the range is this mapping's (checked above). Its bytes are reached through this mapping only, by access that expects
        // any of them to change at any time.
        unsafe { libc::madvise(self.base().add(range.start).cast(), range.len(), advice) };
    }

    /// Size in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Where it begins in this process, for whoever looks at the process from outside.
    pub(crate) fn address(&self) -> u64 {
        self.base().addr() as u64
    }

    /// Never true: a mapping has at least a header.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub(super) fn base(&self) -> *mut u8 {
        self.raw.as_mut_ptr()
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("len", &self.len()).finish()
    }
}
