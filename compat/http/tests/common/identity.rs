//! The layer that knows who calls. Callers in containers, which can be what is required, are in the tests of the example
//! `tower-identity`; here the caller is this process, in no container.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use http::StatusCode;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use shmbc_http::{AxumListener, HttpStream, IdentityLayer, ProvenPeer, Requirement, ShmPeer, WithPeer};
use shmbc_tokio::ShmListener;
use tower::Layer;

use super::{Route, client, get as ask, known_client};

/// What the handler finds: the caller's process if it is proven, and its address in axum's own way.
async fn who(
    proven: Result<ProvenPeer, (StatusCode, &'static str)>,
    ConnectInfo(addr): ConnectInfo<SocketAddr>,
) -> String {
    match proven {
        Ok(proven) => format!("process {} at {addr}", proven.identity().pid),
        Err((status, _)) => format!("{} at {addr}", status.as_u16()),
    }
}

async fn serve(layer: IdentityLayer) -> SocketAddr {
    let app = Router::new().route("/", get(who)).layer(layer);
    let listener = AxumListener(ShmListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.0.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app.into_make_service_with_connect_info::<ShmPeer>()).await });
    address
}

pub(crate) async fn request_when_nothing_is_required_passes_and_says_what_is_known(route: Route) {
    let address = serve(IdentityLayer::new()).await;
    let client = client();
    loop {
        let (status, says, peer) = ask(&client, address, "/").await;
        assert_eq!(status, StatusCode::OK);
        let (unknown, known) = (
            format!("403 at {}", peer.local_addr()),
            format!("process {} at {}", std::process::id(), peer.local_addr()),
        );
        match route {
            Route::SharedMemory if says == known => break,
            Route::SharedMemory => assert_eq!(says, unknown),
            Route::Tcp => {
                assert_eq!(says, unknown);
                break;
            }
        }
    }
}

pub(crate) async fn request_when_a_label_is_required_of_a_bare_process_is_forbidden(route: Route) {
    let address = serve(IdentityLayer::new().require(Requirement::label("role", "web"))).await;
    let client = known_client();
    // The first one waits for the proof, the second finds it.
    for _ in 0..2 {
        let (status, body, _) = ask(&client, address, "/").await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        let mut lines = body.lines();
        assert_eq!(lines.next(), Some(r#"required of the caller: the label "role"="web""#));
        let known = match route {
            Route::SharedMemory => {
                format!("proven: it is process {} outside of any known container", std::process::id())
            }
            Route::Tcp => "not proven: its connection is on TCP (disabled)".to_owned(),
        };
        assert_eq!(lines.next(), Some(&*known));
    }
}

pub(crate) async fn request_when_its_caller_never_offers_is_forbidden_in_the_end(route: Route) {
    let wait = Duration::from_millis(20);
    let address = serve(IdentityLayer::new().require(Requirement::container("web")).wait_at_most(wait)).await;
    // One that has never heard of this: the kernel's own TCP, and a connection for one request.
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let answer = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        stream.write_all(b"GET / HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = answer.await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let known = match route {
        Route::SharedMemory => "not proven: the connection was not upgraded within 20ms",
        Route::Tcp => "not proven: its connection is on TCP",
    };
    assert!(answer.contains(known), "{answer}");
}

pub(crate) async fn request_when_hyper_serves_it_is_told_whose_it_is(route: Route) {
    let listener = ShmListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, from) = listener.accept().await.unwrap();
            let stream = HttpStream::accepted(stream, from).unwrap();
            // Any tower service will do; a router is one.
            let app: Router = Router::new().route("/", get(who));
            let service = WithPeer::new(&stream, IdentityLayer::new().layer(app));
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                drop(server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).await);
            });
        }
    });
    let client = known_client();
    let expected = match route {
        Route::SharedMemory => format!("process {} at 127.0.0.1:", std::process::id()),
        Route::Tcp => "403 at 127.0.0.1:".to_owned(),
    };
    while !ask(&client, address, "/").await.1.starts_with(&expected) {}
}
