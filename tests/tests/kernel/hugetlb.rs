//! Memory files on pages of the hugetlb pool: how one is made so that no end can take a page from under the other.
//!
//! A hole in such a file is SIGBUS for who touches it when the pool is empty. So both ends map the file first, then the seal against
//! writing (`F_SEAL_FUTURE_WRITE`) goes on, which forbids holes to everybody and lets mappings write on; and only when the file
//! has all its pages *after* that may anybody touch it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::unistd::{Whence, ftruncate, lseek};
use shmbc_tests::raw::{self, SharedMap};
use shmbc_tests::suite::{self, Test};
use shmbc_tests::{Need, test};

pub(crate) const PUNCHED: &str = "hugetlb-punched";
pub(crate) const SEALED: &str = "hugetlb-sealed";

const PUNCH: FallocateFlags = FallocateFlags::FALLOC_FL_PUNCH_HOLE.union(FallocateFlags::FALLOC_FL_KEEP_SIZE);

/// Pages of the files here.
const PAGES: usize = 3;

pub(crate) fn facts() -> Vec<Test> {
    let pool = Need::Other("eight free huge pages (a number in /proc/sys/vm/nr_hugepages)", || {
        let _alone = alone();
        pool().is_some_and(|(free, _)| free >= 8)
    });
    vec![
        test("hugetlb_memfd_when_punched_and_its_pages_taken_raises_sigbus", punched_raises_sigbus).needs(pool),
        test("hugetlb_memfd_when_punched_has_fewer_blocks_and_no_hole_to_seek", punched_has_fewer_blocks).needs(pool),
        test("hugetlb_memfd_when_mapped_has_pages_in_reserve_or_refuses", mapped_has_pages_in_reserve).needs(pool),
        test("hugetlb_memfd_with_future_write_seal_when_anybody_takes_pages_refuses", sealed_refuses).needs(pool),
        test("hugetlb_memfd_when_sealed_whole_is_there_with_an_empty_pool", sealed_is_there).needs(pool),
    ]
}

/// The pool is everybody's, and some tests empty it.
fn alone() -> MutexGuard<'static, ()> {
    static POOL: Mutex<()> = Mutex::new(());
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Huge pages of the default size that nobody has or has in reserve, and that size in bytes.
fn pool() -> Option<(usize, usize)> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| -> Option<usize> {
        info.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
    };
    Some((field("HugePages_Free:")? - field("HugePages_Rsvd:")?, field("Hugepagesize:")? * 1024))
}

fn size() -> usize {
    pool().expect("huge pages").1
}

/// A file of so many pages and none yet, which nobody can make longer or shorter, and a mapping of it.
fn mapped(pages: usize) -> io::Result<(OwnedFd, SharedMap)> {
    let fd = raw::huge_memfd()?;
    ftruncate(&fd, (pages * size()) as i64)?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
    let map = SharedMap::new(fd.as_fd(), pages * size())?;
    Ok((fd, map))
}

fn touch(map: &SharedMap, pages: usize, byte: u8) {
    (0..pages).for_each(|page| map.set(page * size(), byte));
}

fn seal(fd: &OwnedFd) {
    fcntl(fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_SEAL)).expect("seals");
}

fn bytes_of(fd: &OwnedFd) -> usize {
    nix::sys::stat::fstat(fd).expect("fstat").st_blocks as usize * 512
}

fn punched_raises_sigbus() {
    let _alone = alone();
    let status = suite::player(PUNCHED).status().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
}

/// Maps a huge page, has it punched, takes all that are free, and touches the hole.
pub(crate) fn touch_what_was_punched() {
    let (fd, victim) = mapped(1).expect("a huge page");
    touch(&victim, 1, 7);
    fallocate(&fd, PUNCH, 0, size() as i64).expect("a peer may punch a huge page");
    let _taken = empty_the_pool();
    victim.set(0, 1);
}

fn empty_the_pool() -> (OwnedFd, SharedMap) {
    let (free, _) = pool().expect("huge pages");
    let (fd, map) = mapped(free).expect("all free huge pages");
    touch(&map, free, 1);
    assert_eq!(pool().expect("huge pages").0, 0);
    (fd, map)
}

fn punched_has_fewer_blocks() {
    let _alone = alone();
    let (fd, map) = mapped(PAGES).unwrap();
    assert_eq!(bytes_of(&fd), 0);
    touch(&map, PAGES, 7);
    assert_eq!(bytes_of(&fd), PAGES * size());
    fallocate(&fd, PUNCH, 0, size() as i64).unwrap();
    assert_eq!(bytes_of(&fd), (PAGES - 1) * size(), "by descriptor");
    map.advise(libc::MADV_REMOVE).unwrap();
    assert_eq!(bytes_of(&fd), 0, "by mapping");
    let end = (PAGES * size()) as i64;
    assert_eq!(lseek(&fd, 0, Whence::SeekData), Ok(0), "as if all were there");
    assert_eq!(lseek(&fd, 0, Whence::SeekHole), Ok(end));
}

fn mapped_has_pages_in_reserve() {
    let _alone = alone();
    let (free, _) = pool().unwrap();
    let (fd, map) = mapped(PAGES).unwrap();
    assert_eq!(pool().unwrap().0, free - PAGES, "in reserve");
    assert_eq!(bytes_of(&fd), 0, "and not made yet");
    drop(map);
    assert_eq!(pool().unwrap().0, free - PAGES, "with the file, not with who mapped it");
    drop(fd);
    assert_eq!(pool().unwrap().0, free);
    assert_eq!(mapped(free + 1).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
}

fn sealed_refuses() {
    let _alone = alone();
    let (fd, host) = mapped(PAGES).unwrap();
    let end = SharedMap::new(fd.as_fd(), PAGES * size()).unwrap();
    touch(&host, PAGES, 7);
    seal(&fd);
    assert_eq!(fallocate(&fd, PUNCH, 0, size() as i64), Err(Errno::EPERM), "a hole by descriptor");
    assert_eq!(end.advise(libc::MADV_REMOVE).unwrap_err().raw_os_error(), Some(libc::EPERM), "a hole by mapping");
    assert_eq!(ftruncate(&fd, 0), Err(Errno::EPERM));
    let again = SharedMap::new(fd.as_fd(), PAGES * size());
    assert_eq!(again.unwrap_err().raw_os_error(), Some(libc::EPERM), "a mapping to write by");
    // Only this mapping's own view goes; the file keeps its pages.
    end.advise(libc::MADV_DONTNEED).unwrap();
    assert_eq!(bytes_of(&fd), PAGES * size());
    assert_eq!((host.get(0), end.get(0)), (7, 7));
    end.set(0, 8);
    assert_eq!(host.get(0), 8, "who mapped before goes on writing");
}

fn sealed_is_there() {
    let _alone = alone();
    let status = suite::player(SEALED).status().unwrap();
    assert!(status.success(), "{status}");
}

/// Maps what somebody else has filled, has it sealed, takes all pages that are free, and touches it for the first time.
pub(crate) fn touch_what_was_sealed() {
    let (fd, host) = mapped(PAGES).expect("huge pages");
    let victim = SharedMap::new(fd.as_fd(), PAGES * size()).expect("a mapping");
    let hostile = SharedMap::new(fd.as_fd(), PAGES * size()).expect("a mapping");
    // A hole before the seal is filled after it, by who holds the mapping that has the pages in reserve.
    hostile.advise(libc::MADV_REMOVE).expect("not sealed yet");
    seal(&fd);
    touch(&host, PAGES, 7);
    assert_eq!(bytes_of(&fd), PAGES * size());
    let _taken = empty_the_pool();
    for advice in
        [libc::MADV_REMOVE, libc::MADV_DONTNEED, libc::MADV_DONTNEED_LOCKED, libc::MADV_FREE, libc::MADV_PAGEOUT]
    {
        // Those that do nothing to the file succeed, the others do not.
        let _ = hostile.advise(advice);
    }
    drop(host);
    assert!((0..PAGES).all(|page| victim.get(page * size()) == 7));
    touch(&victim, PAGES, 8);
}
