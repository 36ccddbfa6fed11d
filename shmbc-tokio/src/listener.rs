//! [`ShmListener`]: tokio's `TcpListener`, whose connections can be upgraded.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::task::{Context, Poll, ready};

use shmbc::Listener;
use tokio::net::{TcpListener, ToSocketAddrs};

use crate::stream::ShmStream;

/// A socket that accepts connections, from programs that speak SHMBC and from those that do not.
///
/// It is a real TCP listener: addresses, ports, backlog and refusal are the kernel's own.
///
/// Dropping it closes it. A forked child's copy only closes the descriptor, and the parent's listener goes on.
pub struct ShmListener(Listener<TcpListener>);

impl ShmListener {
    /// Binds to `addr`, like [`TcpListener::bind`]. Port 0 asks for any free port.
    ///
    /// # Errors
    ///
    /// The error of the last address tried; `InvalidInput` when `addr` resolves to none.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> std::io::Result<()> {
    /// let listener = shmbc_tokio::ShmListener::bind("127.0.0.1:0").await?;
    /// println!("listening on {}", listener.local_addr()?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<Self> {
        TcpListener::bind(addr).await.map(Self::new)
    }

    pub(crate) fn new(tcp: TcpListener) -> Self {
        Self(Listener::new(tcp))
    }

    /// Accepts a connection, like [`TcpListener::accept`].
    ///
    /// # Errors
    ///
    /// Those of `accept(2)`, such as `EMFILE` when descriptors have run out.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: if another branch of a `select!` completes first, no connection was accepted.
    pub async fn accept(&self) -> io::Result<(ShmStream, SocketAddr)> {
        let (tcp, peer) = self.0.socket().accept().await?;
        Ok((ShmStream::accepted(tcp), peer))
    }

    /// Polls for a connection, like [`TcpListener::poll_accept`]: only the last caller's task is woken.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(ShmStream, SocketAddr)>> {
        let (tcp, peer) = ready!(self.0.socket().poll_accept(cx))?;
        Poll::Ready(Ok((ShmStream::accepted(tcp), peer)))
    }

    /// Takes over a standard library listener, which must be in non-blocking mode, like [`TcpListener::from_std`].
    ///
    /// # Errors
    ///
    /// Those of registering it with the runtime.
    ///
    /// # Panics
    ///
    /// Outside of a runtime with I/O enabled.
    #[track_caller]
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
        TcpListener::from_std(listener).map(Self::new)
    }

    /// Turns it into a standard library listener in non-blocking mode.
    ///
    /// # Errors
    ///
    /// Those of deregistering it.
    pub fn into_std(self) -> io::Result<std::net::TcpListener> {
        self.0.into_socket().into_std()
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
}

impl TryFrom<std::net::TcpListener> for ShmListener {
    type Error = io::Error;

    fn try_from(listener: std::net::TcpListener) -> io::Result<Self> {
        Self::from_std(listener)
    }
}

impl fmt::Debug for ShmListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmListener").field("tcp", self.0.socket()).finish()
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
