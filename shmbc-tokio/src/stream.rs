//! [`ShmStream`]: tokio's `TcpStream`, upgraded in flight. Thin: the work is done in `core`.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use shmbc::control::message::Identity;
use shmbc::link::{Path, Reason};
use shmbc::sys::{TcpPosition, tcp_position};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, ToSocketAddrs};

use crate::core::{Core, ReadSide, WriteSide, lock};
use crate::split::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, WriteHalf, split_owned};
use crate::wait::Wait;

/// A byte stream between two processes: a TCP connection that goes on through shared memory when both ends are on this host.
///
/// Everything is as with [`tokio::net::TcpStream`], before, during and after the upgrade. Dropping it closes the connection; the
/// peer reads what was written and then its end. Dropping it with bytes unread, or after
/// [`set_zero_linger`](Self::set_zero_linger), resets it.
///
/// Bytes must go through the stream: what is written or read through its descriptor is not counted, and a connection
/// whose count is wrong stays on TCP (written) or is reset at the switch (read).
pub struct ShmStream {
    core: Core,
    read: Mutex<ReadSide>,
    write: Mutex<WriteSide>,
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

    /// The stream of a connection that nobody has used yet.
    pub(crate) fn fresh(tcp: TcpStream) -> Self {
        Self::with(Core::new(tcp, true))
    }

    fn with(core: Core) -> Self {
        Self { core, read: Mutex::default(), write: Mutex::default() }
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
        let unused = tcp_position(&stream).is_ok_and(|TcpPosition { written, arrived }| {
            written == 0 && rustix::io::ioctl_fionread(&stream).is_ok_and(|unread| unread == arrived)
        });
        Ok(Self::with(Core::new(TcpStream::from_std(stream)?, unused)))
    }

    /// Turns it into a standard library stream in non-blocking mode, like [`TcpStream::into_std`].
    ///
    /// # Errors
    ///
    /// `Unsupported` once the connection goes, or may go at any moment, through shared memory: a standard library
    /// stream cannot. [`set_acceleration(false)`](Self::set_acceleration) right after connecting keeps that from happening.
    pub fn into_std(mut self) -> io::Result<std::net::TcpStream> {
        self.core.take_tcp().map_or_else(
            || {
                let why =
                    "the connection goes through shared memory; call set_acceleration(false) before it is upgraded";
                Err(io::Error::new(io::ErrorKind::Unsupported, why))
            },
            TcpStream::into_std,
        )
    }

    // --- What SHMBC adds ---

    /// Which way the bytes go now, and if by TCP, why.
    pub fn path(&self) -> Path {
        self.core.path()
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
        self.wait_for(|| self.core.upgraded(&self.read, &self.write)).await
    }

    /// Who the other end is, as the host service has proved it from what the kernel says. Nothing before a grant.
    pub fn peer_identity(&self) -> Option<&Identity> {
        self.core.upgrade.shm().map(|shm| &shm.peer)
    }

    /// How this stream waits for its peer from now on.
    pub fn set_wait(&self, wait: Wait) {
        self.core.wait.set(wait);
    }

    /// How this stream waits for its peer.
    pub fn wait(&self) -> Wait {
        self.core.wait.get()
    }

    /// `false` keeps this stream on TCP ([`Reason::Disabled`]) unless its upgrade has already been granted; `true` changes
    /// nothing, since a stream cannot take back its word to the host service.
    pub fn set_acceleration(&self, on: bool) {
        if !on {
            self.core.upgrade.withdraw();
        }
    }

    // --- As tokio's TcpStream ---

    /// The local address of the TCP connection.
    ///
    /// # Errors
    ///
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.core.tcp().local_addr()
    }

    /// The remote address of the TCP connection.
    ///
    /// # Errors
    ///
    /// `NotConnected` after a reset.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.core.tcp().peer_addr()
    }

    /// The pending error of the socket, which this takes.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.core.tcp().take_error()
    }

    /// Waits until one of `interest` is ready, like [`TcpStream::ready`].
    ///
    /// # Errors
    ///
    /// When the runtime is shut down.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        if !interest.is_readable() && !interest.is_writable() {
            return self.core.tcp().ready(interest).await;
        }
        self.wait_for(|| {
            let mut ready = Ready::EMPTY;
            if interest.is_readable() {
                match self.poll_readable() {
                    Poll::Ready(Ok(closed)) => ready |= closed,
                    Poll::Ready(Err(error)) => return Some(Err(error)),
                    Poll::Pending => {}
                }
            }
            if interest.is_writable() {
                match self.core.poll_writable(&mut lock(&self.write)) {
                    Poll::Ready(Ok(())) => ready |= Ready::WRITABLE,
                    Poll::Ready(Err(error)) => return Some(Err(error)),
                    Poll::Pending => {}
                }
            }
            (!ready.is_empty()).then_some(Ok(ready))
        })
        .await
    }

    /// Waits until a read would not block, like [`TcpStream::readable`].
    ///
    /// # Errors
    ///
    /// When the runtime is shut down.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.ready(Interest::READABLE).await.map(drop)
    }

    /// Waits until a write would not block, like [`TcpStream::writable`].
    ///
    /// # Errors
    ///
    /// When the runtime is shut down.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn writable(&self) -> io::Result<()> {
        self.ready(Interest::WRITABLE).await.map(drop)
    }

    /// Polls for readiness to read, like [`TcpStream::poll_read_ready`]. Shares its waker with `poll_read` and `poll_peek`.
    ///
    /// # Errors
    ///
    /// When the runtime is shut down.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.core.upgrade.wakers().read.register(cx.waker());
        self.poll_readable().map_ok(drop)
    }

    /// Polls for readiness to write, like [`TcpStream::poll_write_ready`]. Shares its waker with `poll_write`.
    ///
    /// # Errors
    ///
    /// When the runtime is shut down.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.core.upgrade.wakers().write.register(cx.waker());
        self.core.poll_writable(&mut lock(&self.write))
    }

    /// Reads what is there, like [`TcpStream::try_read`]. 0: the peer has closed its side, or `buf` is empty.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is there; else as reading.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.core.try_read(&mut lock(&self.read), &self.write, &mut ReadBuf::new(buf))
    }

    /// Reads what is there into the first buffers, like [`TcpStream::try_read_vectored`].
    ///
    /// # Errors
    ///
    /// As [`try_read`](Self::try_read).
    pub fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut total = 0;
        for buf in bufs.iter_mut().filter(|buf| !buf.is_empty()) {
            match self.try_read(buf) {
                Ok(n) => {
                    total += n;
                    if n < buf.len() {
                        break;
                    }
                }
                Err(_) if total > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    /// Writes what fits, like [`TcpStream::try_write`].
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing fits; else as writing.
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        self.try_write_vectored(&[IoSlice::new(buf)])
    }

    /// Writes what fits of several buffers, like [`TcpStream::try_write_vectored`].
    ///
    /// # Errors
    ///
    /// As [`try_write`](Self::try_write).
    pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.core.try_write(&mut lock(&self.write), bufs)
    }

    /// Waits for bytes and copies them without taking them, like [`TcpStream::peek`]. 0: the peer has closed its side.
    ///
    /// # Errors
    ///
    /// As reading.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.wait_for(|| {
            let peeked = self.core.peek_with(&mut lock(&self.read), &self.write, &mut ReadBuf::new(buf));
            match peeked {
                Poll::Ready(done) => Some(done),
                Poll::Pending => None,
            }
        })
        .await
    }

    /// Polls for bytes without taking them, like [`TcpStream::poll_peek`].
    ///
    /// # Errors
    ///
    /// As reading.
    pub fn poll_peek(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        self.core.poll_peek(&mut lock(&self.read), &self.write, cx, buf)
    }

    /// The value of `TCP_NODELAY`. Without meaning for shared memory, where every write is visible at once.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn nodelay(&self) -> io::Result<bool> {
        self.core.tcp().nodelay()
    }

    /// Sets `TCP_NODELAY` on the TCP connection.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.core.tcp().set_nodelay(nodelay)
    }

    /// The value of `SO_LINGER`.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn linger(&self) -> io::Result<Option<Duration>> {
        SockRef::from(self.core.tcp()).linger()
    }

    /// Makes dropping the stream reset the connection, like [`TcpStream::set_zero_linger`]: the peer reads what has reached
    /// it, then gets `ConnectionReset`.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_zero_linger(&self) -> io::Result<()> {
        SockRef::from(self.core.tcp()).set_linger(Some(Duration::ZERO))
    }

    /// The value of `IP_TTL`.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn ttl(&self) -> io::Result<u32> {
        self.core.tcp().ttl()
    }

    /// Sets `IP_TTL` on the TCP connection.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.core.tcp().set_ttl(ttl)
    }

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

    /// Calls `look` until it has something, each time any source of this stream's events has fired.
    async fn wait_for<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        loop {
            // Where tokio's budget is used up, every look says "pending" and fires the event itself: yield, or go round
            // for ever.
            tokio::task::coop::consume_budget().await;
            let notified = self.core.upgrade.wakers().others.notified();
            let mut notified = std::pin::pin!(notified);
            // From here on no event is missed, so looking comes second.
            notified.as_mut().enable();
            if let Some(found) = look() {
                return found;
            }
            notified.await;
        }
    }

    fn poll_readable(&self) -> Poll<io::Result<Ready>> {
        let mut read = lock(&self.read);
        while let Poll::Ready(ready) = self.core.poll_readable(&mut read, &self.write)? {
            if let Some(ready) = ready {
                return Poll::Ready(Ok(ready));
            }
        }
        Poll::Pending
    }

    pub(crate) fn poll_read_shared(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.core.poll_read(&mut lock(&self.read), &self.write, cx, buf)
    }

    pub(crate) fn poll_write_shared(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.core.poll_write(&mut lock(&self.write), cx, bufs)
    }

    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        self.core.shutdown_write()
    }
}

impl AsyncRead for ShmStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Not shared, so not locked: 12 ns of the 400 of a round trip.
        let read = this.read.get_mut().unwrap_or_else(PoisonError::into_inner);
        this.core.poll_read(read, &this.write, cx, buf)
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
        let this = self.get_mut();
        let write = this.write.get_mut().unwrap_or_else(PoisonError::into_inner);
        this.core.poll_write(write, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Written bytes are visible to the peer at once: nothing to do.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.core.shutdown_write())
    }
}

impl Drop for ShmStream {
    fn drop(&mut self) {
        self.core.close(self.read.get_mut().unwrap_or_else(PoisonError::into_inner));
    }
}

impl TryFrom<std::net::TcpStream> for ShmStream {
    type Error = io::Error;

    fn try_from(stream: std::net::TcpStream) -> io::Result<Self> {
        Self::from_std(stream)
    }
}

impl fmt::Debug for ShmStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmStream").field("tcp", self.core.tcp()).field("path", &self.path()).finish()
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
        self.core.tcp().as_fd()
    }
}

/// As [`AsFd`].
impl AsRawFd for ShmStream {
    fn as_raw_fd(&self) -> RawFd {
        self.core.tcp().as_raw_fd()
    }
}
