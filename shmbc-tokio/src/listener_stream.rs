//! [`ShmListenerStream`]: a listener as a stream of connections, as tokio-stream has for tokio's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::listener::ShmListener;
use crate::stream::ShmStream;

/// Turns a [`ShmListener`] into a [`Stream`] of its connections, like `tokio_stream::wrappers::TcpListenerStream`.
///
/// The stream never ends. Addresses are left out; ask the connection ([`ShmStream::peer_addr`]). An error is one of
/// [`ShmListener::accept`]'s, and the next item may well be a connection.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// use futures_util::StreamExt;
/// use shmbc_tokio::{ShmListener, ShmListenerStream, ShmStream};
///
/// let listener = ShmListener::bind("127.0.0.1:0").await?;
/// let address = listener.local_addr()?;
/// let mut connections = ShmListenerStream::new(listener);
/// let client = ShmStream::connect(address).await?;
/// let served = connections.next().await.expect("it never ends")?;
/// assert_eq!(served.peer_addr()?, client.local_addr()?);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ShmListenerStream {
    inner: ShmListener,
}

impl ShmListenerStream {
    /// A stream of what `listener` accepts.
    pub const fn new(listener: ShmListener) -> Self {
        Self { inner: listener }
    }

    /// Gives the listener back.
    pub fn into_inner(self) -> ShmListener {
        self.inner
    }
}

impl Stream for ShmListenerStream {
    type Item = io::Result<ShmStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.poll_accept(cx).map(|accepted| Some(accepted.map(|(stream, _)| stream)))
    }
}

impl AsRef<ShmListener> for ShmListenerStream {
    fn as_ref(&self) -> &ShmListener {
        &self.inner
    }
}

impl AsMut<ShmListener> for ShmListenerStream {
    fn as_mut(&mut self) -> &mut ShmListener {
        &mut self.inner
    }
}

impl From<ShmListener> for ShmListenerStream {
    fn from(listener: ShmListener) -> Self {
        Self::new(listener)
    }
}
