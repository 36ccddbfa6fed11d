//! System calls of the tests for which no crate here has a safe function, each wrapped so that its callers need no `unsafe`.
#![expect(unsafe_code, reason = "plain system calls")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A shared, writable mapping of a file, that may be larger than the file and whose bytes may change at any time.
#[derive(Debug)]
pub struct SharedMap {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a range of addresses; every access goes through volatile loads and stores and is checked against `len`.
unsafe impl Send for SharedMap {}

impl SharedMap {
    /// Maps `len` bytes of `fd`.
    ///
    /// # Errors
    ///
    /// Those of `mmap(2)`.
    pub fn new(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses the address; nothing that exists is replaced.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: NonNull::new(base.cast()).expect("mmap never gives out address 0"), len })
    }

    /// The byte at `at`. Raises SIGBUS where there is no file behind it.
    pub fn get(&self, at: usize) -> u8 {
        assert!(at < self.len);
        // SAFETY: inside of the mapping, which is there until `self` is dropped; no reference to it is ever made.
        unsafe { self.base.as_ptr().add(at).read_volatile() }
    }

    /// Writes the byte at `at`. Raises SIGBUS where there is no file behind it.
    pub fn set(&self, at: usize, byte: u8) {
        assert!(at < self.len);
        // SAFETY: as in `get`.
        unsafe { self.base.as_ptr().add(at).write_volatile(byte) }
    }

    /// The word at `at`, a multiple of 8.
    pub fn word(&self, at: usize) -> u64 {
        self.atomic(at).load(Ordering::Acquire)
    }

    /// Writes the word at `at`, a multiple of 8.
    pub fn set_word(&self, at: usize, word: u64) {
        self.atomic(at).store(word, Ordering::Release);
    }

    fn atomic(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.len);
        // SAFETY: inside of the mapping, which begins at a page.
        let word = unsafe { self.base.as_ptr().add(at) };
        // SAFETY: aligned, and mapped until `self` is dropped; this process accesses it by other means only as single bytes in
        // tests that want it torn.
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }

    /// Where it begins.
    pub fn address(&self) -> usize {
        self.base.as_ptr().addr()
    }

    /// `madvise(2)` on the whole mapping.
    ///
    /// # Errors
    ///
    /// Those of `madvise(2)`.
    pub fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: our own mapping; whatever becomes of its contents, no reference to them exists.
        let result = unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, advice) };
        check(result.into()).map(drop)
    }

    /// Binds the mapped memory to one of the NUMA nodes 0 to 62, as `mbind(2)` does with these flags.
    ///
    /// # Errors
    ///
    /// `ENOSYS` without NUMA, `EPERM` where a seccomp filter forbids it.
    pub fn bind(&self, node: u16, flags: libc::c_uint) -> io::Result<()> {
        let nodes: libc::c_ulong = 1 << node;
        // SAFETY: the range is mapped by us; the mask lives over the call and has the bits that are announced.
        let result = unsafe {
            libc::syscall(libc::SYS_mbind, self.base.as_ptr(), self.len, libc::MPOL_BIND, &raw const nodes, 64, flags)
        };
        check(result).map(drop)
    }

    /// The NUMA policy of the memory here, as `get_mempolicy(2)` with `MPOL_F_ADDR` says: mode and nodes 0 to 63.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn policy(&self) -> io::Result<(i32, u64)> {
        // `MPOL_F_ADDR` of <linux/mempolicy.h>.
        const BY_ADDRESS: libc::c_ulong = 2;
        let mut mode: libc::c_int = -1;
        let mut nodes = [0_u64; 16];
        // SAFETY: both results live over the call and the mask is as long as announced.
        let result = unsafe {
            let (mode, nodes, base) = (&raw mut mode, nodes.as_mut_ptr(), self.base.as_ptr());
            libc::syscall(libc::SYS_get_mempolicy, mode, nodes, 1024 as libc::c_ulong, base, BY_ADDRESS)
        };
        check(result)?;
        Ok((mode, nodes[0]))
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nobody can have a pointer into it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// The NUMA node of each page of `len` bytes at `address` of process `pid`, as `move_pages(2)` says; nothing for a page that this
/// process has not mapped.
///
/// # Errors
///
/// Those of `move_pages(2)`: `EPERM` for a process of somebody else.
pub fn page_nodes(pid: u32, address: usize, len: usize) -> io::Result<Vec<Option<u16>>> {
    let pages: Vec<_> = (address..address + len).step_by(4096).collect();
    let mut nodes: Vec<libc::c_int> = vec![-1; pages.len()];
    let nowhere = std::ptr::null::<libc::c_int>();
    // SAFETY: both arrays live over the call and have as many entries as announced; nothing is moved.
    let result = unsafe {
        let (count, pages, nodes) = (pages.len(), pages.as_ptr(), nodes.as_mut_ptr());
        libc::syscall(libc::SYS_move_pages, pid, count, pages, nowhere, nodes, 0)
    };
    check(result)?;
    Ok(nodes.into_iter().map(|node| u16::try_from(node).ok()).collect())
}

fn set_int(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the value lives over the call and is as long as announced.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    check(result.into()).map(drop)
}

/// Sets `SO_PASSRIGHTS` (Linux 6.16): whether this Unix socket, and for a listener what it accepts, takes descriptors.
///
/// # Errors
///
/// `ENOPROTOOPT` on an older kernel.
pub fn set_pass_rights(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    const SO_PASSRIGHTS: i32 = 83;
    set_int(fd, libc::SOL_SOCKET, SO_PASSRIGHTS, on.into())
}

/// The fields of `struct tcp_info` that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// `tcpi_state`: 1 is `TCP_ESTABLISHED`, 2 `TCP_SYN_SENT`.
    pub state: u8,
    /// `tcpi_bytes_acked`: RFC 4898 tcpEStatsAppHCThruOctetsAcked.
    pub bytes_acked: u64,
    /// `tcpi_bytes_received`: RFC 4898 tcpEStatsAppHCThruOctetsReceived.
    pub bytes_received: u64,
}

/// Asks for `TCP_INFO`.
///
/// # Errors
///
/// Those of `getsockopt(2)`; `Unsupported` when the kernel (before 4.1) does not count bytes.
pub fn tcp_info(fd: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    // Offsets in <linux/tcp.h>: eight bytes, twenty-four words of 32 bits, then two rates and the two counts.
    const BYTES_ACKED: usize = 120;
    const BYTES_RECEIVED: usize = 128;
    let mut info = [0_u8; 256];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to a buffer of that size, which lives over the call.
    let result = unsafe {
        let (buf, len) = (info.as_mut_ptr().cast(), &raw mut len);
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, buf, len)
    };
    check(result.into())?;
    if (len as usize) < BYTES_RECEIVED + 8 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "TCP_INFO of this kernel does not count bytes"));
    }
    let count = |at: usize| u64::from_ne_bytes(info[at..at + 8].try_into().expect("eight bytes"));
    Ok(TcpInfo { state: info[0], bytes_acked: count(BYTES_ACKED), bytes_received: count(BYTES_RECEIVED) })
}

fn ask_int(fd: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<u64> {
    let mut value: libc::c_int = 0;
    // SAFETY: both requests below write one int, which lives over the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut value) };
    check(result.into())?;
    Ok(u64::try_from(value).expect("a count"))
}

/// `SIOCOUTQ`: bytes in the send queue, which are those not yet acknowledged.
///
/// # Errors
///
/// Those of `ioctl(2)`.
pub fn unacknowledged(fd: BorrowedFd<'_>) -> io::Result<u64> {
    ask_int(fd, libc::TIOCOUTQ)
}

/// `SIOCINQ`: bytes in the receive queue.
///
/// # Errors
///
/// Those of `ioctl(2)`.
pub fn unread(fd: BorrowedFd<'_>) -> io::Result<u64> {
    ask_int(fd, libc::FIONREAD)
}

/// What `ioctl(PIDFD_GET_INFO)` says. A field is there when the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PidfdInfo {
    /// Process id, while the process has one.
    pub pid: u32,
    /// Inode of its directory in the version 2 cgroup hierarchy.
    pub cgroup: Option<u64>,
    /// Status as of `wait(2)`, once it has exited.
    pub exit: Option<i32>,
}

/// Asks a pidfd about its process (Linux 6.13; 6.15 for processes that were reaped).
///
/// # Errors
///
/// `ENOTTY` on an older kernel, `ESRCH` for a reaped process about which nothing is known.
pub fn pidfd_info(pidfd: BorrowedFd<'_>) -> io::Result<PidfdInfo> {
    // <linux/pidfd.h>: struct pidfd_info as of Linux 6.15 and its ioctl number `_IOWR(0xFF, 11, struct pidfd_info)`.
    const CGROUP: u64 = 1 << 2;
    const EXIT: u64 = 1 << 3;
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        pid: u32,
        tgid: u32,
        ppid: u32,
        ids: [u32; 8],
        exit: i32,
    }
    const _: () = assert!(size_of::<Info>() == 64);
    const GET_INFO: libc::Ioctl = ((3 << 30) | (size_of::<Info>() << 16) | (0xff << 8) | 11) as libc::Ioctl;
    let mut info = Info { mask: CGROUP | EXIT, ..Info::default() };
    // SAFETY: the request number carries the size of the structure, and the kernel writes no more than that.
    check(unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) }.into())?;
    Ok(PidfdInfo {
        pid: info.pid,
        cgroup: (info.mask & CGROUP != 0).then_some(info.cgroup),
        exit: (info.mask & EXIT != 0).then_some(info.exit),
    })
}

/// A memfd on huge pages.
///
/// # Errors
///
/// Those of `memfd_create(2)`.
pub fn huge_memfd() -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_HUGETLB;
    // SAFETY: a name that ends with 0.
    let fd = check(unsafe { libc::memfd_create(c"huge".as_ptr(), flags) }.into())?;
    // SAFETY: a descriptor that nobody else knows yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Something made of the number of a descriptor, as programs hand them over.
pub fn by_number<T: FromRawFd>(from: impl IntoRawFd) -> T {
    // SAFETY: the number is of an open descriptor that `from` owned and nobody owns now.
    unsafe { T::from_raw_fd(from.into_raw_fd()) }
}

/// Has the kernel kill the child that `command` starts when the thread that starts it ends, so that a test that is killed
/// leaves no process behind.
pub fn dies_with_us(command: &mut Command) -> &mut Command {
    let die = || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).map_err(io::Error::from)
    };
    // SAFETY: between fork and exec: one system call, no allocation, no lock.
    unsafe { command.pre_exec(die) }
}

/// Forks: the child's number, or nothing in the child. That has one thread of what may be many, and is to end soon, by
/// [`exit_at_once`].
///
/// # Errors
///
/// Those of `fork(2)`.
pub fn fork() -> io::Result<Option<nix::unistd::Pid>> {
    // SAFETY: the child does what its test is about and ends; locks of other threads' are the test's care.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child)),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

/// Closes every descriptor from `first` on, whoever has it: what a program does that cleans up before it goes on.
///
/// # Errors
///
/// Those of `close_range(2)`.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: closes what others own, which is what its callers are about; they use nothing of it afterwards.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) }).map(drop)
}

/// Ends a forked child without running anything of its parent's.
pub fn exit_at_once() -> ! {
    // SAFETY: only ends the process.
    unsafe { libc::_exit(0) }
}

/// The same descriptor number for as long as `fd` lives, for `/proc` and for other processes.
pub fn number(fd: &impl AsFd) -> i32 {
    fd.as_fd().as_raw_fd()
}
