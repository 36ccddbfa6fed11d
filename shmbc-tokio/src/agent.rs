//! The process's talk with the host service: one thread, one control socket, however many runtimes come and go.
//!
//! Streams hand it their offers and forget about them; it asks the locality table, offers, maps what is granted,
//! answers, and tells each stream through its [`Upgrade`]. When the host service goes away it comes back to it, and offers
//! again what has stayed on TCP for want of a host. Never on the data path: it may stop for a minute and no byte is late.
//!
//! The thread starts with the first listener or offer of the process and sleeps in `poll(2)`.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use shmbc::block::{self, BlockError};
use shmbc::control::message::{Decline, Grant, Offer, OfferId, PROTOCOL, Refusal, ToClient, ToHost};
use shmbc::control::socket as control;
use shmbc::doorbell::{Ringer, Waiter};
use shmbc::eventfd::EventFd;
use shmbc::link::{Event, Granted, Phase, Reason};
use shmbc::locality::{Locality, LocalityTable};
use tokio::runtime::Handle;

use crate::bell::Bell;
use crate::config::Config;
use crate::upgrade::{Shm, Upgrade};

/// First and longest pause before the host service is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How long an address that the table does not have may still come: a peer that has just said its first word to the host
/// service is told to everybody a moment later.
const UNKNOWN_YET: Duration = Duration::from_millis(500);

/// How long a host may take to answer `Hello`.
const WELCOME: Duration = Duration::from_secs(5);

/// How long a dropped stream's socket waits for a token. The peer writes it right after publishing its switch, so only one
/// that is stopped or dead takes longer.
const LEAVING: Duration = Duration::from_secs(5);

/// How long a writer that sleeps on the full ring of a half-closed peer waits before it probes again.
const PROBE_AGAIN: Duration = Duration::from_secs(1);

/// Most frames that wait for a host that does not read. Beyond that the session is given up.
const OUTBOX_MAX: usize = 100_000;

/// The part of the agent that streams reach.
#[derive(Debug)]
struct Agent {
    queue: Mutex<Vec<Command>>,
    wake: EventFd,
    locality: RwLock<LocalityTable>,
    /// A forked child has the memory of the agent, but not its thread.
    process: u32,
}

#[derive(Debug)]
enum Command {
    Offer(Box<Claim>),
    Close(OfferId),
    CloseBehindToken(Leaving),
    WakeAt(Instant, Weak<Upgrade>),
}

/// The socket of a stream that was dropped while its peer's token was on its way. Its write side is shut; it is closed once
/// the token has come, because closing it before would be answered with a reset.
#[derive(Debug)]
struct Leaving {
    socket: OwnedFd,
    /// Bytes of the token still to come.
    left: usize,
    until: Instant,
}

/// One stream's wish for an upgrade.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) upgrade: Weak<Upgrade>,
    pub(crate) id: OfferId,
    pub(crate) fd: RawFd,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) runtime: Handle,
    /// Offered because somebody asked, before the traffic showed that it is worth it: may be offered again.
    pub(crate) early: bool,
    pub(crate) since: Instant,
}

/// A number for a stream's offer; never used twice in this process.
pub(crate) fn next_id() -> OfferId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    OfferId(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Makes this process known to the host service, so that the addresses it listens on count as local.
pub(crate) fn announce() {
    let _ = agent();
}

/// Offers a stream. Says why not when that is clear at once.
pub(crate) fn offer(claim: Claim) -> Result<(), Reason> {
    if Config::current().host.is_none() {
        return Err(Reason::Disabled);
    }
    let agent = agent().ok_or(Reason::NoHost)?;
    agent.send(Command::Offer(Box::new(claim)));
    Ok(())
}

/// Says that a stream that was offered is gone.
pub(crate) fn close(id: OfferId) {
    if let Some(agent) = agent() {
        agent.send(Command::Close(id));
    }
}

/// Closes the socket of a dropped stream once the rest of its peer's token, `left` bytes, has come.
pub(crate) fn close_behind_token(socket: OwnedFd, left: usize) {
    if let Some(agent) = agent() {
        agent.send(Command::CloseBehindToken(Leaving { socket, left, until: Instant::now() + LEAVING }));
    }
}

/// Wakes whoever waits for this stream once, in a while. (A runtime's own timer may be switched off.)
pub(crate) fn wake_later(upgrade: &Arc<Upgrade>) {
    if let Some(agent) = agent()
        && upgrade.order_wake()
    {
        agent.send(Command::WakeAt(Instant::now() + PROBE_AGAIN, Arc::downgrade(upgrade)));
    }
}

/// What the host service has said about `ip`.
pub(crate) fn locality(ip: IpAddr) -> Locality {
    match agent() {
        Some(agent) => agent.locality.read().unwrap_or_else(PoisonError::into_inner).query(ip),
        None => LocalityTable::default().query(ip),
    }
}

/// The agent of this process, started at the first call. Nothing when acceleration is off, no thread could be
/// started, or this is a forked child.
fn agent() -> Option<&'static Agent> {
    static AGENT: OnceLock<Option<&'static Agent>> = OnceLock::new();
    let agent = AGENT.get_or_init(|| {
        let path = Config::current().host.as_deref()?;
        start(path).inspect_err(|error| tracing::warn!(%error, "no agent: streams stay on TCP")).ok()
    });
    agent.filter(|agent| agent.process == std::process::id())
}

fn start(path: &'static Path) -> io::Result<&'static Agent> {
    // Lives as long as the process: streams may be dropped in its very last moments.
    let agent: &'static Agent = Box::leak(Box::new(Agent {
        queue: Mutex::default(),
        wake: EventFd::new()?,
        locality: RwLock::default(),
        process: std::process::id(),
    }));
    let talk = Talk {
        agent,
        path,
        session: None,
        claims: HashMap::new(),
        leaving: Vec::new(),
        undecided: VecDeque::new(),
        wakes: VecDeque::new(),
        retry: Retry::default(),
    };
    std::thread::Builder::new().name("shmbc-agent".into()).spawn(move || {
        // The program's signals are for the program's threads.
        let _ = nix::sys::signal::SigSet::all().thread_block();
        talk.run();
    })?;
    Ok(agent)
}

impl Agent {
    fn send(&self, command: Command) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        if let Err(error) = self.wake.notify() {
            tracing::error!(%error, "cannot wake the agent");
        }
    }
}

/// The part of the agent that its thread owns.
struct Talk {
    agent: &'static Agent,
    path: &'static Path,
    session: Option<Session>,
    /// Every stream that was offered or wants to be, until it is closed.
    claims: HashMap<OfferId, Claim>,
    leaving: Vec<Leaving>,
    /// Claims whose peer's address is not known yet, in the order in which that is taken for an answer.
    undecided: VecDeque<(Instant, OfferId)>,
    /// In the order in which they are due.
    wakes: VecDeque<(Instant, Weak<Upgrade>)>,
    retry: Retry,
}

struct Session {
    socket: OwnedFd,
    outbox: VecDeque<ToHost>,
    since: Instant,
    welcomed: bool,
    /// The first locality table has come, so offers can be decided.
    located: bool,
}

#[derive(Default)]
struct Retry {
    failures: u32,
    at: Option<Instant>,
}

impl Retry {
    fn due(&self) -> bool {
        self.at.is_none_or(|at| Instant::now() >= at)
    }

    fn failed(&mut self, path: &Path, error: &io::Error) {
        if self.failures == 0 {
            tracing::info!(path = %path.display(), %error, "no host service: streams stay on TCP until there is one");
        }
        let pause = RETRY.0.saturating_mul(1 << self.failures.min(10)).min(RETRY.1);
        self.failures = self.failures.saturating_add(1);
        self.at = Some(Instant::now() + pause);
    }
}

impl Talk {
    fn run(mut self) {
        loop {
            let commands = std::mem::take(&mut *self.agent.queue.lock().unwrap_or_else(PoisonError::into_inner));
            for command in commands {
                self.carry_out(command);
            }
            if self.session.is_none() && self.retry.due() {
                match Session::begin(self.path) {
                    Ok(session) => self.session = Some(session),
                    Err(error) => self.lost(&error),
                }
            }
            if let Err(error) = self.turn() {
                self.session = None;
                self.lost(&error);
            }
        }
    }

    /// Sleeps until something happens, then sends and receives what there is. An error ends the session.
    fn turn(&mut self) -> io::Result<()> {
        let mut fds = vec![PollFd::new(self.agent.wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.leaving.iter().map(|leaving| PollFd::new(leaving.socket.as_fd(), PollFlags::POLLIN)));
        let timeout = match &self.session {
            Some(session) => {
                let out = if session.outbox.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
                fds.push(PollFd::new(session.socket.as_fd(), PollFlags::POLLIN | out));
                (!session.welcomed).then(|| WELCOME.saturating_sub(session.since.elapsed()))
            }
            None => self.retry.at.map(|at| at.saturating_duration_since(Instant::now())),
        };
        let leaving = self.leaving.iter().map(|leaving| leaving.until.saturating_duration_since(Instant::now()));
        let decision = self.undecided.front().map(|(due, _)| due.saturating_duration_since(Instant::now()));
        let wake = self.wakes.front().map(|(due, _)| due.saturating_duration_since(Instant::now()));
        let timeout = timeout.into_iter().chain(leaving).chain(decision).chain(wake).min();
        // Rounded up: a timeout of a fraction of a millisecond must not become a busy loop.
        let timeout = timeout
            .map_or(PollTimeout::NONE, |t| PollTimeout::try_from(t.as_millis() as i32 + 1).unwrap_or(PollTimeout::MAX));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.agent.wake.take()?;
        self.leaving.retain_mut(|leaving| !leaving.is_over());
        while self.undecided.front().is_some_and(|(due, _)| Instant::now() >= *due) {
            if let Some((_, id)) = self.undecided.pop_front() {
                self.submit_again(id);
            }
        }
        while self.wakes.front().is_some_and(|(due, _)| Instant::now() >= *due) {
            if let Some(upgrade) = self.wakes.pop_front().and_then(|(_, upgrade)| upgrade.upgrade()) {
                upgrade.wake();
            }
        }
        if self.session.is_some() {
            self.flush()?;
            while let Some(received) = self.receive()? {
                self.heard(received)?;
            }
        }
        if let Some(session) = &self.session
            && !session.welcomed
            && session.since.elapsed() >= WELCOME
        {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the host service does not answer"));
        }
        Ok(())
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::CloseBehindToken(leaving) => self.leaving.push(leaving),
            Command::WakeAt(due, upgrade) => self.wakes.push_back((due, upgrade)),
            Command::Offer(claim) => {
                let id = claim.id;
                self.claims.insert(id, *claim);
                self.submit(id);
            }
            Command::Close(id) => {
                if self.claims.remove(&id).is_some() {
                    self.say(ToHost::Close(id));
                }
            }
        }
    }

    /// Offers one claim if the host can be asked and the peer is here.
    fn submit(&mut self, id: OfferId) {
        let Some(claim) = self.claims.get(&id) else { return };
        let Some(upgrade) = claim.upgrade.upgrade() else { return };
        match &self.session {
            None if self.retry.failures > 0 => return upgrade.stay(Reason::NoHost),
            Some(session) if session.located => {}
            _ => return, // Submitted when the table has come.
        }
        let local = claim.local.ip().to_canonical() == claim.peer.ip().to_canonical();
        let table = self.agent.locality.read().unwrap_or_else(PoisonError::into_inner);
        if !local && table.query(claim.peer.ip()) == Locality::Remote {
            drop(table);
            let answer = claim.since + UNKNOWN_YET;
            if Instant::now() < answer {
                return self.undecided.push_back((answer, id));
            }
            return upgrade.stay(Reason::Remote);
        }
        drop(table);
        if upgrade.on(Event::Offer) == Phase::Offered {
            let Claim { fd, local, peer, .. } = *claim;
            self.say(ToHost::Offer(Offer { id, fd, local, peer, cpu: shmbc::sys::current_cpu() }));
        }
    }

    /// Submits again every claim that is on TCP for want of a host or of knowledge.
    fn resubmit(&mut self) {
        self.undecided.clear();
        let ids: Vec<_> = self.claims.keys().copied().collect();
        for id in ids {
            self.submit_again(id);
        }
    }

    fn submit_again(&mut self, id: OfferId) {
        let phase = self.claims.get(&id).and_then(|claim| claim.upgrade.upgrade()).map(|upgrade| upgrade.phase());
        if let Some(Phase::Tcp(Reason::NotYet | Reason::NoHost | Reason::Remote | Reason::Refused(Refusal::Draining))) =
            phase
        {
            self.submit(id);
        }
    }

    fn heard(&mut self, received: control::Received<ToClient>) -> io::Result<()> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        let Some(session) = &mut self.session else { return Ok(()) };
        match received.message {
            ToClient::Welcome { protocol: PROTOCOL, .. } => session.welcomed = true,
            ToClient::Welcome { .. } => return Err(invalid("the host service speaks another version of the protocol")),
            _ if !session.welcomed => return Err(invalid("the host service spoke before its welcome")),
            ToClient::Locality { fresh, entries } => {
                session.located = true;
                self.retry = Retry::default();
                self.agent.locality.write().unwrap_or_else(PoisonError::into_inner).update(fresh, entries);
                self.resubmit();
            }
            ToClient::Grant(grant) => self.granted(grant, received.fds),
            ToClient::Go(id) => self.tell(id, Event::Go),
            ToClient::Refused(id, refusal) => self.refused(id, refusal),
            ToClient::Connections { .. } | ToClient::Containers { .. } | ToClient::Forbidden { .. } => {}
        }
        Ok(())
    }

    fn tell(&self, id: OfferId, event: Event) {
        if let Some(upgrade) = self.claims.get(&id).and_then(|claim| claim.upgrade.upgrade()) {
            upgrade.on(event);
        }
    }

    fn refused(&mut self, id: OfferId, refusal: Refusal) {
        tracing::debug!(%id, %refusal, "stays on TCP");
        let Some(claim) = self.claims.get(&id) else { return };
        let Some(upgrade) = claim.upgrade.upgrade() else { return };
        upgrade.on(Event::Refused(refusal));
        if claim.early {
            upgrade.may_offer_again();
        }
    }

    /// Checks, maps and registers a grant, and answers.
    fn granted(&mut self, grant: Grant, fds: Vec<OwnedFd>) {
        let id = grant.id;
        let Some((upgrade, runtime)) =
            self.claims.get(&id).and_then(|claim| Some((claim.upgrade.upgrade()?, claim.runtime.clone())))
        else {
            return self.say(ToHost::Decline(id, Decline::Closed));
        };
        if upgrade.phase() != Phase::Offered {
            return;
        }
        match accept(grant, fds, &runtime) {
            Ok(shm) => {
                upgrade.grant(shm);
                // Not ready when the stream has withdrawn meanwhile.
                let ready = upgrade.on(Event::Mapped) == Phase::Ready;
                self.say(if ready { ToHost::Ready(id) } else { ToHost::Decline(id, Decline::Closed) });
            }
            Err(why) => {
                tracing::warn!(%id, %why, "grant not usable");
                upgrade.on(Event::Declined(why));
                self.say(ToHost::Decline(id, why));
            }
        }
    }

    fn say(&mut self, message: ToHost) {
        if let Some(session) = &mut self.session {
            session.outbox.push_back(message);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        while let Some(message) = session.outbox.front() {
            match control::send(session.socket.as_fd(), message, &[]) {
                Ok(()) => drop(session.outbox.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if session.outbox.len() > OUTBOX_MAX {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the host service does not read"));
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<Option<control::Received<ToClient>>> {
        self.flush()?;
        let Some(session) = &self.session else { return Ok(None) };
        match control::receive(session.socket.as_fd()) {
            Ok(Some(received)) => Ok(Some(received)),
            Ok(None) => Err(io::Error::new(io::ErrorKind::ConnectionReset, "the host service has closed")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// There is no session: every offer that was out is on TCP again.
    fn lost(&mut self, error: &io::Error) {
        self.retry.failed(self.path, error);
        self.agent.locality.write().unwrap_or_else(PoisonError::into_inner).clear();
        for upgrade in self.claims.values().filter_map(|claim| claim.upgrade.upgrade()) {
            if upgrade.on(Event::HostLost) == Phase::Tcp(Reason::NotYet) {
                upgrade.stay(Reason::NoHost);
            }
        }
    }
}

impl Leaving {
    /// Takes what has come of the token. True when the socket can be closed.
    fn is_over(&mut self) -> bool {
        let mut token = [0; 16];
        match rustix::net::recv(&self.socket, &mut token[..self.left], rustix::net::RecvFlags::DONTWAIT) {
            Ok((_, n)) => {
                self.left -= n;
                n == 0 || self.left == 0
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Instant::now() >= self.until,
            Err(_) => true,
        }
    }
}

impl Session {
    fn begin(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &UnixAddr::new(path)?)?;
        let outbox = VecDeque::from([ToHost::Hello { protocol: PROTOCOL }]);
        Ok(Self { socket, outbox, since: Instant::now(), welcomed: false, located: false })
    }
}

/// Everything a grant must pass before a stream sees it.
fn accept(grant: Grant, fds: Vec<OwnedFd>, runtime: &Handle) -> Result<Shm, Decline> {
    let sizes = grant.sizes().map_err(|_| Decline::Unsound)?;
    let [block, ring, wait] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| Decline::Unsound)?;
    let mapping = block::verify(block, sizes).map_err(|error| match error {
        BlockError::Io(error) => {
            tracing::warn!(%error, "block not mapped");
            Decline::OutOfResources
        }
        error => {
            tracing::warn!(%error, "block not mapped");
            Decline::Unsound
        }
    })?;
    let ringer = Ringer::adopt(ring).map_err(|_| Decline::Unsound)?;
    let bell = Bell::register(Waiter::adopt(wait), runtime).map_err(|error| {
        tracing::warn!(%error, "doorbell not registered");
        Decline::OutOfResources
    })?;
    let granted = Granted::new(mapping, sizes, grant.end, grant.send_token, grant.receive_token);
    Ok(Shm { granted, ringer, bell, peer: grant.peer })
}
