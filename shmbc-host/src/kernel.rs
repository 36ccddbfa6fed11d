//! The only unsafe of this crate: socket options and questions to namespaces that no library wraps yet, and registering a descriptor with tokio.
//!
//! Called by the server (listener), the sessions, and the proof. Knows nothing of what the descriptors mean.
#![allow(unsafe_code, reason = "system calls and a registration without a safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `SO_PASSRIGHTS` (Linux 6.16): whether descriptors may be sent to this Unix socket. Not in libc yet.
const SO_PASSRIGHTS: libc::c_int = 83;

/// `SO_NETNS_COOKIE` (Linux 5.14): a number for the socket's network namespace that is never used twice.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Registers `fd` with the runtime of the caller.
///
/// # Errors
///
/// Those of `epoll_ctl(2)`.
pub(crate) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and stays the same descriptor until it is dropped, and the `AsyncFd` owns it.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(io::Error::from)
}

/// Forbids clients to send descriptors: `sendmsg` with some fails at their side. Inherited by accepted sockets.
///
/// # Errors
///
/// `ENOPROTOOPT` where the kernel does not know the option.
pub(crate) fn refuse_descriptors(listener: BorrowedFd<'_>) -> io::Result<()> {
    let off: libc::c_int = 0;
    // SAFETY: the pointer and the length are those of `off`, which outlives the call; the kernel only reads it.
    let done = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const off).cast(),
            size_of_val(&off) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The network namespace of a socket.
///
/// # Errors
///
/// `ENOPROTOOPT` where the kernel does not know the option; `ENOTSOCK`.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie: u64 = 0;
    let mut len = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which is the size of `cookie`, and any bytes are a valid u64.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len)
    };
    if done == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// `NS_GET_PARENT` of `ioctl_nsfs(2)`: `_IO(0xb7, 0x2)`.
const NS_GET_PARENT: libc::Ioctl = 0xb702;

/// `NS_GET_OWNER_UID`: `_IO(0xb7, 0x4)`.
const NS_GET_OWNER_UID: libc::Ioctl = 0xb704;

/// The user namespace around this one.
///
/// # Errors
///
/// `EPERM` for one that this process cannot see.
pub(crate) fn parent_of_namespace(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: takes no argument; the descriptor is borrowed for the call.
    let parent = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT) };
    if parent < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(parent) })
}

/// The user who made this user namespace.
///
/// # Errors
///
/// `EINVAL` for a namespace of another kind.
pub(crate) fn owner_of_namespace(namespace: BorrowedFd<'_>) -> io::Result<u32> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: the kernel writes one `uid_t`, which outlives the call.
    let done = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_OWNER_UID, &raw mut uid) };
    if done == 0 { Ok(uid) } else { Err(io::Error::last_os_error()) }
}

/// Starts a process that has nothing of this one but `keep`, does `run`, and ends.
///
/// The child begins with one thread, in the midst of what this process's other threads were doing. So `run` makes system calls and
/// uses the allocator, which the C library keeps fit for use across a fork; it takes no lock, logs nothing and panics never.
///
/// # Errors
///
/// Those of `fork(2)`.
pub(crate) fn spawn(keep: OwnedFd, run: fn(OwnedFd)) -> io::Result<i32> {
    // SAFETY: the child goes on below, with the promises above, and never returns from this function.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: sets no handler. Ignored, as whoever started the parent may have wished, this process's children
            // would be reaped by the kernel, and their numbers be anybody's.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
            // With more than that it would keep sockets open after their owner has gone, its own other side among them.
            if close_all_but(keep.as_raw_fd()) {
                // A panic must not go on into what is the parent's story.
                let _ = std::panic::catch_unwind(|| run(keep));
            }
            // SAFETY: ends the child at once; nothing of the parent's is run or flushed.
            unsafe { libc::_exit(0) }
        }
        child => Ok(child),
    }
}

/// For a child that is about to forget all that its parent had open. Whether it has.
fn close_all_but(keep: i32) -> bool {
    let last = libc::c_uint::MAX;
    let ranges = [(0, keep.cast_unsigned().checked_sub(1)), (keep.cast_unsigned() + 1, Some(last))];
    let closed = ranges.into_iter().all(|(first, last)| match last {
        // SAFETY: nothing of this process uses any of these descriptors from now on: it has one thread, which runs the
        // function that was given `keep`, and ends without dropping what it has inherited.
        Some(last) => unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) == 0 },
        None => true,
    });
    closed || close_each_but(keep)
}

/// The same before Linux 5.9, and in sandboxes that do not know the call.
fn close_each_but(keep: i32) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return false };
    let open: Vec<i32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd != keep) {
        // SAFETY: as above. The list's own descriptor is closed already, which is an error without effect.
        let _ = unsafe { libc::close(fd) };
    }
    true
}

/// The descriptors that whoever started this process has passed on (`sd_listen_fds(3)`): 3, 4, ... Only the first call has them.
pub(crate) fn inherited() -> Vec<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let fds = sd_notify::listen_fds().into_iter().flatten();
    // SAFETY: `LISTEN_PID` is this process, so these were passed on to it, and by `TAKEN` nobody has taken them before.
    fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn cookie_when_asked_of_two_sockets_of_one_namespace_is_the_same() {
        let a = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let b = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let cookie = netns_cookie(a.as_fd()).unwrap();
        assert_ne!(cookie, 0);
        assert_eq!(cookie, netns_cookie(b.as_fd()).unwrap());
        assert!(netns_cookie(std::fs::File::open("/").unwrap().as_fd()).is_err());
    }
}
