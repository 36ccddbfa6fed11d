//! Sockets of dropped streams that stay open for a moment.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};

use crate::own::Own;

/// How long a dropped stream's socket waits for a token. The peer writes it right after publishing its switch, so only one
/// that is stopped or dead takes longer.
const LEAVING: Duration = Duration::from_secs(5);

/// Most of them at once: an eighth of the descriptors that the process may have. A hostile peer publishes a switch and sends no
/// token, for each connection that it makes. The oldest goes first, so an honest peer, whose token comes within microseconds, is
/// served all the same; one that is stopped just then, while so many others come, is reset and loses what it has not read.
pub(super) fn most() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| getrlimit(Resource::RLIMIT_NOFILE).map_or(128, |(soft, _)| (soft / 8).clamp(1, 4096) as usize))
}

/// The socket of a stream that was dropped while its peer's token was on its way. Its write side is shut; it is closed once
/// the token has come, because closing it before would be answered with a reset.
#[derive(Debug)]
pub(super) struct Leaving {
    socket: Own,
    /// Bytes of the token still to come.
    left: usize,
    until: Instant,
}

impl Leaving {
    pub(super) fn new(socket: OwnedFd, left: usize) -> io::Result<Self> {
        Ok(Self { socket: Own::new(socket)?, left, until: Instant::now() + LEAVING })
    }

    /// See [`Own::disown`].
    pub(super) fn disown(&self) {
        self.socket.disown();
    }

    pub(super) const fn until(&self) -> Instant {
        self.until
    }

    /// Takes what has come of the token. True when the socket can be closed.
    pub(super) fn is_over(&mut self) -> bool {
        if !self.socket.is_ours() {
            return true;
        }
        let mut token = [0; 16];
        match rustix::net::recv(&self.socket, &mut token[..self.left], rustix::net::RecvFlags::DONTWAIT) {
            Ok((_, n)) => {
                self.left -= n;
                n == 0 || self.left == 0
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Instant::now() >= self.until,
            Err(_) => true,
        }
    }
}

impl AsFd for Leaving {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
