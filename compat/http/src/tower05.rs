//! Connectors for tower's own users, whose answer is the plain stream: `tower::MakeConnection` holds for them by itself.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use shmbc_tokio::ShmStream;
use tower_service::Service;

use crate::ConnectError;
use crate::connect::{target, to_address, to_name};

/// Connects to the host and port of a URI, or to a socket address, and answers with the plain [`ShmStream`].
///
/// Any scheme will do. For hyper-util's client or tonic, which want hyper's I/O and not tokio's, call
/// [`http`](Self::http).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use shmbc_http::StreamConnector;
/// use shmbc_tokio::ShmListener;
/// use tower::make::MakeConnection;
///
/// let listener = ShmListener::bind("127.0.0.1:0").await?;
/// let address = listener.local_addr()?;
/// let stream = StreamConnector::new().make_connection(address).await?;
/// assert_eq!(stream.peer_addr()?, address);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct StreamConnector {
    nodelay: bool,
}

impl StreamConnector {
    /// A connector that turns Nagle's algorithm off.
    pub const fn new() -> Self {
        Self { nodelay: true }
    }

    /// Whether small segments are sent at once (`TCP_NODELAY`, the default) while the connection is on TCP.
    #[must_use]
    pub const fn nodelay(mut self, nodelay: bool) -> Self {
        self.nodelay = nodelay;
        self
    }

    /// The same connector for HTTP stacks: answers with hyper's I/O, and takes any scheme.
    #[cfg(feature = "hyper-util01")]
    pub const fn http(self) -> crate::ShmConnector {
        crate::ShmConnector::new().nodelay(self.nodelay).enforce_http(false)
    }
}

impl Default for StreamConnector {
    fn default() -> Self {
        Self::new()
    }
}

type Connecting = Pin<Box<dyn Future<Output = Result<ShmStream, ConnectError>> + Send>>;

impl Service<Uri> for StreamConnector {
    type Response = ShmStream;
    type Error = ConnectError;
    type Future = Connecting;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let nodelay = self.nodelay;
        Box::pin(async move {
            let (host, port) = target(&uri, false)?;
            to_name(host, port, nodelay).await
        })
    }
}

impl Service<SocketAddr> for StreamConnector {
    type Response = ShmStream;
    type Error = ConnectError;
    type Future = Connecting;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, address: SocketAddr) -> Self::Future {
        let nodelay = self.nodelay;
        Box::pin(to_address(address, nodelay))
    }
}
