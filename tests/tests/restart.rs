//! A host service that ends and comes back: no connection is lost, and its tables are whole again.

use std::fs::{Permissions, set_permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use serde_json::Value;
use shmbc_tests::host::{connections, hello};
use shmbc_tests::peer::{connect, upgraded};
use shmbc_tests::process::program;
use shmbc_tests::raw::dies_with_us;
use shmbc_tests::script::{Command, Kind, Move};
use shmbc_tests::sockets::wait_until;
use shmbc_tests::{HostProcess, Image, Need, Peer, Setup, docker, suite, test};

fn main() -> ExitCode {
    suite(vec![
        test("tables_when_the_host_was_killed_are_whole_again", tables_are_whole_again),
        test("blocks_when_the_host_was_killed_are_taken_over_and_given_back", blocks_are_taken_over).needs(Need::Root),
        test("blocks_when_their_containers_run_as_other_users_are_taken_over", of_other_users_are_taken_over)
            .needs(Need::Docker)
            .needs(Need::Root),
        test("listeners_when_bound_are_listed_until_they_are_closed", listeners_are_listed),
        test("clients_when_the_socket_is_systemds_wait_while_the_service_restarts", socket_outlives_the_service),
        test("service_when_passed_on_something_else_says_what_it_wants", wrong_socket),
    ])
}

/// Two processes with an upgraded connection.
struct Pair {
    client: Peer,
    server: Peer,
    pids: [u32; 2],
    c: usize,
    s: usize,
}

impl Pair {
    fn new(host: &Path) -> Self {
        let [client, server] = [0, 1].map(|_| Peer::start(&Setup::with_host(host)));
        let pids = [client.pid(), server.pid()];
        Self::of(client, server, pids)
    }

    /// Between two that see the same loopback device, and have these process ids here.
    fn of(mut client: Peer, mut server: Peer, pids: [u32; 2]) -> Self {
        let address = server.listen(Kind::Shm, [127, 0, 0, 1]);
        let (c, s) = connect(&mut client, Kind::Shm, &mut server, address);
        let mut pair = Self { client, server, pids, c, s };
        pair.upgraded();
        pair
    }

    fn upgraded(&mut self) {
        assert_eq!(upgraded(&mut self.client, self.c, &mut self.server, self.s), ["upgraded"; 2]);
    }

    /// Moves so many bytes each way.
    fn talk(&mut self, bytes: u64) {
        let step = Move { write: bytes, read: bytes, ..Move::default() };
        self.client.tell(&Command::Move(self.c, step));
        self.server.tell(&Command::Move(self.s, step));
        for moved in [self.client.moved(), self.server.moved()] {
            assert_eq!((moved.wrote, moved.read), (bytes, bytes), "{moved:?}");
        }
    }

    fn close(&mut self) {
        self.client.done(&Command::Drop(self.c));
        self.server.done(&Command::Drop(self.s));
    }

    /// Whether this row is about both.
    fn is(&self, row: &Value) -> bool {
        let mut pids: Vec<_> = row["ends"].as_array().into_iter().flatten().map(|end| end["pid"].as_u64()).collect();
        pids.sort_unstable();
        let mut mine = self.pids.map(|pid| Some(u64::from(pid)));
        mine.sort_unstable();
        row["state"] == "established" && pids == mine
    }
}

fn tables_are_whole_again() {
    let mut host = HostProcess::start();
    let mut pairs: Vec<_> = (0..3).map(|_| Pair::new(host.socket())).collect();
    host.kill();
    pairs.iter_mut().for_each(|pair| pair.talk(100_000));
    host.restart();
    wait_until("all connections are in the table", || {
        let rows = host.connections();
        pairs.iter().all(|pair| rows.iter().filter(|row| pair.is(row)).count() == 1)
    });
    pairs.iter_mut().for_each(|pair| pair.talk(100_000));
    pairs.iter_mut().for_each(Pair::close);
    wait_until("they are gone when they are closed", || {
        let rows = host.connections();
        rows.iter().all(|row| row["state"] == "listening")
    });
}

fn blocks_are_taken_over() {
    let host = HostProcess::start();
    let pair = Pair::new(host.socket());
    taken_over(host, pair);
}

fn of_other_users_are_taken_over() {
    let host = HostProcess::start();
    let directory = host.socket().parent().expect("a directory");
    set_permissions(directory, Permissions::from_mode(0o755)).expect("it is ours");
    let mount = format!("{}:/run/shmbc", directory.display());
    let image = Image::of(&program("shmbc-peer"));
    let start = |name: &str, user: &str, network: &str| {
        let arguments = ["--user", user, "--network", network, "--volume", &mount];
        let mut peer = Peer::start_by(&mut image.run(name, &arguments));
        // Who answers runs.
        peer.listen(Kind::Tcp, [127, 0, 0, 1]);
        let pid = docker(&["inspect", "--format", "{{.State.Pid}}", &image.name(name)]);
        (peer, pid.parse().expect("its process id"))
    };
    let (client, c) = start("client", "65534", "none");
    let (server, s) = start("server", "1000", &format!("container:{}", image.name("client")));
    taken_over(host, Pair::of(client, server, [c, s]));
}

fn taken_over(mut host: HostProcess, mut pair: Pair) {
    pair.talk(1000);
    host.kill();
    host.restart();
    let empty = host.open_fds();
    let row = |host: &HostProcess, pair: &Pair| host.connections().into_iter().find(|row| pair.is(row));
    wait_until("the block is found", || row(&host, &pair).is_some_and(|row| row["block_bytes"].as_u64() > Some(0)));
    pair.talk(5_000_000);
    let found = row(&host, &pair).expect("its row");
    let moved = found["bytes"].as_array().expect("both directions");
    assert!(moved.iter().all(|bytes| bytes.as_u64() >= Some(5_000_000)), "counted from before the restart: {found}");
    pair.close();
    wait_until("it is given back", || row(&host, &pair).is_none());
    drop(pair);
    wait_until("nothing is left open", || host.open_fds() <= empty);
}

fn listeners_are_listed() {
    let host = HostProcess::start();
    let mut server = Peer::start(&Setup::with_host(host.socket()));
    let address = server.listen(Kind::Shm, [127, 0, 0, 1]);
    let listed = |pid: u32| {
        let rows = host.connections();
        let listening: Vec<_> = rows.into_iter().filter(|row| row["state"] == "listening").collect();
        listening.into_iter().any(|row| {
            row["ends"][0]["local"] == address.to_string() && row["ends"][0]["pid"].as_u64() == Some(u64::from(pid))
        })
    };
    let pid = server.pid();
    wait_until("the listener is in the table", || listed(pid));
    server.signal(Signal::SIGKILL);
    wait_until("it has left", || !listed(pid));
}

/// A service whose control socket is this process's, as systemd's socket activation has it.
struct Activated {
    child: Child,
}

impl Activated {
    fn start(socket: &OwnedFd, manager: &Path) -> Self {
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\""])
            .arg(program("shmbc-host-under-test"))
            .args(["run", "--docker", "off"])
            .env("SHMBC_LOG", "warn")
            .env("NOTIFY_SOCKET", manager)
            .stdin(Stdio::from(socket.try_clone().expect("a copy")));
        Self { child: dies_with_us(&mut command).spawn().expect("start shmbc-host") }
    }

    fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, Signal::SIGTERM).expect("kill");
        assert!(self.child.wait().expect("wait").success(), "shmbc-host does not shut down in order");
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A listening Unix socket of this type.
fn listening(path: &Path, kind: SockType) -> OwnedFd {
    let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &UnixAddr::new(path).expect("a short path")).expect("bind");
    listen(&fd, Backlog::new(64).expect("a backlog")).expect("listen");
    fd
}

/// What the service tells its manager.
struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Manager {
    fn new(dir: &Path) -> Self {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        Self { path, socket }
    }

    fn hears(&self, what: &str) {
        let mut buf = [0; 256];
        let n = self.socket.recv(&mut buf).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(std::str::from_utf8(&buf[..n]).expect("text").trim(), what);
    }
}

fn socket_outlives_the_service() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("host.sock");
    let (socket, manager) = (listening(&path, SockType::SeqPacket), Manager::new(dir.path()));
    let service = Activated::start(&socket, &manager.path);
    manager.hears("READY=1");
    let mut pair = Pair::new(&path);
    service.stop();
    manager.hears("STOPPING=1");
    assert!(path.exists(), "the socket is not the service's to remove");
    pair.talk(100_000);
    // Comes while nobody serves, and waits in the socket.
    let waiting = std::thread::spawn({
        let path = path.clone();
        move || hello(&path).is_some()
    });
    let service = Activated::start(&socket, &manager.path);
    manager.hears("READY=1");
    assert!(waiting.join().expect("no panic"), "served by the next one");
    wait_until("the connection is in the new table", || connections(&path).iter().any(|row| pair.is(row)));
    pair.talk(100_000);
    pair.close();
    service.stop();
}

fn wrong_socket() {
    let dir = tempfile::tempdir().expect("a directory");
    let manager = Manager::new(dir.path());
    let stream = listening(&dir.path().join("stream.sock"), SockType::Stream);
    let mut service = Activated::start(&stream, &manager.path);
    assert_eq!(service.child.wait().map(|status| status.code()).map_err(|e: io::Error| e.kind()), Ok(Some(1)));
    assert!(rustix::fs::fstat(stream.as_fd()).is_ok());
}
