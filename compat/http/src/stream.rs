//! The stream that HTTP stacks are given: a `ShmStream` that its `ShmPeer` can look at meanwhile. It owns the stream, adds
//! nothing to its bytes, and never calls into an HTTP crate.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use shmbc_tokio::ShmStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::ShmPeer;

/// A [`ShmStream`] for an HTTP stack. Reads and writes are the stream's own.
#[derive(Debug)]
pub struct HttpStream {
    /// Nothing once it has been given back.
    stream: Option<Arc<ShmStream>>,
    peer: ShmPeer,
}

impl HttpStream {
    /// Wraps a stream.
    ///
    /// # Errors
    ///
    /// When the socket has no peer any more (`NotConnected`).
    pub fn new(stream: ShmStream) -> io::Result<Self> {
        let peer = stream.peer_addr()?;
        Self::accepted(stream, peer)
    }

    /// Wraps a stream that was accepted from `peer`; works also when the peer has gone again by now.
    ///
    /// # Errors
    ///
    /// When the socket cannot say its own address, which no connected socket does.
    pub fn accepted(stream: ShmStream, peer: SocketAddr) -> io::Result<Self> {
        let local = stream.local_addr()?;
        let stream = Arc::new(stream);
        let peer = ShmPeer::new(&stream, local, peer);
        Ok(Self { stream: Some(stream), peer })
    }

    /// What is known about the other end. Clone it to keep it when an HTTP stack takes the stream.
    pub const fn peer(&self) -> &ShmPeer {
        &self.peer
    }

    /// The stream inside, for its socket options.
    ///
    /// # Panics
    ///
    /// Never: only [`into_inner`](Self::into_inner) takes the stream out, and with it this.
    pub fn get_ref(&self) -> &ShmStream {
        self.stream.as_ref().expect("it is taken out only by whoever consumes it")
    }

    /// Gives the stream back.
    ///
    /// # Errors
    ///
    /// Gives itself back while somebody waits for this connection's [`ShmPeer::proven`].
    pub fn into_inner(mut self) -> Result<ShmStream, Self> {
        let stream = self.stream.take().expect("it is taken out only here");
        let unwrapped = {
            let _nobody_looks = self.peer.stream();
            Arc::try_unwrap(stream)
        };
        match unwrapped {
            Ok(stream) => {
                self.peer.keep(&stream);
                Ok(stream)
            }
            Err(shared) => {
                self.stream = Some(shared);
                Err(self)
            }
        }
    }

    /// Offers the connection to the host service now, without waiting until its traffic has shown that it lives on. Does
    /// nothing outside of a tokio runtime.
    pub fn offer_at_once(&self) {
        // The first look offers; nobody waits. Outside of the task's budget, or there might be no look.
        let upgraded = tokio::task::unconstrained(self.get_ref().upgraded());
        let _ = pin!(upgraded).poll(&mut Context::from_waker(Waker::noop()));
    }
}

impl Drop for HttpStream {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            self.peer.keep(stream);
        }
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        pin!(self.get_ref()).poll_read(cx, buf)
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        pin!(self.get_ref()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        pin!(self.get_ref()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(self.get_ref()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(self.get_ref()).poll_shutdown(cx)
    }
}
