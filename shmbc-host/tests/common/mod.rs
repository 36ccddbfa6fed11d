//! A client made of raw control messages, and a host to talk to.
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    missing_docs,
    reason = "each test binary uses its own part"
)]

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use shmbc::control::message::*;
use shmbc::control::socket;
use shmbc_host::{Counts, Docker, Host, HostConfig};

/// Longer than anything takes; a test that runs into it has failed.
pub const WATCHDOG: Duration = Duration::from_secs(30);

/// The program, killed when dropped.
pub struct Running(pub Child);

impl Running {
    /// Waits until it answers at this socket.
    pub fn answers(child: Child, socket: &Path) -> Self {
        let mut running = Self(child);
        let begun = Instant::now();
        let asked =
            || Command::new(env!("CARGO_BIN_EXE_shmbc-host")).args(["healthcheck", "--socket"]).arg(socket).output();
        while !asked().unwrap().status.success() {
            let ended = running.0.try_wait().unwrap();
            assert!(begun.elapsed() < WATCHDOG && ended.is_none(), "the service never answers: {ended:?}");
        }
        running
    }

    pub fn stop(mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Service {
    pub host: Host,
    pub directory: tempfile::TempDir,
}

pub async fn start() -> Service {
    start_with(|_| {}).await
}

pub async fn start_with(change: impl FnOnce(&mut HostConfig)) -> Service {
    if let Ok(level) = std::env::var("SHMBC_LOG") {
        let _ = tracing_subscriber::fmt().with_env_filter(level).with_test_writer().try_init();
    }
    let directory = tempfile::tempdir().unwrap();
    let mut config = HostConfig::at(directory.path().join("host.sock"));
    config.docker = Docker::Off;
    config.ring_capacity = 64 << 10;
    config.stock = 4;
    change(&mut config);
    Service { host: Host::start(config).await.unwrap(), directory }
}

impl Service {
    pub async fn client(&self) -> Client {
        Client::greeted(self.host.socket()).await
    }

    /// Waits until the counts are as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(Counts) -> bool) {
        let waiting = async {
            while !wanted(self.host.counts()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(WATCHDOG, waiting).await.is_err() {
            panic!("{what}: never; counts are {:?}", self.host.counts());
        }
    }

    pub async fn until_empty(&self) {
        self.until("nothing is left", |c| c.offers + c.granted + c.established + c.blocks == 0 && c.block_bytes == 0)
            .await;
    }
}

pub struct Client {
    pub socket: OwnedFd,
    pub you: Identity,
}

/// A grant with its descriptors: block, ringer, waiter.
pub struct Granted {
    pub grant: Grant,
    pub fds: Vec<OwnedFd>,
}

pub fn raw(path: &Path) -> OwnedFd {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

/// One message, on a thread that may wait.
pub async fn hear(socket: &OwnedFd) -> io::Result<Option<socket::Received<ToClient>>> {
    let socket = socket.try_clone().unwrap();
    tokio::task::spawn_blocking(move || {
        let wait = rustix::event::Timespec::try_from(WATCHDOG).unwrap();
        let mut fds = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
        assert_ne!(rustix::event::poll(&mut fds, Some(&wait)).unwrap(), 0, "the service says nothing");
        socket::receive(socket.as_fd())
    })
    .await
    .unwrap()
}

impl Client {
    pub async fn greeted(path: &Path) -> Self {
        let socket = raw(path);
        socket::send(socket.as_fd(), &ToHost::Hello { protocol: PROTOCOL }, &[]).unwrap();
        let ToClient::Welcome { protocol: PROTOCOL, you } = hear(&socket).await.unwrap().unwrap().message else {
            panic!("no welcome");
        };
        Self { socket, you }
    }

    pub fn say(&self, message: &ToHost) {
        socket::send(self.socket.as_fd(), message, &[]).unwrap();
    }

    pub fn offer(&self, id: u64, stream: &TcpStream) {
        self.offer_as(id, stream.as_raw_fd(), stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    }

    pub fn offer_as(&self, id: u64, fd: i32, local: SocketAddr, peer: SocketAddr) {
        self.say(&ToHost::Offer(Offer { id: OfferId(id), fd, local, peer, cpu: 0 }));
    }

    /// The next message that is not about addresses.
    pub async fn hear(&self) -> (ToClient, Vec<OwnedFd>) {
        loop {
            let received = hear(&self.socket).await.unwrap().expect("the service ended the session");
            if !matches!(received.message, ToClient::Locality { .. }) {
                return (received.message, received.fds);
            }
        }
    }

    pub async fn granted(&self) -> Granted {
        match self.hear().await {
            (ToClient::Grant(grant), fds) => Granted { grant, fds },
            other => panic!("no grant but {other:?}"),
        }
    }

    pub async fn refused(&self, id: u64) -> Refusal {
        match self.hear().await.0 {
            ToClient::Refused(OfferId(got), refusal) if got == id => refusal,
            other => panic!("no refusal of {id} but {other:?}"),
        }
    }

    pub async fn told_to_go(&self, id: u64) {
        assert_eq!(self.hear().await.0, ToClient::Go(OfferId(id)));
    }

    /// Waits until the service has ended the session.
    pub async fn ended(&self) {
        loop {
            match hear(&self.socket).await {
                Ok(None) => return,
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return,
                Ok(Some(_)) => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// Waits until the service has handled everything sent so far.
    pub async fn settled(&self) {
        self.say(&ToHost::ListContainers);
        match self.hear().await.0 {
            ToClient::Containers { last: true, .. } | ToClient::Forbidden { .. } => {}
            other => panic!("unexpected {other:?}"),
        }
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Both ends of a TCP connection over loopback.
pub fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    (client, server)
}
