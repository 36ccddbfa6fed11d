//! The service, as tonic's generator would write it, and its two messages.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use shmbc_http::ShmPeer;
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

/// The one method.
pub(crate) const GREET: &str = "/shmbc.example.Greeter/Greet";

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Name {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Greeting {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    /// The path of the call, in words.
    #[prost(string, tag = "2")]
    pub(crate) words: String,
    /// Whether the connection stays on it.
    #[prost(bool, tag = "3")]
    pub(crate) settled: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Greeter;

impl UnaryService<Name> for Greeter {
    type Response = Greeting;
    type Future = std::future::Ready<Result<Response<Greeting>, Status>>;

    fn call(&mut self, request: Request<Name>) -> Self::Future {
        let from = request.remote_addr().map_or_else(|| "nowhere".to_owned(), |addr| addr.ip().to_string());
        let path = request.extensions().get::<ShmPeer>().expect("the layer tells").path();
        let text = format!("hello {} at {from}", request.into_inner().name);
        let settled = shmbc_examples::is_settled(&path);
        std::future::ready(Ok(Response::new(Greeting { text, words: path.to_string(), settled })))
    }
}

impl Service<http::Request<Body>> for Greeter {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            match request.uri().path() {
                GREET => Ok(Grpc::new(ProstCodec::default()).unary(Self, request).await),
                _ => Ok(Status::unimplemented("there is one method").into_http()),
            }
        })
    }
}
