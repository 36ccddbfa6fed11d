//! The agent's thread: what it owns, what it waits for, and what it answers.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::bells::{Bells, Listen};
use super::due::{Due, Task};
use super::grant::{self, Accepted, Pending};
use super::leaving::{self, Leaving};
use super::session::{Retry, Session};
use super::{Agent, Claim, Command};
use crate::control::message::{Announcement, Decline, Grant, Listening, Offer, OfferId, Refusal, ToClient, ToHost};
use crate::control::socket as control;
use crate::link::{Event, Phase, Reason};
use crate::locality::Locality;
use crate::own::{self, Ear};
use crate::upgrade::{Shm, Upgrade};

/// How long an address that the table does not have may still come: a peer that has just said its first word to the host
/// service is told to everybody a moment later.
const UNKNOWN_YET: Duration = Duration::from_millis(500);

/// How long it waits where it cannot wait for anything.
const PAUSE: Duration = Duration::from_millis(100);

/// The part of the agent that its thread owns.
pub(super) struct Talk {
    agent: &'static Agent,
    /// Which of the process's agents it is, counted.
    thread: u64,
    ear: Ear,
    session: Option<Session>,
    retry: Retry,
    /// Every stream that was offered or wants to be, until it is closed.
    claims: HashMap<OfferId, Claim>,
    listeners: HashMap<OfferId, Listening>,
    /// Grants of claims that are mapped and must not be touched yet.
    pending: HashMap<OfferId, Pending>,
    due: Due,
    leaving: Vec<Leaving>,
    /// Made when the first stream needs it.
    bells: Option<Bells>,
}

/// What one thread leaves to the next, when the program has closed its descriptors: what was offered and what listens may be as
/// it was. (Where it is not, the host service finds something else under its number, and refuses.)
#[derive(Debug)]
pub(super) struct Left {
    claims: HashMap<OfferId, Claim>,
    listeners: HashMap<OfferId, Listening>,
}

/// Why a turn was the last.
enum End {
    /// Of the session.
    Session(io::Error),
    /// Of the thread: its descriptors are not its own any more, or another thread has taken over.
    Swept,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Session(error)
    }
}

impl Talk {
    pub(super) fn new(agent: &'static Agent, thread: u64, ear: Ear) -> Self {
        Self {
            agent,
            thread,
            ear,
            session: None,
            retry: Retry::default(),
            claims: HashMap::new(),
            listeners: HashMap::new(),
            pending: HashMap::new(),
            due: Due::default(),
            leaving: Vec::new(),
            bells: None,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let Some(commands) = self.commands() else { return self.leave() };
            for command in commands {
                self.carry_out(command);
            }
            if self.session.is_none() && self.retry.due() {
                match Session::begin(self.agent.path) {
                    Ok(session) => self.session = Some(session),
                    Err(error) => self.lost(&error),
                }
            }
            match self.turn() {
                Ok(()) => {}
                Err(End::Session(error)) => {
                    self.session = None;
                    self.lost(&error);
                }
                Err(End::Swept) => return self.leave(),
            }
        }
    }

    /// What there is to do; what another thread has left, at first. Nothing when it is another thread's by now.
    fn commands(&mut self) -> Option<Vec<Command>> {
        let mut desk = self.agent.desk();
        if desk.thread != self.thread {
            return None;
        }
        if let Some(left) = desk.left.take() {
            (self.claims, self.listeners) = (left.claims, left.listeners);
        }
        Some(std::mem::take(&mut desk.queue))
    }

    /// Sleeps until something happens, then sends and receives what there is.
    fn turn(&mut self) -> Result<(), End> {
        // Under the number of another file there may be nothing to wake it.
        if !self.ear.is_ours() {
            return Err(End::Swept);
        }
        let mut fds = vec![PollFd::new(self.ear.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.bells.as_ref().map(|bells| PollFd::new(bells.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.leaving.iter().map(|leaving| PollFd::new(leaving.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.session.as_ref().map(Session::poll_fd));
        let host = self.session.as_ref().map_or_else(|| self.retry.at(), Session::answer_due);
        let next = self.leaving.iter().map(Leaving::until).chain(host).chain(self.due.next()).min();
        // Rounded up: a timeout of a fraction of a millisecond must not become a busy loop.
        let timeout = next.map_or(PollTimeout::NONE, |next| {
            let millis = next.saturating_duration_since(Instant::now()).as_millis() as i32 + 1;
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                // No memory, or the limit of descriptors was lowered below what it has: that must not become a busy loop either.
                std::thread::sleep(PAUSE);
                return Err(io::Error::from(error).into());
            }
        }
        if !self.ear.hear() {
            return Err(End::Swept);
        }
        if let Some(bells) = &mut self.bells
            && let Err(error) = bells.turn()
        {
            tracing::error!(%error, "doorbells are not heard");
            let listeners = self.bells.take().map(Bells::disown).into_iter().flatten();
            listeners.for_each(|listen| self.listen(listen));
        }
        self.leaving.retain_mut(|leaving| !leaving.is_over());
        let now = Instant::now();
        while let Some(task) = self.due.take(now) {
            match task {
                Task::Decide(id) => self.submit_again(id),
                Task::Wake(upgrade) => drop(upgrade.upgrade().inspect(|upgrade| upgrade.wake())),
            }
        }
        Ok(self.converse()?)
    }

    /// The end of the thread. It has no number left that it may use or close: they may be the program's files by now, or be about
    /// to be closed. So it gives them all up. Another thread is begun when somebody has something to say: not before, because a
    /// program that cleans up may want to have the next numbers for itself.
    fn leave(mut self) {
        own::notice_sweep();
        self.ear.disown();
        self.session.iter().for_each(Session::disown);
        self.leaving.iter().for_each(Leaving::disown);
        // Mapped, and with descriptors that are no longer known to be theirs.
        self.pending.drain().for_each(std::mem::forget);
        let listens = self.bells.take().map(Bells::disown);
        if self.agent.desk().thread == self.thread {
            self.agent.locality.write().unwrap_or_else(PoisonError::into_inner).clear();
        }
        self.strand();
        for upgrade in self.due.take_wakes() {
            drop(upgrade.upgrade().inspect(|upgrade| upgrade.wake()));
        }
        let mut desk = self.agent.desk();
        if desk.thread == self.thread {
            if let Some(bell) = desk.bell.take() {
                bell.disown();
            }
            desk.queue.extend(listens.into_iter().flatten().map(Command::Listen));
            desk.left = Some(Left { claims: self.claims, listeners: self.listeners });
        }
    }

    fn converse(&mut self) -> io::Result<()> {
        while let Some(session) = &mut self.session {
            session.flush()?;
            match session.receive()? {
                Some(received) => self.heard(received),
                None if session.answer_due().is_some_and(|due| Instant::now() >= due) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the host service does not answer"));
                }
                None => break,
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::CloseBehindToken(leaving) => {
                if self.leaving.len() >= leaving::most() {
                    // The oldest has waited longest for what takes an honest peer microseconds.
                    self.leaving.remove(0);
                }
                self.leaving.push(leaving);
            }
            Command::WakeAt(due, upgrade) => self.due.at(due, Task::Wake(upgrade)),
            Command::Listen(listen) => self.listen(listen),
            Command::Offer(claim) => {
                let id = claim.id;
                self.claims.insert(id, *claim);
                self.submit(id);
            }
            Command::Register(listening) => {
                self.listeners.insert(listening.id, listening);
                if self.is_located() {
                    self.say(ToHost::Listen(listening));
                }
            }
            Command::Close(id) => {
                self.pending.remove(&id);
                if self.claims.remove(&id).is_some() || self.listeners.remove(&id).is_some() {
                    self.say(ToHost::Close(id));
                }
            }
        }
    }

    fn listen(&mut self, Listen { bell, stream }: Listen) {
        let listening = match &mut self.bells {
            Some(bells) => bells.listen(&bell, stream),
            none => Bells::new().and_then(|bells| none.insert(bells).listen(&bell, stream)),
        };
        if let Err(error) = listening {
            tracing::error!(%error, "a full ring that has room again will not be reported");
        }
    }

    /// Offers one claim if the host can be asked and the peer is here.
    fn submit(&mut self, id: OfferId) {
        let Some(claim) = self.claims.get(&id) else { return };
        let Some(upgrade) = claim.upgrade.upgrade() else { return };
        match &self.session {
            None if self.retry.failing() => return upgrade.stay(Reason::NoHost),
            Some(session) if session.located => {}
            _ => return, // Submitted when the table has come.
        }
        let local = claim.local.ip().to_canonical() == claim.peer.ip().to_canonical();
        let table = self.agent.locality.read().unwrap_or_else(PoisonError::into_inner);
        if !local && table.query(claim.peer.ip()) == Locality::Remote {
            drop(table);
            let answer = claim.since + UNKNOWN_YET;
            if Instant::now() < answer {
                return self.due.at(answer, Task::Decide(id));
            }
            return upgrade.stay(Reason::Remote);
        }
        drop(table);
        if upgrade.on(Event::Offer) == Phase::Offered {
            let Claim { fd, local, peer, cpu, .. } = *claim;
            self.say(ToHost::Offer(Offer { id, fd, local, peer, cpu }));
        }
    }

    /// Submits again every claim that is on TCP for want of a host or of knowledge.
    fn resubmit(&mut self) {
        self.due.forget_decisions();
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

    /// Tells a host that has just come what it cannot know: the listeners, and every connection that was granted before its time.
    fn announce(&mut self) {
        let listeners: Vec<_> = self.listeners.values().copied().collect();
        listeners.into_iter().for_each(|listening| self.say(ToHost::Listen(listening)));
        let granted = self.claims.values().filter_map(|claim| {
            let upgrade = claim.upgrade.upgrade()?;
            if !matches!(upgrade.phase(), Phase::Ready | Phase::Go) {
                return None;
            }
            let granted = upgrade.granted()?;
            let Claim { id, fd, local, peer, cpu, .. } = *claim;
            let offer = Offer { id, fd, local, peer, cpu };
            Some(ToHost::Announce(Announcement { offer, end: granted.end(), mapped: granted.mapped() }))
        });
        granted.collect::<Vec<_>>().into_iter().for_each(|message| self.say(message));
    }

    fn is_located(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.located)
    }

    fn heard(&mut self, received: control::Received<ToClient>) {
        match received.message {
            ToClient::Locality { fresh, entries } => {
                let first = !self.is_located();
                if let Some(session) = &mut self.session {
                    session.located = true;
                }
                if first {
                    self.announce();
                }
                self.retry = Retry::default();
                self.agent.locality.write().unwrap_or_else(PoisonError::into_inner).update(fresh, entries);
                self.resubmit();
            }
            ToClient::Grant(grant) => self.granted(grant, received.fds),
            ToClient::Sealed(id) => self.sealed(id),
            ToClient::Go(id) => self.tell(id, Event::Go),
            ToClient::Refused(id, refusal) => self.refused(id, refusal),
            ToClient::Welcome { .. }
            | ToClient::Connections { .. }
            | ToClient::Containers { .. }
            | ToClient::Status(_)
            | ToClient::Forbidden { .. } => {}
        }
    }

    fn tell(&self, id: OfferId, event: Event) {
        if let Some(upgrade) = self.claims.get(&id).and_then(|claim| claim.upgrade.upgrade()) {
            upgrade.on(event);
        }
    }

    fn refused(&mut self, id: OfferId, refusal: Refusal) {
        tracing::debug!(%id, %refusal, "stays on TCP");
        self.pending.remove(&id);
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
        let Some((upgrade, registrar)) =
            self.claims.get(&id).and_then(|claim| Some((claim.upgrade.upgrade()?, &*claim.registrar)))
        else {
            return self.say(ToHost::Decline(id, Decline::Closed));
        };
        if upgrade.phase() != Phase::Offered {
            return;
        }
        let usable = match grant::accept(grant, fds, registrar) {
            Ok(Accepted::Usable(shm)) => Ok(*shm),
            Ok(Accepted::Unsealed(pending)) => {
                self.pending.insert(id, pending);
                return self.say(ToHost::Mapped(id));
            }
            Err(why) => Err(why),
        };
        self.answer(id, &upgrade, usable);
    }

    /// The host has sealed the block of a grant that is mapped.
    fn sealed(&mut self, id: OfferId) {
        let Some(pending) = self.pending.remove(&id) else { return };
        let Some((upgrade, registrar)) =
            self.claims.get(&id).and_then(|claim| Some((claim.upgrade.upgrade()?, &*claim.registrar)))
        else {
            return self.say(ToHost::Decline(id, Decline::Closed));
        };
        let usable = pending.sealed(registrar);
        self.answer(id, &upgrade, usable);
    }

    fn answer(&mut self, id: OfferId, upgrade: &Upgrade, usable: Result<Shm, Decline>) {
        match usable {
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
            session.say(message);
        }
    }

    /// There is no session: every offer that was out is on TCP again.
    fn lost(&mut self, error: &io::Error) {
        self.retry.failed(self.agent.path, error);
        self.pending.clear();
        self.agent.locality.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.strand();
    }

    /// Nobody decides what was offered.
    fn strand(&self) {
        for upgrade in self.claims.values().filter_map(|claim| claim.upgrade.upgrade()) {
            if upgrade.on(Event::HostLost) == Phase::Tcp(Reason::NotYet) {
                upgrade.stay(Reason::NoHost);
            }
        }
    }
}
