//! On which NUMA node a block's memory is, and where it is to be.
//!
//! Called by [`block`](crate::block) for the host service, with mappings of its own. Owns nothing: the kernel keeps the wish with
//! the memory itself (`shmem_set_policy`), so it holds for every process that maps it, now or later.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use super::Mapping;

/// A NUMA node, by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u16);

/// Most nodes that Linux can be built for (`CONFIG_NODES_SHIFT` is at most 10).
const MAX_NODES: usize = 1024;

/// `MPOL_MF_MOVE_ALL` of `<linux/mempolicy.h>`: move pages that other processes have mapped, too. Not in libc.
const MOVE_ALL: libc::c_ulong = 4;

/// Bytes between two looks at memory: the smallest page.
const PAGE: usize = 4096;

impl Mapping {
    /// Has the kernel make the pages of `range` on `node`, while there is room, from now on. `moving`: those that are mapped by
    /// this mapping go there now, whoever else has them mapped.
    ///
    /// # Errors
    ///
    /// `ENOSYS` without NUMA, `EINVAL` for a node that is not there or a range that does not begin at a page, `EPERM`
    /// without `CAP_SYS_NICE` when moving, or where a seccomp filter forbids it.
    pub(crate) fn prefer_node(&self, range: Range<usize>, node: Node, moving: bool) -> io::Result<()> {
        self.check(range.start, range.len());
        let mut nodes = [0 as libc::c_ulong; MAX_NODES / libc::c_ulong::BITS as usize];
        let word = nodes.get_mut(usize::from(node.0) / libc::c_ulong::BITS as usize);
        *word.ok_or(io::ErrorKind::InvalidInput)? |= 1 << (u32::from(node.0) % libc::c_ulong::BITS);
        let flags = if moving { MOVE_ALL } else { 0 };
        // SAFETY: the range is this mapping's (checked above), whose contents stay what they are; the mask lives over the call and
        // has the bits that are announced, of which the kernel takes one less.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.base().add(range.start),
                range.len(),
                libc::MPOL_PREFERRED,
                nodes.as_ptr(),
                MAX_NODES + 1,
                flags,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Maps the memory of `range` that is there, for [`prefer_node`](Self::prefer_node) and [`nodes`](Self::nodes) to see.
    /// Makes what is not there.
    ///
    /// # Errors
    ///
    /// `EINVAL` before Linux 5.14; `ENOMEM`.
    pub(crate) fn populate(&self, range: Range<usize>) -> io::Result<()> {
        self.check(range.start, range.len());
        // SAFETY: the range is this mapping's (checked above), and the advice changes no byte of it.
        let result =
            unsafe { libc::madvise(self.base().add(range.start).cast(), range.len(), libc::MADV_POPULATE_READ) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The nodes of those pages of `range` that this mapping has mapped.
    ///
    /// # Errors
    ///
    /// Those of `move_pages(2)`, which moves nothing here.
    pub(crate) fn nodes(&self, range: Range<usize>) -> io::Result<BTreeSet<Node>> {
        self.check(range.start, range.len());
        let pages: Vec<_> = range.step_by(PAGE).map(|at| self.base().wrapping_add(at)).collect();
        let mut nodes: Vec<libc::c_int> = vec![-1; pages.len()];
        let (itself, nowhere, no_flags) = (0, std::ptr::null::<libc::c_int>(), 0);
        // SAFETY: both arrays live over the call and have as many entries as announced; the kernel writes to the second.
        let result = unsafe {
            let (count, pages, nodes) = (pages.len(), pages.as_ptr(), nodes.as_mut_ptr());
            libc::syscall(libc::SYS_move_pages, itself, count, pages, nowhere, nodes, no_flags)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // Errors are negative: a page that is not there.
        Ok(nodes.into_iter().filter_map(|node| u16::try_from(node).ok().map(Node)).collect())
    }
}
