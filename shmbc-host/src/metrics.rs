//! Metrics for Prometheus: what the service holds and has done, as OpenMetrics text over HTTP, to whoever reaches the address.
//!
//! Off unless an address is given. Every scrape takes one look at the hub; nothing is kept here. What a scraper sends is
//! read by hyper, within limits on time and number.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::resource::UsageWho;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use crate::config::HostError;
use crate::hub::Hub;

/// Scrapers that are served at once. One is usual; each costs a descriptor.
const SCRAPERS: usize = 8;

/// How long one may take for its request, and altogether. A scrape takes milliseconds.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait before accepting again when that has failed, for want of descriptors most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// What Prometheus is told that the answer is.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where metrics are served: an address and port, or the path of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsAddress {
    /// Over TCP. Off this machine only if the address says so.
    Tcp(SocketAddr),
    /// Over a Unix socket that this service makes.
    Unix(PathBuf),
}

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(path.into())),
                false => Err(format!("{path:?} is no absolute path: write unix:/run/shmbc/metrics.sock")),
            };
        }
        let wrong = |_| format!("{text:?} is neither ADDRESS:PORT, such as 127.0.0.1:9187, nor unix:/PATH");
        text.parse().map(Self::Tcp).map_err(wrong)
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bound address.
#[derive(Debug)]
pub(crate) enum Exporter {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

/// The file of a Unix socket, removed with it.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Exporter {
    /// Binds `address`.
    ///
    /// # Errors
    ///
    /// [`HostError::Metrics`] names the address and what the kernel says.
    pub(crate) async fn bind(address: &MetricsAddress) -> Result<Self, HostError> {
        let failed = |error| HostError::Metrics { address: address.clone(), error };
        let bound = match address {
            MetricsAddress::Tcp(ip) => {
                if !ip.ip().is_loopback() {
                    warn!(%address, "metrics are served beyond this machine, to everybody who reaches the address");
                }
                Self::Tcp(TcpListener::bind(ip).await.map_err(failed)?)
            }
            MetricsAddress::Unix(path) => {
                let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
                // Left by a service that died; one behind which somebody answers stays.
                if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
                    std::fs::remove_file(path).map_err(failed)?;
                }
                Self::Unix { listener: UnixListener::bind(path).map_err(failed)?, _file: SocketFile(path.clone()) }
            }
        };
        info!(%address, "metrics at /metrics");
        Ok(bound)
    }

    /// Answers scrapers. Never returns.
    pub(crate) async fn serve(&self, hub: Arc<Hub>) {
        let mut registry = Registry::with_prefix("shmbc");
        registry.register_collector(Box::new(Looks(hub)));
        let (registry, places) = (Arc::new(registry), Arc::new(Semaphore::new(SCRAPERS)));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted: io::Result<Box<dyn Both>> = match self {
                Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Box::new(stream) as _),
                Self::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| Box::new(stream) as _),
            };
            match accepted {
                Ok(stream) => {
                    let registry = Arc::clone(&registry);
                    tokio::spawn(async move {
                        let _ = tokio::time::timeout(TIMEOUT, answer(stream, registry)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    debug!(%error, "a scraper could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Both for T {}

async fn answer(stream: Box<dyn Both>, registry: Arc<Registry>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&request, &registry);
        async { response }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        debug!(%error, "a scraper was not served");
    }
}

fn respond(request: &Request<Incoming>, registry: &Registry) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
    let plain = |status, text: &'static str| Response::builder().status(status).body(Full::from(text));
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
    }
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => Response::builder().header(CONTENT_TYPE, OPEN_METRICS).body(Full::from(text)),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
    }
}

/// Looks at the hub at each scrape.
#[derive(Debug)]
struct Looks(Arc<Hub>);

impl Collector for Looks {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        describe(&self.0, encoder)
    }
}

/// Bytes of memory that this process has touched, without its blocks' pages that only clients touched.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0_u64);
    pages * rustix::param::page_size() as u64
}

fn describe(hub: &Hub, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let status = hub.status();
    let mut gauge = |name, help, unit: Option<&Unit>, value: u64| {
        let metric = ConstGauge::new(value);
        metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
    };
    gauge("sessions", "Clients that are connected", None, status.sessions)?;
    gauge("containers", "Containers in the table", None, status.containers)?;
    gauge("listeners", "Listening sockets in the table", None, status.listeners)?;
    gauge("blocks", "Blocks in use, without the stock", None, status.blocks)?;
    gauge("block", "Size of the blocks in use, touched or not", Some(&Unit::Bytes), status.block_bytes)?;
    gauge("docker_connected", "Whether Docker tells about containers", None, status.docker.into())?;
    gauge("open_fds", "Descriptors open in the service", None, status.fds)?;
    gauge("max_fds", "Descriptors that the service may have", None, status.fd_limit)?;
    gauge("resident_memory", "Memory of the service itself", Some(&Unit::Bytes), resident())?;
    gauge("uptime", "Time since the service started", Some(&Unit::Seconds), status.up_ms / 1000)?;

    let help = "Connections in the table, by state";
    let mut states = encoder.encode_descriptor("connections", help, None, ConstGauge::new(0_u64).metric_type())?;
    let by_state = [("offered", status.offered), ("granted", status.granted), ("established", status.established)];
    for (state, n) in by_state {
        ConstGauge::new(n).encode(states.encode_family(&[("state", state)])?)?;
    }

    let mut counter = |name, help, value: u64| {
        let metric = ConstCounter::new(value);
        metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
    };
    counter("offers", "Ends of connections that were offered", status.offers)?;
    counter("grants", "Connections that were granted", status.grants)?;
    counter("upgrades", "Connections that were told to go on through shared memory", status.upgrades)?;
    counter("panics", "Mistakes of the service that were caught", status.panics)?;

    let help = "Connections that stayed on TCP, by reason";
    let mut reasons = encoder.encode_descriptor("refusals", help, None, ConstCounter::new(0_u64).metric_type())?;
    for (reason, n) in &status.refusals {
        ConstCounter::new(*n).encode(reasons.encode_family(&[("reason", reason.as_str())])?)?;
    }

    let usage = nix::sys::resource::getrusage(UsageWho::RUSAGE_SELF);
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let metric =
        ConstCounter::new(usage.map_or(0.0, |usage| seconds(usage.user_time()) + seconds(usage.system_time())));
    let help = "CPU time of the service";
    metric.encode(encoder.encode_descriptor("cpu", help, Some(&Unit::Seconds), metric.metric_type())?)?;

    let metric = ConstCounter::new(status.moved);
    let help = "Bytes moved through shared memory, as the ends of connections say";
    metric.encode(encoder.encode_descriptor("moved", help, Some(&Unit::Bytes), metric.metric_type())?)?;

    let help = "Sessions that have ended, by how";
    let mut ends = encoder.encode_descriptor("sessions_ended", help, None, ConstCounter::new(0_u64).metric_type())?;
    for (how, n) in hub.ended.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        ConstCounter::new(*n).encode(ends.encode_family(&[("how", *how)])?)?;
    }

    let help = "From an offer until both ends were told to go on through shared memory";
    let times = &hub.upgrade_time;
    times.encode(encoder.encode_descriptor("upgrade_time", help, Some(&Unit::Seconds), times.metric_type())?)?;

    let help = "Version of the service";
    let mut build = encoder.encode_descriptor("build", help, None, prometheus_client::metrics::MetricType::Info)?;
    build.encode_info(&[("version", status.version.as_str())])
}
