//! An axum application, served and called over shared memory.
//!
//! `cargo run --example axum`, or `-- server 0.0.0.0:8080` here and `-- client HOST:8080` there. What differs from the
//! application over TCP is the listener, and that a handler can ask who calls and by which way; the client's only
//! difference is its connector.

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::routing::get;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use shmbc_examples::{Failure, is_settled, run};
use shmbc_http::{AxumListener, ShmConnector, ShmPeer};
use shmbc_tokio::ShmListener;

async fn hello(ConnectInfo(peer): ConnectInfo<ShmPeer>) -> String {
    let process = peer.identity().map_or_else(|| "somebody".to_owned(), |who| format!("process {}", who.pid));
    format!("hello {process}, you come by {}", peer.path())
}

async fn server(listener: ShmListener) -> Result<(), Failure> {
    let app = Router::new().route("/", get(hello));
    let app = app.into_make_service_with_connect_info::<ShmPeer>();
    axum::serve(AxumListener(listener), app).await?; // was: axum::serve(listener, app)
    Ok(())
}

async fn client(address: String) -> Result<(), Failure> {
    let client = Client::builder(TokioExecutor::new()).build::<_, Body>(ShmConnector::new()); // was: HttpConnector::new()
    for n in 1.. {
        let response = client.get(format!("http://{address}/").parse()?).await?;
        let peer: ShmPeer = response.extensions().get().cloned().ok_or("every response has one")?;
        let says = String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec())?;
        let path = peer.path();
        // The server may see it a request later.
        let settled = is_settled(&path) && says.ends_with(&path.to_string());
        if n == 1 || settled {
            println!("client: request {n} by {path}, and the server said: {says}");
        }
        if settled {
            break;
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    run(server, client).await
}
