//! `shmbc proxy`: accepts on one end and forwards each connection to the other. Settings, signals and the loop that accepts.
//!
//! It serves programs that cannot be changed: beside one that speaks plain TCP or a Unix socket it is the end that speaks
//! SHMBC. Every connection is forwarded by a task of its own (`forward`); `end` knows what LISTEN and TARGET can be.

mod end;
mod forward;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shmbc::control::client::socket_path;
use shmbc_tokio::Config;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use end::{Address, Listener};

/// How long to wait before accepting again when that has failed, most likely for want of descriptors.
const ACCEPT_FAILED: Duration = Duration::from_millis(100);

pub(crate) const HELP: &str = "\
Examples:
  shmbc proxy 127.0.0.1:5432 db:5432                            before a client: TCP in, shared memory out
  shmbc proxy 0.0.0.0:5432 unix:/run/postgresql/.s.PGSQL.5432   before a server with a Unix socket
  shmbc proxy --mode 0666 unix:/run/cache.sock cache:6379       a Unix socket for clients that take no address

Every TCP end is shared memory where its peer speaks SHMBC and a host service runs, and TCP where not.
SIGTERM and SIGINT stop it: it accepts no more and ends with its last connection, or at once when told again.";

/// Arguments of `shmbc proxy`.
#[derive(Debug, Args)]
pub(crate) struct Proxy {
    /// Where to accept: HOST:PORT, or unix:PATH.
    listen: Address,
    /// Where to forward to: HOST:PORT, or unix:PATH.
    target: Address,
    /// Permissions of the Unix socket to accept at, in octal; without it as the umask says.
    #[arg(long, value_name = "MODE", value_parser = mode)]
    mode: Option<u32>,
    /// How many seconds open connections may go on once it is told to stop.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain: u64,
    /// The control socket of the host service, or "off" for plain TCP; without it as SHMBC_HOST says.
    #[arg(long)]
    socket: Option<std::path::PathBuf>,
    /// What is logged to stderr: error, warn, info, debug (each connection and its path), trace, or a tracing filter.
    #[arg(long, env = "SHMBC_LOG", default_value = "info")]
    log: String,
    /// Log JSON objects, one a line.
    #[arg(long)]
    json: bool,
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("expected permissions in octal, such as 0660".into()),
    }
}

/// Forwards until a signal.
pub(crate) fn run(proxy: Proxy) -> Result<(), String> {
    if proxy.mode.is_some() && !matches!(proxy.listen, Address::Unix(_)) {
        return Err("--mode is for a Unix socket: LISTEN is a TCP address".into());
    }
    log(&proxy.log, proxy.json)?;
    let config = Config::from_env().map_err(|e| e.to_string())?;
    let config = match &proxy.socket {
        None => config,
        Some(off) if off.as_os_str() == "off" => config.host_off(),
        Some(path) => config.host(socket_path(path).map_err(|e| e.to_string())?),
    };
    config.install().map_err(|e| e.to_string())?;
    raise_descriptors();
    let runtime = tokio::runtime::Runtime::new().map_err(|e| format!("the runtime cannot be started: {e}"))?;
    let result = runtime.block_on(serve(proxy));
    // A name that is still being looked up is no reason to wait.
    runtime.shutdown_background();
    result
}

/// Logs to stderr at the level that was asked for.
fn log(filter: &str, json: bool) -> Result<(), String> {
    // A lone word that is no level would be taken for the name of a crate, and silence everything else.
    let understood = filter.contains(['=', ',', '[']) || filter.parse::<LevelFilter>().is_ok();
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|e| e.to_string())
        .and_then(|parsed| if understood { Ok(parsed) } else { Err("no such level".into()) })
        .map_err(|e| format!("log level {filter:?} is not understood ({e}): use error, warn, info, debug or trace"))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        subscriber.json().flatten_event(true).init();
    } else {
        subscriber.init();
    }
    Ok(())
}

async fn serve(proxy: Proxy) -> Result<(), String> {
    let watched = |kind| signal(kind).map_err(|e| format!("signals cannot be watched: {e}"));
    let mut stop = (watched(SignalKind::terminate())?, watched(SignalKind::interrupt())?);
    let listener = Listener::bind(&proxy.listen, proxy.mode).await?;
    info!(listen = %listener.address(), to = %proxy.target, "forwarding");

    let target = Arc::new(proxy.target);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = told(&mut stop) => break,
            accepted = listener.accept() => match accepted {
                Ok((client, peer)) => {
                    connections.spawn(forward::forward(client, peer, Arc::clone(&target)));
                }
                Err(error) => {
                    warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_FAILED).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }

    // From here on nobody new is let in; a Unix socket's file goes.
    drop(listener);
    info!(open = connections.len(), "stopping");
    let drained = async { while connections.join_next().await.is_some() {} };
    tokio::select! {
        () = drained => return Ok(()),
        () = told(&mut stop) => debug!("told again"),
        () = tokio::time::sleep(Duration::from_secs(proxy.drain)) => {}
    }
    warn!(open = connections.len(), "connections are cut off");
    Ok(())
}

async fn told((terminate, interrupt): &mut (Signal, Signal)) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Six descriptors a connection where both ends are shared memory: takes as many as the system lets it have.
fn raise_descriptors() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "the limit of open descriptors cannot be raised");
    }
}
