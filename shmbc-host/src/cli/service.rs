//! `shmbc-host`: runs the service, or asks whether it runs.

use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, CommandFactory, Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use shmbc::control::client::{Client, socket_path};
use shmbc::control::socket::DEFAULT_PATH;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::sandbox;
use super::settings::Settings;
use crate::kernel;
use crate::{Host, HostConfig};

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
    Run(Settings),
    /// Read the settings as `run` would, say what is wrong with them, and start nothing.
    Check(Settings),
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

/// The whole program.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(settings) => start(settings),
        Command::Check(settings) => check(&settings),
        Command::Man(man) => man.write(),
        Command::Healthcheck(socket) => socket.path().and_then(|path| {
            let answers = Client::connect(&path).map(drop);
            answers.map_err(|e| e.to_string())
        }),
    };
    super::exit("shmbc-host", result)
}

fn check(settings: &Settings) -> Result<(), String> {
    let (config, log) = settings.read()?;
    super::filter(&log.level)?;
    config.check().map_err(|e| e.to_string())?;
    let said = match settings.file() {
        Some(file) => format!("{}: ok; the service would listen at {}", file.display(), config.socket.display()),
        None => format!("ok, without a configuration file; the service would listen at {}", config.socket.display()),
    };
    writeln!(std::io::stdout(), "{said}").map_err(|e| format!("cannot write: {e}"))
}

fn start(settings: Settings) -> Result<(), String> {
    let (config, log) = settings.read()?;
    super::log(&log.level, log.format)?;
    let socket = config.socket.clone();
    make_directory(&socket);
    raise_descriptors();
    log_panics();
    sandbox::enter(settings.sandbox)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("the runtime cannot be started: {e}"))?;
    let result = runtime.block_on(serve(config, &settings));
    // A client can make one of our system calls slow; that is no reason to wait for it.
    runtime.shutdown_background();
    result
}

async fn serve(config: HostConfig, settings: &Settings) -> Result<(), String> {
    // Before anybody is answered: who has had an answer may send a signal.
    let watched = |kind| signal(kind).map_err(|e| format!("signals cannot be watched: {e}"));
    let (mut terminate, mut interrupt) = (watched(SignalKind::terminate())?, watched(SignalKind::interrupt())?);
    let mut hangup = watched(SignalKind::hangup())?;
    let started_with = config.clone();
    let mut inherited = kernel::inherited();
    let host = match (inherited.pop(), inherited.len()) {
        (None, _) => Host::start(config).await,
        (Some(socket), 0) => Host::start_on(socket, config).await,
        (Some(_), more) => return Err(format!("{} sockets were passed on: the service takes one", more + 1)),
    };
    let host = host.map_err(|e| e.to_string())?;
    tell_manager(NotifyState::Ready);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                tell_manager(NotifyState::Reloading);
                reload(&host, &started_with, settings);
                tell_manager(NotifyState::Ready);
            }
        }
    }
    info!("stopping; established connections go on");
    tell_manager(NotifyState::Stopping);
    host.shutdown().await;
    Ok(())
}

/// Reads the configuration again. One that is wrong changes nothing.
fn reload(host: &Host, started_with: &HostConfig, settings: &Settings) {
    let read = settings.read().and_then(|(config, _)| {
        host.reload(&config).map_err(|e| e.to_string())?;
        Ok(config)
    });
    match read {
        Ok(config) => {
            info!("configuration read again");
            for setting in config.needs_restart(started_with) {
                warn!(setting, "this setting has changed, and is taken over by a restart only");
            }
        }
        Err(error) => error!("configuration not taken over: {error}"),
    }
}

/// A mistake of ours is one line in the log; who started the task catches it (`server.rs`, `supervise.rs`).
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let what =
            payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let what = what.unwrap_or("no message").replace('\n', " ");
        error!(place, "a mistake of the service: {what}");
    }));
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
