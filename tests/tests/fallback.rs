//! Where shared memory cannot be had the stream is a TCP connection, says why, and no byte of ours is ever among the program's.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use rustix::event::PollFlags;
use shmbc::control::message::{Identity, PROTOCOL, Refusal, ToClient, ToHost};
use shmbc::control::socket::{receive, send};
use shmbc_tests::peer::{connect, upgraded};
use shmbc_tests::script::{Answer, Command, Kind, Move, Moved, TO_THE_END};
use shmbc_tests::sockets::{wait_for, wait_until};
use shmbc_tests::{HostProcess, Need, NetNs, Peer, Setup, suite, test};

const SHARED_MEMORY: &str = "shared memory";
const NOT_AWARE: &str = "the peer does not speak SHMBC";
const NO_HOST: &str = "no host service";

fn main() -> ExitCode {
    suite(vec![
        test("peers_when_on_one_host_use_shared_memory", peers_on_one_host_use_shared_memory),
        test("peers_when_in_two_namespaces_of_one_host_use_shared_memory", peers_in_two_namespaces_use_shared_memory)
            .needs(Need::NetNs),
        test("peer_when_on_another_machine_stays_tcp_as_remote", peer_on_another_machine_is_remote).needs(Need::NetNs),
        test("plain_client_when_the_server_tries_to_upgrade_sees_no_stray_byte", plain_client_sees_no_stray_byte),
        test("plain_server_when_the_client_tries_to_upgrade_sees_no_stray_byte", plain_server_sees_no_stray_byte),
        test("streams_when_no_host_service_runs_stay_tcp", no_host_service),
        test("streams_when_the_host_socket_is_stale_stay_tcp", stale_socket),
        test("streams_when_turned_off_by_environment_stay_tcp", turned_off_by_environment),
        test("stream_when_only_the_peer_is_turned_off_finds_it_not_aware", peer_turned_off),
        test("stream_when_turned_off_by_the_program_stays_tcp", turned_off_by_the_program),
        test("streams_when_the_host_refuses_stay_tcp_and_say_the_rule", host_refuses),
        test("streams_when_the_host_never_says_a_word_stay_tcp", host_is_mute),
        test("established_streams_when_the_host_is_killed_go_on", host_killed_in_mid_stream),
        test("streams_made_without_a_host_when_it_comes_back_are_upgraded", host_comes_back),
        test("offer_when_the_host_shuts_down_before_its_twin_came_is_made_again", host_drains),
    ])
}

/// A connection between two peers over `ip`, and what it moved so far as both count it.
struct Conversation {
    client: Peer,
    server: Peer,
    c: usize,
    s: usize,
}

impl Conversation {
    fn begin(client: (&Setup, Kind), server: (&Setup, Kind), ip: Ipv4Addr) -> Self {
        let (mut c, mut s) = (Peer::start(client.0), Peer::start(server.0));
        let address = s.listen(server.1, ip);
        let (cs, ss) = connect(&mut c, client.1, &mut s, address);
        Self { client: c, server: s, c: cs, s: ss }
    }

    fn both(kind: Kind, setup: &Setup) -> Self {
        Self::begin((setup, kind), (setup, kind), Ipv4Addr::LOCALHOST)
    }

    /// Small messages to and fro: what makes an end offer.
    fn chat(&mut self) {
        let chat = |stream, first| Command::PingPong { stream, first, rounds: 50, bytes: 100 };
        self.client.tell(&chat(self.c, true));
        self.server.tell(&chat(self.s, false));
        let all = Moved { wrote: 5000, read: 5000, ..Moved::default() };
        assert_eq!((self.client.moved(), self.server.moved()), (all.clone(), all));
    }

    /// Much both ways at once.
    fn bulk(&mut self, bytes: u64) {
        let step = Move { write: bytes, read: bytes, tell_at: None };
        self.client.tell(&Command::Move(self.c, step));
        self.server.tell(&Command::Move(self.s, step));
        let all = Moved { wrote: bytes, read: bytes, ..Moved::default() };
        assert_eq!((self.client.moved(), self.server.moved()), (all.clone(), all));
    }

    fn paths(&mut self) -> (String, String) {
        (self.client.text(&Command::Path(self.c)), self.server.text(&Command::Path(self.s)))
    }

    fn upgraded(&mut self) -> (String, String) {
        upgraded(&mut self.client, self.c, &mut self.server, self.s).into()
    }

    /// Talks in every way and closes, where both ends stay on TCP for `reason`.
    fn stays_tcp(mut self, reason: &str) {
        self.chat();
        self.bulk(1 << 20);
        let said = (reason.to_owned(), reason.to_owned());
        assert_eq!(self.upgraded(), said);
        let path = format!("TCP ({reason})");
        assert_eq!(self.paths(), (path.clone(), path));
        self.chat();
        self.closes();
    }

    /// Both ends close and find nothing behind what was sent.
    fn closes(mut self) {
        self.client.done(&Command::Shutdown(self.c));
        let end = Moved { read_end: Some("eof".into()), ..Moved::default() };
        assert_eq!(self.server.moves(self.s, Move { read: TO_THE_END, ..Move::default() }), end);
        self.server.done(&Command::Drop(self.s));
        assert_eq!(self.client.moves(self.c, Move { read: TO_THE_END, ..Move::default() }), end);
    }
}

fn peers_on_one_host_use_shared_memory() {
    let host = HostProcess::start();
    uses_shared_memory(Conversation::both(Kind::Shm, &Setup::with_host(host.socket())));
}

/// What every other test here lacks something of.
fn uses_shared_memory(mut talk: Conversation) {
    talk.chat();
    assert_eq!(talk.upgraded(), ("upgraded".into(), "upgraded".into()));
    assert_eq!(talk.paths(), (SHARED_MEMORY.into(), SHARED_MEMORY.into()));
    let pid = |peer: &Peer| Answer::Pid(i32::try_from(peer.pid()).ok());
    assert_eq!(talk.client.ask(&Command::Identity(talk.c)), pid(&talk.server));
    assert_eq!(talk.server.ask(&Command::Identity(talk.s)), pid(&talk.client));
    talk.bulk(20 << 20);
    talk.chat();
    talk.closes();
}

fn peers_in_two_namespaces_use_shared_memory() {
    let cable = NetNs::pair();
    let host = HostProcess::start();
    let [a, b] = [0, 1].map(|i| Setup::with_host(host.socket()).in_netns(cable.name(i)));
    uses_shared_memory(Conversation::begin((&a, Kind::Shm), (&b, Kind::Shm), NetNs::ADDRESSES[1]));
}

fn peer_on_another_machine_is_remote() {
    let machines = NetNs::pair();
    let [a, b] = [0, 1].map(|i| HostProcess::start_in(Some(machines.name(i))));
    let setup = |host: &HostProcess, i| Setup::with_host(host.socket()).in_netns(machines.name(i));
    let talk = Conversation::begin((&setup(&a, 0), Kind::Shm), (&setup(&b, 1), Kind::Shm), NetNs::ADDRESSES[1]);
    talk.stays_tcp("the peer is not on this host");
    for host in [&a, &b] {
        assert_eq!(host.connections(), Vec::<serde_json::Value>::new(), "a remote peer costs no message");
    }
    // Each of them brings together what is on it.
    for (i, host) in [&a, &b].into_iter().enumerate() {
        let here = setup(host, i);
        uses_shared_memory(Conversation::begin((&here, Kind::Shm), (&here, Kind::Shm), NetNs::ADDRESSES[i]));
    }
}

fn plain_client_sees_no_stray_byte() {
    let host = HostProcess::start();
    let setup = Setup::with_host(host.socket());
    let mut talk = Conversation::begin((&setup, Kind::Tcp), (&setup, Kind::Shm), Ipv4Addr::LOCALHOST);
    talk.chat();
    talk.bulk(1 << 20);
    assert_eq!(talk.server.text(&Command::Upgraded(talk.s)), NOT_AWARE);
    talk.chat();
    assert_eq!(talk.server.text(&Command::Path(talk.s)), format!("TCP ({NOT_AWARE})"));
    talk.closes();
}

fn plain_server_sees_no_stray_byte() {
    let host = HostProcess::start();
    let setup = Setup::with_host(host.socket());
    let mut talk = Conversation::begin((&setup, Kind::Shm), (&setup, Kind::Tcp), Ipv4Addr::LOCALHOST);
    talk.chat();
    talk.bulk(1 << 20);
    assert_eq!(talk.client.text(&Command::Upgraded(talk.c)), NOT_AWARE);
    talk.chat();
    assert_eq!(talk.client.text(&Command::Path(talk.c)), format!("TCP ({NOT_AWARE})"));
    talk.closes();
}

fn no_host_service() {
    let dir = tempfile::tempdir().unwrap();
    Conversation::both(Kind::Shm, &Setup::with_host(dir.path().join("host.sock"))).stays_tcp(NO_HOST);
}

fn stale_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.sock");
    drop(listener_at(&path));
    Conversation::both(Kind::Shm, &Setup::with_host(path)).stays_tcp(NO_HOST);
}

fn turned_off_by_environment() {
    Conversation::both(Kind::Shm, &Setup::with_host("off")).stays_tcp("disabled");
}

fn peer_turned_off() {
    let host = HostProcess::start();
    let (on, off) = (Setup::with_host(host.socket()), Setup::with_host("off"));
    let mut talk = Conversation::begin((&on, Kind::Shm), (&off, Kind::Shm), Ipv4Addr::LOCALHOST);
    talk.chat();
    assert_eq!(talk.upgraded(), (NOT_AWARE.into(), "disabled".into()));
    talk.bulk(1 << 20);
    talk.closes();
}

fn turned_off_by_the_program() {
    let host = HostProcess::start();
    let mut talk = Conversation::both(Kind::Shm, &Setup::with_host(host.socket()));
    talk.client.done(&Command::Acceleration(talk.c, false));
    talk.chat();
    assert_eq!(talk.upgraded(), ("disabled".into(), NOT_AWARE.into()));
    talk.bulk(1 << 20);
    talk.closes();
}

/// A control socket that listens at `path`.
fn listener_at(path: &Path) -> OwnedFd {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    bind(fd.as_raw_fd(), &UnixAddr::new(path).expect("a short path")).expect("bind");
    listen(&fd, Backlog::MAXCONN).expect("listen");
    fd
}

/// A host service that knows everybody and refuses every offer.
fn refusing_host(path: &Path) {
    let listener = listener_at(path);
    std::thread::spawn(move || {
        while let Ok(session) = rustix::net::accept_with(&listener, rustix::net::SocketFlags::CLOEXEC) {
            std::thread::spawn(move || refuse_all(&session));
        }
    });
}

fn refuse_all(session: &OwnedFd) {
    loop {
        wait_for(session, PollFlags::IN);
        let Ok(Some(got)) = receive::<ToHost>(session.as_fd()) else {
            return;
        };
        let answers = match got.message {
            ToHost::Hello { .. } => vec![
                ToClient::Welcome { protocol: PROTOCOL, you: Identity::default() },
                ToClient::Locality { fresh: true, entries: Vec::new() },
            ],
            ToHost::Offer(offer) => vec![ToClient::Refused(offer.id, Refusal::Policy("not today".into()))],
            _ => Vec::new(),
        };
        for answer in answers {
            if send(session.as_fd(), &answer, &[]).is_err() {
                return;
            }
        }
    }
}

fn host_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.sock");
    refusing_host(&path);
    Conversation::both(Kind::Shm, &Setup::with_host(path)).stays_tcp("refused: policy: not today");
}

fn host_is_mute() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.sock");
    let _listener = listener_at(&path);
    let mut talk = Conversation::both(Kind::Shm, &Setup::with_host(path));
    talk.chat();
    talk.bulk(1 << 20);
    talk.chat();
    let (client, server) = talk.paths();
    assert!(client.starts_with("TCP") && server.starts_with("TCP"), "{client}, {server}");
    talk.closes();
}

fn host_killed_in_mid_stream() {
    const BYTES: u64 = 64 << 20;
    let mut host = HostProcess::start();
    let mut talk = Conversation::both(Kind::Shm, &Setup::with_host(host.socket()));
    assert_eq!(talk.upgraded(), ("upgraded".into(), "upgraded".into()));
    let step = Move { write: BYTES, read: BYTES, tell_at: Some(1 << 20) };
    talk.client.tell(&Command::Move(talk.c, step));
    talk.server.tell(&Command::Move(talk.s, step));
    talk.client.moving();
    talk.server.moving();
    host.kill();
    let all = Moved { wrote: BYTES, read: BYTES, ..Moved::default() };
    assert_eq!((talk.client.moved(), talk.server.moved()), (all.clone(), all));
    assert_eq!(talk.paths(), (SHARED_MEMORY.into(), SHARED_MEMORY.into()));
    host.restart();
    talk.chat();
    assert_eq!(talk.paths(), (SHARED_MEMORY.into(), SHARED_MEMORY.into()));
    talk.closes();
}

fn host_comes_back() {
    let mut host = HostProcess::start();
    let setup = Setup::with_host(host.socket());
    // Both processes know the host from an earlier connection.
    let mut talk = Conversation::both(Kind::Shm, &setup);
    assert_eq!(talk.upgraded(), ("upgraded".into(), "upgraded".into()));
    host.kill();
    let address = talk.server.listen(Kind::Shm, Ipv4Addr::LOCALHOST);
    let (c, s) = connect(&mut talk.client, Kind::Shm, &mut talk.server, address);
    let mut meanwhile = Conversation { c, s, ..talk };
    meanwhile.chat();
    meanwhile.bulk(1 << 20);
    let (client, server) = meanwhile.paths();
    assert!(client.starts_with("TCP") && server.starts_with("TCP"), "{client}, {server}");
    host.restart();
    wait_until("the connection made meanwhile is upgraded", || {
        meanwhile.chat();
        meanwhile.paths() == (SHARED_MEMORY.into(), SHARED_MEMORY.into())
    });
    meanwhile.bulk(20 << 20);
    let (c, s) = connect(&mut meanwhile.client, Kind::Shm, &mut meanwhile.server, address);
    let mut later = Conversation { c, s, ..meanwhile };
    assert_eq!(later.upgraded(), ("upgraded".into(), "upgraded".into()));
    later.closes();
}

fn host_drains() {
    let mut host = HostProcess::start();
    let mut talk = Conversation::both(Kind::Shm, &Setup::with_host(host.socket()));
    // Only the client offers: the server has seen no traffic yet, and nobody asks it.
    talk.client.tell(&Command::Upgraded(talk.c));
    wait_until("the offer is in the table", || host.connections().iter().any(|row| row["state"] == "offered"));
    host.stop();
    assert_eq!(talk.client.answer(), Answer::Text("refused: the host service is shutting down".into()));
    host.restart();
    wait_until("the connection is upgraded", || {
        talk.chat();
        talk.paths() == (SHARED_MEMORY.into(), SHARED_MEMORY.into())
    });
    talk.closes();
}
