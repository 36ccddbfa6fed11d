//! hyper's and hyper-util's servers, and hyper's client, over the stream itself.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response, StatusCode, header};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use shmbc_http::HttpStream;
use shmbc_tokio::{ShmListener, ShmStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::{Bytes, OneConnection, Route, pair, text};

type Io = TokioIo<HttpStream>;

async fn io(route: Route) -> (Io, Io) {
    let (client, server) = pair(route).await;
    (TokioIo::new(HttpStream::new(client).unwrap()), TokioIo::new(HttpStream::new(server).unwrap()))
}

async fn echo(request: Request<Incoming>) -> Result<Response<Incoming>, Infallible> {
    let version = request.version();
    let mut response = Response::new(request.into_body());
    response.headers_mut().insert("spoken", format!("{version:?}").parse().unwrap());
    Ok(response)
}

pub(crate) async fn hyper_when_serving_http1_and_http2_answers_both(route: Route) {
    let server = auto::Builder::new(TokioExecutor::new());
    let post = || Request::post("http://server/").body(Full::new(Bytes::from_static(b"there and back"))).unwrap();

    let (ours, theirs) = io(route).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(ours).await.unwrap();
    let asking = async {
        let answer = sender.send_request(post()).await.unwrap();
        assert_eq!(answer.headers()["spoken"], "HTTP/1.1");
        drop(sender);
        text(answer).await
    };
    let (answer, connected, served) =
        tokio::join!(asking, connection, server.serve_connection(theirs, service_fn(echo)));
    assert_eq!(answer, "there and back");
    connected.unwrap();
    served.unwrap();

    let (ours, theirs) = io(route).await;
    let serving = async { server.serve_connection(theirs, service_fn(echo)).await };
    let asking = async {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), ours).await.unwrap();
        let connected = tokio::spawn(connection);
        let answer = sender.send_request(post()).await.unwrap();
        assert_eq!(answer.headers()["spoken"], "HTTP/2.0");
        let answer = text(answer).await;
        drop(sender);
        connected.await.unwrap().unwrap();
        answer
    };
    let (answer, served) = tokio::join!(asking, serving);
    assert_eq!(answer, "there and back");
    served.unwrap();
}

/// Answers `101` and echoes on the stream that hyper gives back, in the type it was given in.
async fn switch(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
        let parts = auto::upgrade::downcast::<Io>(upgraded).expect("the type it was given in");
        let mut stream = parts.io.into_inner().into_inner().expect("nobody waits for its proof");
        let mut buf = parts.read_buf.to_vec();
        stream.read_to_end(&mut buf).await.unwrap();
        stream.write_all(&buf).await.unwrap();
    });
    let mut response = Response::new(Empty::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::UPGRADE, "echo".parse().unwrap());
    response.headers_mut().insert(header::CONNECTION, "upgrade".parse().unwrap());
    Ok(response)
}

pub(crate) async fn hyper_when_upgraded_gives_the_stream_back(route: Route) {
    let (ours, theirs) = io(route).await;
    tokio::spawn(async move {
        let server = auto::Builder::new(TokioExecutor::new());
        server.serve_connection_with_upgrades(theirs, service_fn(switch)).await.unwrap();
    });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(ours).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get("/").header("host", "server").header("connection", "upgrade").header("upgrade", "echo");
    let mut response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let parts = hyper::upgrade::on(&mut response).await.unwrap().downcast::<Io>().expect("the type it was given in");
    let stream = parts.io.into_inner();
    let peer = stream.peer().clone();
    let mut stream: ShmStream = stream.into_inner().expect("nobody waits for its proof");
    assert!(route.is_final(&stream.path()));
    stream.write_all(b"no longer HTTP").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = parts.read_buf.to_vec();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"no longer HTTP");
    drop(stream);
    // What was known of the connection stays known.
    assert!(route.is_final(&peer.path()));
    assert_eq!(peer.identity().is_some(), route == Route::SharedMemory);
}

pub(crate) async fn hyper_when_shut_down_gracefully_answers_what_it_has_begun(route: Route) {
    let listener = ShmListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (begun, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = {
        let (begun, finish) = (Arc::clone(&begun), Arc::clone(&finish));
        tokio::spawn(async move {
            let (server, graceful) = (auto::Builder::new(TokioExecutor::new()), GracefulShutdown::new());
            loop {
                let (stream, from) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    _ = &mut stopped => break,
                };
                let stream = HttpStream::accepted(stream, from).unwrap();
                let (peer, begun, finish) = (stream.peer().clone(), Arc::clone(&begun), Arc::clone(&finish));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (peer, begun, finish) = (peer.clone(), Arc::clone(&begun), Arc::clone(&finish));
                    async move {
                        if request.uri().path() == "/slow" {
                            begun.notify_one();
                            finish.notified().await;
                        }
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(peer.path().to_string()))))
                    }
                });
                let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
                tokio::spawn(graceful.watch(connection));
            }
            graceful.shutdown().await;
        })
    };
    let mut client = OneConnection::to(address, route).await;
    let stopping = async {
        begun.notified().await;
        stop.send(()).unwrap();
        finish.notify_one();
    };
    let (answer, ()) = tokio::join!(client.get("/slow"), stopping);
    assert_eq!(answer, route.words());
    serving.await.unwrap();
}
