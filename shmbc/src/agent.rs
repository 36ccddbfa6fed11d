//! The process's talk with the host service: one thread, one control socket, however many runtimes come and go.
//!
//! Streams hand it their offers and forget about them; it asks the locality table, offers, maps what is granted,
//! answers, and tells each stream through its [`Upgrade`]. When the host service goes away it comes back to it, and offers
//! again what has stayed on TCP for want of a host. Never on the data path: it may stop for a minute and no byte is late.
//!
//! The thread starts with the first listener or offer of the process and sleeps in `poll(2)`. When the program closes its
//! descriptors (see [`own`](crate::own)) it ends, and another one goes on when there is something to do. Here is what streams
//! reach of it; [`talk`] is the thread, [`session`] its socket.

pub(crate) mod bells;
mod due;
mod grant;
mod leaving;
mod session;
mod talk;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::control::message::{Listening, OfferId};
use crate::link::Reason;
use crate::locality::{Locality, LocalityTable};
use crate::own::{self, Bell};
use crate::reactor::Registrar;
use crate::upgrade::Upgrade;
use bells::Listen;
use leaving::Leaving;
use talk::{Left, Talk};

/// The part of the agent that streams reach.
#[derive(Debug)]
struct Agent {
    path: &'static Path,
    desk: Mutex<Desk>,
    locality: RwLock<LocalityTable>,
    /// A forked child has the memory of the agent, but not its thread.
    process: u32,
}

/// Where streams leave commands for the thread.
#[derive(Debug, Default)]
struct Desk {
    queue: Vec<Command>,
    /// Wakes the thread. Nothing when there is none.
    bell: Option<Arc<Bell>>,
    /// A thread has been begun, and will look here.
    beginning: bool,
    /// Which thread it is for, counted. One that finds another's number here ends.
    thread: u64,
    /// What a thread that ended has left to the next one.
    left: Option<Left>,
}

#[derive(Debug)]
enum Command {
    Offer(Box<Claim>),
    Register(Listening),
    Close(OfferId),
    CloseBehindToken(Leaving),
    WakeAt(Instant, Weak<Upgrade>),
    #[cfg_attr(not(feature = "mio"), allow(dead_code, reason = "only mio's streams cannot listen themselves"))]
    Listen(Listen),
}

/// One stream's wish for an upgrade.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) upgrade: Weak<Upgrade>,
    pub(crate) id: OfferId,
    pub(crate) fd: RawFd,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) registrar: Box<dyn Registrar>,
    /// Offered because somebody asked, before the traffic showed that it is worth it: may be offered again.
    pub(crate) early: bool,
    /// Where the stream's thread ran.
    pub(crate) cpu: u32,
    pub(crate) since: Instant,
}

/// A number for a stream's offer; never used twice in this process.
pub(crate) fn next_id() -> OfferId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    OfferId(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A listening socket, of which the host service knows so that its addresses count as local and people can see it: what every kind
/// of listener is made of.
///
/// Dropping it closes the socket, which the host service is told before. A forked child's copy only closes the descriptor: the
/// child shares the reactor's `epoll` with its parent, whose listener goes on.
#[derive(Debug)]
pub struct Listener<L: AsFd> {
    // Before the socket, so that the host service is told before the number can be another one's.
    registration: Registration,
    /// Nothing once it has been taken out.
    socket: Option<L>,
    /// The process that made it.
    process: u32,
}

impl<L: AsFd> Listener<L> {
    /// Tells the host service of `socket`.
    pub fn new(socket: L) -> Self {
        Self { registration: register(socket.as_fd()), socket: Some(socket), process: std::process::id() }
    }

    /// The socket.
    pub const fn socket(&self) -> &L {
        self.socket.as_ref().expect("a listener has its socket until it is consumed")
    }

    /// The socket, to be changed where it is.
    pub const fn socket_mut(&mut self) -> &mut L {
        self.socket.as_mut().expect("a listener has its socket until it is consumed")
    }

    /// Takes the socket out, of which the host service knows no longer.
    pub fn into_socket(mut self) -> L {
        self.registration = Registration(None);
        self.socket.take().expect("a listener has its socket until it is consumed")
    }
}

impl<L: AsFd> Drop for Listener<L> {
    fn drop(&mut self) {
        if self.process != std::process::id()
            && let Some(socket) = self.socket.take()
        {
            crate::sys::close_only(socket);
        }
    }
}

/// A listener that the host service knows of, until this is dropped.
#[derive(Debug)]
struct Registration(Option<OfferId>);

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            close(id);
        }
    }
}

fn register(socket: BorrowedFd<'_>) -> Registration {
    let local = rustix::net::getsockname(socket).ok().and_then(|address| SocketAddr::try_from(address).ok());
    let (Some(agent), Some(local)) = (agent(), local) else { return Registration(None) };
    let listening = Listening { id: next_id(), fd: socket.as_raw_fd(), local };
    agent.send(Command::Register(listening));
    Registration(Some(listening.id))
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
    if let Some(agent) = agent()
        && let Ok(leaving) = Leaving::new(socket, left)
    {
        agent.send(Command::CloseBehindToken(leaving));
    }
}

/// Wakes whoever waits for this stream once, after so long, unless that has been ordered before. (A runtime's own timer may be
/// switched off.)
pub(crate) fn wake_later(upgrade: &Arc<Upgrade>, after: Duration) {
    if let Some(agent) = agent()
        && upgrade.order_wake()
    {
        agent.send(Command::WakeAt(Instant::now() + after, Arc::downgrade(upgrade)));
    }
}

/// What the host service has said about `ip`: on this host (and in which container), elsewhere, or not known because no host
/// service has answered yet. Costs no message: the host pushes its table to every client.
///
/// The first call of a process starts the conversation with the host service, so it may answer
/// [`Locality::Unknown`] where a later one knows.
pub fn query(ip: IpAddr) -> Locality {
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
        path,
        desk: Mutex::default(),
        locality: RwLock::default(),
        process: std::process::id(),
    }));
    agent.begin(&mut agent.desk())?;
    Ok(agent)
}

impl Agent {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&'static self, command: Command) {
        // What has ended needs no thread. So a program that closes its descriptors, and then drops what it had, finds nobody who
        // opens others.
        let wanted = !matches!(command, Command::Close(_));
        let mut desk = self.desk();
        desk.queue.push(command);
        if desk.beginning {
            return;
        }
        let (bell, thread) = (desk.bell.clone(), desk.thread);
        drop(desk);
        if bell.is_some_and(|bell| bell.ring()) || !wanted {
            return;
        }
        let mut desk = self.desk();
        // Another thread that has been begun meanwhile finds the command.
        let begun = desk.beginning || desk.thread != thread && desk.bell.is_some();
        if !begun && let Err(error) = self.begin(&mut desk) {
            let queue = std::mem::take(&mut desk.queue);
            drop(desk);
            nobody(queue, &error);
        }
    }

    /// Begins a thread, with descriptors of its own.
    fn begin(&'static self, desk: &mut Desk) -> io::Result<()> {
        if let Some(bell) = desk.bell.take() {
            own::notice_sweep();
            bell.disown();
        }
        let thread = desk.thread + 1;
        std::thread::Builder::new().name("shmbc-agent".into()).spawn(move || {
            // The program's signals are for the program's threads.
            let _ = nix::sys::signal::SigSet::all().thread_block();
            // Here and not where a stream waits for it: making room for a high number may take milliseconds.
            match own::bell() {
                Ok((bell, ear)) => {
                    let mut desk = self.desk();
                    (desk.bell, desk.beginning) = (Some(Arc::new(bell)), false);
                    drop(desk);
                    Talk::new(self, thread, ear).run();
                }
                Err(error) => {
                    let mut desk = self.desk();
                    desk.beginning = false;
                    let queue = std::mem::take(&mut desk.queue);
                    drop(desk);
                    nobody(queue, &error);
                }
            }
        })?;
        (desk.thread, desk.beginning) = (thread, true);
        Ok(())
    }
}

/// There is no thread that could do this, for now.
fn nobody(queue: Vec<Command>, error: &io::Error) {
    tracing::warn!(%error, "no agent: streams stay on TCP");
    for command in queue {
        if let Command::Offer(claim) = command
            && let Some(upgrade) = claim.upgrade.upgrade()
        {
            upgrade.stay(Reason::NoHost);
        }
    }
}
