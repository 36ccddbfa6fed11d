//! The processes of a crowd, as the run sees them.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command};
use std::time::{Duration, Instant};

use super::peer::{Answer, Ask};
use super::service::{Service, many_users, own_program};

/// The first user id that processes of a crowd are given, each another. Files belong to nobody of that range.
const USERS: u32 = 0x6100_0000;

/// One process. Killed when dropped.
pub(crate) struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
}

/// What came of one request.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Times, ns.
    pub(crate) took: Vec<u64>,
    /// Connections that stayed on TCP.
    pub(crate) failed: usize,
}

/// A process of this same program as the `n`-th user.
pub(crate) fn command(service: &Service, n: u32, name: &str) -> Command {
    let mut command = own_program();
    command.arg(name).env_remove("SHMBC_WAIT").env_remove("SHMBC_UPGRADE").env("SHMBC_HOST", service.socket());
    if many_users() {
        command.gid(USERS + n).uid(USERS + n);
    }
    command
}

impl Peer {
    /// Starts one, of the `n`-th user.
    pub(crate) fn start(service: &Service, n: u32) -> Result<Self, String> {
        let mut child = command(service, n, "peer").spawn().map_err(|e| format!("cannot start a peer: {e}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a peer has no standard input and output".into());
        };
        let nowhere = SocketAddr::from(([0; 4], 0));
        let mut peer = Self { child, input, output: BufReader::new(output), address: nowhere };
        match peer.hear()? {
            Answer::Accepts(address) => peer.address = address,
            other => return Err(format!("a peer says {other:?} instead of where it accepts")),
        }
        Ok(peer)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn say(&mut self, ask: &Ask) -> Result<(), String> {
        let mut line = serde_json::to_vec(ask).map_err(|e| e.to_string())?;
        line.push(b'\n');
        self.input.write_all(&line).map_err(|e| format!("a peer does not listen: {e}"))
    }

    fn hear(&mut self) -> Result<Answer, String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err("a peer has ended".into()),
            Ok(_) => serde_json::from_str(&line).map_err(|e| format!("a peer says {line:?}: {e}")),
            Err(error) => Err(format!("a peer cannot be heard: {error}")),
        }
    }

    pub(crate) fn done(&mut self) -> Result<Done, String> {
        match self.hear()? {
            Answer::Done { took, failed } => Ok(Done { took, failed }),
            Answer::Failed(why) => Err(why),
            Answer::Accepts(_) => Err("a peer says again where it accepts".into()),
        }
    }

    pub(crate) fn ask(&mut self, ask: &Ask) -> Result<Done, String> {
        self.say(ask)?;
        self.done()
    }

    fn kill(&mut self) {
        // Fails only when it has ended.
        let _ = self.child.kill();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// Processes that are connected with each other.
pub(crate) struct Crowd {
    peers: Vec<Peer>,
    connections: usize,
}

impl Crowd {
    pub(crate) fn start(service: &Service, processes: usize) -> Result<Self, String> {
        let peers = (0..processes).map(|n| Peer::start(service, n as u32)).collect::<Result<_, _>>()?;
        Ok(Self { peers, connections: 0 })
    }

    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.peers.iter().map(Peer::pid)
    }

    /// Makes connections on TCP until there are so many, each process to each other in turn.
    pub(crate) fn connect(&mut self, until: usize) -> Result<(), String> {
        let addresses: Vec<_> = self.peers.iter().map(|peer| peer.address).collect();
        let (processes, before) = (self.peers.len(), self.connections);
        let share = |all: usize, n: usize| all / processes + usize::from(n < all % processes);
        for (n, peer) in self.peers.iter_mut().enumerate() {
            let mut addresses = addresses.clone();
            addresses.rotate_left(n + 1);
            addresses.truncate(processes - 1);
            peer.say(&Ask::Connect { addresses, connections: share(until, n) - share(before, n) })?;
        }
        self.connections = until;
        self.done().map(drop)
    }

    /// Has all of them upgraded at once. How long that took, and what became of them.
    pub(crate) fn upgrade(&mut self) -> Result<(Duration, Done), String> {
        let begin = Instant::now();
        for peer in &mut self.peers {
            peer.say(&Ask::Upgrade)?;
        }
        let done = self.done()?;
        Ok((begin.elapsed(), done))
    }

    fn done(&mut self) -> Result<Done, String> {
        // Each is heard, whatever another has said.
        let answers: Vec<_> = self.peers.iter_mut().map(Peer::done).collect();
        let mut all = Done::default();
        for answer in answers {
            let done = answer?;
            all.took.extend(done.took);
            all.failed += done.failed;
        }
        Ok(all)
    }

    /// All at the same time, without a last word.
    pub(crate) fn kill(mut self) {
        self.peers.iter_mut().for_each(Peer::kill);
    }
}

/// Two processes of which one makes connections to the other, which are upgraded and closed again.
pub(crate) struct Probe([Peer; 2]);

impl Probe {
    /// As users that nobody else of the crowd is.
    pub(crate) fn start(service: &Service) -> Result<Self, String> {
        Ok(Self([Peer::start(service, 100_000)?, Peer::start(service, 100_001)?]))
    }

    /// So many, one every so often.
    pub(crate) fn run(&mut self, times: usize, every: Duration) -> Result<Done, String> {
        let address = self.0[1].address;
        self.0[0].ask(&Ask::Probe { address, times, every })
    }
}
