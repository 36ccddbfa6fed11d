//! Callers that are known without a certificate, a password or a key: a tower layer that asks the host service.
//!
//! `cargo run --example tower-identity`, or `-- server 0.0.0.0:8080` here and `-- client HOST:8080` there. `/` is open and
//! says who calls; `/invoices` is for containers with the label `role=billing`. Started alone there is no container, so
//! that is answered with `403`. With a host service that follows Docker, and DIR the directory of its socket:
//!
//! ```sh
//! docker run --label role=billing -v DIR:/run/shmbc IMAGE tower-identity client HOST:8080
//! ```

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::routing::get;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use shmbc_examples::{Failure, is_settled, run};
use shmbc_http::{AxumListener, IdentityLayer, ProvenPeer, Requirement, ShmConnector, ShmPeer};
use shmbc_tokio::{Identity, ShmListener};

fn name(who: &Identity) -> String {
    match &who.container {
        Some(container) => format!("container {} with role={:?}", container.name, container.labels.get("role")),
        None => format!("process {} of user {}, in no container", who.pid, who.uid),
    }
}

async fn open(ConnectInfo(peer): ConnectInfo<ShmPeer>) -> String {
    // Waits for the proof, and does not mind when there is none.
    match peer.proven().await {
        Ok(who) => format!("you are {}", name(who)),
        Err(reason) => format!("you are somebody: the connection is on TCP ({reason})"),
    }
}

async fn invoices(caller: ProvenPeer) -> String {
    format!("invoices for {}", name(caller.identity()))
}

async fn server(listener: ShmListener) -> Result<(), Failure> {
    let billing = IdentityLayer::new().require(Requirement::label("role", "billing"));
    let app = Router::new().route("/invoices", get(invoices)).layer(billing).route("/", get(open));
    axum::serve(AxumListener(listener), app.into_make_service_with_connect_info::<ShmPeer>()).await?;
    Ok(())
}

async fn client(address: String) -> Result<(), Failure> {
    // So that the first request already finds a caller who is known.
    let connector = ShmConnector::new().offer_at_once(true);
    let client = Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    for n in 0.. {
        let route = ["/", "/invoices"][n % 2];
        let response = client.get(format!("http://{address}{route}").parse()?).await?;
        let (status, peer) = (response.status(), response.extensions().get::<ShmPeer>().cloned());
        let says = String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec())?;
        if n < 2 {
            println!("client: {route} is {status}: {}", says.trim_end().replace('\n', "; "));
        }
        let path = peer.ok_or("every response has one")?.path();
        if n >= 1 && is_settled(&path) {
            println!("client: {} requests, the last by {path}", n + 1);
            break;
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    run(server, client).await
}
