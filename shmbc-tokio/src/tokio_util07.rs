//! tokio-util's `Listener` for [`ShmListener`]. Here and not in an adapter's crate, since both would be foreign there.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use tokio_util::net::Listener;

use crate::listener::ShmListener;
use crate::stream::ShmStream;

/// So that it can stand where any listener may, also in an [`Either`](tokio_util::either::Either):
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// use shmbc_tokio::{ShmListener, ShmStream};
/// use tokio_util::net::Listener;
///
/// async fn first<L: Listener>(mut listener: L) -> std::io::Result<L::Addr> {
///     Ok(listener.accept().await?.1)
/// }
///
/// let listener = ShmListener::bind("127.0.0.1:0").await?;
/// let client = ShmStream::connect(listener.local_addr()?).await?;
/// assert_eq!(first(listener).await?, client.local_addr()?);
/// # Ok(()) }
/// ```
impl Listener for ShmListener {
    type Io = ShmStream;
    type Addr = SocketAddr;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(ShmStream, SocketAddr)>> {
        Self::poll_accept(self, cx)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}
