//! axum and hyper over a connection that is upgraded while it serves requests, with a host service embedded in the test.

mod common;

use common::{Bytes, app, client, text, with_watchdog};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use shmbc_host::{Docker, Host, HostConfig};
use shmbc_http::{AxumListener, HttpStream, ShmPeer};
use shmbc_tokio::{Config, Path, Reason, ShmListener, ShmStream};

/// One test, since the host service is a matter of the whole process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_across_the_upgrade_are_all_answered_and_name_the_peer() {
    with_watchdog(async {
        let dir = tempfile::tempdir().unwrap();
        let mut config = HostConfig::at(dir.path().join("host.sock"));
        config.docker = Docker::Off;
        let host = Host::start(config).await.unwrap();
        Config::from_env().unwrap().host(host.socket()).install().unwrap();

        let listener = AxumListener(ShmListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.0.local_addr().unwrap();
        tokio::spawn(async { axum::serve(listener, app().into_make_service_with_connect_info::<ShmPeer>()).await });

        pooled_connection_is_upgraded_by_use(address).await;
        large_bodies_are_whole(address).await;
        stream_when_upgraded_first_serves_hyper(address).await;
        host.shutdown().await;
    })
    .await;
}

/// A client which keeps its connection needs to do nothing for it.
async fn pooled_connection_is_upgraded_by_use(address: std::net::SocketAddr) {
    let client = client();
    let peer = loop {
        // The pool may open a second connection when the first has not come back yet, so what the server says is
        // compared with what is known of the very connection it said it by.
        let response = client.get(format!("http://{address}/who").parse().unwrap()).await.unwrap();
        let peer = response.extensions().get::<ShmPeer>().unwrap().clone();
        let server_sees = text(response).await;
        match peer.path() {
            Path::SharedMemory if server_sees == format!("shared memory, Some({})", std::process::id()) => break peer,
            // This end has just switched; the server has yet to see it.
            Path::SharedMemory => {}
            Path::Tcp(Reason::NotYet) => tokio::task::yield_now().await,
            other => panic!("the connection stays on {other}"),
        }
    };
    let identity = peer.identity().expect("a granted peer has been proved");
    assert_eq!(identity.pid, std::process::id().cast_signed());
    assert_eq!(peer.addr(), address);
}

/// Bodies larger than the ring, in both directions at once.
async fn large_bodies_are_whole(address: std::net::SocketAddr) {
    let client = client();
    let body: Bytes = (0..20_u32 << 20).map(|i| (i ^ (i >> 8)).to_le_bytes()[0]).collect();
    for _ in 0..3 {
        let request = http::Request::post(format!("http://{address}/echo")).body(Full::new(body.clone())).unwrap();
        let answer = client.request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert!(answer == body, "a body came back changed");
    }
}

/// A program may wait for the upgrade before it hands the stream over.
async fn stream_when_upgraded_first_serves_hyper(address: std::net::SocketAddr) {
    let listener = ShmListener::bind("127.0.0.1:0").await.unwrap();
    let local = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(ShmStream::connect(local), listener.accept());
    let (client, (server, from)) = (client.unwrap(), server.unwrap());
    let (ours, theirs) = tokio::join!(client.upgraded(), server.upgraded());
    ours.unwrap();
    theirs.unwrap();
    let server = HttpStream::accepted(server, from).unwrap();
    assert_eq!(server.peer().path(), Path::SharedMemory);
    let service = hyper::service::service_fn(async |request: http::Request<hyper::body::Incoming>| {
        Ok::<_, std::convert::Infallible>(http::Response::new(request.into_body()))
    });
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service);
    let io = TokioIo::new(HttpStream::new(client).unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let asking = async {
        let body = Full::new(Bytes::from_static(b"to hyper and back"));
        let request = http::Request::post("/").header("host", address.to_string()).body(body).unwrap();
        let answer = text(sender.send_request(request).await.unwrap()).await;
        drop(sender);
        answer
    };
    let (answer, served, connected) = tokio::join!(asking, serving, connection);
    assert_eq!(answer, "to hyper and back");
    served.unwrap();
    connected.unwrap();
}
