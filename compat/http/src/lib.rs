//! axum, hyper, tower and tonic over SHMBC streams, and who calls.
//!
//! # Which crate, which feature, which line
//!
//! | with | crate and feature | line |
//! |---|---|---|
//! | tokio | `shmbc-tokio` | `use shmbc_tokio::net::{TcpListener, TcpStream};` |
//! | axum 0.8 | `shmbc-http`, `axum08` | `axum::serve(AxumListener(listener), app)` |
//! | hyper 1, server or client | `shmbc-http` | `TokioIo::new(HttpStream::new(stream)?)` |
//! | hyper-util 0.1's client | `shmbc-http`, `hyper-util01` | `Client::builder(..).build(ShmConnector::new())` |
//! | tonic 0.14, server | `shmbc-http`, `tonic014` | `.serve_with_incoming(TonicIncoming::new(listener))` |
//! | tonic 0.14, client | `shmbc-http`, `hyper-util01` | `endpoint.connect_with_connector(ShmConnector::new())` |
//! | tower 0.5, a connector | `shmbc-http`, `tower05` | `StreamConnector::new()`, for `Uri` and `SocketAddr` |
//! | tower 0.5, who calls | `shmbc-http`, `tower05` | `.layer(IdentityLayer::new().require(Requirement::label("role", "web")))` |
//! | tokio-rustls 0.26 | `shmbc-tokio` | `acceptor.accept(stream)`, `connector.connect(name, stream)` |
//! | tokio-tungstenite | `shmbc-tokio` | `accept_async(stream)`, `client_async(uri, stream)` |
//! | tokio-util 0.7's codecs | `shmbc-tokio` | `Framed::new(stream, codec)` |
//! | tokio-util 0.7's `Listener` | `shmbc-tokio`, `tokio-util07` | a `ShmListener` is one |
//! | a stream of connections | `shmbc-tokio` | `ShmListenerStream::new(listener)` |
//!
//! # How they fit
//!
//! Serve an axum application through an [`AxumListener`], and call it with hyper-util's client through a [`ShmConnector`].
//! Both carry an [`HttpStream`], which is a [`ShmStream`](shmbc_tokio::ShmStream) that a [`ShmPeer`] can look at: an HTTP
//! stack takes the stream away and keeps it, the `ShmPeer` stays with the program.
//!
//! ```
//! # #[cfg(all(feature = "axum08", feature = "hyper-util01"))]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::{Router, extract::ConnectInfo, routing::get};
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use shmbc_http::{AxumListener, ShmConnector, ShmPeer};
//! use shmbc_tokio::ShmListener;
//!
//! // The server: `ShmListener` where there was a `TcpListener`.
//! let listener = AxumListener(ShmListener::bind("127.0.0.1:0").await?);
//! let address = listener.0.local_addr()?;
//! let app = Router::new().route("/", get(async |ConnectInfo(peer): ConnectInfo<ShmPeer>| peer.path().to_string()));
//! tokio::spawn(async { axum::serve(listener, app.into_make_service_with_connect_info::<ShmPeer>()).await });
//!
//! // The client: `ShmConnector` where there was an `HttpConnector`.
//! let client = Client::builder(TokioExecutor::new()).build::<_, axum::body::Body>(ShmConnector::new());
//! let response = client.get(format!("http://{address}/").parse()?).await?;
//! let peer: &ShmPeer = response.extensions().get().expect("every response has one");
//! assert_eq!(peer.addr(), address);
//! println!("answered by way of {}", peer.path()); // TCP at first; shared memory after a request or two
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "axum08", feature = "hyper-util01")))]
//! # fn main() {}
//! ```
//!
//! To serve with hyper itself, wrap an accepted stream as `TokioIo::new(HttpStream::accepted(stream, addr)?)`; an
//! upgrade (`hyper::upgrade`) gives it back in that type, and [`HttpStream::into_inner`] the stream.
//!
//! # Files
//!
//! `stream.rs` the stream; `peer.rs` what is known of its other end; `connect.rs` and `accept.rs` what connectors and
//! listeners share; `axum08.rs`, `hyper_util01.rs`, `tonic014.rs` and `tower05.rs` one integration each; `identity.rs` and
//! below the layer that knows who calls. Nothing in here knows how bytes travel.

#![cfg_attr(docsrs, feature(doc_cfg))]
// The documentation speaks of all integrations, also where one of them is not built.
#![cfg_attr(
    not(all(feature = "axum08", feature = "hyper-util01", feature = "tonic014", feature = "tower05")),
    allow(rustdoc::broken_intra_doc_links)
)]

#[cfg(any(feature = "axum08", feature = "tonic014"))]
mod accept;
#[cfg(feature = "axum08")]
mod axum08;
#[cfg(any(feature = "hyper-util01", feature = "tower05"))]
mod connect;
#[cfg(feature = "hyper-util01")]
mod hyper_util01;
#[cfg(feature = "tower05")]
mod identity;
mod peer;
mod stream;
#[cfg(feature = "tonic014")]
mod tonic014;
#[cfg(feature = "tower05")]
mod tower05;

#[cfg(feature = "axum08")]
pub use axum08::AxumListener;
#[cfg(any(feature = "hyper-util01", feature = "tower05"))]
pub use connect::ConnectError;
#[cfg(feature = "hyper-util01")]
pub use hyper_util01::ShmConnector;
#[cfg(feature = "tower05")]
pub use identity::{IdentityLayer, IdentityService, ProvenPeer, Requirement, WithPeer};
pub use peer::ShmPeer;
pub use stream::HttpStream;
#[cfg(feature = "tonic014")]
pub use tonic014::{TonicIncoming, TonicPeerIncoming, TonicPeerStream};
#[cfg(feature = "tower05")]
pub use tower05::StreamConnector;
