//! A gRPC service with tonic, served and called over shared memory.
//!
//! `cargo run --example tonic`, or `-- server 0.0.0.0:50051` here and `-- client HOST:50051` there. Two lines differ
//! from the program over TCP: what the server's connections come from, and the client's connector. The service stands in
//! `service.rs`, written by hand so that the example needs no protoc; a generated one is served and called in the same way.

mod service;

use http::uri::PathAndQuery;
use shmbc_examples::{Failure, run};
use shmbc_http::{IdentityLayer, ShmConnector, TonicIncoming};
use shmbc_tokio::ShmListener;
use tonic::Request;
use tonic::transport::{Endpoint, Server};
use tonic_prost::ProstCodec;

use service::{Greeter, Greeting, Name};

async fn server(listener: ShmListener) -> Result<(), Failure> {
    Server::builder()
        // Only because the service wants to say by which way it is called. For TCP's own facts, as
        // `request.remote_addr()`, neither this nor `with_peer` is needed.
        .layer(IdentityLayer::new())
        .serve_with_incoming(Greeter, TonicIncoming::new(listener).with_peer()) // was: .serve(Greeter, address)
        .await?;
    Ok(())
}

async fn client(address: String) -> Result<(), Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let channel = endpoint.connect_with_connector(ShmConnector::new()).await?; // was: endpoint.connect().await?
    let mut grpc = tonic::client::Grpc::new(channel);
    for n in 1.. {
        grpc.ready().await?;
        let request = Request::new(Name { name: "world".into() });
        let path = PathAndQuery::from_static(service::GREET);
        let answer = grpc.unary(request, path, ProstCodec::<Name, Greeting>::default()).await?.into_inner();
        if n == 1 || answer.settled {
            println!("client: call {n} by {}, and the server said: {}", answer.words, answer.text);
        }
        if answer.settled {
            break;
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    run(server, client).await
}
