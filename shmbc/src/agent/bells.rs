//! Doorbells that the agent listens to for streams whose reactor cannot: mio's, whose doorbells can only be seen as readable.

#![cfg_attr(not(feature = "mio"), allow(dead_code))]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Weak};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::{Command, agent};
use crate::doorbell::Waiter;
use crate::own;

/// A stream that wants to hear of rings.
pub(crate) trait Rung: Send + Sync {
    /// It may have been rung. False: it wants to hear no more.
    fn rung(&self) -> bool;
}

/// Tells `stream` of each ring of `bell` until it wants to hear no more, or is gone.
pub(crate) fn listen(bell: &Arc<Waiter>, stream: &Arc<dyn Rung>) {
    if let Some(agent) = agent() {
        agent.send(Command::Listen(Listen::new(bell, stream)));
    }
}

/// An epoll instance of the agent's own, edge-triggered as every other that watches doorbells.
#[derive(Debug)]
pub(super) struct Bells {
    epoll: OwnedFd,
    next: u64,
    listeners: HashMap<u64, Listener>,
}

/// The doorbell belongs to the stream: when that closes it, the kernel takes it out of the instance.
struct Listener {
    bell: Weak<Waiter>,
    stream: Weak<dyn Rung>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("bell", &self.bell).finish_non_exhaustive()
    }
}

/// Events taken at once.
const BATCH: usize = 64;

impl Bells {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: own::high(epoll::create(CreateFlags::CLOEXEC)?), next: 0, listeners: HashMap::new() })
    }

    pub(super) fn listen(&mut self, bell: &Weak<Waiter>, stream: Weak<dyn Rung>) -> io::Result<()> {
        self.listeners.retain(|_, listener| listener.stream.strong_count() > 0);
        let Some(waiter) = bell.upgrade() else { return Ok(()) };
        self.next += 1;
        epoll::add(&self.epoll, &*waiter, EventData::new_u64(self.next), EventFlags::IN | EventFlags::ET)?;
        self.listeners.insert(self.next, Listener { bell: Weak::clone(bell), stream });
        Ok(())
    }

    /// Gives the instance up, whose number may be another's: it is never used or closed again. What it was to listen to.
    pub(super) fn disown(self) -> impl Iterator<Item = Listen> {
        let _ = self.epoll.into_raw_fd();
        self.listeners.into_values().map(|Listener { bell, stream }| Listen { bell, stream })
    }

    /// Tells those that were rung.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; BATCH];
        let n = match epoll::wait(&self.epoll, &mut events, Some(&Timespec::default())) {
            Ok(n) => n,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for id in events[..n].iter().map(|event| event.data.u64()) {
            let Some(listener) = self.listeners.get(&id) else { continue };
            let goes_on = listener.stream.upgrade().is_some_and(|stream| stream.rung());
            if !goes_on
                && let Some(listener) = self.listeners.remove(&id)
                && let Some(bell) = listener.bell.upgrade()
            {
                epoll::delete(&self.epoll, &*bell)?;
            }
        }
        Ok(())
    }
}

impl AsFd for Bells {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// What `listen` hands to the agent's thread.
pub(super) struct Listen {
    pub(super) bell: Weak<Waiter>,
    pub(super) stream: Weak<dyn Rung>,
}

impl Listen {
    pub(super) fn new(bell: &Arc<Waiter>, stream: &Arc<dyn Rung>) -> Self {
        Self { bell: Arc::downgrade(bell), stream: Arc::downgrade(stream) }
    }
}

impl std::fmt::Debug for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listen").field("bell", &self.bell).finish_non_exhaustive()
    }
}
