//! hyper itself on both sides: a server that speaks HTTP/1 and HTTP/2, and a client of one connection.
//!
//! `cargo run --example hyper`, or `-- server 0.0.0.0:8080` here and `-- client HOST:8080` there. hyper takes any I/O:
//! `TokioIo` around the stream, as with TCP. `HttpStream` in between keeps what is known of the peer within reach.

use std::convert::Infallible;

use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use shmbc_examples::{Failure, is_settled, run};
use shmbc_http::HttpStream;
use shmbc_tokio::{ShmListener, ShmStream};

async fn server(listener: ShmListener) -> Result<(), Failure> {
    loop {
        let (stream, from) = listener.accept().await?;
        let stream = HttpStream::accepted(stream, from)?;
        let peer = stream.peer().clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = format!("{:?} by {}", request.version(), peer.path());
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(answer)))))
        });
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                eprintln!("server: {from}: {error}");
            }
        });
    }
}

async fn client(address: String) -> Result<(), Failure> {
    let stream = HttpStream::new(ShmStream::connect(&address).await?)?;
    let peer = stream.peer().clone();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    for n in 1.. {
        sender.ready().await?;
        let request = Request::get("/").header("host", &address).body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
        let path = peer.path();
        if n == 1 || is_settled(&path) {
            println!("client: request {n} by {path}, and the server said: {}", String::from_utf8_lossy(&answer));
        }
        if is_settled(&path) {
            break;
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    run(server, client).await
}
