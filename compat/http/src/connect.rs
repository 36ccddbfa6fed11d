//! How a connector comes from a URI to a connected stream: host and port, name resolution and connecting as TCP does it.
//! Called by the connectors of each framework; knows none of them.

use std::io;
use std::net::SocketAddr;

use http::Uri;
use http::uri::Scheme;
use shmbc_tokio::ShmStream;
use tokio::net::ToSocketAddrs;

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
    /// It was made, and reset right away.
    #[error("the connection was reset right after connecting: {0}")]
    Gone(#[source] io::Error),
}

/// Connects to a name and a port, at each address that the name has until one answers.
pub(crate) async fn to_name(host: &str, port: u16, nodelay: bool) -> Result<ShmStream, ConnectError> {
    to((host, port), nodelay).await.map_err(|source| failed(host, port, source))
}

/// Connects to this address.
pub(crate) async fn to_address(address: SocketAddr, nodelay: bool) -> Result<ShmStream, ConnectError> {
    to(address, nodelay).await.map_err(|source| failed(&address.ip().to_string(), address.port(), source))
}

async fn to<A: ToSocketAddrs>(whom: A, nodelay: bool) -> io::Result<ShmStream> {
    let stream = ShmStream::connect(whom).await?;
    stream.set_nodelay(nodelay)?;
    Ok(stream)
}

fn failed(host: &str, port: u16, source: io::Error) -> ConnectError {
    ConnectError::Connect { host: host.to_owned(), port, source }
}

/// Host and port of a URI.
pub(crate) fn target(uri: &Uri, enforce_http: bool) -> Result<(&str, u16), ConnectError> {
    let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
        return Err(ConnectError::NoHost(uri.clone()));
    };
    if enforce_http && uri.scheme() != Some(&Scheme::HTTP) {
        return Err(ConnectError::Scheme(uri.clone()));
    }
    let default = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    // A URI writes an IPv6 address in brackets; the resolver wants it without.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Ok((host, uri.port_u16().unwrap_or(default)))
}

#[cfg(test)]
mod tests {
    fn target(uri: &str, enforce_http: bool) -> Result<(String, u16), String> {
        let uri = uri.parse().unwrap();
        super::target(&uri, enforce_http).map(|(host, port)| (host.to_owned(), port)).map_err(|error| error.to_string())
    }

    #[test]
    fn uri_when_called_is_host_and_port_or_an_error_that_names_it() {
        assert_eq!(target("http://server/bytes", true), Ok(("server".into(), 80)));
        assert_eq!(target("http://server:8080", true), Ok(("server".into(), 8080)));
        assert_eq!(target("http://[::1]:8080/", true), Ok(("::1".into(), 8080)));
        assert!(target("https://server/", true).unwrap_err().contains("only http:// is spoken here"));
        assert!(target("/only/a/path", true).unwrap_err().contains("names no host"));
        assert_eq!(target("https://server/", false), Ok(("server".into(), 443)));
    }
}
