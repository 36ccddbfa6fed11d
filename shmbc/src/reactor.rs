//! What a kind of stream brings to its [`connection`](crate::connection): its TCP socket in whatever tells it that something
//! happened, and a way to watch a doorbell there.
//!
//! tokio's reactor, mio's, smol's and plain `poll(2)` differ in nothing else.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::task::{Context, Poll};

use crate::doorbell::Waiter;

/// The TCP leg of a stream, non-blocking, with what is known of its readiness.
///
/// Readiness is a hint that lasts: it is there until an [`attempt`](Self::attempt) says `WouldBlock`. It may be wrong when
/// it says ready, never when it says not.
pub trait Socket: AsFd + fmt::Debug + Sized {
    /// What bytes are read into: something borrowed that may itself borrow.
    type Buf<'a, 'b: 'a>: Buffer;

    /// See [`proceed`](Self::proceed).
    type Budget: Budget;

    /// Whether a read may give something; if not, `cx` is woken when it may.
    ///
    /// # Errors
    ///
    /// The reactor is gone.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Whether a write may take something; if not, `cx` is woken when it may.
    ///
    /// # Errors
    ///
    /// The reactor is gone.
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Calls `io` if the socket is ready for this way, and forgets that readiness when it says `WouldBlock`.
    ///
    /// # Errors
    ///
    /// Those of `io`; `WouldBlock` also when the socket is not ready.
    fn attempt<T>(&self, way: Way, io: impl FnOnce() -> io::Result<T>) -> io::Result<T>;

    /// Whether a read may give something, from what is known. Costs no system call, or a rare one.
    fn may_be_readable(&self) -> bool;

    /// Whether the kernel has reported an error.
    fn may_have_failed(&self) -> bool;

    /// Arranges that `cx` is woken when the connection ends, although nothing is written by TCP any more and bytes that nobody
    /// reads may lie before the end.
    ///
    /// # Errors
    ///
    /// The reactor is gone.
    fn watch_end(&self, cx: &mut Context<'_>) -> io::Result<EndWatch>;

    /// Reads into `buf` without waiting.
    ///
    /// # Errors
    ///
    /// Those of `recv(2)`.
    fn recv(&self, buf: &mut Self::Buf<'_, '_>) -> io::Result<usize>;

    /// How doorbells are watched where this socket is. Nothing when the caller is not in a place where that can be known.
    fn registrar(&self) -> Option<Box<dyn Registrar>>;

    /// Takes the socket out of its reactor.
    ///
    /// # Errors
    ///
    /// Those of deregistering it.
    fn into_std(self) -> io::Result<TcpStream>;

    /// Takes one unit of the task's budget before bytes are moved without the reactor's help; `Pending`, and `cx` woken,
    /// when it is used up.
    fn proceed(cx: &mut Context<'_>) -> Poll<Self::Budget>;
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the peer.
    In = 1,
    /// To the peer.
    Out = 2,
}

/// What [`Socket::watch_end`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndWatch {
    /// Whoever waits is woken at the end.
    Watched,
    /// Something has happened: look.
    Happened,
    /// This reactor cannot tell the end from unread bytes: look again in a while.
    Unwatchable,
}

/// Where bytes are read to: a buffer that fills from the front.
pub trait Buffer {
    /// Bytes that are filled.
    fn filled(&self) -> &[u8];

    /// Bytes that still fit.
    fn remaining(&self) -> usize;

    /// The next `n` bytes, initialised, at most [`remaining`](Self::remaining).
    fn next(&mut self, n: usize) -> &mut [u8];

    /// Sets how many bytes are filled: all of them have been written, or were filled before.
    fn set_filled(&mut self, n: usize);
}

/// A unit of a task's budget: given back when dropped, unless it was used.
pub trait Budget {
    /// It was used.
    fn made_progress(self);
}

impl Budget for () {
    fn made_progress(self) {}
}

/// A doorbell that some reactor watches.
pub trait Bell: fmt::Debug + Send + Sync {
    /// Forgets the rings so far and arranges that `cx` is woken by the next one. Whether there were any, if that is known.
    ///
    /// # Errors
    ///
    /// The reactor is gone.
    fn watch(&self, cx: &mut Context<'_>) -> io::Result<bool>;
}

/// Puts doorbells into a reactor. Called by the agent's thread.
pub trait Registrar: fmt::Debug + Send {
    /// Begins to watch.
    ///
    /// # Errors
    ///
    /// The reactor is gone, or has no place for it.
    fn register(&self, waiter: Waiter) -> io::Result<Box<dyn Bell>>;
}

/// A plain slice as a [`Buffer`].
#[derive(Debug)]
pub struct Slice<'a> {
    bytes: &'a mut [u8],
    filled: usize,
}

impl<'a> Slice<'a> {
    /// An empty buffer over `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, filled: 0 }
    }
}

impl Buffer for Slice<'_> {
    fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.filled
    }

    fn next(&mut self, n: usize) -> &mut [u8] {
        &mut self.bytes[self.filled..][..n]
    }

    fn set_filled(&mut self, n: usize) {
        self.filled = n;
    }
}
