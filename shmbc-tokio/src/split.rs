//! The halves of a stream, borrowed and owned, as tokio has them.

use std::error::Error;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};

use crate::stream::ShmStream;

/// The reading half of [`ShmStream::split`].
#[derive(Debug)]
pub struct ReadHalf<'a>(&'a ShmStream);

/// The writing half of [`ShmStream::split`]. Dropping it does not shut the write side; `shutdown` does.
#[derive(Debug)]
pub struct WriteHalf<'a>(&'a ShmStream);

/// The reading half of [`ShmStream::into_split`].
#[derive(Debug)]
pub struct OwnedReadHalf {
    inner: Arc<ShmStream>,
}

/// The writing half of [`ShmStream::into_split`]. Dropping it shuts the write side, but for a forked child's copy.
#[derive(Debug)]
pub struct OwnedWriteHalf {
    inner: Arc<ShmStream>,
    shutdown_on_drop: bool,
}

/// The two halves are not of the same stream. Gives both back.
#[derive(Debug)]
pub struct ReuniteError(pub OwnedReadHalf, pub OwnedWriteHalf);

impl fmt::Display for ReuniteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tried to reunite halves that are not from the same socket")
    }
}

impl Error for ReuniteError {}

impl<'a> ReadHalf<'a> {
    pub(crate) const fn new(stream: &'a ShmStream) -> Self {
        Self(stream)
    }

    fn stream(&self) -> &ShmStream {
        self.0
    }
}

impl<'a> WriteHalf<'a> {
    pub(crate) const fn new(stream: &'a ShmStream) -> Self {
        Self(stream)
    }

    fn stream(&self) -> &ShmStream {
        self.0
    }
}

impl OwnedReadHalf {
    /// Puts the two halves together again.
    ///
    /// # Errors
    ///
    /// Gives both back when they are not of the same stream.
    pub fn reunite(self, other: OwnedWriteHalf) -> Result<ShmStream, ReuniteError> {
        reunite(self, other)
    }

    fn stream(&self) -> &ShmStream {
        &self.inner
    }
}

impl OwnedWriteHalf {
    /// Puts the two halves together again.
    ///
    /// # Errors
    ///
    /// Gives both back when they are not of the same stream.
    pub fn reunite(self, other: OwnedReadHalf) -> Result<ShmStream, ReuniteError> {
        reunite(other, self)
    }

    /// Drops the half without shutting the write side.
    pub fn forget(mut self) {
        self.shutdown_on_drop = false;
    }

    fn stream(&self) -> &ShmStream {
        &self.inner
    }
}

pub(crate) fn split_owned(stream: ShmStream) -> (OwnedReadHalf, OwnedWriteHalf) {
    let inner = Arc::new(stream);
    (OwnedReadHalf { inner: Arc::clone(&inner) }, OwnedWriteHalf { inner, shutdown_on_drop: true })
}

fn reunite(read: OwnedReadHalf, write: OwnedWriteHalf) -> Result<ShmStream, ReuniteError> {
    if !Arc::ptr_eq(&read.inner, &write.inner) {
        return Err(ReuniteError(read, write));
    }
    write.forget();
    // The two halves hold the only two references, and one of them is gone.
    Ok(Arc::try_unwrap(read.inner).expect("a stream has two halves"))
}

impl Drop for OwnedWriteHalf {
    fn drop(&mut self) {
        if self.shutdown_on_drop && !self.inner.is_inherited() {
            let _ = self.inner.shutdown_write();
        }
    }
}

/// What both kinds of reading halves do.
macro_rules! reading_half {
    ($half:ty) => {
        impl $half {
            /// Waits for bytes without taking them. Cancel safe. See [`ShmStream::peek`].
            ///
            /// # Errors
            ///
            /// As reading.
            pub async fn peek(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.stream().peek(buf).await
            }

            /// Polls for bytes without taking them. See [`ShmStream::poll_peek`].
            ///
            /// # Errors
            ///
            /// As reading.
            pub fn poll_peek(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
                self.stream().poll_peek(cx, buf)
            }

            /// Waits until a read would not block. Cancel safe.
            ///
            /// # Errors
            ///
            /// When the runtime is shut down.
            pub async fn readable(&self) -> io::Result<()> {
                self.stream().readable().await
            }

            /// Reads what is there. See [`ShmStream::try_read`].
            ///
            /// # Errors
            ///
            /// `WouldBlock` when nothing is there.
            pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
                self.stream().try_read(buf)
            }

            /// Reads what is there into several buffers. See [`ShmStream::try_read_vectored`].
            ///
            /// # Errors
            ///
            /// `WouldBlock` when nothing is there.
            pub fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                self.stream().try_read_vectored(bufs)
            }

            /// Reads what is there into the spare room of `buf`. See [`ShmStream::try_read_buf`].
            ///
            /// # Errors
            ///
            /// `WouldBlock` when nothing is there.
            pub fn try_read_buf<B: BufMut>(&self, buf: &mut B) -> io::Result<usize> {
                self.stream().try_read_buf(buf)
            }
        }

        impl AsyncRead for $half {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                self.stream().poll_read_shared(cx, buf)
            }
        }
    };
}

/// What both kinds of writing halves do. `$shut` is told that the write side has been shut.
macro_rules! writing_half {
    ($half:ty, $shut:expr) => {
        impl $half {
            /// Waits until a write would not block. Cancel safe.
            ///
            /// # Errors
            ///
            /// When the runtime is shut down.
            pub async fn writable(&self) -> io::Result<()> {
                self.stream().writable().await
            }

            /// Writes what fits. See [`ShmStream::try_write`].
            ///
            /// # Errors
            ///
            /// `WouldBlock` when nothing fits.
            pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
                self.stream().try_write(buf)
            }

            /// Writes what fits of several buffers. See [`ShmStream::try_write_vectored`].
            ///
            /// # Errors
            ///
            /// `WouldBlock` when nothing fits.
            pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
                self.stream().try_write_vectored(bufs)
            }
        }

        impl AsyncWrite for $half {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                self.stream().poll_write_shared(cx, &[IoSlice::new(buf)])
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.stream().poll_write_shared(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                let this = self.get_mut();
                let done = this.stream().shutdown_write();
                if done.is_ok() {
                    let shut: fn(&mut Self) = $shut;
                    shut(this);
                }
                Poll::Ready(done)
            }
        }
    };
}

/// What all halves do.
macro_rules! half {
    ($half:ty) => {
        impl $half {
            /// Waits until one of `interest` is ready. Cancel safe. See [`ShmStream::ready`].
            ///
            /// # Errors
            ///
            /// When the runtime is shut down.
            pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
                self.stream().ready(interest).await
            }

            /// The local address.
            ///
            /// # Errors
            ///
            /// As [`ShmStream::local_addr`].
            pub fn local_addr(&self) -> io::Result<SocketAddr> {
                self.stream().local_addr()
            }

            /// The remote address.
            ///
            /// # Errors
            ///
            /// As [`ShmStream::peer_addr`].
            pub fn peer_addr(&self) -> io::Result<SocketAddr> {
                self.stream().peer_addr()
            }
        }

        impl AsRef<ShmStream> for $half {
            fn as_ref(&self) -> &ShmStream {
                self.stream()
            }
        }
    };
}

half!(ReadHalf<'_>);
half!(WriteHalf<'_>);
half!(OwnedReadHalf);
half!(OwnedWriteHalf);
reading_half!(ReadHalf<'_>);
reading_half!(OwnedReadHalf);
writing_half!(WriteHalf<'_>, |_| {});
writing_half!(OwnedWriteHalf, |half| half.shutdown_on_drop = false);
