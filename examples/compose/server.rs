//! The server of the compose example: an axum application as anybody would write it, but for one type, the listener.
//!
//! `GET /` a small answer, `GET /bytes/N` a stream of N bytes, `POST /echo` what was sent.

use std::convert::Infallible;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::routing::{get, post};
use futures_util::stream;
use shmbc_http::AxumListener;
use shmbc_tokio::ShmListener;
use tokio::signal::unix::{SignalKind, signal};

const PORT: u16 = 8080;

/// One piece of a large answer.
static PIECE: [u8; 256 << 10] = [b'.'; 256 << 10];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let command = std::env::args().nth(1);
    let outcome = match command.as_deref() {
        None => serve().await,
        Some("healthcheck") => healthcheck(),
        Some(other) => Err(format!("{other} is not a command; the only one is healthcheck").into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compose-server: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let app = Router::new()
        .route("/", get(async || "Hello from the other container.\n"))
        .route("/bytes/{n}", get(bytes))
        .route("/echo", post(async |body: Bytes| body));
    let listener = AxumListener(ShmListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?);
    // The first process of a container gets no signal it does not ask for.
    let mut stop = signal(SignalKind::terminate())?;
    tokio::select! {
        served = async { axum::serve(listener, app).await } => Ok(served?),
        _ = stop.recv() => Ok(()),
    }
}

/// `n` bytes, made as they are sent.
async fn bytes(Path(n): Path<u64>) -> Body {
    Body::from_stream(stream::unfold(n, async |left| {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE.len());
        let piece = Bytes::from_static(&PIECE[..len]);
        (len > 0).then(|| (Ok::<_, Infallible>(piece), left - len as u64))
    }))
}

/// There is neither a shell nor curl in the image.
fn healthcheck() -> Result<(), Box<dyn Error>> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.0 200") { Ok(()) } else { Err(format!("answered {answer:?}").into()) }
}
