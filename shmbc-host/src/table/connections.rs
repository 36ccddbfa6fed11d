//! The connection table: every offer, grant and connection, and the last refused ones.
//!
//! Data and its indexes only; what happens to a row is the broker's decision.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use shmbc::block::Block;
use shmbc::control::message::{End as EndName, OfferId, Refusal};

use crate::identity::Client;

/// Refused connections that stay listed. For people who ask "why is it on TCP": the last screens full.
const MAX_REFUSED: usize = 256;

/// A session with one client; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionId(pub(crate) u64);

/// A connection; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// One end, by whom and by which number it was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EndKey {
    pub(crate) session: SessionId,
    pub(crate) offer: OfferId,
}

/// Where addresses mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// The network namespace with this cookie.
    Netns(u64),
    /// Not known: an unprivileged host believes a process of its own user.
    Unproven,
}

/// A proven offer. Addresses are plain: never v4-mapped, without flow label and scope id.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) key: EndKey,
    pub(crate) client: Arc<Client>,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) scope: Scope,
    /// The kernel's number for the socket, where the host has seen it.
    pub(crate) socket: Option<u64>,
    /// The CPU that it says it runs on.
    pub(crate) cpu: u32,
    /// It has its grant from an earlier host service.
    pub(crate) announced: Option<Announced>,
}

/// What an end says it has.
#[derive(Clone, Debug)]
pub(crate) struct Announced {
    /// Which end of the block it is.
    pub(crate) side: EndName,
    /// The block that it has mapped, where the host may look.
    pub(crate) block: Option<Arc<Block>>,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// One end; its twin has not offered yet.
    Waiting,
    /// One end of a connection that an earlier host service has granted; its twin has not announced itself yet.
    Announced,
    /// Both ends have grants; what each has answered.
    Granted([Answer; 2]),
    /// Both ends were told to go; which of them is gone, and how.
    Established([Option<Gone>; 2]),
}

impl Phase {
    /// Whether the ends have switched, or may, and go on by themselves.
    pub(crate) const fn is_established(&self) -> bool {
        matches!(self, Self::Announced | Self::Established(_))
    }
}

/// What an end has said about its grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing yet.
    None,
    /// That it has mapped the block, and waits for the seal.
    Mapped,
    /// That it is ready.
    Ready,
}

/// How an end left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// It said that it closed the connection, or its process has exited.
    Closed,
    /// Its session ended, but its process lives and may still have the block mapped and in use.
    Lost,
}

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    /// One while waiting or announced, then two: end A and end B.
    pub(crate) ends: Vec<End>,
    pub(crate) phase: Phase,
    pub(crate) since: Instant,
    pub(crate) deadline: Option<Instant>,
}

impl Connection {
    /// 0 for end A, 1 for end B.
    pub(crate) fn side(&self, end: EndKey) -> Option<usize> {
        self.ends.iter().position(|e| e.key == end)
    }
}

/// What people are told about an end. Holds no descriptor, so that it may outlive its client.
#[derive(Clone, Debug)]
pub(crate) struct EndFacts {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) container: Option<String>,
    /// As in [`Client::contained`].
    pub(crate) contained: bool,
    pub(crate) pid: i32,
    pub(crate) process: Arc<str>,
    pub(crate) uid: u32,
}

impl From<&End> for EndFacts {
    fn from(end: &End) -> Self {
        let Client { pid, uid, contained, ref container, ref process, .. } = *end.client;
        let (container, process) = (container.clone(), Arc::clone(process));
        Self { local: end.local, peer: end.peer, container, contained, pid, process, uid }
    }
}

/// A connection that stays on TCP.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) ends: Vec<EndFacts>,
    pub(crate) since: Instant,
    pub(crate) refusal: Refusal,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    rows: HashMap<ConnectionId, Connection>,
    by_end: HashMap<EndKey, ConnectionId>,
    by_session: HashMap<SessionId, HashSet<OfferId>>,
    waiting_by_local: HashMap<SocketAddr, Vec<ConnectionId>>,
    waiting_by_peer: HashMap<SocketAddr, Vec<ConnectionId>>,
    deadlines: BTreeSet<(Instant, ConnectionId)>,
    refused: VecDeque<Refused>,
    /// All that were ever refused, by the names of their reasons.
    reasons: BTreeMap<&'static str, u64>,
    next: u64,
}

impl Connections {
    /// A new row for an end that waits for its twin.
    pub(crate) fn wait(&mut self, end: End, now: Instant, deadline: Instant) -> ConnectionId {
        let id = self.enter(end, Phase::Waiting, now);
        self.set_deadline(id, Some(deadline));
        id
    }

    /// A new row for an end that has announced itself.
    pub(crate) fn announce(&mut self, end: End, now: Instant) -> ConnectionId {
        self.enter(end, Phase::Announced, now)
    }

    fn enter(&mut self, end: End, phase: Phase, now: Instant) -> ConnectionId {
        let id = ConnectionId(self.next);
        self.next += 1;
        self.index_end(end.key, id);
        self.waiting_by_local.entry(end.local).or_default().push(id);
        self.waiting_by_peer.entry(end.peer).or_default().push(id);
        self.rows.insert(id, Connection { id, ends: vec![end], phase, since: now, deadline: None });
        id
    }

    /// The twin of a waiting end: both are granted.
    pub(crate) fn pair(&mut self, id: ConnectionId, twin: End, deadline: Instant) {
        self.stop_waiting(id);
        self.index_end(twin.key, id);
        if let Some(row) = self.rows.get_mut(&id) {
            row.ends.push(twin);
            row.phase = Phase::Granted([Answer::None; 2]);
        }
        self.set_deadline(id, Some(deadline));
    }

    /// The twin of an announced end: they are established.
    pub(crate) fn reunite(&mut self, id: ConnectionId, twin: End) {
        self.stop_waiting(id);
        self.index_end(twin.key, id);
        if let Some(row) = self.rows.get_mut(&id) {
            let first = twin.announced.as_ref().is_some_and(|announced| announced.side == EndName::A);
            row.ends.insert(if first { 0 } else { 1 }, twin);
            row.phase = Phase::Established([None; 2]);
        }
    }

    /// The blocks that the ends of a connection have announced, A's first. They are the caller's from now on.
    pub(crate) fn take_announced(&mut self, id: ConnectionId) -> [Option<Arc<Block>>; 2] {
        let mut ends = self.rows.get_mut(&id).into_iter().flat_map(|row| &mut row.ends);
        [(); 2].map(|()| ends.next().and_then(|end| end.announced.take()).and_then(|announced| announced.block))
    }

    /// Changes a row's phase and deadline.
    pub(crate) fn set_phase(&mut self, id: ConnectionId, phase: Phase) {
        if let Some(row) = self.rows.get_mut(&id) {
            row.phase = phase;
        }
        if matches!(phase, Phase::Established(_)) {
            self.set_deadline(id, None);
        }
    }

    /// An end has left; messages about it mean nothing from now on.
    pub(crate) fn unindex_end(&mut self, end: EndKey) {
        self.by_end.remove(&end);
        if let Some(offers) = self.by_session.get_mut(&end.session) {
            offers.remove(&end.offer);
            if offers.is_empty() {
                self.by_session.remove(&end.session);
            }
        }
    }

    /// Takes a row out.
    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.stop_waiting(id);
        self.set_deadline(id, None);
        let row = self.rows.remove(&id)?;
        for end in &row.ends {
            // An end that left earlier may have been followed by another with the same number.
            if self.by_end.get(&end.key) == Some(&id) {
                self.unindex_end(end.key);
            }
        }
        Some(row)
    }

    /// Lists a connection as staying on TCP.
    pub(crate) fn remember(&mut self, ends: &[End], since: Instant, refusal: Refusal) {
        if self.refused.len() >= MAX_REFUSED {
            self.refused.pop_front();
        }
        *self.reasons.entry(refusal.name()).or_default() += 1;
        let ends = ends.iter().map(EndFacts::from).collect();
        self.refused.push_back(Refused { ends, since, refusal });
    }

    fn index_end(&mut self, end: EndKey, id: ConnectionId) {
        self.by_end.insert(end, id);
        self.by_session.entry(end.session).or_default().insert(end.offer);
    }

    fn stop_waiting(&mut self, id: ConnectionId) {
        let Some(row) = self.rows.get(&id) else { return };
        if !matches!(row.phase, Phase::Waiting | Phase::Announced) {
            return;
        }
        for (index, address) in
            [(&mut self.waiting_by_local, row.ends[0].local), (&mut self.waiting_by_peer, row.ends[0].peer)]
        {
            if let Some(ids) = index.get_mut(&address) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    index.remove(&address);
                }
            }
        }
    }

    fn set_deadline(&mut self, id: ConnectionId, deadline: Option<Instant>) {
        let Some(row) = self.rows.get_mut(&id) else { return };
        if let Some(old) = std::mem::replace(&mut row.deadline, deadline) {
            self.deadlines.remove(&(old, id));
        }
        if let Some(new) = deadline {
            self.deadlines.insert((new, id));
        }
    }

    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.rows.get(&id)
    }

    pub(crate) fn of_end(&self, end: EndKey) -> Option<&Connection> {
        self.rows.get(self.by_end.get(&end)?)
    }

    /// What a session has offered and not yet left.
    pub(crate) fn of_session(&self, session: SessionId) -> Vec<EndKey> {
        let offers = self.by_session.get(&session).into_iter().flatten();
        offers.map(|&offer| EndKey { session, offer }).collect()
    }

    /// Ends in this phase, waiting or announced, that could be the twin of one with these addresses: one of theirs is one of its.
    pub(crate) fn candidates(&self, phase: Phase, local: SocketAddr, peer: SocketAddr) -> Vec<&Connection> {
        let mut ids: Vec<_> = [self.waiting_by_peer.get(&local), self.waiting_by_local.get(&peer)]
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().filter_map(|id| self.rows.get(id)).filter(|row| row.phase == phase).collect()
    }

    /// Waiting or announced ends of a session with exactly these addresses.
    pub(crate) fn waiting_of(&self, session: SessionId, local: SocketAddr, peer: SocketAddr) -> Vec<ConnectionId> {
        let same = self.waiting_by_local.get(&local).into_iter().flatten();
        let same = same.filter_map(|id| self.rows.get(id));
        let same = same.filter(|row| row.ends[0].peer == peer && row.ends[0].key.session == session);
        same.map(|row| row.id).collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// A row whose deadline has passed.
    pub(crate) fn overdue(&self, now: Instant) -> Option<ConnectionId> {
        self.deadlines.first().filter(|(at, _)| *at <= now).map(|(_, id)| *id)
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &Connection> {
        self.rows.values()
    }

    /// How many were ever refused, by the names of their reasons.
    pub(crate) const fn reasons(&self) -> &BTreeMap<&'static str, u64> {
        &self.reasons
    }

    pub(crate) fn refused(&self) -> impl Iterator<Item = &Refused> {
        self.refused.iter()
    }
}
