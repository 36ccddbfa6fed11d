//! `shmbc-host`: runs the service, or asks whether it runs.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, CommandFactory, Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use shmbc::control::client::{Client, socket_path};
use shmbc::control::socket::DEFAULT_PATH;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::kernel;
use crate::{Docker, Host, HostConfig, HugePages, MetricsAddress};

/// The host service of SHMBC: brings the two ends of TCP connections on this machine together through shared memory.
#[derive(Debug, Parser)]
#[command(name = "shmbc-host", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service until SIGTERM or SIGINT.
    Run(Run),
    /// Succeed if a service answers at the socket.
    Healthcheck(Socket),
    /// Write the manual pages.
    #[command(hide = true)]
    Man(Man),
}

#[derive(Debug, Args)]
struct Man {
    /// The directory to write the pages to; made if it is not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Man {
    /// Writes `shmbc-host.1`, and `shmbc-host-COMMAND.1` for each command.
    fn write(&self) -> Result<(), String> {
        let service = Arguments::command().disable_help_subcommand(true);
        std::fs::create_dir_all(&self.out)
            .and_then(|()| clap_mangen::generate_to(service, &self.out))
            .map_err(|e| format!("cannot write {}: {e}", self.out.display()))
    }
}

#[derive(Debug, Args)]
struct Socket {
    /// The control socket.
    // Not the parser for paths, which refuses an empty variable: that counts as unset.
    #[arg(long, env = "SHMBC_HOST", default_value = DEFAULT_PATH, value_parser = OsStringValueParser::new().map(PathBuf::from))]
    socket: PathBuf,
}

impl Socket {
    fn path(&self) -> Result<PathBuf, String> {
        socket_path(&self.socket).map_err(|e| e.to_string())
    }
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    socket: Socket,
    /// Where containers are known from: auto, off, or the path of Docker's socket.
    #[arg(long, default_value = "auto", value_parser = docker)]
    docker: Docker,
    /// Bytes of ring for each direction of a connection; a power of two.
    #[arg(long, value_name = "BYTES")]
    ring_capacity: Option<u64>,
    /// Huge pages for connections: transparent (the same as no word), hugetlb (of the kernel's pool, 2 MiB each), or off.
    #[arg(long, value_name = "PAGES", default_value = "off", num_args = 0..=1, default_missing_value = "transparent")]
    huge_pages: HugePages,
    /// Fresh blocks kept ready.
    #[arg(long, value_name = "N")]
    stock: Option<usize>,
    /// How long a lone offer waits for the other end's, in milliseconds.
    #[arg(long, value_name = "MS")]
    twin_timeout: Option<u64>,
    /// Serve metrics for Prometheus at ADDRESS:PORT or unix:/PATH. To everybody who can reach it.
    #[arg(long, env = "SHMBC_HOST_METRICS", value_name = "ADDRESS")]
    metrics: Option<MetricsAddress>,
    /// What is logged to stderr: error, warn, info, debug, trace, or a tracing filter.
    #[arg(long, env = "SHMBC_LOG", default_value = "info")]
    log: String,
}

fn docker(text: &str) -> Result<Docker, String> {
    match text {
        "auto" => Ok(Docker::Auto),
        "off" => Ok(Docker::Off),
        path if path.starts_with('/') || path.starts_with("unix:///") => Ok(Docker::At(path.to_owned())),
        other => Err(format!("{other:?} is neither auto, off, nor an absolute path")),
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(run) => start(run),
        Command::Man(man) => man.write(),
        Command::Healthcheck(socket) => socket.path().and_then(|path| {
            let answers = Client::connect(&path).map(drop);
            answers.map_err(|e| e.to_string())
        }),
    };
    super::exit("shmbc-host", result)
}

fn start(run: Run) -> Result<(), String> {
    super::log(&run.log)?;
    let socket = run.socket.path()?;
    let mut config = HostConfig::at(&socket);
    config.docker = run.docker;
    config.ring_capacity = run.ring_capacity.unwrap_or(config.ring_capacity);
    config.huge_pages = run.huge_pages;
    config.stock = run.stock.unwrap_or(config.stock);
    config.twin_timeout = run.twin_timeout.map_or(config.twin_timeout, Duration::from_millis);
    config.metrics = run.metrics;
    make_directory(&socket);
    raise_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("the runtime cannot be started: {e}"))?;
    let result = runtime.block_on(serve(config));
    // A client can make one of our system calls slow; that is no reason to wait for it.
    runtime.shutdown_background();
    result
}

async fn serve(config: HostConfig) -> Result<(), String> {
    // Before anybody is answered: who has had an answer may send a signal.
    let watched = |kind| signal(kind).map_err(|e| format!("signals cannot be watched: {e}"));
    let (mut terminate, mut interrupt) = (watched(SignalKind::terminate())?, watched(SignalKind::interrupt())?);
    let mut inherited = kernel::inherited();
    let host = match (inherited.pop(), inherited.len()) {
        (None, _) => Host::start(config).await,
        (Some(socket), 0) => Host::start_on(socket, config).await,
        (Some(_), more) => return Err(format!("{} sockets were passed on: the service takes one", more + 1)),
    };
    let host = host.map_err(|e| e.to_string())?;
    tell_manager(NotifyState::Ready);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("stopping; established connections go on");
    tell_manager(NotifyState::Stopping);
    host.shutdown().await;
    Ok(())
}

/// Tells the service manager, if one has started this and wants to know (`sd_notify(3)`).
fn tell_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "the service manager cannot be told");
    }
}

/// Makes the socket's directory if it is not there. If that fails, starting says why.
fn make_directory(socket: &Path) {
    if let Some(directory) = socket.parent()
        && !directory.as_os_str().is_empty()
        && !directory.exists()
        && let Err(error) = DirBuilder::new().recursive(true).mode(0o755).create(directory)
    {
        warn!(%error, directory = %directory.display(), "the socket's directory cannot be made");
    }
}

/// One descriptor a connection, two a session: takes as many as the system lets it have.
fn raise_descriptors() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "the limit of open descriptors cannot be raised");
    }
}
