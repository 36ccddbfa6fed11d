//! Descriptors that the library opens for itself, and what it does when the program closes them.
//!
//! A program may close what it did not open: `closefrom(3)`, `close_range(2)`, a loop to the limit. Then the numbers are free, and
//! soon those of files of the program's. So they are high ones ([`high`]), which the kernel gives out last: for long they are
//! nothing at all, which every call says. Besides, before a number is used it is compared with the file that it was ([`Own`]), and
//! what cannot be compared (eventfds and epoll instances share one inode) is given up when [`sweeps`] has been noticed. Not
//! protected is a program that closes everything and has hundreds of files open again in the microseconds between a look and the use.
//!
//! Used by the agent and by threads that wait. Streams have nothing here: after a sweep they are closed, as TCP's own would be.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// How often it has been noticed that descriptors were closed behind the library's back.
static SWEEPS: AtomicU64 = AtomicU64::new(0);

/// How often that has been noticed so far.
pub(crate) fn sweeps() -> u64 {
    SWEEPS.load(Ordering::Relaxed)
}

/// Somebody has found that a descriptor is no longer what it was.
pub(crate) fn notice_sweep() {
    SWEEPS.fetch_add(1, Ordering::Relaxed);
}

/// From which number on descriptors of the library's own are put, in turn, and how many numbers that are; or the upper half of what
/// the process may have. A table for so many takes 8 KiB. It must be more than a program opens before a thread that was told of a
/// sweep has run: `poll(2)`, once woken, looks at the numbers anew, and would go on sleeping on a file of the program's. And in turn,
/// so that it is not a file of the next thread's either.
const HIGH: u64 = 512;

/// The same file under a high number, or as it is where there is no room.
pub(crate) fn high(low: OwnedFd) -> OwnedFd {
    static TURN: AtomicU64 = AtomicU64::new(0);
    let half = getrlimit(Resource::RLIMIT_NOFILE).map_or(HIGH, |(soft, _)| HIGH.min(soft / 2)).max(1);
    let from = half + TURN.fetch_add(1, Ordering::Relaxed) % half;
    let moved = [from, half].into_iter().find_map(|from| rustix::io::fcntl_dupfd_cloexec(&low, from as i32).ok());
    moved.unwrap_or(low)
}

/// A socket that knows which file it is. Its number is closed only if it still is that file.
#[derive(Debug)]
pub(crate) struct Own {
    /// There until it is dropped.
    socket: Option<OwnedFd>,
    file: (u64, u64),
    disowned: AtomicBool,
}

impl Own {
    /// Errors: the descriptor is not open.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = high(socket);
        let file = file(&socket)?;
        Ok(Self { socket: Some(socket), file, disowned: AtomicBool::new(false) })
    }

    /// Whether the number is still this file.
    pub(crate) fn is_ours(&self) -> bool {
        !self.disowned.load(Ordering::Relaxed) && file(self).is_ok_and(|file| file == self.file)
    }

    /// Gives the number up, which may be closed at this moment: it is never used or closed again.
    pub(crate) fn disown(&self) {
        self.disowned.store(true, Ordering::Relaxed);
    }
}

fn file(socket: &impl AsFd) -> io::Result<(u64, u64)> {
    let stat = nix::sys::stat::fstat(socket)?;
    Ok((stat.st_dev, stat.st_ino))
}

impl Drop for Own {
    fn drop(&mut self) {
        if !self.is_ours()
            && let Some(socket) = self.socket.take()
        {
            let _ = socket.into_raw_fd();
        }
    }
}

impl AsFd for Own {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().expect("there until it is dropped").as_fd()
    }
}

/// What whoever wants to wake a thread rings. A socket, because that can be told from every other file, and because the one who
/// hears is told by the kernel when it is closed.
#[derive(Debug)]
pub(crate) struct Bell(Own);

/// The other end, readable when it was rung.
#[derive(Debug)]
pub(crate) struct Ear(Own);

/// A bell and the ear that hears it.
pub(crate) fn bell() -> io::Result<(Bell, Ear)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (bell, ear) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    Ok((Bell(Own::new(bell)?), Ear(Own::new(ear)?)))
}

impl Bell {
    /// Whether whoever listens has been told.
    pub(crate) fn ring(&self) -> bool {
        // Full: it has been rung often, and nobody has listened yet.
        self.0.is_ours()
            && matches!(send(&self.0, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL), Ok(_) | Err(Errno::AGAIN))
    }

    /// See [`Own::disown`].
    pub(crate) fn disown(&self) {
        self.0.disown();
    }
}

impl Ear {
    /// Whether it is still there.
    pub(crate) fn is_ours(&self) -> bool {
        self.0.is_ours()
    }

    /// Forgets the rings so far. False: it, or its bell, was closed.
    pub(crate) fn hear(&self) -> bool {
        let mut rings = [0; 256];
        self.is_ours()
            && loop {
                match recv(&self.0, &mut rings[..], RecvFlags::DONTWAIT) {
                    Ok((_, 0)) => break false,
                    Ok((_, n)) if n < rings.len() => break true,
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => break error == Errno::AGAIN,
                }
            }
    }

    /// See [`Own::disown`].
    pub(crate) fn disown(&self) {
        self.0.disown();
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    /// Puts another file under the number of `own`, as a sweep and the program's next file do, and drops it: what the number is then.
    fn replaced(mut own: Own, file: &impl AsFd) -> std::path::PathBuf {
        let number = own.as_fd().as_raw_fd();
        assert!(own.is_ours());
        rustix::io::dup2(file, own.socket.as_mut().unwrap()).unwrap();
        assert!(!own.is_ours());
        drop(own);
        std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap()
    }

    #[test]
    fn number_when_it_is_another_file_is_not_closed() {
        let (bell, ear) = bell().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(replaced(bell.0, &file), std::path::Path::new("/dev/null"));
        // A socket is another one too.
        let (other, _end) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(replaced(ear.0, &other).to_string_lossy().starts_with("socket:"));
    }

    #[test]
    fn ear_when_rung_often_hears_it_once_and_is_told_when_its_bell_is_gone() {
        let (bell, ear) = bell().unwrap();
        assert!(ear.hear());
        // Until nothing more fits.
        assert!((0..100_000).all(|_| bell.ring()));
        assert!(ear.hear());
        assert_eq!(recv(&ear.0, &mut [0; 1][..], RecvFlags::DONTWAIT).map(drop), Err(Errno::AGAIN));
        drop(bell);
        assert!(!ear.hear());
    }

    #[test]
    fn bell_when_nobody_can_hear_it_says_so() {
        let (bell, ear) = bell().unwrap();
        drop(ear);
        assert!(!bell.ring());
    }
}
