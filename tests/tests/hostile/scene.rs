//! Where the hostile process meets its victim: a host service, a victim process, a friend of the victim's, and an honest pair that
//! talks all the time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use shmbc_tests::peer::connect;
use shmbc_tests::process::{fd_targets, open_fds};
use shmbc_tests::script::{Answer, Command, Kind, Move, Moved, TO_THE_END};
use shmbc_tests::sockets::{eventually, wait_until};
use shmbc_tests::{HostProcess, Peer, Setup};

use crate::orders::{Assault, Hostile, Order, Report, Switch};

/// More than anything here moves.
const ENDLESS: u64 = 1 << 40;
/// Blocks that the service keeps ready.
const STOCK: usize = 32;

/// All of them.
pub(crate) struct Scene {
    pub(crate) host: HostProcess,
    pub(crate) hostile: Hostile,
    pub(crate) victim: Peer,
    friend: Peer,
    address: SocketAddr,
    honest: Option<Honest>,
    /// What host and victim have open when nothing hostile is there.
    host_fds: Vec<String>,
    victim_fds: usize,
}

/// How the victim's step on a hostile connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// As any connection may end: kinds of the reading and of the writing side.
    Ended(Moved),
    /// It read bytes that are not those of an honest peer: the hostile process may send what it likes.
    OtherBytes,
}

impl Ending {
    pub(crate) fn of(answer: Answer) -> Self {
        match answer {
            Answer::Moved(moved) => {
                let read = moved.read_end.as_deref();
                assert!(matches!(read, Some("eof" | "ConnectionReset")), "{moved:?}");
                let write = moved.write_end.as_deref();
                assert!(matches!(write, Some("BrokenPipe" | "ConnectionReset")), "{moved:?}");
                Self::Ended(moved)
            }
            Answer::Failed(kind, text) if kind == "Other" && text.starts_with("byte ") => Self::OtherBytes,
            other => panic!("no way for a stream to end: {other:?}"),
        }
    }

    /// Whether the victim has found the fault by itself.
    pub(crate) fn is_reset(&self) -> bool {
        matches!(self, Self::Ended(moved) if moved.read_end.as_deref() == Some("ConnectionReset")
            || moved.write_end.as_deref() == Some("ConnectionReset"))
    }
}

impl Scene {
    pub(crate) fn new() -> Self {
        let host = HostProcess::start();
        let setup = Setup::with_host(host.socket());
        let (mut victim, friend) = (Peer::start(&setup), Peer::start(&setup));
        let address = victim.listen(Kind::Shm, Ipv4Addr::LOCALHOST);
        let honest = Some(Honest::start(&setup));
        let hostile = Hostile::start(host.socket());
        let mut scene = Self { host, hostile, victim, friend, address, honest, host_fds: Vec::new(), victim_fds: 0 };
        scene.meet_a_friend();
        scene.settle();
        scene.host_fds = fd_kinds(&scene.host);
        scene.victim_fds = open_fds(scene.victim.pid()).expect("the victim runs");
        scene
    }

    /// The ends of the honest pair's connection.
    pub(crate) fn honest_connection(&self) -> (SocketAddr, SocketAddr) {
        let rows = rows(&self.host);
        let end =
            |name: &str| rows[0]["ends"][0][name].as_str().and_then(|text| text.parse().ok()).expect("an address");
        (end("local"), end("peer"))
    }

    /// The hostile process is connected to the victim, by TCP.
    pub(crate) fn connect(&mut self) -> usize {
        self.victim.tell(&Command::Accept);
        self.hostile.order(&Order::Connect(self.address));
        self.victim.stream()
    }

    /// The victim waits for the upgrade, and the hostile process has its grant.
    pub(crate) fn granted(&mut self) -> usize {
        let stream = self.connect();
        self.victim.tell(&Command::Upgraded(stream));
        self.hostile.order(&Order::Offer);
        self.hostile.order(&Order::Grant);
        stream
    }

    /// The two are upgraded, as two honest ends would be.
    pub(crate) fn upgraded(&mut self) -> usize {
        let stream = self.granted();
        for order in [Order::Ready, Order::Go, Order::Switch(Switch::Honest)] {
            self.hostile.order(&order);
        }
        assert_eq!(self.victim.answer(), Answer::Text("upgraded".into()));
        stream
    }

    /// The victim reads and writes without end, until the connection ends.
    pub(crate) fn busy(&mut self, stream: usize) {
        self.victim.tell(&Command::Move(stream, Move { write: ENDLESS, read: TO_THE_END, tell_at: None }));
    }

    /// The hostile process closes; how the victim's step ended.
    pub(crate) fn ending(&mut self, stream: usize) -> Ending {
        self.hostile.order(&Order::Close);
        let ending = Ending::of(self.victim.answer());
        self.victim.done(&Command::Drop(stream));
        ending
    }

    /// A connection from beginning to end, with `assault` in the middle.
    pub(crate) fn suffer(&mut self, assault: Assault, bytes: u64) -> (Report, Ending) {
        let stream = self.upgraded();
        self.busy(stream);
        let report = self.hostile.assault(assault, bytes);
        (report, self.ending(stream))
    }

    /// Whether every thread of the victim sleeps.
    pub(crate) fn victim_sleeps(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.victim.pid())).expect("the victim runs").flatten();
        let mut stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
        stats.all(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S")))
    }

    /// An honest connection of the victim's is upgraded and moves every byte.
    pub(crate) fn meet_a_friend(&mut self) {
        // A flood may have used up what a user may offer in a second: then the stream stays TCP, and a later one does not.
        let upgraded = eventually(|| {
            let (theirs, ours) = connect(&mut self.friend, Kind::Shm, &mut self.victim, self.address);
            self.friend.tell(&Command::Upgraded(theirs));
            let answer = self.victim.text(&Command::Upgraded(ours));
            let upgraded = self.friend.answer() == Answer::Text("upgraded".into()) && answer == "upgraded";
            let step = Move { write: 1 << 20, read: 1 << 20, tell_at: None };
            let all = Moved { wrote: 1 << 20, read: 1 << 20, ..Moved::default() };
            self.friend.tell(&Command::Move(theirs, step));
            assert_eq!(self.victim.moves(ours, step), all);
            assert_eq!(self.friend.moved(), all);
            self.friend.done(&Command::Drop(theirs));
            self.victim.done(&Command::Drop(ours));
            upgraded
        });
        assert!(upgraded, "the victim's connections are no longer upgraded");
    }

    /// Waits until there is the honest pair's connection only and the stock is full.
    fn settle(&self) {
        wait_until("the honest connection only", || rows(&self.host).len() == 1);
        let blocks = || fd_targets(self.host.pid()).iter().filter(|fd| fd.starts_with("/memfd:")).count();
        wait_until("a full stock", || blocks() == STOCK + 1);
    }

    /// The end: the victim and the honest pair are well, and nothing of the hostile process is left when it is gone.
    pub(crate) fn over(mut self) {
        self.meet_a_friend();
        self.hostile.kill();
        assert!(self.honest.take().expect("still there").end() > 0);
        wait_until("no connection left", || rows(&self.host).is_empty());
        let mut more = Vec::new();
        let none = eventually(|| {
            more = fd_kinds(&self.host);
            for fd in &self.host_fds {
                more.iter().position(|kind| kind == fd).map(|at| more.remove(at));
            }
            more.is_empty()
        });
        assert!(none, "left in the host service: {more:?}");
        self.victim_has_nothing_left();
    }

    /// Waits until the victim has no more open than it had before.
    pub(crate) fn victim_has_nothing_left(&self) {
        let victim = eventually(|| open_fds(self.victim.pid()).expect("the victim runs") <= self.victim_fds);
        assert!(victim, "left in the victim, which had {}: {:?}", self.victim_fds, fd_targets(self.victim.pid()));
    }
}

/// The connections that the host has a hand in: without listeners, and those it refused, which it lists for people who ask.
fn rows(host: &HostProcess) -> Vec<serde_json::Value> {
    let mut rows = host.connections();
    rows.retain(|row| row["state"] != "refused" && row["state"] != "listening");
    rows
}

/// What the host's descriptors are, without the numbers that differ between two of a kind.
fn fd_kinds(host: &HostProcess) -> Vec<String> {
    let kind = |target: String| match target.split_once(":[") {
        Some((kind @ ("socket" | "pipe"), _)) => kind.to_owned(),
        _ => target,
    };
    fd_targets(host.pid()).into_iter().map(kind).collect()
}

/// Two processes that mean well and talk all the time.
struct Honest {
    stop: Arc<AtomicBool>,
    talk: Option<JoinHandle<u64>>,
}

impl Honest {
    fn start(setup: &Setup) -> Self {
        let (mut client, mut server) = (Peer::start(setup), Peer::start(setup));
        let address = server.listen(Kind::Shm, Ipv4Addr::LOCALHOST);
        let (c, s) = connect(&mut client, Kind::Shm, &mut server, address);
        client.tell(&Command::Upgraded(c));
        assert_eq!(server.text(&Command::Upgraded(s)), "upgraded");
        assert_eq!(client.answer(), Answer::Text("upgraded".into()));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let talk = std::thread::spawn(move || {
            let mut moved = 0;
            while !stopped.load(Ordering::Relaxed) {
                let all = Moved { wrote: 100_000, read: 100_000, ..Moved::default() };
                let step = Move { write: all.wrote, read: all.read, tell_at: None };
                client.tell(&Command::Move(c, step));
                assert_eq!(server.moves(s, step), all);
                assert_eq!(client.moved(), all);
                moved += all.read;
            }
            moved
        });
        Self { stop, talk: Some(talk) }
    }

    /// Ends the talk; how much was said, all of it right.
    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.talk.take().expect("ended once").join().expect("the honest pair is well")
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
