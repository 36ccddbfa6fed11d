//! A gRPC server and its client, both tonic's. `rpc serve ADDRESS`, or `rpc ask URL TIMES`

use std::error::Error;
use std::io;

use tonic::transport::{Endpoint, Server};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address] => serve(address).await,
        ["ask", url, times] => ask(url, times.parse()?).await,
        _ => Err("usage: rpc serve ADDRESS, or rpc ask URL TIMES".into()),
    }
}

async fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("shop", ServingStatus::Serving).await;
    println!("rpc: listening on {address}");
    Ok(Server::builder().add_service(health).serve(address.parse()?).await?)
}

async fn ask(url: &str, times: usize) -> Result<(), Box<dyn Error>> {
    let mut client = HealthClient::new(Endpoint::new(url.to_owned())?.connect().await?);
    let mut status = 0;
    for _ in 0..times {
        status = client.check(HealthCheckRequest { service: "shop".into() }).await?.into_inner().status;
    }
    println!("{times} answers, the last: status {status}");
    // Keeps its connection until somebody has looked at it.
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    Ok(())
}
