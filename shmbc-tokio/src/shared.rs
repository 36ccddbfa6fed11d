//! Reading and writing through a shared reference: for whoever keeps a stream in an `Arc` to ask it about its peer while
//! something else moves its bytes. Beyond tokio's API; the standard library has the same on its `&TcpStream`.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::ShmStream;

/// As on the stream itself, for one task at a time: only the last that has polled is woken.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// use std::sync::Arc;
///
/// use shmbc_tokio::{ShmListener, ShmStream};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// let listener = ShmListener::bind("127.0.0.1:0").await?;
/// let stream = Arc::new(ShmStream::connect(listener.local_addr()?).await?);
/// let (mut accepted, _) = listener.accept().await?;
/// let watched = Arc::clone(&stream);
/// (&*stream).write_all(b"hello").await?;
/// let mut buf = [0; 5];
/// accepted.read_exact(&mut buf).await?;
/// println!("{buf:?} went by {}", watched.path());
/// # Ok(()) }
/// ```
impl AsyncRead for &ShmStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_read_shared(cx, buf)
    }
}

/// As on the stream itself, for one task at a time: only the last that has polled is woken.
impl AsyncWrite for &ShmStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_shared(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_shared(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shutdown_write())
    }
}
