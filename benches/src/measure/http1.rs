//! `http1`: GET and a small answer over hyper's HTTP/1.1, keep-alive, one request at a time on each connection.

use std::convert::Infallible;
use std::future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::requests::{self, Asking};
use crate::protocol::{Outcome, Times};

/// Answers until the other end closes its connections.
pub(super) async fn serve<S>(streams: Vec<S>, size: usize) -> io::Result<Outcome>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let body = Bytes::from(vec![b'x'; size]);
    let mut tasks = JoinSet::new();
    for stream in streams {
        let body = body.clone();
        tasks.spawn(async move {
            // A counter for each connection: one for all would be passed from core to core.
            let answered = Arc::new(AtomicU64::new(0));
            let counter = Arc::clone(&answered);
            let service = service_fn(move |_: Request<Incoming>| {
                counter.fetch_add(1, Ordering::Relaxed);
                future::ready(Ok::<_, Infallible>(Response::new(Full::new(body.clone()))))
            });
            let server = hyper::server::conn::http1::Builder::new();
            server.serve_connection(TokioIo::new(stream), service).await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(answered.load(Ordering::Relaxed))
        });
    }
    let mut bytes = 0;
    while let Some(answered) = tasks.join_next().await {
        bytes += answered.map_err(io::Error::other)?? * size as u64;
    }
    Ok(Outcome { bytes, ..Outcome::default() })
}

/// Asks on all connections until the time is over.
pub(super) async fn run<S>(streams: Vec<S>, size: usize, times: Times) -> io::Result<Outcome>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut connections, mut behind) = (Vec::new(), JoinSet::new());
    for stream in streams {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        behind.spawn(connection);
        connections.push(Getting { sender, size });
    }
    let outcome = requests::run(connections, size, times).await?;
    // A worker stands still between samples: what is not closed by then stays open.
    while let Some(closed) = behind.join_next().await {
        closed.map_err(io::Error::other)?.map_err(io::Error::other)?;
    }
    Ok(outcome)
}

/// One connection, with a task of hyper's behind it.
struct Getting {
    sender: SendRequest<Empty<Bytes>>,
    size: usize,
}

impl Asking for Getting {
    async fn ask(&mut self) -> io::Result<()> {
        self.sender.ready().await.map_err(io::Error::other)?;
        let request = Request::get("/").header("host", "bench").body(Empty::new()).map_err(io::Error::other)?;
        let answer = self.sender.send_request(request).await.map_err(io::Error::other)?;
        let body = answer.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        if body.len() == self.size { Ok(()) } else { Err(io::Error::other("the answer is not what was served")) }
    }
}
