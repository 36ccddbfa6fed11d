//! One conversation with the host service: its socket, what waits to be sent, and how far the greeting has come.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::control::message::{PROTOCOL, ToClient, ToHost};
use crate::control::socket as control;
use crate::own::Own;

/// First and longest pause before the host service is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How long a host may take to answer `Hello`.
const WELCOME: Duration = Duration::from_secs(5);

/// Most frames that wait for a host that does not read. Beyond that the session is given up.
const OUTBOX_MAX: usize = 100_000;

pub(super) struct Session {
    socket: Own,
    outbox: VecDeque<ToHost>,
    since: Instant,
    welcomed: bool,
    /// The first locality table has come, so offers can be decided.
    pub(super) located: bool,
}

impl Session {
    pub(super) fn begin(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = Own::new(socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?)?;
        connect(socket.as_fd().as_raw_fd(), &UnixAddr::new(path)?)?;
        let outbox = VecDeque::from([ToHost::Hello { protocol: PROTOCOL }]);
        Ok(Self { socket, outbox, since: Instant::now(), welcomed: false, located: false })
    }

    /// What to wait for.
    pub(super) fn poll_fd(&self) -> PollFd<'_> {
        let out = if self.outbox.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        PollFd::new(self.socket.as_fd(), PollFlags::POLLIN | out)
    }

    /// Until when the host must have answered the greeting.
    pub(super) fn answer_due(&self) -> Option<Instant> {
        (!self.welcomed).then(|| self.since + WELCOME)
    }

    pub(super) fn say(&mut self, message: ToHost) {
        self.outbox.push_back(message);
    }

    /// Sends what can be sent.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while let Some(message) = self.outbox.front() {
            self.look()?;
            match control::send(self.socket.as_fd(), message, &[]) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.outbox.len() > OUTBOX_MAX {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the host service does not read"));
        }
        Ok(())
    }

    /// Before anything is said or heard: an error when the program has closed the socket, whose number may be another's.
    fn look(&self) -> io::Result<()> {
        if self.socket.is_ours() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::NotConnected, "the control socket was closed by the program"))
    }

    /// See [`Own::disown`].
    pub(super) fn disown(&self) {
        self.socket.disown();
    }

    /// The next message, the greeting aside. Nothing when none has come.
    pub(super) fn receive(&mut self) -> io::Result<Option<control::Received<ToClient>>> {
        let invalid = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why.to_owned()));
        loop {
            self.look()?;
            let received = match control::receive(self.socket.as_fd()) {
                Ok(Some(received)) => received,
                Ok(None) => {
                    return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the host service has closed"));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            match received.message {
                ToClient::Welcome { protocol: PROTOCOL, .. } => self.welcomed = true,
                ToClient::Welcome { .. } => return invalid("the host service speaks another version of the protocol"),
                _ if !self.welcomed => return invalid("the host service spoke before its welcome"),
                _ => return Ok(Some(received)),
            }
        }
    }
}

/// When to try the host service again.
#[derive(Default)]
pub(super) struct Retry {
    failures: u32,
    at: Option<Instant>,
}

impl Retry {
    /// Whether it has not been there when last tried.
    pub(super) const fn failing(&self) -> bool {
        self.failures > 0
    }

    /// When the next try is due; nothing before the first.
    pub(super) const fn at(&self) -> Option<Instant> {
        self.at
    }

    pub(super) fn due(&self) -> bool {
        self.at.is_none_or(|at| Instant::now() >= at)
    }

    pub(super) fn failed(&mut self, path: &Path, error: &io::Error) {
        if self.failures == 0 {
            tracing::info!(path = %path.display(), %error, "no host service: streams stay on TCP until there is one");
        }
        let pause = RETRY.0.saturating_mul(1 << self.failures.min(10)).min(RETRY.1);
        self.failures = self.failures.saturating_add(1);
        self.at = Some(Instant::now() + pause);
    }
}
