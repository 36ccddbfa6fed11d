//! tonic's server over SHMBC streams. Its client needs nothing of its own: see `ShmConnector`.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use shmbc_tokio::ShmListener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::{HttpStream, ShmPeer};

/// The connections of a [`ShmListener`], for tonic's `Server::serve_with_incoming`.
///
/// `Request::remote_addr()` and `local_addr()` say what they say over TCP. To know who calls, see
/// [`with_peer`](Self::with_peer). An error of accepting that is not one connection's own ends tonic's server, as
/// with every incoming stream.
///
/// ```no_run
/// # async fn example<S>(service: S) -> Result<(), Box<dyn std::error::Error>>
/// # where
/// #     S: tower::Service<http::Request<tonic::body::Body>, Response = http::Response<tonic::body::Body>>
/// #         + tonic::server::NamedService + Clone + Send + Sync + 'static,
/// #     S::Future: Send,
/// #     S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
/// # {
/// use shmbc_http::TonicIncoming;
/// use shmbc_tokio::ShmListener;
///
/// let listener = ShmListener::bind("0.0.0.0:50051").await?;
/// tonic::transport::Server::builder()
///     .serve_with_incoming(service, TonicIncoming::new(listener)) // was: .serve(service, "0.0.0.0:50051".parse()?)
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct TonicIncoming {
    listener: ShmListener,
}

impl TonicIncoming {
    /// Serves what `listener` accepts.
    pub const fn new(listener: ShmListener) -> Self {
        Self { listener }
    }

    /// The same connections, with the [`ShmPeer`] of each in its requests' extensions: what an
    /// [`IdentityLayer`](crate::IdentityLayer) wants, and behind one `Request::remote_addr()` works as well.
    pub const fn with_peer(self) -> TonicPeerIncoming {
        TonicPeerIncoming { incoming: self }
    }
}

impl Stream for TonicIncoming {
    type Item = io::Result<HttpStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let accepted = ready!(self.listener.poll_accept(cx));
            let stream = accepted.and_then(|(stream, from)| {
                // As tonic does for a listener of its own.
                stream.set_nodelay(true)?;
                HttpStream::accepted(stream, from)
            });
            match stream {
                Err(error) if crate::accept::of_one_connection(&error) => {}
                other => return Poll::Ready(Some(other)),
            }
        }
    }
}

impl From<ShmListener> for TonicIncoming {
    fn from(listener: ShmListener) -> Self {
        Self::new(listener)
    }
}

impl Connected for HttpStream {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        tcp_info(self.peer())
    }
}

pub(crate) fn tcp_info(peer: &ShmPeer) -> TcpConnectInfo {
    TcpConnectInfo { local_addr: Some(peer.local_addr()), remote_addr: Some(peer.addr()) }
}

/// What [`TonicIncoming::with_peer`] makes.
#[derive(Debug)]
pub struct TonicPeerIncoming {
    incoming: TonicIncoming,
}

impl Stream for TonicPeerIncoming {
    type Item = io::Result<TonicPeerStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.incoming).poll_next(cx).map(|next| next.map(|stream| stream.map(TonicPeerStream)))
    }
}

/// A connection that tells tonic its [`ShmPeer`] instead of addresses alone.
#[derive(Debug)]
pub struct TonicPeerStream(HttpStream);

impl Connected for TonicPeerStream {
    type ConnectInfo = ShmPeer;

    fn connect_info(&self) -> ShmPeer {
        self.0.peer().clone()
    }
}

impl AsyncRead for TonicPeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TonicPeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
