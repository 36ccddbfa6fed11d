//! One end is killed while both move bytes, at a random byte: some connections are upgraded by then, others are in the midst of it.
//! The other end has read an exact prefix, and then hears what TCP says; nothing is left in the host service.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rand::Rng;
use shmbc_tests::peer::{connect, upgraded};
use shmbc_tests::script::{Command, Kind, Move, TO_THE_END};
use shmbc_tests::sockets::eventually;
use shmbc_tests::{HostProcess, Peer, Setup};

use super::outcome::{Budget, Outcome};

/// Kills of a full run.
const FULL: u64 = 10_000;

/// More than both directions together can hold anywhere on the way.
const ENDLESS: u64 = 1 << 40;

/// The kill comes somewhere in the first bytes, both ways together: around the switch, or some turns of the ring later.
const WITHIN: u64 = 8 << 20;

/// Rounds after which the service is looked at.
const LOOK: u64 = 50;

pub(super) fn run(budget: &Budget) -> Outcome {
    let host = HostProcess::start();
    let mut outcome = Outcome::of_full(FULL);
    let mut times = Vec::new();
    outcome.rounds(budget, |round| {
        times.push(kill(&host)?);
        if round % LOOK == LOOK - 1 && !eventually(|| is_empty(&host)) {
            return Err(format!("the host service still has {:?}", host.connections()));
        }
        Ok(())
    });
    if !eventually(|| is_empty(&host)) {
        outcome.lose(format!("at the end the host service has {:?}", host.connections()));
    }
    times.sort_unstable();
    for (name, part) in [("end seen p50", 50), ("end seen p99", 99)] {
        if let Some(time) = times.get(times.len() * part / 100) {
            outcome.figure(name, format!("{:.2} ms", time.as_secs_f64() * 1e3));
        }
    }
    outcome
}

fn is_empty(host: &HostProcess) -> bool {
    host.connections().iter().all(|row| row["state"] == "refused" || row["state"] == "listening")
}

/// How long the survivor took to see it. That each byte was the one that was sent is the peers' own check, who fail otherwise.
fn kill(host: &HostProcess) -> Result<Duration, String> {
    let mut random = rand::rng();
    let setup = Setup::with_host(host.socket());
    let (mut client, mut server) = (Peer::start(&setup), Peer::start(&setup));
    let address = server.listen(Kind::Shm, Ipv4Addr::LOCALHOST);
    let (c, s) = connect(&mut client, Kind::Shm, &mut server, address);
    if random.random() {
        let said = upgraded(&mut client, c, &mut server, s);
        if said != ["upgraded"; 2] {
            return Err(format!("not upgraded: {said:?}"));
        }
    }
    let ((mut victim, v), (mut survivor, s)) =
        if random.random() { ((client, c), (server, s)) } else { ((server, s), (client, c)) };
    let at = random.random_range(0..WITHIN);
    let step = Move { write: ENDLESS, read: TO_THE_END, tell_at: None };
    victim.tell(&Command::Move(v, step));
    survivor.tell(&Command::Move(s, Move { tell_at: Some(at), ..step }));
    survivor.moving();
    let killed = Instant::now();
    victim.signal(nix::sys::signal::Signal::SIGKILL);
    let end = survivor.moved();
    let took = killed.elapsed();
    let broke = matches!(end.write_end.as_deref(), Some("BrokenPipe" | "ConnectionReset"));
    let ended = matches!(end.read_end.as_deref(), Some("eof" | "ConnectionReset"));
    if broke && ended { Ok(took) } else { Err(format!("killed at {at}, the survivor ended with {end:?}")) }
}
