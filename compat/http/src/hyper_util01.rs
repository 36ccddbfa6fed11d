//! A connector for hyper-util's client, and for tonic's: a `ShmStream` as hyper reads and writes it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use shmbc_tokio::ShmStream;
use tower_service::Service;

use crate::connect::{target, to_address, to_name};
use crate::{ConnectError, HttpStream};

/// Connects to the host and port of a URI, or to a socket address, for [`hyper_util::client::legacy::Client`], tonic's
/// `Endpoint::connect_with_connector`, and whatever else takes a `Service<Uri>` that answers with hyper's I/O.
///
/// It connects as `TcpStream::connect` does: each address the name has, in the resolver's order. Each response
/// of hyper-util's client then has a [`ShmPeer`](crate::ShmPeer) in its extensions. A connection is worth the upgrade when
/// it lives on: keep the client, whose pool keeps the connections, instead of making one for each request.
///
/// ```
/// use http_body_util::Empty;
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use shmbc_http::ShmConnector;
///
/// let client = Client::builder(TokioExecutor::new()).build::<_, Empty<bytes::Bytes>>(ShmConnector::new());
/// # drop(client);
/// ```
#[derive(Clone, Debug)]
pub struct ShmConnector {
    enforce_http: bool,
    nodelay: bool,
    offer_at_once: bool,
}

impl ShmConnector {
    /// A connector for `http://` URIs that turns Nagle's algorithm off.
    pub const fn new() -> Self {
        Self { enforce_http: true, nodelay: true, offer_at_once: false }
    }

    /// Whether to refuse schemes other than `http` (the default). A connector that speaks TLS on top of this one turns
    /// it off.
    #[must_use]
    pub const fn enforce_http(mut self, enforce: bool) -> Self {
        self.enforce_http = enforce;
        self
    }

    /// Whether small segments are sent at once (`TCP_NODELAY`, the default) while the connection is on TCP.
    #[must_use]
    pub const fn nodelay(mut self, nodelay: bool) -> Self {
        self.nodelay = nodelay;
        self
    }

    /// Whether each connection is offered to the host service as soon as it stands. Without (the default) that comes with
    /// its second request, so that connections for one request cost nothing.
    ///
    /// Turn it on to call a server that wants to know who calls before it answers the first request, as one behind an
    /// identity layer (feature `tower05`) does.
    #[must_use]
    pub const fn offer_at_once(mut self, at_once: bool) -> Self {
        self.offer_at_once = at_once;
        self
    }

    fn wrap(&self, stream: ShmStream) -> Result<TokioIo<HttpStream>, ConnectError> {
        let stream = HttpStream::new(stream).map_err(ConnectError::Gone)?;
        if self.offer_at_once {
            stream.offer_at_once();
        }
        Ok(TokioIo::new(stream))
    }
}

impl Default for ShmConnector {
    fn default() -> Self {
        Self::new()
    }
}

type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<HttpStream>, ConnectError>> + Send>>;

impl Service<Uri> for ShmConnector {
    type Response = TokioIo<HttpStream>;
    type Error = ConnectError;
    type Future = Connecting;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let (host, port) = target(&uri, this.enforce_http)?;
            this.wrap(to_name(host, port, this.nodelay).await?)
        })
    }
}

impl Service<SocketAddr> for ShmConnector {
    type Response = TokioIo<HttpStream>;
    type Error = ConnectError;
    type Future = Connecting;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, address: SocketAddr) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.wrap(to_address(address, this.nodelay).await?) })
    }
}

impl Connection for HttpStream {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.peer().clone())
    }
}
