//! The stream that HTTP stacks are given: a `ShmStream` which keeps its `ShmPeer` up to date as it is used. It owns the
//! stream, adds nothing to its bytes, and never calls into an HTTP crate.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use shmbc_tokio::{Path, ShmStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::ShmPeer;

/// A [`ShmStream`] for an HTTP stack. Reads and writes are the stream's own.
#[derive(Debug)]
pub struct HttpStream {
    stream: ShmStream,
    peer: ShmPeer,
    /// The peer has been told that the bytes go through shared memory.
    known_shared: bool,
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
        Ok(Self { stream, peer, known_shared: false })
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

    /// Looks at the stream after it was used. On shared memory that is one load, and nothing more once it is known there;
    /// what it costs before is little beside the system call that TCP has just made.
    fn observe<T>(&mut self, outcome: Poll<T>) -> Poll<T> {
        let shared = matches!(self.stream.path(), Path::SharedMemory);
        if !(shared && self.known_shared) {
            self.peer.observe(&self.stream);
            self.known_shared = shared;
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
