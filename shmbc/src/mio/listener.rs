//! [`ShmListener`] for mio.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use ::mio::event::Source;
use ::mio::net::TcpListener;
use ::mio::{Interest, Registry, Token};

use super::ShmStream;
use crate::agent::Listener;

/// A socket that accepts connections, from programs that speak SHMBC and from those that do not: as mio's [`TcpListener`],
/// which it is. Dropping a forked child's copy closes the descriptor, and the parent's listener goes on.
#[derive(Debug)]
pub struct ShmListener(Listener<TcpListener>);

impl ShmListener {
    /// Binds to `addr`, like [`TcpListener::bind`]. Port 0 asks for any free port.
    ///
    /// # Errors
    ///
    /// Those of `bind(2)`.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(addr).map(Self::new)
    }

    fn new(listener: TcpListener) -> Self {
        Self(Listener::new(listener))
    }

    /// Takes over a standard library listener, which must be in non-blocking mode.
    pub fn from_std(listener: std::net::TcpListener) -> Self {
        Self::new(TcpListener::from_std(listener))
    }

    /// Accepts a connection, like [`TcpListener::accept`].
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none; else those of `accept(2)`.
    pub fn accept(&self) -> io::Result<(ShmStream, SocketAddr)> {
        let (tcp, peer) = self.0.socket().accept()?;
        Ok((ShmStream::new(tcp.into(), true), peer))
    }

    /// The address it is bound to.
    ///
    /// # Errors
    ///
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.socket().local_addr()
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

impl Source for ShmListener {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.0.socket_mut().register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.0.socket_mut().reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.0.socket_mut().deregister(registry)
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
