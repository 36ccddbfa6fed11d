//! What both ways of running the tests share: the same scenarios go over shared memory and over TCP.

pub(crate) mod axum08;
pub(crate) mod codecs;
pub(crate) mod hyper1;
pub(crate) mod identity;
pub(crate) mod tls;
pub(crate) mod tonic014;
pub(crate) mod tower05;

use std::net::SocketAddr;
use std::time::Duration;

pub(crate) use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use shmbc_http::{HttpStream, ShmConnector, ShmPeer};
use shmbc_tokio::{Path, Reason, ShmListener, ShmStream};

/// Which way the bytes are to go. Each test binary has one.
#[allow(dead_code, reason = "the other is the other binary's")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A host service runs in the test.
    SharedMemory,
    /// Acceleration is off.
    Tcp,
}

impl Route {
    /// Asserts that a path is one that can be on this route; says whether it is the one that it ends on.
    pub(crate) fn is_final(self, path: &Path) -> bool {
        match (self, path) {
            (Self::SharedMemory, Path::SharedMemory) | (Self::Tcp, Path::Tcp(Reason::Disabled)) => true,
            (Self::SharedMemory, Path::Tcp(Reason::NotYet)) => false,
            (route, other) => panic!("{route:?}, and the path is {other}"),
        }
    }

    /// The words that a server uses for the final path.
    pub(crate) fn words(self) -> String {
        match self {
            Self::SharedMemory => Path::SharedMemory.to_string(),
            Self::Tcp => Path::Tcp(Reason::Disabled).to_string(),
        }
    }
}

/// Both ends of a connection, on its final path.
pub(crate) async fn pair(route: Route) -> (ShmStream, ShmStream) {
    let listener = ShmListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) = tokio::join!(ShmStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (client, server) = (client.unwrap(), server.unwrap().0);
    on_final_path(route, &client, &server).await;
    (client, server)
}

/// Waits until both ends are on their final path.
pub(crate) async fn on_final_path(route: Route, client: &ShmStream, server: &ShmStream) {
    let (client_is, server_is) = tokio::join!(client.upgraded(), server.upgraded());
    let expected = match route {
        Route::SharedMemory => Ok(()),
        Route::Tcp => Err(Reason::Disabled),
    };
    assert_eq!((client_is, server_is), (expected.clone(), expected));
}

/// A client whose connections are upgraded by use.
pub(crate) fn client() -> Client<ShmConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build(ShmConnector::new())
}

/// A client whose connections are offered at once.
pub(crate) fn known_client() -> Client<ShmConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build(ShmConnector::new().offer_at_once(true))
}

/// What the server answers, and the connection by which it did.
pub(crate) async fn get(
    client: &Client<ShmConnector, Full<Bytes>>,
    address: SocketAddr,
    path: &str,
) -> (http::StatusCode, String, ShmPeer) {
    let response = client.get(format!("http://{address}{path}").parse().unwrap()).await.unwrap();
    let peer = response.extensions().get::<ShmPeer>().expect("every response names its connection").clone();
    (response.status(), text(response).await, peer)
}

/// A client of one connection, which has been used until it was on its final path.
pub(crate) struct OneConnection {
    sender: hyper::client::conn::http1::SendRequest<Empty<Bytes>>,
    pub(crate) peer: ShmPeer,
}

impl OneConnection {
    pub(crate) async fn to(address: SocketAddr, route: Route) -> Self {
        let stream = HttpStream::new(ShmStream::connect(address).await.unwrap()).unwrap();
        let peer = stream.peer().clone();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut this = Self { sender, peer };
        // The server's path, of which it speaks itself, may lag behind this end's by a request.
        while this.get("/path").await != route.words() || !route.is_final(&this.peer.path()) {}
        this
    }

    pub(crate) async fn get(&mut self, path: &str) -> String {
        self.sender.ready().await.unwrap();
        let request = http::Request::get(path).header("host", "server").body(Empty::new()).unwrap();
        text(self.sender.send_request(request).await.unwrap()).await
    }
}

pub(crate) async fn text<B: BodyExt>(response: http::Response<B>) -> String
where
    B::Error: std::fmt::Debug,
{
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// More than fits a ring, and nowhere alike.
pub(crate) fn large_body() -> Bytes {
    (0..20_u32 << 20).map(|i| (i ^ (i >> 8)).to_le_bytes()[0]).collect()
}

/// A hang is a failure, not a test that never ends.
pub(crate) async fn with_watchdog(test: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs");
}

/// Runs each scenario as a test of its own over the route that `route()` prepares.
macro_rules! over {
    ($route:expr; $($module:ident: $($scenario:ident)*;)*) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                let route = $route;
                $crate::common::with_watchdog($crate::common::$module::$scenario(route)).await;
            }
        )*)*

        /// Every scenario of every module runs, on either route.
        #[test]
        fn scenarios_when_written_are_all_run() {
            $({
                let source = include_str!(concat!("common/", stringify!($module), ".rs"));
                let written = source.lines().filter_map(|line| line.strip_prefix("pub(crate) async fn "));
                let written: Vec<_> = written.filter_map(|line| line.strip_suffix("(route: Route) {")).collect();
                assert_eq!(written, [$(stringify!($scenario)),*], concat!(stringify!($module), ".rs"));
            })*
        }
    };
}
pub(crate) use over;

/// All there are.
macro_rules! all_scenarios {
    ($route:expr) => {
        $crate::common::over! { $route;
            axum08:
                axum_when_called_again_and_again_names_the_caller_and_its_path
                axum_when_bodies_are_larger_than_the_ring_keeps_them_whole
                axum_when_tapped_names_the_caller_by_address
                axum_when_shut_down_answers_what_it_has_begun;
            codecs:
                frames_when_sent_both_ways_arrive_whole_and_in_order
                listener_as_a_stream_accepts_and_gives_the_listener_back
                listener_when_used_by_tokio_utils_trait_accepts_either_kind;
            hyper1:
                hyper_when_serving_http1_and_http2_answers_both
                hyper_when_upgraded_gives_the_stream_back
                hyper_when_shut_down_gracefully_answers_what_it_has_begun;
            identity:
                request_when_nothing_is_required_passes_and_says_what_is_known
                request_when_a_label_is_required_of_a_bare_process_is_forbidden
                request_when_its_caller_never_offers_is_forbidden_in_the_end
                request_when_hyper_serves_it_is_told_whose_it_is;
            tls:
                tls_when_spoken_over_the_stream_carries_bytes_both_ways;
            tonic014:
                tonic_when_called_knows_the_callers_address
                tonic_when_it_streams_large_messages_keeps_them_whole
                tonic_when_an_identity_is_required_denies_permission;
            tower05:
                connectors_when_called_with_uri_or_address_make_plain_connections
                connector_when_made_for_http_serves_hypers_client
                connecting_where_nobody_listens_is_an_error_that_names_the_target;
        }
    };
}
pub(crate) use all_scenarios;
