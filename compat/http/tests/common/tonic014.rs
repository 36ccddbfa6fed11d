//! tonic's client and server: a service written by hand, with messages that prost derives.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use shmbc_http::{IdentityLayer, Requirement, ShmConnector, ShmPeer, TonicIncoming};
use shmbc_tokio::ShmListener;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

use super::{Bytes, Route, large_body};

#[derive(Clone, PartialEq, prost::Message)]
struct Echoed {
    #[prost(bytes = "bytes", tag = "1")]
    body: Bytes,
    /// The caller, by `Request::remote_addr()`.
    #[prost(string, tag = "2")]
    caller: String,
    /// The connection's path, where the server is told of it.
    #[prost(string, tag = "3")]
    path: String,
}

#[derive(Clone)]
struct Echo;

impl tonic::server::UnaryService<Echoed> for Echo {
    type Response = Echoed;
    type Future = std::future::Ready<Result<Response<Echoed>, Status>>;

    fn call(&mut self, request: Request<Echoed>) -> Self::Future {
        let caller = request.remote_addr().map(|addr| addr.to_string()).unwrap_or_default();
        let path = request.extensions().get::<ShmPeer>().map(|peer| peer.path().to_string()).unwrap_or_default();
        std::future::ready(Ok(Response::new(Echoed { body: request.into_inner().body, caller, path })))
    }
}

impl Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let mut grpc = tonic::server::Grpc::new(ProstCodec::default())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        Box::pin(async move { Ok(grpc.unary(Self, request).await) })
    }
}

/// The answer, or the status.
async fn call(channel: &Channel, body: Bytes) -> Result<Echoed, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone())
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let message = Echoed { body, ..Echoed::default() };
    let path = PathAndQuery::from_static("/shmbc.Echo/Echo");
    Ok(grpc.unary(Request::new(message), path, ProstCodec::default()).await?.into_inner())
}

async fn channel(address: SocketAddr, connector: ShmConnector) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect_with_connector(connector).await.unwrap()
}

async fn listen() -> (ShmListener, SocketAddr) {
    let listener = ShmListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) async fn tonic_when_called_knows_the_callers_address(route: Route) {
    // Without a layer: what any service written for TCP sees.
    let (listener, address) = listen().await;
    tokio::spawn(Server::builder().serve_with_incoming(Echo, TonicIncoming::new(listener)));
    let channel = channel(address, ShmConnector::new()).await;
    let answer = call(&channel, Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!((&*answer.body, &*answer.path), (b"hello".as_slice(), ""));
    let caller: SocketAddr = answer.caller.parse().expect("remote_addr() has an answer");
    assert!(caller.ip() == address.ip() && caller != address, "{caller}");

    // With one: the same, and the path.
    let (listener, address) = listen().await;
    let server = Server::builder().layer(IdentityLayer::new());
    tokio::spawn(server.serve_with_incoming(Echo, TonicIncoming::new(listener).with_peer()));
    let channel = self::channel(address, ShmConnector::new()).await;
    loop {
        let answer = call(&channel, Bytes::new()).await.unwrap();
        assert_eq!(answer.caller.parse::<SocketAddr>().unwrap().ip(), address.ip());
        if answer.path == route.words() {
            break;
        }
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn tonic_when_it_streams_large_messages_keeps_them_whole(route: Route) {
    let (listener, address) = listen().await;
    let server = Server::builder().layer(IdentityLayer::new());
    tokio::spawn(server.serve_with_incoming(Echo, TonicIncoming::new(listener).with_peer()));
    let (channel, body) = (channel(address, ShmConnector::new()).await, large_body());
    while call(&channel, body.clone()).await.unwrap().path != route.words() {}
    let answers = futures_util::future::join_all((0..4).map(|_| call(&channel, body.clone()))).await;
    for answer in answers.into_iter().map(Result::unwrap) {
        assert!(answer.body == body, "a message came back changed");
        assert_eq!(answer.path, route.words());
    }
}

pub(crate) async fn tonic_when_an_identity_is_required_denies_permission(route: Route) {
    let (listener, address) = listen().await;
    let server = Server::builder().layer(IdentityLayer::new().require(Requirement::label("role", "web")));
    tokio::spawn(server.serve_with_incoming(Echo, TonicIncoming::new(listener).with_peer()));
    let channel = channel(address, ShmConnector::new().offer_at_once(true)).await;
    let status = call(&channel, Bytes::new()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(status.message().contains(r#"the label "role"="web""#), "{status:?}");
    let known = match route {
        Route::SharedMemory => format!("proven: it is process {} outside", std::process::id()),
        Route::Tcp => "not proven: its connection is on TCP".to_owned(),
    };
    assert!(status.message().contains(&known), "{status:?}");
}
