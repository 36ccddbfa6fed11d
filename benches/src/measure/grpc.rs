//! `grpc`: unary calls of tonic's with a message each way, one at a time on each connection.
//!
//! Server and channels are tonic's own, on streams that are there already. The message is raw bytes in protobuf's wrapping,
//! written by hand so that nobody needs protoc.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::stream::{self, StreamExt};
use hyper::body::Bytes;
use hyper::http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::requests::{self, Asking};
use crate::protocol::{Outcome, Times};

/// The one method.
const ECHO: &str = "/shmbc.bench.Echo/Echo";

/// Question and answer.
#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(bytes = "bytes", tag = "1")]
    body: Bytes,
}

/// Answers until the other end closes its connections.
pub(super) async fn serve<S>(streams: Vec<S>) -> io::Result<Outcome>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (open, mut all_closed) = mpsc::channel(1);
    let streams: Vec<_> = streams.into_iter().map(|stream| Ok::<_, io::Error>(Io::new(stream, &open))).collect();
    drop(open);
    // tonic would stop at the end of its listener.
    let incoming = stream::iter(streams).chain(stream::pending());
    let echo = Echo { bytes: Arc::default() };
    let bytes = Arc::clone(&echo.bytes);
    tokio::select! {
        ended = Server::builder().serve_with_incoming(echo, incoming) => ended.map_err(io::Error::other)?,
        _ = all_closed.recv() => {}
    }
    Ok(Outcome { bytes: bytes.load(Ordering::Relaxed), ..Outcome::default() })
}

/// Calls on all connections until the time is over.
pub(super) async fn run<S>(streams: Vec<S>, size: usize, times: Times) -> io::Result<Outcome>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (open, mut all_closed) = mpsc::channel(1);
    let mut callers = Vec::new();
    for stream in streams {
        let mut there = Some(TokioIo::new(Io::new(stream, &open)));
        let connector = service_fn(move |_: Uri| {
            let stream = there.take().ok_or_else(|| io::Error::other("the connection was lost"));
            async { stream }
        });
        let endpoint = Endpoint::from_static("http://bench");
        let channel = endpoint.connect_with_connector(connector).await.map_err(io::Error::other)?;
        let message = Message { body: vec![b'x'; size].into() };
        callers.push(Calling { grpc: tonic::client::Grpc::new(channel), message });
    }
    drop(open);
    let outcome = requests::run(callers, size, times).await?;
    // A worker stands still between samples: what is not closed by then stays open.
    all_closed.recv().await;
    Ok(outcome)
}

/// One connection, with tasks of tonic's behind it.
struct Calling {
    grpc: tonic::client::Grpc<Channel>,
    message: Message,
}

impl Asking for Calling {
    async fn ask(&mut self) -> io::Result<()> {
        self.grpc.ready().await.map_err(io::Error::other)?;
        let path = PathAndQuery::from_static(ECHO);
        let request = Request::new(self.message.clone());
        let answer = self.grpc.unary(request, path, ProstCodec::<Message, Message>::default()).await;
        let answer = answer.map_err(io::Error::other)?.into_inner();
        if answer == self.message { Ok(()) } else { Err(io::Error::other("the answer is not what was asked")) }
    }
}

/// The service.
#[derive(Clone, Debug)]
struct Echo {
    bytes: Arc<AtomicU64>,
}

impl UnaryService<Message> for Echo {
    type Response = Message;
    type Future = std::future::Ready<Result<Response<Message>, Status>>;

    fn call(&mut self, request: Request<Message>) -> Self::Future {
        let message = request.into_inner();
        self.bytes.fetch_add(message.body.len() as u64, Ordering::Relaxed);
        std::future::ready(Ok(Response::new(message)))
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "shmbc.bench.Echo";
}

impl tower::Service<hyper::Request<Body>> for Echo {
    type Response = hyper::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move { Ok(tonic::server::Grpc::new(ProstCodec::default()).unary(echo, request).await) })
    }
}

/// A contender's stream as tonic wants it, that also tells when it is closed.
struct Io<S> {
    stream: S,
    _open: mpsc::Sender<()>,
}

impl<S> Io<S> {
    fn new(stream: S, open: &mpsc::Sender<()>) -> Self {
        Self { stream, _open: open.clone() }
    }
}

impl<S> Connected for Io<S> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl<S: AsyncRead + Unpin> AsyncRead for Io<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Io<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
