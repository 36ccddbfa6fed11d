//! tower's connectors.

use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use shmbc_http::{ConnectError, ShmConnector, StreamConnector};
use shmbc_tokio::{ShmListener, ShmStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;
use tower::make::MakeConnection;

use super::{Bytes, Route, client, on_final_path};

/// As whoever takes any connector would have it.
async fn make<C, T>(mut connector: C, target: T) -> C::Connection
where
    C: MakeConnection<T>,
    C::Error: std::fmt::Debug,
{
    connector.make_connection(target).await.unwrap()
}

pub(crate) async fn connectors_when_called_with_uri_or_address_make_plain_connections(route: Route) {
    let listener = ShmListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let uri: http::Uri = format!("any://{address}/ignored").parse().unwrap();
    let connected = [make(StreamConnector::new(), uri).await, make(StreamConnector::new(), address).await];
    for mut client in connected {
        let (mut server, from) = listener.accept().await.unwrap();
        assert_eq!(from, client.local_addr().unwrap());
        assert!(client.nodelay().unwrap());
        on_final_path(route, &client, &server).await;
        client.write_all(b"plain").await.unwrap();
        let mut buf = [0; 5];
        server.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"plain");
    }
    let _: ShmStream = StreamConnector::new().nodelay(false).oneshot(address).await.unwrap();
}

pub(crate) async fn connector_when_made_for_http_serves_hypers_client(route: Route) {
    let app = axum::Router::new().route("/", axum::routing::get(async || "hello"));
    let listener = shmbc_http::AxumListener(ShmListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.0.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    let client: Client<ShmConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build(StreamConnector::new().http());
    while !route.is_final(&super::get(&client, address, "/").await.2.path()) {}
    // By address, for whoever has resolved the name already.
    let stream = ShmConnector::new().oneshot(address).await.unwrap();
    assert_eq!(stream.inner().peer().addr(), address);
}

pub(crate) async fn connecting_where_nobody_listens_is_an_error_that_names_the_target(route: Route) {
    let _ = route;
    // Bound and not listening: refused, and no one else can take the port meanwhile.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let expected = format!("cannot connect to 127.0.0.1 port {}: ", address.port());
    let error = client().get(format!("http://{address}/").parse().unwrap()).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.starts_with(&expected), "{source}");
    let error: ConnectError = StreamConnector::new().oneshot(address).await.unwrap_err();
    assert!(error.to_string().starts_with(&expected), "{error}");
}
