//! [`ShmListener`] for any executor.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_io::Async;
use futures_core::Stream;

use super::ShmStream;
use crate::agent::Listener;

/// A socket that accepts connections, from programs that speak SHMBC and from those that do not. Clones are handles of the
/// same one. Dropping the last of a forked child's closes the descriptor, and the parent's listener goes on.
#[derive(Clone, Debug)]
pub struct ShmListener(Arc<Listener<Async<TcpListener>>>);

/// The connections of a listener as a stream without end. See [`ShmListener::incoming`].
#[derive(Debug)]
pub struct Incoming<'a>(&'a ShmListener);

impl ShmListener {
    /// Binds to `addr`. Port 0 asks for any free port.
    ///
    /// # Errors
    ///
    /// Those of `bind(2)`.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        Self::from_std(TcpListener::bind(addr)?)
    }

    /// Takes over a standard library listener.
    ///
    /// # Errors
    ///
    /// Those of registering it with the reactor.
    pub fn from_std(listener: TcpListener) -> io::Result<Self> {
        Ok(Self(Arc::new(Listener::new(Async::new(listener)?))))
    }

    /// Waits for a connection.
    ///
    /// # Errors
    ///
    /// Those of `accept(2)`, such as `EMFILE` when descriptors have run out.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no connection is lost.
    pub async fn accept(&self) -> io::Result<(ShmStream, SocketAddr)> {
        let (tcp, peer) = self.0.socket().accept().await?;
        Ok((ShmStream::new(tcp, true), peer))
    }

    /// The connections, one after the other, without end. One task at a time may wait.
    pub const fn incoming(&self) -> Incoming<'_> {
        Incoming(self)
    }

    /// The address it is bound to.
    ///
    /// # Errors
    ///
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.socket().get_ref().local_addr()
    }
}

impl Stream for Incoming<'_> {
    type Item = io::Result<ShmStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let listener = self.0.0.socket();
        loop {
            match listener.get_ref().accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(listener.poll_readable(cx))?,
                Err(error) => return Poll::Ready(Some(Err(error))),
                Ok((tcp, _)) => return Poll::Ready(Some(Async::new(tcp).map(|tcp| ShmStream::new(tcp, true)))),
            }
        }
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
