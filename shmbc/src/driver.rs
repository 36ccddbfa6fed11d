//! Drives one link over a real socket: what the streams of all runtimes call.
//!
//! [`link`](crate::link) decides where bytes go; here they are moved and waited for: `reading`, `writing`, `switch`. What
//! differs between runtimes is behind [`Socket`]. Reading and writing are independent; each has a side of its own, whose
//! lock only split halves ever share. The rule for going to sleep, in this order: register the task, forget past rings
//! and readiness, arm the mark and look at the ring, look at the lifeline.

mod around;
mod reading;
mod rest;
mod switch;
mod writing;

pub use around::Moved;
use rest::Rest;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::RecvFlags;
use socket2::SockRef;

use crate::agent;
use crate::config::Config;
use crate::link::{Granted, Path, Phase, Reason, Receiving, Sending};
use crate::pace::Pace;
use crate::reactor::{Socket, Way};
use crate::ring::{PeerFault, Wake};
use crate::storm::Storm;
use crate::traffic::Traffic;
use crate::upgrade::{OnNews, Shm, Upgrade};
use crate::wait::{WaitSetting, Waiting};

/// What both directions of a stream share.
#[derive(Debug)]
pub(crate) struct Driver<S: Socket> {
    /// Nothing once it has been taken out by `take_socket`, which ends the stream.
    tcp: Option<S>,
    pub(crate) upgrade: Arc<Upgrade>,
    pub(crate) wait: WaitSetting,
    traffic: Traffic,
    progress: Progress,
    /// The peer has sent a FIN and said that it goes on reading.
    peer_half_closed: AtomicBool,
    /// The process that made it. A forked child has a copy, which says nothing to the peer.
    process: u32,
    /// Bytes taken from one ring when its reader, and put into the other when its writer, last went to sleep.
    moved: [AtomicU64; 2],
}

/// The reading side.
#[derive(Debug, Default)]
pub(crate) struct ReadSide {
    link: Receiving,
    waiting: Waiting,
    pace: Pace,
    storm: Storm,
    rest: Rest,
    /// An error that readiness met and the next read reports.
    error: Option<io::Error>,
    /// Readable until a read shows that it is not, as a socket is in a reactor: the last one from the ring did not show it, or
    /// the stream was just accepted. (Else, on TCP, the reactor knows.)
    assumed: bool,
}

impl ReadSide {
    pub(crate) const fn assume_readable(&mut self) {
        self.assumed = true;
    }

    /// Whether it counts as readable though nothing is there.
    pub(crate) const fn is_assumed(&self) -> bool {
        self.assumed
    }
}

/// The writing side.
#[derive(Debug, Default)]
pub(crate) struct WriteSide {
    link: Sending,
    waiting: Waiting,
    storm: Storm,
    /// Bytes published when a half-closed peer was last probed.
    probed: u64,
    /// The last write to the ring did not show that it is full: it is writable until one does.
    assumed: bool,
}

impl WriteSide {
    /// Whether it counts as writable though there is no room.
    pub(crate) const fn is_assumed(&self) -> bool {
        self.assumed
    }
}

/// How an operation that may not block ends when it has moved less than it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Short {
    /// A poll: it has shown that there is no more, so the readiness is over. Saves the call that would say so.
    Ends,
    /// A `try_` call: in tokio only "would block" ends the readiness, and programs see the difference.
    EndsNothing,
}

/// How far the switch of each direction has come: bits that are set once.
#[derive(Debug, Default)]
struct Progress(AtomicU8);

impl Progress {
    const SENDS: u8 = 1;
    const RECEIVES: u8 = 2;
    /// Shut or at its end before it could switch.
    const SEND_ENDED: u8 = 4;
    const RECEIVE_ENDED: u8 = 8;
    /// Bytes went over the socket that the stream did not count: it can never switch.
    const UNCOUNTED: u8 = 16;
    /// The peer broke the format: the connection is reset.
    const FAULT: u8 = 32;

    #[inline]
    fn has(&self, bits: u8) -> bool {
        self.0.load(Ordering::Relaxed) & bits != 0
    }

    fn switched(&self) -> bool {
        let now = self.0.load(Ordering::Relaxed);
        now & (Self::SENDS | Self::SEND_ENDED) != 0
            && now & (Self::RECEIVES | Self::RECEIVE_ENDED) != 0
            && now & (Self::SENDS | Self::RECEIVES) != 0
    }
}

/// What there is before going to sleep.
enum Look {
    /// Try again: there are bytes, or room.
    Something,
    /// The peer has closed its side.
    End,
    /// Nothing; whoever is registered is woken when that changes.
    Nothing,
}

impl<S: Socket> Driver<S> {
    pub(crate) fn new(tcp: S, fresh: bool, on_news: Box<dyn OnNews>) -> Self {
        let config = Config::current();
        let reason = match (&config.host, fresh) {
            (None, _) => Reason::Disabled,
            (_, false) => Reason::UsedBefore,
            (Some(_), true) => Reason::NotYet,
        };
        Self {
            tcp: Some(tcp),
            upgrade: Upgrade::new(agent::next_id(), reason, on_news),
            wait: WaitSetting::new(config.wait),
            traffic: Traffic::default(),
            progress: Progress::default(),
            peer_half_closed: AtomicBool::new(false),
            process: std::process::id(),
            moved: Default::default(),
        }
    }

    #[inline]
    pub(crate) const fn socket(&self) -> &S {
        self.tcp.as_ref().expect("a stream has its socket until it is consumed")
    }

    /// Whether bytes lie in the socket: 1, or 0 at its end. Takes nothing; clears a readiness that is out of date.
    fn peek_tcp(&self) -> io::Result<usize> {
        self.socket().attempt(Way::In, || {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            Ok(rustix::net::recv(self.socket(), &mut [0_u8; 1], flags).map(|(_, n)| n)?)
        })
    }

    /// Takes the socket out of a stream that is consumed. Nothing when it is switched, or may be at any moment.
    pub(crate) fn take_socket(&mut self) -> Option<S> {
        if !self.upgrade.withdraw() {
            return None;
        }
        if self.upgrade.was_claimed() {
            agent::close(self.upgrade.id);
        }
        self.tcp.take()
    }

    pub(crate) fn path(&self) -> Path {
        if self.progress.switched() {
            return Path::SharedMemory;
        }
        if self.progress.has(Progress::UNCOUNTED) {
            return Path::Tcp(Reason::UsedBefore);
        }
        match self.upgrade.phase() {
            Phase::Tcp(reason) => Path::Tcp(reason),
            Phase::Offered | Phase::Ready | Phase::Go => Path::Tcp(Reason::NotYet),
        }
    }

    /// Shuts the write side: the peer reads what was written, then its end.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        // The mark first: whoever sees the FIN must see that this end goes on reading.
        self.upgrade.shut();
        self.progressed(Progress::SEND_ENDED);
        let done = match SockRef::from(self.socket()).shutdown(std::net::Shutdown::Write) {
            // Reset by the peer: there is nothing left to shut. tokio says the same.
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        };
        // A writer that sleeps on a full ring: it fails, as the kernel's would.
        self.upgrade.wakers().write.wake();
        done
    }

    /// The stream is dropped. What TCP does with the program's unread bytes is done for those in the ring: a reset. Bytes that
    /// are not the program's, a token or probes, must not cause one.
    pub(crate) fn close(&mut self, read: &mut ReadSide) {
        if self.is_inherited() {
            return self.abandon();
        }
        let Some(tcp) = &self.tcp else { return };
        if let Some(granted) = self.upgrade.granted()
            && !read.link.switched()
            && !granted.forbid_switch()
        {
            self.take_token(read);
        }
        if let Some(consumer) = read.link.ring() {
            if consumer.filled().is_ok_and(|n| n > 0) {
                let _ = SockRef::from(tcp).set_linger(Some(std::time::Duration::ZERO));
            } else if self.upgrade.is_shut() {
                let _ = self.lifeline(read);
            }
        }
        let token_on_its_way = self.next_is_token(read).then(|| read.link.token_left());
        if self.upgrade.was_claimed() {
            agent::close(self.upgrade.id);
        }
        if let Some(left) = token_on_its_way
            && let Some(tcp) = self.tcp.take()
            && SockRef::from(&tcp).shutdown(std::net::Shutdown::Write).is_ok()
            && let Ok(tcp) = tcp.into_std()
        {
            agent::close_behind_token(tcp.into(), left);
        }
    }

    /// Whether this is a forked child's copy of a stream that its parent has.
    pub(crate) fn is_inherited(&self) -> bool {
        self.process != std::process::id()
    }

    /// Closes a forked child's copy of the socket, and nothing else: the connection goes on in the parent, with which the child shares
    /// the block, the doorbells and the reactor's `epoll`. What else the stream had is left as it is, to the child's end.
    fn abandon(&mut self) {
        if let Some(tcp) = self.tcp.take() {
            crate::sys::close_only(tcp);
        }
        std::mem::forget(Arc::clone(&self.upgrade));
    }

    /// Whether the next byte by TCP is one of the peer's token, come or not.
    fn next_is_token(&self, read: &ReadSide) -> bool {
        let switched_at = self.upgrade.granted().and_then(Granted::peer_switched);
        switched_at.is_some() && switched_at == read.link.on_tcp()
    }

    /// The peer broke the format: the connection is reset, for both ends, now.
    #[cold]
    fn fault(&self, fault: PeerFault) -> io::Error {
        if !self.progress.has(Progress::FAULT) {
            self.progressed(Progress::FAULT);
            tracing::warn!(%fault, peer = ?self.upgrade.shm().map(|shm| &shm.peer), "connection reset");
            // Disconnecting sends the reset without waiting for the program to drop the stream.
            let _ = rustix::net::connect_unspec(self.socket());
        }
        io::Error::new(io::ErrorKind::ConnectionReset, fault)
    }

    #[inline]
    fn ring(&self, wake: Wake) {
        if wake == Wake::Peer
            && let Some(shm) = self.upgrade.shm()
            && let Err(error) = shm.ringer.ring()
        {
            tracing::error!(%error, "doorbell does not ring");
        }
    }

    fn shm(&self) -> io::Result<&Shm> {
        self.upgrade.shm().ok_or_else(|| io::Error::other("a ring without a grant"))
    }
}

fn would_block<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// A panic of another task's while it held the lock has left nothing half done: the link's steps do not panic in between.
pub(crate) fn lock<T>(side: &Mutex<T>) -> MutexGuard<'_, T> {
    side.lock().unwrap_or_else(PoisonError::into_inner)
}
