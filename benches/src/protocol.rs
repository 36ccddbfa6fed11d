//! What a run and its workers say to each other: one JSON object a line, on the worker's standard input and output.
//!
//! A worker is told once who it is (`Start`) and answers `Started`. For one sample the serving worker gets `Serve`,
//! answers `Listening`, and the other gets `Run` with those addresses; both answer `Done`, or `Failed` with the reason.
//! Between samples a worker sits in a blocking read of its standard input and so costs nothing.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::names::{Contender, Load, Runtime};

/// The first line to a worker: who it is for the whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) namespace: Namespace,
    /// CPUs that the process is pinned to; none: it is not pinned.
    pub(crate) cpus: Vec<usize>,
    pub(crate) runtime: Runtime,
    /// Work in `block_on`'s own future instead of a spawned task.
    pub(crate) root: bool,
    pub(crate) place: Place,
}

/// Which network namespace a worker lives in.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Namespace {
    /// That of the run.
    Inherited,
    /// A new one, where the bridge is to be.
    Bridge,
    /// A new one, to be attached to the bridge of that process.
    Attached {
        /// The process that holds the bridge.
        bridge: u32,
    },
}

/// What a contender needs to know of its surroundings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The address that TCP listeners bind to.
    pub(crate) ip: Ipv4Addr,
    /// A private directory for Unix sockets.
    pub(crate) dir: PathBuf,
    /// How long shmbc-fixed polls.
    pub(crate) fixed: Duration,
    /// Bytes of a ring of SHMBC.
    pub(crate) ring: u64,
    /// CPUs of the two ends, for who wants both; none: not pinned.
    pub(crate) cpus: Vec<usize>,
}

/// Every later line to a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Listen and serve one sample.
    Serve { contenders: Vec<Contender>, work: Work },
    /// Connect and measure one sample.
    Run { contenders: Vec<Contender>, addresses: Vec<String>, work: Work },
    /// To the process with the bridge: attach that process's namespace.
    Attach { pid: u32, port: u32 },
    /// To an attached process: take your address and bring the interface up.
    Address,
}

/// What a worker answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// To `Start`, `Attach` and `Address`.
    Started,
    /// To `Serve`: one address per contender.
    Listening { addresses: Vec<String> },
    /// The sample is over.
    Done(Outcome),
    /// It could not be done.
    Failed { why: String },
}

/// One sample's work.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// Messages of `size` bytes back and forth.
    Rtt { size: usize, times: Times },
    /// `write_all` of `size` bytes again and again, one way.
    Stream { size: usize, times: Times },
    /// `batches` times, for each contender in turn, `batch` connections with `size` bytes each way.
    Oneshot { size: usize, batch: usize, batches: usize },
    /// HTTP/1.1 requests with answers of `size` bytes, one at a time on each connection.
    Http1 { size: usize, conns: u32, times: Times },
    /// gRPC calls with `size` bytes each way, one at a time on each connection.
    Grpc { size: usize, conns: u32, times: Times },
    /// So many connections are made and stay after the sample, for as long as the processes live.
    Hold { conns: u32 },
    /// So many connections are made and then wait; with those that others hold they are `all`, and took no memory `before`.
    Idle { conns: u32, all: u32, before: i64 },
    /// So many connections are upgraded, one after the other.
    Upgrade { connections: u32 },
    /// Messages of `size` bytes back and forth under a load.
    Loads { size: usize, load: Load, times: Times },
}

/// How long a sample lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Times {
    /// Work that is not counted: caches, windows and waiting policies settle.
    pub(crate) warm: Duration,
    /// Work that is counted.
    pub(crate) run: Duration,
}

/// What one end saw in one sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Per contender of the request, its values: one, or one per batch. Empty at the end that does not measure.
    pub(crate) values: Vec<Vec<f64>>,
    /// The median latency in ns, where that is not the value.
    pub(crate) p50: Option<f64>,
    /// The 99th percentile of the latency in ns, where the measure has one.
    pub(crate) p99: Option<f64>,
    /// The 99.9th percentile, where the measure has one.
    pub(crate) p999: Option<f64>,
    /// CPU time of this process, ns, and how often one of its threads has gone to sleep.
    pub(crate) cpu: u64,
    pub(crate) sleeps: u64,
    /// Payload bytes that the client sent, or that the server received: they must be equal.
    pub(crate) bytes: u64,
}
