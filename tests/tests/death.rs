//! A process is killed, or ends, or stops, at any moment: the other end gets what TCP would give it, at once, and when both are gone
//! the host has nothing left of them.
//!
//! Each script runs on plain TCP and on shared memory, and both must end alike.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shmbc_tests::peer::{connect, upgraded};
use shmbc_tests::process::fd_targets;
use shmbc_tests::script::{Command, Kind, Move, Moved, TO_THE_END};
use shmbc_tests::sockets::{eventually, wait_until};
use shmbc_tests::{HostProcess, Peer, Setup, suite, test};

/// More than both directions together can hold anywhere on the way.
const ENDLESS: u64 = 1 << 40;
/// Far more than a script takes, far less than any time after which TCP would give up by itself.
const AT_ONCE: Duration = Duration::from_secs(60);
/// A ring: what a writer can write before it must sleep.
const RING: u64 = 4 << 20;

fn main() -> ExitCode {
    suite(vec![
        test("peer_killed_when_idle_is_eof_and_a_broken_pipe", || alike(killed_when_idle)).patience(AT_ONCE),
        test("peer_killed_when_it_writes_leaves_what_it_wrote_and_eof", || alike(killed_when_writing))
            .patience(AT_ONCE),
        test("peer_killed_when_it_reads_breaks_the_writer", || alike(killed_when_reading)).patience(AT_ONCE),
        test("peer_killed_with_bytes_unread_breaks_the_writer", || alike(killed_with_unread)).patience(AT_ONCE),
        test("peer_killed_when_it_never_read_breaks_the_blocked_writer", || alike(killed_when_never_read))
            .patience(AT_ONCE),
        test("peer_killed_after_it_half_closed_breaks_the_idle_writer", || alike(killed_after_half_close))
            .patience(AT_ONCE),
        test("peer_killed_after_it_half_closed_breaks_the_blocked_writer", || alike(killed_half_closed_never_read))
            .patience(AT_ONCE),
        test("peer_killed_after_we_half_closed_is_eof", || alike(killed_after_our_half_close)).patience(AT_ONCE),
        test("peer_that_exits_is_eof_and_a_broken_pipe", || alike(exits)).patience(AT_ONCE),
        test("peer_stopped_when_written_to_is_backpressure_until_it_goes_on", || alike(stopped)).patience(AT_ONCE),
        test("peer_stopped_at_any_moment_of_the_upgrade_loses_nothing", stopped_around_the_switch),
        test("host_when_killed_peers_are_gone_has_nothing_left", host_has_nothing_left),
        test("host_when_both_peers_are_killed_at_once_has_nothing_left", host_has_nothing_left_of_both),
    ])
}

/// The end that will die, and the end that will tell.
struct Pair {
    victim: Peer,
    survivor: Peer,
    v: usize,
    s: usize,
}

impl Pair {
    /// Connected; through shared memory when `kind` is that and `upgrade` is asked for.
    fn new(kind: Kind, host: &HostProcess, victim_connects: bool, upgrade: bool) -> Self {
        let setup = Setup::with_host(host.socket());
        let (mut client, mut server) = (Peer::start(&setup), Peer::start(&setup));
        let address = server.listen(kind, Ipv4Addr::LOCALHOST);
        let (c, s) = connect(&mut client, kind, &mut server, address);
        if kind == Kind::Shm && upgrade {
            assert_eq!(upgraded(&mut client, c, &mut server, s), ["upgraded"; 2]);
        }
        if victim_connects {
            Self { victim: client, survivor: server, v: c, s }
        } else {
            Self { victim: server, survivor: client, v: s, s: c }
        }
    }

    /// Both say something and hear it.
    fn chat(&mut self) {
        let chat = |stream, first| Command::PingPong { stream, first, rounds: 3, bytes: 100 };
        self.victim.tell(&chat(self.v, true));
        self.survivor.tell(&chat(self.s, false));
        let all = Moved { wrote: 300, read: 300, ..Moved::default() };
        assert_eq!((self.victim.moved(), self.survivor.moved()), (all.clone(), all));
    }

    /// The survivor sends what the victim does not read.
    fn send_unread(&mut self, bytes: u64) {
        let sent = Moved { wrote: bytes, ..Moved::default() };
        assert_eq!(self.survivor.moves(self.s, Move { write: bytes, ..Move::default() }), sent);
    }

    /// What the survivor, which does nothing yet, finds when it reads to the end and then writes.
    fn read_then_write(mut self) -> (Moved, Moved) {
        let read = self.survivor.moves(self.s, Move { read: TO_THE_END, ..Move::default() });
        self.survivor.tell(&Command::WriteUntilError(self.s));
        let written = self.survivor.moved();
        (read, written)
    }
}

/// How the survivor's read and write sides ended. Which of two errors a writer gets depends, on TCP too, on whether it asks before or
/// after the reset has come; both mean that the peer is gone.
#[derive(Debug, PartialEq, Eq)]
struct Ending {
    read: Option<String>,
    write_broke: bool,
    /// Bytes the survivor got, where the script says how many there are.
    got: Option<u64>,
}

fn broke(write_end: Option<&str>) -> bool {
    matches!(write_end, Some("BrokenPipe" | "ConnectionReset"))
}

impl Ending {
    fn of((read, written): (Moved, Moved)) -> Self {
        Self { read: read.read_end, write_broke: broke(written.write_end.as_deref()), got: Some(read.read) }
    }

    fn whatever_came(self) -> Self {
        Self { got: None, ..self }
    }
}

/// Runs `script` on both kinds, with each of the two ends as the victim.
fn alike(script: fn(Pair) -> Ending) {
    let host = HostProcess::start();
    for victim_connects in [true, false] {
        let tcp = script(Pair::new(Kind::Tcp, &host, victim_connects, false));
        let shm = script(Pair::new(Kind::Shm, &host, victim_connects, true));
        assert_eq!(shm, tcp, "left: shared memory, right: TCP; the victim connected: {victim_connects}");
    }
}

fn killed_when_idle(mut pair: Pair) -> Ending {
    pair.chat();
    pair.victim.end();
    Ending::of(pair.read_then_write())
}

fn killed_when_writing(mut pair: Pair) -> Ending {
    pair.victim.tell(&Command::Move(pair.v, Move { write: ENDLESS, ..Move::default() }));
    pair.survivor.tell(&Command::Move(pair.s, Move { read: TO_THE_END, tell_at: Some(1 << 20), ..Move::default() }));
    pair.survivor.moving();
    pair.victim.end();
    let read = pair.survivor.moved();
    assert!(read.read >= 1 << 20);
    pair.survivor.tell(&Command::WriteUntilError(pair.s));
    let written = pair.survivor.moved();
    Ending::of((read, written)).whatever_came()
}

fn killed_when_reading(mut pair: Pair) -> Ending {
    pair.victim.tell(&Command::Move(pair.v, Move { read: ENDLESS, tell_at: Some(1 << 20), ..Move::default() }));
    pair.survivor.tell(&Command::Move(pair.s, Move { write: ENDLESS, ..Move::default() }));
    pair.victim.moving();
    pair.victim.end();
    let written = pair.survivor.moved();
    // On TCP too a reset that the writer has been told is not told again.
    let read = pair.survivor.moves(pair.s, Move { read: TO_THE_END, ..Move::default() });
    Ending::of((read, written))
}

fn killed_with_unread(mut pair: Pair) -> Ending {
    pair.chat();
    pair.send_unread(1000);
    pair.victim.end();
    Ending::of(pair.read_then_write())
}

fn killed_when_never_read(mut pair: Pair) -> Ending {
    pair.survivor.tell(&Command::Move(pair.s, Move { write: ENDLESS, tell_at: Some(RING / 4), ..Move::default() }));
    pair.survivor.moving();
    pair.victim.end();
    let written = pair.survivor.moved();
    let read = pair.survivor.moves(pair.s, Move { read: TO_THE_END, ..Move::default() });
    Ending::of((read, written))
}

fn killed_after_half_close(mut pair: Pair) -> Ending {
    pair.chat();
    pair.victim.done(&Command::Shutdown(pair.v));
    let read = pair.survivor.moves(pair.s, Move { read: TO_THE_END, ..Move::default() });
    assert_eq!(read.read_end.as_deref(), Some("eof"));
    pair.victim.end();
    Ending::of(pair.read_then_write())
}

fn killed_half_closed_never_read(mut pair: Pair) -> Ending {
    pair.victim.done(&Command::Shutdown(pair.v));
    let read = pair.survivor.moves(pair.s, Move { read: TO_THE_END, ..Move::default() });
    assert_eq!(read.read_end.as_deref(), Some("eof"));
    pair.survivor.tell(&Command::Move(pair.s, Move { write: ENDLESS, tell_at: Some(RING / 4), ..Move::default() }));
    pair.survivor.moving();
    pair.victim.end();
    let written = pair.survivor.moved();
    Ending::of((read, written))
}

fn killed_after_our_half_close(mut pair: Pair) -> Ending {
    pair.chat();
    pair.survivor.done(&Command::Shutdown(pair.s));
    let heard = pair.victim.moves(pair.v, Move { read: TO_THE_END, ..Move::default() });
    assert_eq!(heard.read_end.as_deref(), Some("eof"));
    let sent = pair.victim.moves(pair.v, Move { write: 100_000, ..Move::default() });
    assert_eq!(sent.wrote, 100_000);
    pair.victim.end();
    Ending::of(pair.read_then_write())
}

fn exits(mut pair: Pair) -> Ending {
    pair.chat();
    let sent = pair.victim.moves(pair.v, Move { write: 100_000, ..Move::default() });
    assert_eq!(sent.wrote, 100_000);
    pair.victim.tell(&Command::Exit(3));
    Ending::of(pair.read_then_write())
}

fn stopped(mut pair: Pair) -> Ending {
    const BYTES: u64 = 3 * RING;
    pair.chat();
    pair.victim.stop();
    let step = Move { write: BYTES, tell_at: Some(RING / 4), ..Move::default() };
    pair.survivor.tell(&Command::Move(pair.s, step));
    pair.survivor.moving();
    pair.victim.signal(Signal::SIGCONT);
    assert_eq!(pair.victim.moves(pair.v, Move { read: BYTES, ..Move::default() }).read, BYTES);
    assert_eq!(pair.survivor.moved(), Moved { wrote: BYTES, ..Moved::default() });
    pair.chat();
    pair.victim.end();
    Ending::of(pair.read_then_write())
}

/// Both ends move bytes both ways; one is stopped when the other has moved a random number of them, most often somewhere in the
/// upgrade, until the host has made up its mind about the connection.
fn stopped_around_the_switch() {
    const BYTES: u64 = 3 * RING;
    let host = HostProcess::start();
    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..8 {
        let mut pair = Pair::new(Kind::Shm, &host, random.random(), false);
        let at = random.random_range(0..1_u64 << 20);
        let step = Move { write: BYTES, read: BYTES, tell_at: None };
        pair.victim.tell(&Command::Move(pair.v, step));
        pair.survivor.tell(&Command::Move(pair.s, Move { tell_at: Some(at), ..step }));
        pair.survivor.moving();
        pair.victim.stop();
        wait_until("the host has decided", || {
            host.connections().iter().all(|row| row["state"] != "offered" && row["state"] != "granted")
        });
        pair.victim.signal(Signal::SIGCONT);
        let all = Moved { wrote: BYTES, read: BYTES, ..Moved::default() };
        assert_eq!(
            (pair.victim.moved(), pair.survivor.moved()),
            (all.clone(), all),
            "seed {seed}, round {round}, stopped at {at}"
        );
    }
}

/// The connections that the host has a hand in: without listeners, and the last refused ones, which it lists for people who ask.
fn connections(host: &HostProcess) -> Vec<serde_json::Value> {
    let mut rows = host.connections();
    rows.retain(|row| row["state"] != "refused" && row["state"] != "listening");
    rows
}

/// Waits until the host has no more than it had before: no row, no descriptor.
fn nothing_left(host: &HostProcess, before: &[String], round: &str) {
    let mut rows = Vec::new();
    let gone = eventually(|| {
        rows = connections(host);
        rows.is_empty()
    });
    assert!(gone, "{round}: rows left: {rows:?}");
    let mut more = Vec::new();
    let none = eventually(|| {
        more = fd_kinds(host);
        for fd in before {
            more.iter().position(|kind| kind == fd).map(|at| more.remove(at));
        }
        more.is_empty()
    });
    assert!(none, "{round}: descriptors left: {more:?}");
}

/// What the host's descriptors are, without the numbers that differ between two of a kind.
fn fd_kinds(host: &HostProcess) -> Vec<String> {
    let kind = |target: String| match target.split_once(":[") {
        Some((kind @ ("socket" | "pipe"), _)) => kind.to_owned(),
        _ => target,
    };
    fd_targets(host.pid()).into_iter().map(kind).collect()
}

/// Both ends move bytes both ways; one is killed when the other has moved a random number of them. Some of the connections
/// are upgraded first, the others are killed somewhere around the switch.
fn host_has_nothing_left() {
    let (host, before, mut random, seed) = prepared();
    for round in 0..60 {
        let mut pair = Pair::new(Kind::Shm, &host, random.random(), random.random());
        let at = random.random_range(0..2_u64 << 20);
        let step = Move { write: ENDLESS, read: TO_THE_END, tell_at: None };
        pair.victim.tell(&Command::Move(pair.v, step));
        pair.survivor.tell(&Command::Move(pair.s, Move { tell_at: Some(at), ..step }));
        pair.survivor.moving();
        pair.victim.end();
        let end = pair.survivor.moved();
        let round = format!("seed {seed}, round {round}, killed at {at}");
        assert!(broke(end.write_end.as_deref()), "{round}: {end:?}");
        assert!(matches!(end.read_end.as_deref(), Some("eof" | "ConnectionReset")), "{round}: {end:?}");
        drop(pair);
        nothing_left(&host, &before, &round);
    }
}

fn host_has_nothing_left_of_both() {
    let (host, before, mut random, seed) = prepared();
    for round in 0..20 {
        let mut pair = Pair::new(Kind::Shm, &host, true, random.random());
        let at = random.random_range(0..2_u64 << 20);
        let step = Move { write: ENDLESS, read: TO_THE_END, tell_at: None };
        pair.victim.tell(&Command::Move(pair.v, step));
        pair.survivor.tell(&Command::Move(pair.s, Move { tell_at: Some(at), ..step }));
        pair.survivor.moving();
        pair.victim.signal(Signal::SIGKILL);
        pair.survivor.signal(Signal::SIGKILL);
        drop(pair);
        nothing_left(&host, &before, &format!("seed {seed}, round {round}, killed at {at}"));
    }
}

/// A host that has served and buried one connection, what it has open, and a source of moments.
///
/// What it has open is looked at while it may still be at that burial, or filling its stock up. That leaves room for one leak; the
/// rounds that follow have no room for a second.
fn prepared() -> (HostProcess, Vec<String>, StdRng, u64) {
    let host = HostProcess::start();
    drop(Pair::new(Kind::Shm, &host, true, true));
    wait_until("no connection left", || connections(&host).is_empty());
    let before = fd_kinds(&host);
    let seed = rand::random();
    (host, before, StdRng::seed_from_u64(seed), seed)
}
