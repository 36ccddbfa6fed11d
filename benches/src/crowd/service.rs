//! The host service of a crowd: a process of its own, with the defaults of `shmbc-host run`.
//!
//! Where the run is root, each process of the crowd is a user of its own, as each container is a client of its own, and the
//! service's limits are the usual ones. Elsewhere all are one client, and the limits are out of the way.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use shmbc::control::client::Client;
use shmbc::control::message::Status;
use shmbc_host::{Docker, Host, HostConfig};

use super::process::{cpu_time, die_with_the_run};
use crate::worker::raise_descriptors;

/// How long the service may take for what is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time between two looks at it.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// How long it uses no CPU time when it has nothing to do.
const QUIET: Duration = Duration::from_millis(30);

/// What the process is told.
#[derive(Args, Debug)]
pub(crate) struct Options {
    socket: PathBuf,
    /// Where Docker, or what pretends to be it, listens.
    #[arg(long)]
    engine: Option<String>,
    /// All clients are one user.
    #[arg(long)]
    one_user: bool,
}

/// The whole life of the process: until its standard input ends.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    die_with_the_run()?;
    raise_descriptors();
    let mut config = HostConfig::at(&options.socket);
    config.docker = options.engine.clone().map_or(Docker::Off, Docker::At);
    if options.one_user {
        let limits = &mut config.policy.limits;
        (limits.connections, limits.offers_per_second, limits.sessions) = (u32::MAX, u32::MAX, u32::MAX);
        (limits.block_bytes, limits.descriptors) = (u64::MAX, Some(u32::MAX));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("cannot start a runtime: {e}"))?;
    let host = runtime.block_on(Host::start(config)).map_err(|e| e.to_string())?;
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new()).map_err(|e| format!("standard input: {e}"))?;
    runtime.block_on(host.shutdown());
    runtime.shutdown_background();
    Ok(())
}

/// The service as the run sees it. Killed when dropped.
pub(crate) struct Service {
    child: Child,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Service {
    /// Starts one, and waits until it answers.
    pub(crate) fn start(engine: Option<&Path>) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| format!("cannot make a directory: {e}"))?;
        // Other users are to reach the socket.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))
            .map_err(|e| format!("cannot open a directory to others: {e}"))?;
        let socket = dir.path().join("host.sock");
        let mut command = own_program();
        command.arg("service").arg(&socket);
        if let Some(engine) = engine {
            command.arg("--engine").arg(engine);
        }
        if !many_users() {
            command.arg("--one-user");
        }
        let mut child = command.spawn().map_err(|e| format!("cannot start the host service: {e}"))?;
        let mut said = String::new();
        let heard = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut said));
        let service = Self { child, socket, _dir: dir };
        match heard {
            Some(Ok(_)) if said.trim() == "ready" => Ok(service),
            _ => Err("the host service did not start".into()),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// A session with it, as people's commands have.
    pub(crate) fn client(&self) -> Result<Client, String> {
        Client::connect(&self.socket).map_err(|e| e.to_string())
    }

    /// Waits until it has nothing to do any more: it uses no CPU time. Asking it would use some.
    pub(crate) fn wait_until_quiet(&self) -> Result<(), String> {
        let mut before = Duration::MAX;
        loop {
            let now = cpu_time(self.pid())?;
            if now == before {
                return Ok(());
            }
            before = now;
            std::thread::sleep(QUIET);
        }
    }

    /// Asks how it is until it is as wished for.
    pub(crate) fn wait_until(&self, what: &str, wished: impl Fn(&Status) -> bool) -> Result<Status, String> {
        let client = self.client()?;
        let begin = Instant::now();
        loop {
            let status = client.status().map_err(|e| e.to_string())?;
            if wished(&status) {
                return Ok(status);
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("after {PATIENCE:?} the host service still has not: {what}; it has {status:?}"));
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process of this same program. By a name that other users reach, too, wherever its file is.
pub(crate) fn own_program() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("shmbc-bench").stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Whether processes of many users can be started.
pub(crate) fn many_users() -> bool {
    nix::unistd::geteuid().is_root()
}
