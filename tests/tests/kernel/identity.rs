//! Who is at the other end of a Unix socket, and what can be pulled out of it: also when it has exited.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use nix::sys::socket::{getpeername, getsockname, getsockopt, sockopt};
use rustix::event::PollFlags;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use shmbc_tests::raw::{self, number, pidfd_info};
use shmbc_tests::sockets::{poll_now, tcp_pair, wait_for};
use shmbc_tests::suite::{self, Test};
use shmbc_tests::{Need, test};

pub(crate) const CONNECTOR: &str = "connector";
const CONNECT_TO: &str = "SHMBC_TEST_CONNECT_TO";

pub(crate) fn facts() -> Vec<Test> {
    let peer_pidfd = Need::Linux(6, 5, "SO_PEERPIDFD");
    vec![
        test("peer_pidfd_when_the_peer_lives_names_its_process_and_cgroup", peer_pidfd_names_process_and_cgroup)
            .needs(Need::Linux(6, 13, "PIDFD_GET_INFO")),
        test("peer_pidfd_when_the_peer_was_reaped_still_names_its_cgroup", peer_pidfd_after_reap_names_cgroup)
            .needs(Need::Linux(6, 15, "PIDFD_GET_INFO of reaped processes")),
        test("peer_pidfd_when_asked_after_the_reap_is_still_given", peer_pidfd_after_reap_is_given).needs(Need::Linux(
            6,
            16,
            "SO_PEERPIDFD of reaped processes",
        )),
        test("peer_pidfd_when_the_peer_exits_becomes_readable", peer_pidfd_at_exit_is_readable).needs(peer_pidfd),
        test("peer_credentials_when_asked_name_process_and_user", peer_credentials_name_process_and_user),
        test("socket_when_pulled_is_the_same_connection", pulled_socket_is_the_same_connection).needs(PULL),
        test("pulled_socket_when_closed_sends_no_fin", pulled_socket_when_closed_sends_no_fin).needs(PULL),
        test("pulled_socket_while_held_keeps_back_the_fin", pulled_socket_while_held_keeps_back_the_fin).needs(PULL),
        test("descriptor_when_pulled_from_a_reaped_process_is_refused", pull_from_the_dead_is_refused).needs(PULL),
    ]
}

/// Where not even an own descriptor can be pulled, a seccomp filter or an old kernel (before 5.6) forbids the call.
const PULL: Need = Need::Other("the right to call pidfd_getfd", || {
    let me = pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    me.and_then(|me| pidfd_getfd(&me, number(&me), PidfdGetfdFlags::empty())).is_ok()
});

/// A process of its own that has connected, its Unix socket as seen from here, and a Unix socket to dismiss it.
struct Peer {
    child: Child,
    socket: UnixStream,
    _dir: tempfile::TempDir,
}

/// What the process exits with when it is dismissed.
const EXIT: i32 = 7;

impl Peer {
    fn connected() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("bind");
        let child = suite::player(CONNECTOR).env(CONNECT_TO, &path).spawn().expect("spawn");
        let (mut socket, _) = listener.accept().expect("accept");
        socket.read_exact(&mut [0]).expect("a sign of life");
        Self { child, socket, _dir: dir }
    }

    fn pidfd(&self) -> OwnedFd {
        getsockopt(&self.socket, sockopt::PeerPidfd).expect("SO_PEERPIDFD")
    }

    fn exit_and_reap(&mut self) {
        self.socket.write_all(b"x").expect("dismiss");
        assert_eq!(self.child.wait().expect("wait").code(), Some(EXIT));
    }
}

/// Connects, says so, and exits when told.
pub(crate) fn connector() {
    let mut socket = UnixStream::connect(std::env::var_os(CONNECT_TO).expect("path")).expect("connect");
    socket.write_all(b"x").expect("say so");
    socket.read_exact(&mut [0]).expect("be told");
    std::process::exit(EXIT);
}

/// The inode of a process's directory in the version 2 cgroup hierarchy, where that can be seen from here.
fn cgroup_inode(pid: u32) -> Option<u64> {
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mounts = BufReader::new(std::fs::File::open("/proc/mounts").ok()?);
    let mount = mounts.lines().map_while(Result::ok).find_map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        (fields.get(2) == Some(&"cgroup2")).then(|| fields[1].to_owned())
    })?;
    Some(std::fs::metadata(format!("{mount}{path}")).ok()?.st_ino())
}

fn peer_pidfd_names_process_and_cgroup() {
    let mut peer = Peer::connected();
    let info = pidfd_info(peer.pidfd().as_fd()).unwrap();
    assert_eq!(info.pid, peer.child.id());
    assert_eq!(info.exit, None);
    let cgroup = info.cgroup.expect("a cgroup id");
    if let Some(inode) = cgroup_inode(peer.child.id()) {
        assert_eq!(cgroup, inode);
    }
    peer.exit_and_reap();
}

fn peer_pidfd_after_reap_names_cgroup() {
    let mut peer = Peer::connected();
    let pidfd = peer.pidfd();
    let alive = pidfd_info(pidfd.as_fd()).unwrap();
    peer.exit_and_reap();
    let dead = pidfd_info(pidfd.as_fd()).unwrap();
    assert_eq!(dead.cgroup, alive.cgroup);
    assert!(dead.cgroup.is_some());
    assert_eq!(dead.exit, Some(EXIT << 8), "the status as of wait");
}

fn peer_pidfd_after_reap_is_given() {
    let mut peer = Peer::connected();
    peer.exit_and_reap();
    assert!(pidfd_info(peer.pidfd().as_fd()).unwrap().cgroup.is_some());
}

fn peer_pidfd_at_exit_is_readable() {
    let mut peer = Peer::connected();
    let pidfd = peer.pidfd();
    assert!(!poll_now(&pidfd).contains(PollFlags::IN));
    peer.exit_and_reap();
    wait_for(&pidfd, PollFlags::IN);
}

fn peer_credentials_name_process_and_user() {
    let mut peer = Peer::connected();
    let credentials = getsockopt(&peer.socket, sockopt::PeerCredentials).unwrap();
    assert_eq!(u32::try_from(credentials.pid()), Ok(peer.child.id()));
    assert_eq!(credentials.uid(), nix::unistd::geteuid().as_raw());
    peer.exit_and_reap();
}

/// `cat` with a TCP connection as input and output: an echo server in a process of its own. With it the other end.
fn echo() -> (Child, TcpStream, OwnedFd) {
    let (mine, its) = tcp_pair();
    let mut command = Command::new("cat");
    command.stdin(OwnedFd::from(its.try_clone().expect("clone"))).stdout(OwnedFd::from(its)).stderr(Stdio::null());
    let child = raw::dies_with_us(&mut command).spawn().expect("cat");
    drop(command);
    let pid = Pid::from_child(&child);
    (child, mine, pidfd_open(pid, PidfdFlags::empty()).expect("pidfd_open"))
}

fn assert_echoes(mine: &mut TcpStream) {
    mine.write_all(b"hello").expect("write");
    let mut back = [0; 5];
    mine.read_exact(&mut back).expect("echo");
    assert_eq!(&back, b"hello");
}

fn end(mut child: Child) {
    child.kill().expect("kill");
    child.wait().expect("wait");
}

fn pulled_socket_is_the_same_connection() {
    let (child, mut mine, pidfd) = echo();
    assert_echoes(&mut mine);
    let pulled = pidfd_getfd(&pidfd, 0, PidfdGetfdFlags::empty()).unwrap();
    type Address = nix::sys::socket::SockaddrIn;
    let ends = |fd: i32| (getsockname::<Address>(fd).unwrap(), getpeername::<Address>(fd).unwrap());
    let (local, peer) = ends(number(&pulled));
    assert_eq!((peer, local), ends(number(&mine)));
    assert_eq!(nix::fcntl::fcntl(&pulled, nix::fcntl::FcntlArg::F_GETFD), Ok(libc::FD_CLOEXEC));
    end(child);
}

fn pulled_socket_when_closed_sends_no_fin() {
    let (child, mut mine, pidfd) = echo();
    for _ in 0..100 {
        drop(pidfd_getfd(&pidfd, 0, PidfdGetfdFlags::empty()).unwrap());
    }
    // What goes there and comes back comes behind any FIN.
    assert_echoes(&mut mine);
    assert!(!poll_now(&mine).intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR));
    end(child);
}

fn pulled_socket_while_held_keeps_back_the_fin() {
    let (child, mine, pidfd) = echo();
    let pulled = pidfd_getfd(&pidfd, 0, PidfdGetfdFlags::empty()).unwrap();
    end(child);
    assert!(!poll_now(&mine).intersects(PollFlags::IN | PollFlags::RDHUP), "why a copy is closed before anything else");
    drop(pulled);
    wait_for(&mine, PollFlags::IN | PollFlags::RDHUP);
}

fn pull_from_the_dead_is_refused() {
    let (child, _mine, pidfd) = echo();
    end(child);
    let error = pidfd_getfd(&pidfd, 0, PidfdGetfdFlags::empty()).unwrap_err();
    assert_eq!(error, rustix::io::Errno::SRCH);
}
