//! Pretends to be Docker, as far as the host service asks: so many containers that run, each with an address.
//!
//! Real containers by the ten thousand need another machine. What is measured is the service's table, not the engine.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;

/// The first container's address; a range that no machine has for itself.
const FIRST: u32 = u32::from_be_bytes([10, 199, 0, 2]);

/// Runs until dropped.
pub(crate) struct Engine {
    socket: PathBuf,
    _runtime: Runtime,
    _dir: tempfile::TempDir,
}

impl Engine {
    /// One with so many containers.
    pub(crate) fn start(containers: usize) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| format!("cannot make a directory: {e}"))?;
        let socket = dir.path().join("docker.sock");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|e| format!("cannot start a runtime: {e}"))?;
        let listener = {
            let _context = runtime.enter();
            UnixListener::bind(&socket).map_err(|e| format!("cannot pretend to be Docker: {e}"))?
        };
        runtime.spawn(serve(listener, containers));
        Ok(Self { socket, _runtime: runtime, _dir: dir })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

async fn serve(listener: UnixListener, containers: usize) {
    while let Ok((stream, _)) = listener.accept().await {
        let answer = service_fn(move |request| async move { Ok::<_, Infallible>(answer(&request, containers)) });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
        tokio::spawn(connection);
    }
}

type Body = BoxBody<Bytes, Infallible>;

fn answer<B>(request: &Request<B>, containers: usize) -> Response<Body> {
    // Behind the version: /v1.47/containers/ID/json
    let path = request.uri().path().trim_start_matches('/');
    let mut parts: Vec<_> = path.split('/').collect();
    if parts.first().is_some_and(|part| part.starts_with("v1.")) {
        parts.remove(0);
    }
    let found = match *parts.as_slice() {
        ["_ping"] => Some(json!("OK")),
        ["version"] => Some(json!({ "ApiVersion": "1.47", "MinAPIVersion": "1.24", "Version": "27.0" })),
        ["containers", "json"] => Some((0..containers).map(summary).collect()),
        ["containers", id, "json"] => number(id).filter(|n| *n < containers).map(inspected),
        ["networks"] => Some(json!([])),
        // Nothing ever happens.
        ["events"] => {
            return Response::new(StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, _>>()).boxed());
        }
        _ => None,
    };
    let status = if found.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let body = found.unwrap_or_else(|| json!({ "message": "there is no such thing" })).to_string();
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}

fn id(n: usize) -> String {
    format!("{:064x}", n + 1)
}

fn number(id: &str) -> Option<usize> {
    usize::from_str_radix(id, 16).ok()?.checked_sub(1)
}

fn networks(n: usize) -> Value {
    let address = Ipv4Addr::from(FIRST + n as u32).to_string();
    json!({ "crowd": { "NetworkID": "c".repeat(64), "IPAddress": address } })
}

fn summary(n: usize) -> Value {
    json!({
        "Id": id(n), "Names": [format!("/crowd-{n}")], "Image": "scratch", "State": "running", "Labels": {},
        "NetworkSettings": { "Networks": networks(n) },
    })
}

fn inspected(n: usize) -> Value {
    json!({
        "Id": id(n), "Name": format!("/crowd-{n}"), "State": { "Running": true, "Status": "running" },
        "Config": { "Image": "scratch", "Labels": { "com.docker.compose.project": "crowd" } },
        "HostConfig": { "NetworkMode": "crowd" }, "Mounts": [],
        "NetworkSettings": { "Networks": networks(n), "Ports": {} },
    })
}
