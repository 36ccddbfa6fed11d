//! What a host service can be told, and what can keep it from starting.

pub(crate) mod file;
pub(crate) mod size;

use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use shmbc::layout::{BadCapacity, Sizes};

use crate::huge_pages::HugePages;
use crate::metrics::MetricsAddress;
use crate::policy::Policy;

/// Four times a usual second-level cache: a ring that large is as fast as memcpy, a smaller one a quarter of that
/// (8-13 GB/s against 40-45, measured). Untouched pages cost nothing.
const RING_CAPACITY: u64 = 4 << 20;

/// A fresh block takes about 30 us to make; this many cover a burst while the next ones are made. Each costs a
/// descriptor and one page.
const STOCK: usize = 32;

/// How long a lone offer waits. Both ends come to offer at about the same point of the conversation; a peer that has not
/// by then most likely does not speak SHMBC.
const TWIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an end may take to map its grant. It takes it tens of microseconds; a stopped process takes for ever.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// Which Docker engine tells about containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Docker {
    /// The one that `DOCKER_HOST` names if that is a Unix socket, else `/var/run/docker.sock`. None there is fine.
    Auto,
    /// None: processes are known by their container's id, network namespace and user only.
    Off,
    /// The one behind this Unix socket.
    At(String),
}

impl FromStr for Docker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            path if path.starts_with('/') || path.starts_with("unix:///") => Ok(Self::At(path.to_owned())),
            other => Err(format!("{other:?} is neither auto, off, nor an absolute path")),
        }
    }
}

/// What a host service needs to know to start. [`HostConfig::at`] has the defaults.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Where clients find it. The directory must exist.
    pub socket: PathBuf,
    /// Where the container table comes from.
    pub docker: Docker,
    /// Capacity of each direction's ring, in bytes; a power of two. Default 4 MiB.
    pub ring_capacity: u64,
    /// Whether connections are on huge pages, and on which. Default [`HugePages::Off`].
    pub huge_pages: HugePages,
    /// Fresh blocks kept ready. Default 32.
    pub stock: usize,
    /// How long a lone offer waits for its twin. Default 2 s.
    pub twin_timeout: Duration,
    /// How long both ends may take to answer a grant. Default 5 s.
    pub ready_timeout: Duration,
    /// Where metrics are served for Prometheus. Default nowhere.
    pub metrics: Option<MetricsAddress>,
    /// Most bytes of all blocks together, touched or not. Default without a limit: memory that is touched counts against the
    /// memory limit of the container that touches it.
    pub memory: Option<u64>,
    /// What may be accelerated, and how much of it.
    pub policy: Policy,
}

impl HostConfig {
    /// The defaults, with the control socket at this path.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            docker: Docker::Auto,
            ring_capacity: RING_CAPACITY,
            huge_pages: HugePages::Off,
            stock: STOCK,
            twin_timeout: TWIN_TIMEOUT,
            ready_timeout: READY_TIMEOUT,
            metrics: None,
            memory: None,
            policy: Policy::default(),
        }
    }
}

impl HostConfig {
    /// Whether a service could have these settings, on whatever machine.
    ///
    /// # Errors
    ///
    /// [`HostError::Capacity`], [`HostError::Rule`].
    pub fn check(&self) -> Result<(), HostError> {
        Sizes::new([self.ring_capacity; 2])?;
        self.policy.fault().map_or(Ok(()), |(number, why)| Err(HostError::Rule(number, why)))
    }

    /// Names of the settings that differ from `other` and cannot change while a service runs.
    pub(crate) fn needs_restart(&self, other: &Self) -> Vec<&'static str> {
        let settings = [
            ("socket", self.socket != other.socket),
            ("docker", self.docker != other.docker),
            ("metrics", self.metrics != other.metrics),
            ("blocks.ring_capacity", self.ring_capacity != other.ring_capacity),
            ("blocks.huge_pages", self.huge_pages != other.huge_pages),
            ("blocks.stock", self.stock != other.stock),
        ];
        settings.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect()
    }
}

/// Why a host service did not start. Each says what is wrong and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The socket's directory is not there.
    #[error("directory {0} does not exist: create it, or choose another path with --socket")]
    NoDirectory(PathBuf),
    /// The socket's directory cannot be written.
    #[error("no permission to make a socket in {0}: run as a user who may write there, or choose another --socket")]
    Permission(PathBuf),
    /// Another service answers at this path.
    #[error("another host service is already running at {0}: stop it first, or choose another --socket")]
    AlreadyRunning(PathBuf),
    /// Something that is not a socket stands at this path.
    #[error("{0} exists and is not a socket: remove it, or choose another --socket")]
    NotASocket(PathBuf),
    /// The path does not fit a socket address.
    #[error("{0} is longer than the 107 bytes a socket path may have: choose a shorter --socket")]
    PathTooLong(PathBuf),
    /// The inherited socket is of another kind.
    #[error(
        "the socket that was passed on is no listening Unix socket of type SEQPACKET with a path: \
         in the .socket unit write ListenSequentialPacket=/run/shmbc/host.sock"
    )]
    Inherited,
    /// Metrics cannot be served where they should be.
    #[error("metrics cannot be served at {address}: {error}; choose another address with --metrics")]
    Metrics {
        /// Where.
        address: MetricsAddress,
        /// What the kernel said.
        error: io::Error,
    },
    /// A rule of the policy makes no sense.
    #[error("rule {0}: {1}")]
    Rule(usize, String),
    /// The ring capacity is not one that a block can have.
    #[error(transparent)]
    Capacity(#[from] BadCapacity),
    /// A system call failed.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

impl HostError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { what, error }
    }
}
