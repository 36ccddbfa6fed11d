//! [`ShmStream`]: tokio's `TcpStream`, upgraded in flight. Thin: the work is done by crate `shmbc`'s `Connection`. Making one,
//! reading and writing; `readiness` and `options` have the rest of its methods.

mod options;
mod readiness;

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::task::{Context, Poll};

use shmbc::connection::{Connection, is_unused};
use shmbc::control::message::Identity;
use shmbc::link::{Path, Reason};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::sync::Notify;
use tokio::task::coop;

use crate::reactor::{Buffer, Leg, Others};
use crate::split::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, WriteHalf, split_owned};
use shmbc::Wait;

/// A byte stream between two processes: a TCP connection that goes on through shared memory when both ends are on this host.
///
/// Everything is as with [`tokio::net::TcpStream`], before, during and after the upgrade. Dropping it closes the connection (a
/// forked child's copy only closes the descriptor, and the parent's connection goes on); the
/// peer reads what was written and then its end. Dropping it with bytes unread, or after
/// [`set_zero_linger`](Self::set_zero_linger), resets it.
///
/// Bytes must go through the stream: what is written or read through its descriptor is not counted, and a connection
/// whose count is wrong stays on TCP (written) or is reset at the switch (read).
pub struct ShmStream {
    connection: Connection<Leg>,
    /// Whoever waits for anything but reading and writing.
    others: Arc<Notify>,
    /// How often in a row a closure of [`try_io`](Self::try_io) has said "would block" where the stream was ready.
    vain: AtomicU32,
}

impl ShmStream {
    /// Opens a connection to a remote host, like [`TcpStream::connect`]: each address that `addr` resolves to is tried in turn.
    ///
    /// # Errors
    ///
    /// The error of the last address tried; `InvalidInput` when there is none.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> std::io::Result<()> {
    /// let stream = shmbc_tokio::ShmStream::connect("api:8080").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect<A: ToSocketAddrs>(addr: A) -> io::Result<Self> {
        TcpStream::connect(addr).await.map(Self::fresh)
    }

    /// Whether this is a forked child's copy.
    pub(crate) fn is_inherited(&self) -> bool {
        self.connection.is_inherited()
    }

    /// The stream of a connection that nobody has used yet.
    pub(crate) fn fresh(tcp: TcpStream) -> Self {
        Self::with(tcp, true)
    }

    fn with(tcp: TcpStream, unused: bool) -> Self {
        let others = Arc::<Notify>::default();
        let connection = Connection::new(Leg(tcp), unused, Box::new(Others(Arc::clone(&others))));
        Self { connection, others, vain: AtomicU32::new(0) }
    }

    /// The stream of a connection that was just accepted.
    pub(crate) fn accepted(tcp: TcpStream) -> Self {
        let mut stream = Self::fresh(tcp);
        stream.connection.assume_readable();
        stream
    }

    fn tcp(&self) -> &TcpStream {
        &self.connection.socket().0
    }

    /// Takes over a standard library stream, which must be in non-blocking mode, like [`TcpStream::from_std`].
    ///
    /// If bytes have been written to or read from it, nobody can say where to switch, and it stays on TCP
    /// ([`Reason::UsedBefore`]).
    ///
    /// # Errors
    ///
    /// Those of registering it with the runtime.
    ///
    /// # Panics
    ///
    /// Outside of a runtime with I/O enabled.
    #[track_caller]
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        let unused = is_unused(&stream);
        Ok(Self::with(TcpStream::from_std(stream)?, unused))
    }

    /// Turns it into a standard library stream in non-blocking mode, like [`TcpStream::into_std`].
    ///
    /// # Errors
    ///
    /// `Unsupported` once the connection goes, or may go at any moment, through shared memory: a standard library
    /// stream cannot. [`set_acceleration(false)`](Self::set_acceleration) right after connecting keeps that from happening.
    pub fn into_std(self) -> io::Result<std::net::TcpStream> {
        self.connection.into_socket().map_or_else(
            || {
                let why =
                    "the connection goes through shared memory; call set_acceleration(false) before it is upgraded";
                Err(io::Error::new(io::ErrorKind::Unsupported, why))
            },
            |leg| leg.0.into_std(),
        )
    }

    // --- What SHMBC adds ---

    /// Which way the bytes go now, and if by TCP, why.
    pub fn path(&self) -> Path {
        self.connection.path()
    }

    /// Waits until both directions go through shared memory; offers the connection at once if that has not been done.
    ///
    /// The other end offers when it has seen enough traffic, or when it calls `upgraded` too. Bytes that have come by
    /// TCP and are not read yet keep the direction from switching: somebody has to read them meanwhile.
    ///
    /// # Errors
    ///
    /// The [`Reason`] for which the connection stays on TCP. [`Reason::PeerNotAware`] comes after the host service has
    /// waited for the other end's offer (2 seconds unless configured).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the upgrade goes on by itself.
    pub async fn upgraded(&self) -> Result<(), Reason> {
        coop::consume_budget().await;
        self.wait_for(|| self.connection.upgraded()).await
    }

    /// Who the other end is, as the host service has proved it from what the kernel says. Nothing before a grant.
    pub fn peer_identity(&self) -> Option<&Identity> {
        self.connection.peer_identity()
    }

    /// How this stream waits for its peer from now on.
    pub fn set_wait(&self, wait: Wait) {
        self.connection.set_wait(wait);
    }

    /// How this stream waits for its peer.
    pub fn wait(&self) -> Wait {
        self.connection.wait()
    }

    /// `false` keeps this stream on TCP ([`Reason::Disabled`]) unless its upgrade has already been granted; `true` changes
    /// nothing, since a stream cannot take back its word to the host service.
    pub fn set_acceleration(&self, on: bool) {
        if !on {
            self.connection.withdraw();
        }
    }

    // --- As tokio's TcpStream ---

    /// Borrows the stream as two halves that can be used at once in one task, like [`TcpStream::split`].
    pub fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        (ReadHalf::new(self), WriteHalf::new(self))
    }

    /// Splits the stream into two halves for different tasks, like [`TcpStream::into_split`]. Dropping the write half
    /// shuts the write side.
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        split_owned(self)
    }

    // --- For the halves ---

    pub(crate) fn poll_read_shared(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_read_shared(cx, &mut Buffer(buf))
    }

    pub(crate) fn poll_write_shared(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.connection.poll_write_shared(cx, bufs)
    }

    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        self.connection.shutdown_write()
    }
}

impl AsyncRead for ShmStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().connection.poll_read(cx, &mut Buffer(buf))
    }
}

impl AsyncWrite for ShmStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().connection.poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Written bytes are visible to the peer at once: nothing to do.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.connection.shutdown_write())
    }
}

// As tokio's: a panic while one of its methods runs leaves nothing half done that a later call would take for done.
impl UnwindSafe for ShmStream {}
impl RefUnwindSafe for ShmStream {}

impl TryFrom<std::net::TcpStream> for ShmStream {
    type Error = io::Error;

    fn try_from(stream: std::net::TcpStream) -> io::Result<Self> {
        Self::from_std(stream)
    }
}

impl fmt::Debug for ShmStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmStream").field("tcp", self.tcp()).field("path", &self.path()).finish()
    }
}

impl AsRef<Self> for ShmStream {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// The TCP connection: for socket options and addresses. Bytes must go through the stream.
impl AsFd for ShmStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp().as_fd()
    }
}

/// As [`AsFd`].
impl AsRawFd for ShmStream {
    fn as_raw_fd(&self) -> RawFd {
        self.tcp().as_raw_fd()
    }
}
