//! A non-blocking, close-on-exec eventfd that can be adopted from a received descriptor.
//!
//! The `eventfd` crate (2022) cannot adopt a descriptor; nix's type can, and this adds the two habits every use here
//! needs. Only notifying happens: with edge-triggered epoll each write is a new edge, so nobody ever reads the counter,
//! which would need 2^64 rings to fill.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd as NixEventFd};

/// An eventfd, always non-blocking and close-on-exec.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new eventfd with its counter at 0.
    ///
    /// # Errors
    ///
    /// Those of `eventfd2(2)`: mostly `EMFILE`, no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(NixEventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?.into()))
    }

    /// Takes over a descriptor that came from another process and makes it non-blocking.
    ///
    /// What kind of file it is shows at the first [`notify`](Self::notify), which can fail but cannot block.
    ///
    /// # Errors
    ///
    /// Those of `fcntl(2)`.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self(fd))
    }

    /// Adds 1 to the counter: one more edge for everyone who watches.
    ///
    /// A full counter (`EAGAIN`) counts as notified: it has been rung and nobody has looked.
    ///
    /// # Errors
    ///
    /// Those of `write(2)` but for `EAGAIN`: the descriptor is not an eventfd (`EINVAL`, `EBADF`).
    pub fn notify(&self) -> io::Result<()> {
        match nix::unistd::write(&self.0, &1_u64.to_ne_bytes()) {
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes what has been counted since the last call: 0 when nobody notified.
    ///
    /// # Errors
    ///
    /// Those of `read(2)` but for `EAGAIN`.
    pub fn take(&self) -> io::Result<u64> {
        let mut counted = [0; 8];
        match nix::unistd::read(&self.0, &mut counted) {
            Ok(_) => Ok(u64::from_ne_bytes(counted)),
            Err(Errno::EAGAIN) => Ok(0),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<EventFd> for OwnedFd {
    fn from(event: EventFd) -> Self {
        event.0
    }
}
