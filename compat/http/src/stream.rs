//! The stream that HTTP stacks are given: a `ShmStream` which keeps its `ShmPeer` up to date as it is used. It owns the
//! stream, adds nothing to its bytes, and never calls into an HTTP crate.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use shmbc_tokio::ShmStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::ShmPeer;

/// A [`ShmStream`] for an HTTP stack. Reads and writes are the stream's own.
#[derive(Debug)]
pub struct HttpStream {
    stream: ShmStream,
    peer: ShmPeer,
    /// On the fast path there is nothing left to learn, and a read must not pay for asking.
    settled: bool,
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
        let peer = ShmPeer::new(&stream, stream.local_addr()?, peer);
        Ok(Self { stream, peer, settled: false })
    }

    /// What is known about the other end. Clone it to keep it when an HTTP stack takes the stream.
    pub const fn peer(&self) -> &ShmPeer {
        &self.peer
    }

    /// The stream inside, for its socket options.
    pub const fn get_ref(&self) -> &ShmStream {
        &self.stream
    }

    /// Gives the stream back.
    pub fn into_inner(self) -> ShmStream {
        self.stream
    }

    /// Looks at the stream after it was used. A ready shared memory connection is looked at once; one on TCP each time,
    /// which is little beside the system call it has just made; and one that waits each time, so that a connection
    /// which has gone back to TCP is not reported as fast for longer than one idle moment.
    fn observe<T>(&mut self, outcome: Poll<T>) -> Poll<T> {
        if !self.settled || outcome.is_pending() {
            self.settled = self.peer.observe(&self.stream);
        }
        outcome
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.observe(outcome)
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.observe(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.observe(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
