//! [`ShmListener`] for threads.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::ShmStream;
use crate::agent::Listener;

/// A socket that accepts connections, from programs that speak SHMBC and from those that do not: as [`TcpListener`], which
/// it is. Dropping a forked child's copy closes the descriptor, and the parent's listener goes on.
#[derive(Debug)]
pub struct ShmListener(Listener<TcpListener>);

/// The connections of a listener, without end. See [`ShmListener::incoming`].
#[derive(Debug)]
pub struct Incoming<'a>(&'a ShmListener);

impl ShmListener {
    /// Binds to `addr`, like [`TcpListener::bind`]. Port 0 asks for any free port.
    ///
    /// # Errors
    ///
    /// The error of the last address tried; `InvalidInput` when `addr` resolves to none.
    pub fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<Self> {
        TcpListener::bind(addr).map(Self::from_std)
    }

    /// Takes over a standard library listener.
    pub fn from_std(listener: TcpListener) -> Self {
        Self(Listener::new(listener))
    }

    /// Gives the standard library listener back.
    pub fn into_std(self) -> TcpListener {
        self.0.into_socket()
    }

    /// Waits for a connection, like [`TcpListener::accept`].
    ///
    /// # Errors
    ///
    /// Those of `accept(2)`; `WouldBlock` when there is none and it is non-blocking.
    pub fn accept(&self) -> io::Result<(ShmStream, SocketAddr)> {
        let (tcp, peer) = self.0.socket().accept()?;
        Ok((ShmStream::new(tcp, true)?, peer))
    }

    /// The connections, one after the other, without end, like [`TcpListener::incoming`].
    pub const fn incoming(&self) -> Incoming<'_> {
        Incoming(self)
    }

    /// Another handle of the same listener.
    ///
    /// # Errors
    ///
    /// Those of `fcntl(2)`: mostly no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.socket().try_clone().map(Self::from_std)
    }

    /// The address it is bound to.
    ///
    /// # Errors
    ///
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.socket().local_addr()
    }

    /// Whether [`accept`](Self::accept) fails with `WouldBlock` instead of waiting. Accepted streams wait all the same.
    ///
    /// # Errors
    ///
    /// Those of `ioctl(2)`.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.0.socket().set_nonblocking(nonblocking)
    }

    /// The value of `IP_TTL`.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn ttl(&self) -> io::Result<u32> {
        self.0.socket().ttl()
    }

    /// Sets `IP_TTL`.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.0.socket().set_ttl(ttl)
    }

    /// The pending error of the socket, which this takes.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.0.socket().take_error()
    }
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<ShmStream>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.accept().map(|(stream, _)| stream))
    }
}

impl AsFd for ShmListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket().as_fd()
    }
}

impl AsRawFd for ShmListener {
    fn as_raw_fd(&self) -> RawFd {
        self.0.socket().as_raw_fd()
    }
}
