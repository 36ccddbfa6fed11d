//! The application and the client that both tests use.

use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit};
use axum::routing::{get, post};
pub(crate) use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use shmbc_http::{ShmConnector, ShmPeer};

/// Says what it knows of its caller, and echoes.
pub(crate) fn app() -> Router {
    Router::new()
        .route("/path", get(async |ConnectInfo(peer): ConnectInfo<ShmPeer>| peer.path().to_string()))
        .route("/addr", get(async |ConnectInfo(peer): ConnectInfo<ShmPeer>| peer.addr().to_string()))
        .route("/who", get(who))
        .route("/echo", post(async |body: Bytes| body))
        .layer(DefaultBodyLimit::disable())
}

/// Which way the request came, and the caller's process as the host service proved it.
async fn who(ConnectInfo(peer): ConnectInfo<ShmPeer>) -> String {
    format!("{}, {:?}", peer.path(), peer.identity().map(|identity| identity.pid))
}

pub(crate) fn client() -> Client<ShmConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build(ShmConnector::new())
}

pub(crate) async fn text<B: BodyExt>(response: http::Response<B>) -> String
where
    B::Error: std::fmt::Debug,
{
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// A hang is a failure, not a test that never ends.
pub(crate) async fn with_watchdog(test: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs");
}
