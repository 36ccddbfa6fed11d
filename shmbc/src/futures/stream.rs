//! [`ShmStream`] for any executor.

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_io::Async;
use futures_io::{AsyncRead, AsyncWrite};

use super::source::Registered;
use crate::Wait;
use crate::connection::{Connection, is_unused};
use crate::link::Reason;
use crate::over_tcp::over_tcp;
use crate::polled::{News, Polled};
use crate::reactor::{Buffer, Slice, Way};

/// A byte stream between two processes for any executor, upgraded to shared memory when both ends are on this host.
///
/// Clones are handles of the same stream, and it reads and writes by shared reference too; one task at a time may wait for
/// reading and one for writing. Dropping the last handle closes the connection; the last of a forked child's only closes the
/// descriptor, and the parent's connection goes on.
///
/// Bytes must go through the stream: what is written or read through its descriptor is not counted, and a connection
/// whose count is wrong stays on TCP (written) or is reset at the switch (read).
#[derive(Clone)]
pub struct ShmStream {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection<Polled<Registered>>,
    news: Arc<News>,
}

over_tcp!(ShmStream);

impl ShmStream {
    /// Opens a connection to `addr`.
    ///
    /// # Errors
    ///
    /// Those of `connect(2)`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the connection up.
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        Ok(Self::new(Async::<TcpStream>::connect(addr).await?, true))
    }

    /// Takes over a standard library stream. If bytes have been written to or read from it, nobody can say where to switch, and
    /// it stays on TCP ([`Reason::UsedBefore`]).
    ///
    /// # Errors
    ///
    /// Those of registering it with the reactor.
    pub fn from_std(stream: TcpStream) -> io::Result<Self> {
        let unused = is_unused(&stream);
        Ok(Self::new(Async::new(stream)?, unused))
    }

    pub(super) fn new(tcp: Async<TcpStream>, unused: bool) -> Self {
        let news = Arc::<News>::default();
        let connection = Connection::new(Polled::new(Registered(tcp)), unused, Box::new(Arc::clone(&news)));
        Self { inner: Arc::new(Inner { connection, news }) }
    }

    /// Waits until both directions go through shared memory; offers the connection at once if that has not been done. The
    /// other end does so when it has seen enough traffic, or when it waits for the upgrade too.
    ///
    /// # Errors
    ///
    /// The [`Reason`] for which the connection stays on TCP.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the upgrade goes on by itself.
    pub async fn upgraded(&self) -> Result<(), Reason> {
        poll_fn(|cx| {
            self.inner.news.tell(cx.waker());
            self.inner.connection.socket().assume(Way::In);
            self.inner.connection.upgraded().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// How this stream waits for its peer from now on.
    pub fn set_wait(&self, wait: Wait) {
        self.inner.connection.set_wait(wait);
    }

    /// Waits for bytes and copies them without taking them. 0: the peer has closed its side, or `buf` is empty.
    ///
    /// # Errors
    ///
    /// As reading.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        poll_fn(|cx| {
            self.inner.connection.register_reader(cx.waker());
            self.inner.connection.poll_peek(&mut Slice::new(buf))
        })
        .await
    }

    fn tcp(&self) -> &TcpStream {
        self.inner.connection.socket().source.0.get_ref()
    }

    fn connection(&self) -> &Connection<Polled<Registered>> {
        &self.inner.connection
    }
}

impl AsyncRead for &ShmStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = Slice::new(buf);
        self.inner.connection.poll_read_shared(cx, &mut buf).map_ok(|()| buf.filled().len())
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        match bufs.iter_mut().find(|buf| !buf.is_empty()) {
            Some(buf) => self.poll_read(cx, buf),
            None => Poll::Ready(Ok(0)),
        }
    }
}

impl AsyncWrite for &ShmStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner.connection.poll_write_shared(cx, bufs)
    }

    /// Written bytes are visible to the peer at once: nothing to do.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.inner.connection.shutdown_write())
    }
}

impl AsyncRead for ShmStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_read(cx, buf)
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_read_vectored(cx, bufs)
    }
}

impl AsyncWrite for ShmStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_close(cx)
    }
}
