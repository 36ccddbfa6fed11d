//! The real host service in a process of its own; and the little of its protocol that a test speaks by itself.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use rustix::event::PollFlags;
use shmbc::control::message::{PROTOCOL, ToClient, ToHost};
use shmbc::control::socket::{receive, send};

use crate::netns;
use crate::process::{open_fds, program};
use crate::raw::dies_with_us;
use crate::sockets::{wait_for, wait_until};

/// A running `shmbc-host`; killed when dropped.
#[derive(Debug)]
pub struct HostProcess {
    child: Option<Child>,
    socket: PathBuf,
    netns: Option<String>,
    arguments: Vec<String>,
    _dir: tempfile::TempDir,
}

impl HostProcess {
    /// Starts one at a socket of its own, without Docker, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn start() -> Self {
        Self::begin(None, &[])
    }

    /// The same with more arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::begin(None, arguments)
    }

    /// The same in the network namespace `netns`.
    pub fn start_in(netns: Option<&str>) -> Self {
        Self::begin(netns, &[])
    }

    fn begin(netns: Option<&str>, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let socket = dir.path().join("host.sock");
        let mut host = Self {
            child: None,
            socket,
            netns: netns.map(str::to_owned),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            _dir: dir,
        };
        host.restart();
        host
    }

    /// Where its clients find it.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process id.
    ///
    /// # Panics
    ///
    /// When it was killed.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the host runs").id()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when it is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to shut down in order (SIGTERM) and waits until it has.
    ///
    /// # Panics
    ///
    /// When it does not end well.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("the host runs");
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("kill");
        assert!(child.wait().expect("wait").success(), "shmbc-host does not shut down in order");
    }

    /// Starts it again at the same socket, and waits until it answers.
    pub fn restart(&mut self) {
        self.kill();
        let mut command = netns::command(self.netns.as_deref(), &program("shmbc-host-under-test"));
        command
            .env("SHMBC_LOG", "warn")
            // `arguments` may say something else.
            .env("SHMBC_HOST_DOCKER", "off")
            .args(["run", "--socket"])
            .arg(&self.socket)
            .args(&self.arguments)
            .stdin(Stdio::null());
        let mut child = dies_with_us(&mut command).spawn().expect("start shmbc-host");
        wait_until("the host service answers", || {
            assert!(child.try_wait().expect("wait").is_none(), "shmbc-host ended at once");
            hello(&self.socket).is_some()
        });
        self.child = Some(child);
    }

    /// The connection table, as `shmbc ss --json` prints it.
    ///
    /// # Panics
    ///
    /// When the tool fails.
    pub fn connections(&self) -> Vec<serde_json::Value> {
        connections(&self.socket)
    }

    /// How many descriptors it has open.
    ///
    /// # Panics
    ///
    /// When it is gone.
    pub fn open_fds(&self) -> usize {
        open_fds(self.pid()).expect("the host runs")
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The connection table of the service at `path`, as `shmbc ss --json` prints it.
///
/// # Panics
///
/// When the tool fails.
pub fn connections(path: &Path) -> Vec<serde_json::Value> {
    let output = std::process::Command::new(program("shmbc-under-test"))
        .args(["ss", "--json", "--socket"])
        .arg(path)
        .output()
        .expect("run shmbc");
    assert!(output.status.success(), "shmbc ss: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a JSON array")
}

/// Begins a session with the service at `path`; nothing when none answers.
pub fn hello(path: &Path) -> Option<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    connect(fd.as_raw_fd(), &UnixAddr::new(path).expect("a short path")).ok()?;
    send(fd.as_fd(), &ToHost::Hello { protocol: PROTOCOL }, &[]).ok()?;
    wait_for(&fd, PollFlags::IN);
    match receive::<ToClient>(fd.as_fd()) {
        Ok(Some(got)) if matches!(got.message, ToClient::Welcome { .. }) => Some(fd),
        _ => None,
    }
}
