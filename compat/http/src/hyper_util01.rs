//! A connector for hyper-util's client: resolves a URI's host and port as TCP does, and connects a `ShmStream`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use shmbc_tokio::ShmStream;
use tower_service::Service;

use crate::{HttpStream, ShmPeer};

/// Connects to the host and port of a URI, for [`hyper_util::client::legacy::Client`] and whatever else
/// takes a `Service<Uri>`.
///
/// It connects as `TcpStream::connect` does: each address the name has, in the resolver's order. Each response
/// of the client then has a [`ShmPeer`] in its extensions. A connection is worth the upgrade when it lives on: keep the
/// client, whose pool keeps the connections, instead of making one for each request.
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
}

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URI does not begin with `http://`.
    #[error(
        "cannot connect to {0}: only http:// is spoken here; for TLS wrap the connector and call enforce_http(false)"
    )]
    Scheme(Uri),
    /// The URI names no host.
    #[error("cannot connect to {0}: it names no host")]
    NoHost(Uri),
    /// The name does not resolve, or nothing answers at any of its addresses.
    #[error("cannot connect to {host} port {port}: {source}")]
    Connect {
        /// Host of the URI.
        host: String,
        /// Its port, or the scheme's.
        port: u16,
        /// What the last address said.
        source: io::Error,
    },
}

impl ShmConnector {
    /// A connector for `http://` URIs that turns Nagle's algorithm off.
    pub const fn new() -> Self {
        Self { enforce_http: true, nodelay: true }
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

    async fn connect(self, uri: Uri) -> Result<TokioIo<HttpStream>, ConnectError> {
        let (host, port) = self.target(&uri)?;
        let connected = async {
            let stream = ShmStream::connect((host, port)).await?;
            stream.set_nodelay(self.nodelay)?;
            HttpStream::new(stream)
        };
        match connected.await {
            Ok(stream) => Ok(TokioIo::new(stream)),
            Err(source) => Err(ConnectError::Connect { host: host.to_owned(), port, source }),
        }
    }

    fn target<'a>(&self, uri: &'a Uri) -> Result<(&'a str, u16), ConnectError> {
        let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
            return Err(ConnectError::NoHost(uri.clone()));
        };
        if self.enforce_http && uri.scheme() != Some(&Scheme::HTTP) {
            return Err(ConnectError::Scheme(uri.clone()));
        }
        let default = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
        // A URI writes an IPv6 address in brackets; the resolver wants it without.
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Ok((host, uri.port_u16().unwrap_or(default)))
    }
}

impl Default for ShmConnector {
    fn default() -> Self {
        Self::new()
    }
}

impl Service<Uri> for ShmConnector {
    type Response = TokioIo<HttpStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

impl Connection for HttpStream {
    fn connected(&self) -> Connected {
        let peer: ShmPeer = self.peer().clone();
        Connected::new().extra(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(connector: &ShmConnector, uri: &str) -> Result<(String, u16), String> {
        let uri = uri.parse().unwrap();
        connector.target(&uri).map(|(host, port)| (host.to_owned(), port)).map_err(|error| error.to_string())
    }

    #[test]
    fn uri_when_called_is_host_and_port_or_an_error_that_names_it() {
        let connector = ShmConnector::new();
        assert_eq!(target(&connector, "http://server/bytes"), Ok(("server".into(), 80)));
        assert_eq!(target(&connector, "http://server:8080"), Ok(("server".into(), 8080)));
        assert_eq!(target(&connector, "http://[::1]:8080/"), Ok(("::1".into(), 8080)));
        assert!(target(&connector, "https://server/").unwrap_err().contains("only http:// is spoken here"));
        assert!(target(&connector, "/only/a/path").unwrap_err().contains("names no host"));
        let for_tls = connector.enforce_http(false);
        assert_eq!(target(&for_tls, "https://server/"), Ok(("server".into(), 443)));
    }
}
