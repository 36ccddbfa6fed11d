//! One end of a connection in a process of its own, told what to do step by step.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use nix::sys::signal::{Signal, kill};

use crate::netns;
use crate::process::program;
use crate::raw::dies_with_us;
use crate::script::{Answer, Command, Kind, Move, Moved};

/// How a peer's process is started.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// `SHMBC_HOST`; nothing leaves it out.
    pub host: Option<PathBuf>,
    /// The network namespace to run in.
    pub netns: Option<String>,
}

impl Setup {
    /// Talks to the host service at `socket`.
    pub fn with_host(socket: impl Into<PathBuf>) -> Self {
        Self { host: Some(socket.into()), netns: None }
    }

    /// Runs in `netns`.
    #[must_use]
    pub fn in_netns(mut self, netns: &str) -> Self {
        self.netns = Some(netns.to_owned());
        self
    }
}

/// A running `shmbc-peer`; killed when dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start(setup: &Setup) -> Self {
        let mut command = netns::command(setup.netns.as_deref(), &program("shmbc-peer"));
        if let Some(host) = &setup.host {
            command.env("SHMBC_HOST", host);
        } else {
            command.env_remove("SHMBC_HOST");
        }
        Self::start_by(&mut command)
    }

    /// Starts one by a command that ends in one, with what comes in and goes out passed on: `docker run -i`.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start_by(command: &mut std::process::Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).env_remove("SHMBC_WAIT").env_remove("SHMBC_UPGRADE");
        let mut child = dies_with_us(command).spawn().expect("start shmbc-peer");
        let (commands, answers) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, commands, answers: BufReader::new(answers) }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it what to do next, without waiting for the answer.
    ///
    /// # Panics
    ///
    /// When it is gone.
    pub fn tell(&mut self, command: &Command) {
        let mut line = serde_json::to_vec(command).expect("plain data");
        line.push(b'\n');
        self.commands.write_all(&line).unwrap_or_else(|e| panic!("the peer is gone at {command:?}: {e}"));
    }

    /// What it says next.
    ///
    /// # Panics
    ///
    /// When it ends without a word.
    pub fn answer(&mut self) -> Answer {
        let mut line = String::new();
        let n = self.answers.read_line(&mut line).expect("read an answer");
        assert!(n > 0, "the peer ended without an answer: {:?}", self.child.wait());
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"))
    }

    /// Tells it something and waits for the answer, which may be that it failed.
    pub fn ask(&mut self, command: &Command) -> Answer {
        self.tell(command);
        self.answer()
    }

    /// Binds a listener at a free port of `ip`.
    pub fn listen(&mut self, kind: Kind, ip: impl Into<IpAddr>) -> SocketAddr {
        match self.ask(&Command::Listen(kind, SocketAddr::new(ip.into(), 0))) {
            Answer::Address(address) => address,
            other => panic!("listen: {other:?}"),
        }
    }

    /// What came of a step that makes a stream.
    pub fn stream(&mut self) -> usize {
        match self.answer() {
            Answer::Stream(number) => number,
            other => panic!("expected a stream, got {other:?}"),
        }
    }

    /// The end of a step that moves bytes.
    pub fn moved(&mut self) -> Moved {
        match self.answer() {
            Answer::Moved(moved) => moved,
            other => panic!("expected how far it came, got {other:?}"),
        }
    }

    /// Waits until it says that bytes are moving.
    pub fn moving(&mut self) {
        assert_eq!(self.answer(), Answer::Moving);
    }

    /// Tells it to move bytes and waits for the end.
    pub fn moves(&mut self, stream: usize, step: Move) -> Moved {
        self.tell(&Command::Move(stream, step));
        self.moved()
    }

    /// A step answered with a sentence.
    pub fn text(&mut self, command: &Command) -> String {
        match self.ask(command) {
            Answer::Text(text) => text,
            other => panic!("{command:?}: {other:?}"),
        }
    }

    /// A step answered with nothing but that it is done.
    pub fn done(&mut self, command: &Command) {
        assert_eq!(self.ask(command), Answer::Done, "{command:?}");
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).expect("signal a process of ours");
    }

    /// Stops it and waits until it has stopped.
    ///
    /// # Panics
    ///
    /// When it is gone.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let stopped = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED));
        assert_eq!(stopped, Ok(nix::sys::wait::WaitStatus::Stopped(pid, Signal::SIGSTOP)));
    }

    /// Kills it with SIGKILL, if it has not ended, and waits until it is gone.
    pub fn end(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.end();
    }
}

/// Connects two peers: `(connected, accepted)` stream numbers.
pub fn connect(client: &mut Peer, client_kind: Kind, server: &mut Peer, address: SocketAddr) -> (usize, usize) {
    server.tell(&Command::Accept);
    client.tell(&Command::Connect(client_kind, address));
    (client.stream(), server.stream())
}

/// Has both ends of a connection upgraded: what each says of it, the client's first.
///
/// # Panics
///
/// When one has something else to say.
pub fn upgraded(client: &mut Peer, c: usize, server: &mut Peer, s: usize) -> [String; 2] {
    client.tell(&Command::Upgraded(c));
    let of_server = server.text(&Command::Upgraded(s));
    match client.answer() {
        Answer::Text(of_client) => [of_client, of_server],
        other => panic!("upgraded: {other:?}"),
    }
}
