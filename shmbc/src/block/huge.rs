//! A block on pages of the kernel's hugetlb pool: physically contiguous memory, 2 MiB a page.
//!
//! Who touches a hole in such a file while the pool is empty gets SIGBUS, and an end could punch one at any time. So nobody but the
//! host touches the block until nobody can:
//!
//! ```text
//!  host: create_huge   length fixed, every page made, header written
//!  ends: Unsealed::map length and file system checked, mapped, not touched
//!  host: seal          no more holes, no more mappings, no more seals; and all pages are still there
//!  ends: open          the same, checked by themselves; only now a Mapping that can be touched
//! ```
//!
//! `F_SEAL_FUTURE_WRITE` is what forbids holes. It also forbids to map the block for writing, which is why it comes late, and it
//! binds the host, which cannot take the pages back: they return to the pool when both ends have let go.
//! `tests/tests/kernel/hugetlb.rs` shows that the kernel keeps to that.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{Block, BlockError, NOEXEC_SEAL, REQUIRED, check, identify, is_identified};
use crate::layout::{self, Direction, Sizes};
use crate::sys::{Mapping, Node};

/// Bytes of a page. The size is asked for by name, since the pool's default can be another; where a processor has no such pages
/// there are no such blocks.
pub const HUGE_PAGE: usize = 2 << 20;

/// File system type of a memfd on huge pages.
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// Seals that a block on huge pages must have before it is touched: no hole can be made any more.
const NO_HOLES: SealFlag = REQUIRED.union(SealFlag::F_SEAL_FUTURE_WRITE);

/// Length of a block of these sizes on huge pages: whole ones.
pub const fn huge_len(sizes: Sizes) -> usize {
    sizes.block_len().next_multiple_of(HUGE_PAGE)
}

impl Block {
    /// A fresh block on huge pages: every page taken from the pool and zeroed, each ring's on the node that is named for it, A to B
    /// first, if there is room; header written. To be sealed with [`seal`](Self::seal) before anybody else touches it.
    ///
    /// Zeroing takes a millisecond, or tens of them where the memory is not warm.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when the pool has not so many pages, before any is taken; `EFAULT` when a limit of a control group keeps them from
    /// us; `EINVAL` before Linux 5.14; `ENODEV` and others where there are no pages of this size.
    pub fn create_huge(sizes: Sizes, nodes: [Option<Node>; 2]) -> io::Result<Self> {
        let flags =
            MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
        let fd = match memfd_create(c"shmbc-huge", flags | NOEXEC_SEAL) {
            Err(nix::errno::Errno::EINVAL) => memfd_create(c"shmbc-huge", flags)?,
            other => other?,
        };
        let len = huge_len(sizes);
        nix::unistd::ftruncate(&fd, len as i64)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(REQUIRED))?;
        // Takes all pages into reserve, or none: mapping them is what can fail for want of pages.
        let mapping = Mapping::of(fd.as_fd(), len)?;
        for (direction, node) in Direction::BOTH.into_iter().zip(nodes) {
            let Some(node) = node else { continue };
            for pages in own_pages(direction, sizes) {
                // A wish: where it is not granted the pages are somewhere.
                let _ = mapping.prefer_node(pages, node, false);
            }
        }
        // Not fallocate(2), which does not know of wishes about nodes here: they belong to the mapping, not to the file.
        mapping.populate(0..len)?;
        identify(&mapping, sizes);
        Ok(Self { fd, header: mapping, sizes, huge: true })
    }

    /// Whether it is on huge pages of the pool.
    pub const fn is_huge(&self) -> bool {
        self.huge
    }

    /// Both ends have mapped it: forbids holes from now on, and makes sure that there are none. To be called once, before either
    /// is told that it may touch the block.
    ///
    /// # Errors
    ///
    /// [`BlockError`]: an end has punched a hole or set a seal. Then nobody may touch it.
    pub fn seal(&self) -> Result<(), BlockError> {
        // With F_SEAL_SEAL, so that what an end finds is what stays. Refused if an end has set that: then the check tells.
        let _ = fcntl(&self.fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_SEAL));
        check_whole(&self.fd, self.sizes)
    }

    /// The nodes on which pages of `direction`'s ring are. By the mapping that was made at the start: there can be no other.
    pub(super) fn nodes_of_huge(&self, direction: Direction) -> io::Result<BTreeSet<Node>> {
        let mut nodes = BTreeSet::new();
        for at in own_pages(direction, self.sizes).flat_map(|pages| pages.step_by(HUGE_PAGE)) {
            nodes.append(&mut self.header.nodes(at..at + 1)?);
        }
        Ok(nodes)
    }
}

/// The pages that are mostly `direction`'s ring: its pieces do not begin at huge pages.
fn own_pages(direction: Direction, sizes: Sizes) -> impl Iterator<Item = Range<usize>> {
    let nearest = |at: usize| (at + HUGE_PAGE / 2) / HUGE_PAGE * HUGE_PAGE;
    layout::own_pieces(direction, sizes.capacity(direction))
        .filter(|piece| piece.len() >= HUGE_PAGE)
        .map(move |piece| nearest(piece.start)..nearest(piece.end))
}

/// No hole can be made, and none has been.
fn check_whole(fd: &OwnedFd, sizes: Sizes) -> Result<(), BlockError> {
    check(fd, NO_HOLES, HUGETLBFS_MAGIC, huge_len(sizes))?;
    // Not lseek(2): this file system says that there is data everywhere. Its count of blocks is of the pages that it has.
    let found = nix::sys::stat::fstat(fd).map_err(io::Error::from)?.st_blocks as u64 * 512;
    let expected = huge_len(sizes) as u64;
    if found != expected { Err(BlockError::Holes { found, expected }) } else { Ok(()) }
}

/// A received block on huge pages, mapped and not to be touched yet.
#[derive(Debug)]
pub struct Unsealed {
    fd: OwnedFd,
    mapping: Mapping,
    sizes: Sizes,
}

impl Unsealed {
    /// Checks what can be checked without touching it, and maps it.
    ///
    /// # Errors
    ///
    /// As [`verify`](super::verify).
    pub fn map(fd: OwnedFd, sizes: Sizes) -> Result<Self, BlockError> {
        check(&fd, REQUIRED, HUGETLBFS_MAGIC, huge_len(sizes))?;
        let mapping = Mapping::of(fd.as_fd(), huge_len(sizes))?;
        Ok(Self { fd, mapping, sizes })
    }

    /// The mapping, once the block is sealed and has all its pages, which it then keeps.
    ///
    /// # Errors
    ///
    /// [`BlockError`] says which check failed. It has not been touched then, unless it was [`BlockError::Header`].
    pub fn open(self) -> Result<Mapping, BlockError> {
        check_whole(&self.fd, self.sizes)?;
        if is_identified(&self.mapping, self.sizes) { Ok(self.mapping) } else { Err(BlockError::Header) }
    }
}
