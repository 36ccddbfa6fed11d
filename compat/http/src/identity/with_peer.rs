//! For servers that run each connection themselves: tells each request whose it is.

use std::task::{Context, Poll};

use http::Request;
use tower_service::Service;

use crate::{HttpStream, ShmPeer};

/// A service of one connection that puts the connection's [`ShmPeer`] into each request's extensions.
///
/// For hyper and hyper-util, which know connections only; axum and tonic do the same by their own means.
///
/// ```
/// # use shmbc_http::{HttpStream, IdentityLayer, Requirement, WithPeer};
/// # use tower::{Layer, Service};
/// # fn example<S: Service<http::Request<String>, Response = http::Response<String>> + Clone>(
/// #     stream: HttpStream, application: S,
/// # ) {
/// let guarded = IdentityLayer::new().require(Requirement::label("role", "web")).layer(application);
/// let service = WithPeer::new(&stream, guarded);
/// // serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
/// # drop(service);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct WithPeer<S> {
    peer: ShmPeer,
    inner: S,
}

impl<S> WithPeer<S> {
    /// Serves what comes by `stream`.
    pub fn new(stream: &HttpStream, inner: S) -> Self {
        Self { peer: stream.peer().clone(), inner }
    }
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for WithPeer<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        self.inner.call(request)
    }
}
