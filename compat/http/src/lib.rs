//! axum and hyper over SHMBC streams.
//!
//! Serve an axum application through an [`AxumListener`] (feature `axum08`), and call it with hyper-util's client
//! through a [`ShmConnector`] (feature `hyper-util01`). Both carry an [`HttpStream`], which is a
//! [`ShmStream`](shmbc_tokio::ShmStream) that tells what it learns about its connection to a [`ShmPeer`]: an HTTP stack
//! takes the stream away and keeps it, the `ShmPeer` stays with the program.
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
//! To serve with hyper itself, wrap an accepted stream as `TokioIo::new(HttpStream::new(stream)?)`.
//!
//! # Files
//!
//! `stream.rs` the stream; `peer.rs` what is known of its other end; `axum08.rs` and `hyper_util01.rs` one
//! integration each. Nothing in here knows how bytes travel.

#![cfg_attr(docsrs, feature(doc_cfg))]
// The documentation speaks of both integrations, also where one of them is not built.
#![cfg_attr(not(all(feature = "axum08", feature = "hyper-util01")), allow(rustdoc::broken_intra_doc_links))]

#[cfg(feature = "axum08")]
mod axum08;
#[cfg(feature = "hyper-util01")]
mod hyper_util01;
mod peer;
mod stream;

#[cfg(feature = "axum08")]
pub use axum08::AxumListener;
#[cfg(feature = "hyper-util01")]
pub use hyper_util01::{ConnectError, ShmConnector};
pub use peer::ShmPeer;
pub use stream::HttpStream;
