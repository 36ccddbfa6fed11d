//! A block: one connection's memfd, made by the host and verified by both ends.
//!
//! The host creates a [`Block`], sends its descriptor to both ends and keeps it, so that it can read statistics and give
//! the memory back when both are gone, even if one of them keeps its mapping. An end passes what it received to
//! [`verify`], which checks everything a mapping depends on before it maps. A block is used by one pair of
//! processes once; nobody may read yesterday's bytes.

mod huge;

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statfs::fstatfs;
use nix::unistd::{Whence, lseek};

pub use self::huge::{HUGE_PAGE, Unsealed, huge_len};
use crate::layout::{self, Direction, Sizes, Words};
use crate::sync::Ordering;
use crate::sys::{Mapping, Node};

/// Seals without which a block is not mapped: nobody can shrink it, which would turn the next touch into SIGBUS, or grow it.
const REQUIRED: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);

/// `MFD_NOEXEC_SEAL` (Linux 6.3): never executable, for ever. Not in nix yet.
const NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(0x8);

/// File system type of a memfd that is not on huge pages. A hole punched into a huge page can leave the next touch
/// without memory (SIGBUS); on ordinary shared memory it reads zeros.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// The host's hold on one block.
#[derive(Debug)]
pub struct Block {
    fd: OwnedFd,
    /// Of the header; of the whole block if it is on huge pages, which cannot be mapped again once it is sealed.
    header: Mapping,
    sizes: Sizes,
    huge: bool,
}

/// What the header of a block says about one direction. Written by the ends: claims, good for showing to people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionStats {
    /// Bytes published.
    pub produced: u64,
    /// Bytes taken out.
    pub consumed: u64,
    /// Doorbells rung by either side about this direction.
    pub doorbells: u64,
    /// Times either side slept.
    pub sleeps: u64,
    /// Times the producer found the ring full.
    pub full: u64,
    /// Times the consumer found the ring empty.
    pub empty: u64,
    /// Bytes that went by TCP before the switch, or nothing before it.
    pub switched_at: Option<u64>,
    /// The CPU that the producer last published from.
    pub producer_cpu: Option<u64>,
    /// The CPU that the consumer last published from.
    pub consumer_cpu: Option<u64>,
}

/// Which pages [`Block::place`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Those that are made from now on.
    New,
    /// Those that are there, too: they are moved, whoever has them mapped.
    All,
}

/// Most pages of a ring that [`Block::nodes`] looks at: spread over the ring, and as few as a list of many connections allows.
const LOOKED_AT: usize = 64;

impl Block {
    /// A fresh block: sized, sealed, header written, header page present.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`, `ENOMEM`, `ENOSPC`: nothing left to make it of; `EFBIG` when `RLIMIT_FSIZE` forbids the size.
    pub fn create(sizes: Sizes) -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = match memfd_create(c"shmbc", flags | NOEXEC_SEAL) {
            Err(Errno::EINVAL) => memfd_create(c"shmbc", flags)?,
            other => other?,
        };
        nix::unistd::ftruncate(&fd, sizes.block_len() as i64)?;
        // With F_SEAL_SEAL no end can add F_SEAL_FUTURE_WRITE, which would forbid the hole that `reclaim` punches.
        fcntl(&fd, FcntlArg::F_ADD_SEALS(REQUIRED | SealFlag::F_SEAL_SEAL))?;
        // The header is touched by everybody: present from the start, charged to the host.
        fallocate(&fd, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, layout::HEADER as i64)?;
        let header = Mapping::of(fd.as_fd(), layout::HEADER)?;
        identify(&header, sizes);
        Ok(Self { fd, header, sizes, huge: false })
    }

    /// A block that an earlier host made, found mapped in a client.
    ///
    /// # Errors
    ///
    /// [`BlockError`] says what it lacks. One on huge pages is not taken: once sealed it cannot be mapped again.
    pub fn adopt(fd: OwnedFd) -> Result<Self, BlockError> {
        let len = nix::sys::stat::fstat(&fd).map_err(io::Error::from)?.st_size as usize;
        check(&fd, REQUIRED, TMPFS_MAGIC, len)?;
        if len < layout::HEADER {
            return Err(BlockError::Header);
        }
        let header = Mapping::of(fd.as_fd(), layout::HEADER)?;
        let capacity = layout::CAPACITY_WORDS.map(|word| header.word(word).load(Ordering::Relaxed));
        let sizes = Sizes::new(capacity).map_err(|_| BlockError::Header)?;
        if sizes.block_len() != len || !is_identified(&header, sizes) {
            return Err(BlockError::Header);
        }
        Ok(Self { fd, header, sizes, huge: false })
    }

    /// Whether both are the same memory.
    pub fn is_same(&self, other: &Self) -> bool {
        let inode = |block: &Self| nix::sys::stat::fstat(&block.fd).map(|stat| (stat.st_dev, stat.st_ino));
        matches!((inode(self), inode(other)), (Ok(a), Ok(b)) if a == b)
    }

    /// Its sizes.
    pub const fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Bytes of memory it can take.
    pub const fn len(&self) -> usize {
        if self.huge { huge_len(self.sizes) } else { self.sizes.block_len() }
    }

    /// Never true: a block has at least a header.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// What the ends say about one direction.
    pub fn stats(&self, direction: Direction) -> DirectionStats {
        let words = Words::of(direction);
        let read = |word| self.header.word(word).load(Ordering::Relaxed);
        DirectionStats {
            produced: read(words.tail),
            consumed: read(words.head),
            doorbells: read(words.producer_doorbells).saturating_add(read(words.consumer_doorbells)),
            sleeps: read(words.producer_sleeps).saturating_add(read(words.consumer_sleeps)),
            full: read(words.full),
            empty: read(words.empty),
            switched_at: read(words.switched).checked_sub(1).filter(|&at| at != layout::FORBIDDEN - 1),
            producer_cpu: read(words.producer_cpu).checked_sub(1),
            consumer_cpu: read(words.consumer_cpu).checked_sub(1),
        }
    }

    /// Gives all its memory back to the machine, whoever still has it mapped: they read zeros, and what they touch from
    /// now on is charged to them.
    ///
    /// # Errors
    ///
    /// Those of `fallocate(2)`; `EPERM` when it is on huge pages and sealed: the kernel takes those back with the last mapping.
    pub fn reclaim(&self) -> io::Result<()> {
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.fd, punch, 0, self.len() as i64)?;
        Ok(())
    }

    /// Bytes of memory it holds now.
    ///
    /// # Errors
    ///
    /// Those of `fstat(2)`.
    pub fn resident(&self) -> io::Result<u64> {
        Ok(nix::sys::stat::fstat(&self.fd)?.st_blocks as u64 * 512)
    }

    /// Has the pages that only `direction`'s ring has lie on `node`, while it has room.
    ///
    /// # Errors
    ///
    /// `EPERM` when a seccomp filter forbids it (Docker's does without `CAP_SYS_NICE`) and, for [`Pages::All`], without
    /// `CAP_SYS_NICE`, in which case nothing has been done; `EINVAL` for a node that is not there.
    pub fn place(&self, direction: Direction, node: Node, pages: Pages) -> io::Result<()> {
        let mapping = Mapping::of(self.fd.as_fd(), self.sizes.block_len())?;
        for piece in self.own_pieces(direction) {
            if pages == Pages::All {
                // The kernel moves what the caller has mapped.
                self.present(&piece)?.into_iter().try_for_each(|part| mapping.populate(part))?;
            }
            mapping.prefer_node(piece, node, pages == Pages::All)?;
        }
        Ok(())
    }

    /// The nodes on which pages that only `direction`'s ring has are, as far as a look at a few of them tells. Makes none.
    ///
    /// # Errors
    ///
    /// Those of `mmap(2)`, `lseek(2)` and `move_pages(2)`.
    pub fn nodes(&self, direction: Direction) -> io::Result<BTreeSet<Node>> {
        if self.huge {
            return self.nodes_of_huge(direction);
        }
        let mapping = Mapping::of(self.fd.as_fd(), self.sizes.block_len())?;
        let mut pages = Vec::new();
        for piece in self.own_pieces(direction) {
            pages.extend(self.present(&piece)?.into_iter().flat_map(|part| part.step_by(layout::HEADER)));
        }
        let mut nodes = BTreeSet::new();
        for &at in pages.iter().step_by(pages.len().div_ceil(LOOKED_AT).max(1)) {
            let page = at..at + layout::HEADER;
            mapping.populate(page.clone())?;
            nodes.append(&mut mapping.nodes(page)?);
        }
        Ok(nodes)
    }

    fn own_pieces(&self, direction: Direction) -> impl Iterator<Item = Range<usize>> + use<> {
        layout::own_pieces(direction, self.sizes.capacity(direction))
    }

    /// The parts of `range` that have pages.
    fn present(&self, range: &Range<usize>) -> io::Result<Vec<Range<usize>>> {
        let mut parts = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let from = match lseek(&self.fd, at as i64, Whence::SeekData) {
                Err(Errno::ENXIO) => break,
                found => found? as usize,
            };
            let to = (lseek(&self.fd, from as i64, Whence::SeekHole)? as usize).min(range.end);
            if from < to {
                parts.push(from..to);
            }
            at = to.max(at + layout::HEADER);
        }
        Ok(parts)
    }
}

impl AsFd for Block {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Writes the words by which an end knows the block.
fn identify(header: &Mapping, sizes: Sizes) {
    header.word(layout::MAGIC_WORD).store(layout::MAGIC, Ordering::Relaxed);
    header.word(layout::VERSION_WORD).store(layout::VERSION, Ordering::Relaxed);
    for direction in Direction::BOTH {
        let word = layout::CAPACITY_WORDS[direction.index()];
        header.word(word).store(sizes.capacity(direction), Ordering::Relaxed);
    }
}

/// Whether they are there.
fn is_identified(mapping: &Mapping, sizes: Sizes) -> bool {
    let is = |word, value| mapping.word(word).load(Ordering::Relaxed) == value;
    is(layout::MAGIC_WORD, layout::MAGIC)
        && is(layout::VERSION_WORD, layout::VERSION)
        && Direction::BOTH.iter().all(|&d| is(layout::CAPACITY_WORDS[d.index()], sizes.capacity(d)))
}

/// Why a received descriptor was not mapped.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// It lacks a seal.
    #[error("block is not sealed as it must be (seals {found:#x})")]
    NotSealed {
        /// The seals it has.
        found: i32,
    },
    /// It is not a memfd on the pages that were granted.
    #[error("block is not shared memory of the kind that was granted")]
    NotSharedMemory,
    /// Its size is not what was granted.
    #[error("block has {found} bytes, {expected} were granted")]
    Size {
        /// What `fstat` says.
        found: u64,
        /// What the grant says.
        expected: u64,
    },
    /// It is on huge pages, and lacks some of them.
    #[error("block has {found} bytes of huge pages instead of {expected}")]
    Holes {
        /// What `fstat` says.
        found: u64,
        /// All of it.
        expected: u64,
    },
    /// Its header is not one of this layout.
    #[error("block has no header of layout version {}", layout::VERSION)]
    Header,
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Checks a received block and maps it.
///
/// # Errors
///
/// [`BlockError`] says which check failed. `Io` with `ENOMEM` or `EMFILE`: this process has no room for a mapping.
pub fn verify(fd: OwnedFd, sizes: Sizes) -> Result<Mapping, BlockError> {
    check(&fd, REQUIRED, TMPFS_MAGIC, sizes.block_len())?;
    let mapping = Mapping::of(fd.as_fd(), sizes.block_len())?;
    if is_identified(&mapping, sizes) { Ok(mapping) } else { Err(BlockError::Header) }
}

/// Everything that can be seen of a block without touching it: its seals, its file system, its length.
fn check(fd: &OwnedFd, required: SealFlag, file_system: i64, len: usize) -> Result<(), BlockError> {
    let seals = match fcntl(fd, FcntlArg::F_GET_SEALS) {
        Ok(seals) => SealFlag::from_bits_retain(seals),
        Err(Errno::EINVAL) => return Err(BlockError::NotSharedMemory),
        Err(e) => return Err(BlockError::Io(e.into())),
    };
    if !seals.contains(required) {
        return Err(BlockError::NotSealed { found: seals.bits() });
    }
    if fstatfs(fd).map_err(io::Error::from)?.filesystem_type().0 as i64 != file_system {
        return Err(BlockError::NotSharedMemory);
    }
    let found = nix::sys::stat::fstat(fd).map_err(io::Error::from)?.st_size as u64;
    let expected = len as u64;
    if found != expected { Err(BlockError::Size { found, expected }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes() -> Sizes {
        Sizes::new([4096, 8192]).unwrap()
    }

    fn copy_of(block: &Block) -> OwnedFd {
        block.as_fd().try_clone_to_owned().unwrap()
    }

    fn memfd(flags: MFdFlags, len: i64, seals: SealFlag) -> OwnedFd {
        let fd = memfd_create(c"other", flags | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        nix::unistd::ftruncate(&fd, len).unwrap();
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        fd
    }

    #[test]
    fn fresh_block_when_verified_is_mapped_and_all_zero_behind_the_identification() {
        let block = Block::create(sizes()).unwrap();
        let mapping = verify(copy_of(&block), sizes()).unwrap();
        for direction in Direction::BOTH {
            for word in Words::of(direction).all() {
                assert_eq!(mapping.word(word).load(Ordering::Relaxed), 0);
            }
            assert_eq!(block.stats(direction), DirectionStats::default());
        }
        assert_eq!(block.resident().unwrap(), layout::HEADER as u64);
    }

    #[test]
    fn descriptor_when_anything_but_the_granted_block_is_refused_before_mapping() {
        let full = sizes().block_len() as i64;
        let empty = MFdFlags::empty();
        let cases: [(&str, OwnedFd); 7] = [
            ("unsealed", memfd(empty, full, SealFlag::empty())),
            ("half sealed", memfd(empty, full, SealFlag::F_SEAL_GROW)),
            ("too small", memfd(empty, full - 4096, REQUIRED)),
            ("too large", memfd(empty, full + 4096, REQUIRED)),
            ("no header", memfd(empty, full, REQUIRED)),
            ("a pipe", nix::unistd::pipe().unwrap().0),
            ("a directory", std::fs::File::open("/").unwrap().into()),
        ];
        for (what, fd) in cases {
            assert!(verify(fd, sizes()).is_err(), "{what}");
        }
        let other = Sizes::new([8192, 4096]).unwrap();
        let block = Block::create(other).unwrap();
        assert!(matches!(verify(copy_of(&block), sizes()), Err(BlockError::Header)), "capacities exchanged");
        if let Ok(huge) = memfd_create(c"huge", MFdFlags::MFD_HUGETLB | MFdFlags::MFD_ALLOW_SEALING) {
            fcntl(&huge, FcntlArg::F_ADD_SEALS(REQUIRED)).unwrap();
            assert!(matches!(verify(huge, sizes()), Err(BlockError::NotSharedMemory)), "huge pages");
        }
    }

    #[test]
    fn block_when_an_end_tries_to_resize_or_reseal_it_stays_as_it_is() {
        let block = Block::create(sizes()).unwrap();
        for len in [0, 4096, 1 << 20] {
            assert_eq!(nix::unistd::ftruncate(copy_of(&block), len), Err(Errno::EPERM));
        }
        let forbid_holes = FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE);
        assert_eq!(fcntl(copy_of(&block), forbid_holes), Err(Errno::EPERM), "reclaim stays possible");
    }

    #[test]
    fn block_when_reclaimed_gives_its_memory_back_though_still_mapped() {
        let block = Block::create(sizes()).unwrap();
        let mapping = verify(copy_of(&block), sizes()).unwrap();
        mapping.copy_in(layout::HEADER, &[7; 4096]);
        let other = copy_of(&block);
        let resident = || nix::sys::stat::fstat(&other).unwrap().st_blocks;
        assert!(resident() > 0);
        block.reclaim().unwrap();
        assert_eq!(resident(), 0);
        let mut seen = [1; 4096];
        mapping.copy_out(layout::HEADER, &mut seen);
        assert_eq!(seen, [0; 4096], "the old bytes are gone");
    }
}
