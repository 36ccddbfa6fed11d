//! The decisions about offers: events in, decisions out. No I/O, no clock of its own.
//!
//! ```text
//!   offer --no twin yet--> Waiting --twin--> Granted --both Ready--> Established --both gone--> (no row)
//!                             |                 |
//!                       time, Close       Decline, Close, time, no memory: Refuse who is left, Release the block
//! ```
//!
//! A connection that an earlier host service granted enters as `Announced` with its first end, and is `Established` with the
//! second.
//!
//! Between the grant and `Ready` a block of the hugetlb pool is sealed, when both ends have said `Mapped`.
//!
//! The hub calls it under its lock and carries the decisions out in their order. A `Go` is decided only after two `Ready`, and
//! every `Grant` is followed by exactly one `Release`.

use std::time::{Duration, Instant};

use shmbc::control::message::{Decline, Refusal};

use crate::policy::Policy;
use crate::quota::{ClientKey, Exceeded, NotCharged, Quota};
use crate::table::connections::{
    Answer, Connection, ConnectionId, Connections, End, EndKey, Gone, Phase, Scope, SessionId,
};
use crate::table::containers::Containers;
use crate::twin::{Twin, twin};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Make a block for this connection and send each end (A, then B) its grant; tell [`Broker::grant_failed`] if
    /// that cannot be done.
    Grant(ConnectionId, [EndKey; 2]),
    /// Both ends have mapped the block and not touched it: seal it and tell them, or tell [`Broker::tampered`]. Nothing to do
    /// for a block that was sealed when it was made.
    Seal(ConnectionId, [EndKey; 2]),
    /// Both ends have announced a connection of an earlier host's: take over its block, if they agree on one.
    Adopt(ConnectionId),
    /// Tell this end to go.
    Go(EndKey),
    /// Tell this end that it stays on TCP.
    Refuse(EndKey, Refusal),
    /// The block of this connection is no longer used by the ends.
    Release(ConnectionId, Release),
}

/// How to let go of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// Both ends are known to be done with it: take its memory back, whoever still maps it.
    Reclaim,
    /// An end may still be reading what is in it: let go of it. The kernel frees it with the last mapping.
    LetGo,
}

/// What the broker is told when the service starts, and when its configuration is read again.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) twin_timeout: Duration,
    pub(crate) ready_timeout: Duration,
    pub(crate) block_bytes: u64,
    /// Most bytes of all blocks together.
    pub(crate) memory: Option<u64>,
    pub(crate) policy: Policy,
    /// The host's own network namespace.
    pub(crate) own: Scope,
}

/// The connection table and the rules.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) table: Connections,
    pub(crate) quota: Quota,
    pub(crate) totals: Totals,
    rules: Rules,
    draining: bool,
}

/// What has been decided since the service started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    /// Ends that were offered.
    pub(crate) offers: u64,
    /// Connections that were granted.
    pub(crate) grants: u64,
    /// Connections that were told to go.
    pub(crate) upgrades: u64,
}

impl Broker {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            table: Connections::default(),
            quota: Quota::default(),
            totals: Totals::default(),
            rules,
            draining: false,
        }
    }

    /// Takes over other rules, for what is decided from now on.
    pub(crate) fn set_rules(&mut self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.rules);
    }

    /// Counts a session in, or says which limit keeps it out.
    pub(crate) fn open_session(&mut self, client: &ClientKey, containers: &Containers) -> Result<(), String> {
        let bounds = self.rules.policy.bounds(client, containers);
        let opened = self.quota.open_session(client, &bounds);
        opened.map_err(|exceeded| self.rules.policy.explain(client, containers, exceeded))
    }

    /// Whether a client may have an offer proven now.
    pub(crate) fn may_offer(
        &mut self,
        client: &ClientKey,
        containers: &Containers,
        now: Instant,
    ) -> Result<(), Refusal> {
        if self.draining {
            return Err(Refusal::Draining);
        }
        self.totals.offers += 1;
        let bounds = self.rules.policy.bounds(client, containers);
        self.quota.offer(client, &bounds, now).map_err(|exceeded| self.over(client, containers, exceeded))
    }

    /// A limit is reached.
    fn over(&self, client: &ClientKey, containers: &Containers, exceeded: Exceeded) -> Refusal {
        Refusal::Quota(self.rules.policy.explain(client, containers, exceeded))
    }

    /// Counts an end in.
    fn enter(&mut self, client: &ClientKey, containers: &Containers) -> Result<(), Refusal> {
        let bounds = self.rules.policy.bounds(client, containers);
        self.quota.enter(client, &bounds).map_err(|exceeded| self.over(client, containers, exceeded))
    }

    /// Charges both ends for a block.
    fn charge(&mut self, clients: [&ClientKey; 2], containers: &Containers) -> Result<(), Refusal> {
        let Rules { block_bytes, memory, .. } = self.rules;
        let bounds = clients.map(|client| self.rules.policy.bounds(client, containers));
        self.quota.charge(clients, bounds.each_ref(), block_bytes, memory).map_err(|why| match why {
            NotCharged::Client(n, exceeded) => self.over(clients[n], containers, exceeded),
            NotCharged::Budget(used) => Refusal::Quota(format!(
                "all connections together have {used} of at most {} bytes of blocks: raise blocks.memory of the host service",
                memory.unwrap_or(u64::MAX)
            )),
        })
    }

    /// A proven offer.
    pub(crate) fn offer(&mut self, end: End, containers: &Containers, now: Instant) -> Vec<Decision> {
        if self.table.of_end(end.key).is_some() {
            return Vec::new();
        }
        if self.draining {
            return vec![Decision::Refuse(end.key, Refusal::Draining)];
        }
        let mut decisions = Vec::new();
        // The client closed an earlier connection with these addresses, and its word of that is still on the way.
        for old in self.table.waiting_of(end.key.session, end.local, end.peer) {
            if self.table.get(old).is_some_and(|row| row.phase == Phase::Waiting && row.ends[0].scope == end.scope) {
                self.refuse(old, None, Refusal::NotProven, &mut decisions);
            }
        }
        if let Err(refusal) = self.enter(&end.client.key, containers) {
            decisions.push(Decision::Refuse(end.key, refusal.clone()));
            self.table.remember(&[end], now, refusal);
            return decisions;
        }
        match self.find(&end, containers) {
            Found::Nobody => {
                self.table.wait(end, now, now + self.rules.twin_timeout);
            }
            Found::Several => self.turn_away(end, Refusal::Ambiguous, now, &mut decisions),
            Found::One(id) => self.grant(id, end, containers, now, &mut decisions),
        }
        decisions
    }

    /// A proven end of a connection that an earlier host service granted. Nobody is refused what he has; only the limit of
    /// connections keeps an end out of the table.
    pub(crate) fn announce(&mut self, end: End, containers: &Containers, now: Instant) -> Vec<Decision> {
        if self.draining || self.table.of_end(end.key).is_some() || self.enter(&end.client.key, containers).is_err() {
            return Vec::new();
        }
        let side = |end: &End| end.announced.as_ref().map(|announced| announced.side);
        let candidates = self.table.candidates(Phase::Announced, end.local, end.peer);
        let mut twins = candidates.into_iter().filter(|row| {
            side(&row.ends[0]) != side(&end) && twin(&end, &row.ends[0], containers, self.rules.own).is_some()
        });
        let (Some(row), None) = (twins.next(), twins.next()) else {
            self.table.announce(end, now);
            return Vec::new();
        };
        let (id, keys) = (row.id, [row.ends[0].key, end.key]);
        self.quota.charge_anyway([&row.ends[0].client.key, &end.client.key], self.rules.block_bytes);
        self.table.reunite(id, end);
        // An end that was ready when its host died hears now that both were.
        vec![Decision::Adopt(id), Decision::Go(keys[0]), Decision::Go(keys[1])]
    }

    fn find(&self, end: &End, containers: &Containers) -> Found {
        let candidates = self.table.candidates(Phase::Waiting, end.local, end.peer);
        let matches = |wanted: Twin| {
            let ids = candidates
                .iter()
                .filter(move |row| twin(end, &row.ends[0], containers, self.rules.own) == Some(wanted));
            ids.map(|row| row.id).collect::<Vec<_>>()
        };
        // Who has the very addresses is meant, whatever else a published port may lead to.
        let mut found = matches(Twin::Mirrored);
        if found.is_empty() {
            found = matches(Twin::Published);
        }
        match found.as_slice() {
            [] => Found::Nobody,
            [one] => Found::One(*one),
            _ => Found::Several,
        }
    }

    fn grant(
        &mut self,
        id: ConnectionId,
        end: End,
        containers: &Containers,
        now: Instant,
        decisions: &mut Vec<Decision>,
    ) {
        let Some(other) = self.table.get(id).map(|row| row.ends[0].clone()) else { return };
        let clients = [&other.client.key, &end.client.key];
        let allowed = self.rules.policy.check([&other, &end], containers).map_err(Refusal::Policy);
        let allowed = allowed.and_then(|()| self.charge(clients, containers));
        if let Err(refusal) = allowed {
            self.table.remove(id);
            for end in [&other, &end] {
                self.quota.leave(&end.client.key);
                decisions.push(Decision::Refuse(end.key, refusal.clone()));
            }
            self.table.remember(&[other, end], now, refusal);
            return;
        }
        let ends = [other.key, end.key];
        self.table.pair(id, end, now + self.rules.ready_timeout);
        self.totals.grants += 1;
        decisions.push(Decision::Grant(id, ends));
    }

    /// An end has mapped its block, which is to be sealed before it is ready.
    pub(crate) fn mapped(&mut self, end: EndKey) -> Vec<Decision> {
        let Some((id, Phase::Granted(mut answers), side)) = self.look_up(end) else { return Vec::new() };
        if answers[side] != Answer::None {
            return Vec::new();
        }
        answers[side] = Answer::Mapped;
        self.table.set_phase(id, Phase::Granted(answers));
        match self.table.get(id).map(|row| row.ends.as_slice()) {
            Some([a, b]) if answers == [Answer::Mapped; 2] => vec![Decision::Seal(id, [a.key, b.key])],
            _ => Vec::new(),
        }
    }

    /// An end is ready.
    pub(crate) fn ready(&mut self, end: EndKey) -> Vec<Decision> {
        let Some((id, Phase::Granted(mut answers), side)) = self.look_up(end) else { return Vec::new() };
        answers[side] = Answer::Ready;
        if answers == [Answer::Ready; 2] {
            self.totals.upgrades += 1;
            self.table.set_phase(id, Phase::Established([None; 2]));
            if let Some([a, b]) = self.table.get(id).map(|row| row.ends.as_slice()) {
                self.quota.end_grant([&a.client.key, &b.client.key]);
            }
            let ends = self.table.get(id).into_iter().flat_map(|row| &row.ends);
            return ends.map(|end| Decision::Go(end.key)).collect();
        }
        self.table.set_phase(id, Phase::Granted(answers));
        Vec::new()
    }

    /// An end cannot use its grant.
    pub(crate) fn decline(&mut self, end: EndKey, why: Decline) -> Vec<Decision> {
        self.leave(end, Gone::Closed, Refusal::Declined(why))
    }

    /// An end is closed.
    pub(crate) fn close(&mut self, end: EndKey) -> Vec<Decision> {
        self.leave(end, Gone::Closed, Refusal::PeerClosed)
    }

    /// A session has ended: what is not established goes at once. The rest waits for [`Broker::session_gone`].
    pub(crate) fn session_ended(&mut self, session: SessionId) -> Vec<Decision> {
        let mut ends = self.table.of_session(session);
        ends.retain(|end| self.look_up(*end).is_some_and(|(_, phase, _)| !phase.is_established()));
        ends.into_iter().flat_map(|end| self.leave(end, Gone::Closed, Refusal::PeerClosed)).collect()
    }

    /// Whether a session still has ends of established connections.
    pub(crate) fn has_ends(&self, session: SessionId) -> bool {
        !self.table.of_session(session).is_empty()
    }

    /// A session has ended, and it is known what became of its process.
    pub(crate) fn session_gone(&mut self, session: SessionId, gone: Gone) -> Vec<Decision> {
        let ends = self.table.of_session(session);
        ends.into_iter().flat_map(|end| self.leave(end, gone, Refusal::PeerClosed)).collect()
    }

    fn leave(&mut self, end: EndKey, gone: Gone, told_to_other: Refusal) -> Vec<Decision> {
        let mut decisions = Vec::new();
        let Some((id, phase, side)) = self.look_up(end) else { return decisions };
        match phase {
            Phase::Waiting | Phase::Granted(_) => self.refuse(id, Some(end), told_to_other, &mut decisions),
            Phase::Announced => {
                if let Some(row) = self.table.remove(id) {
                    self.quota.leave(&row.ends[side].client.key);
                }
            }
            Phase::Established(mut left) => {
                left[side] = Some(gone);
                self.table.unindex_end(end);
                self.table.set_phase(id, Phase::Established(left));
                if let Some(client) = self.table.get(id).map(|row| row.ends[side].client.clone()) {
                    self.quota.leave(&client.key);
                }
                if let [Some(a), Some(b)] = left
                    && let Some(row) = self.table.remove(id)
                {
                    let lost = a == Gone::Lost || b == Gone::Lost;
                    self.release(&row, if lost { Release::LetGo } else { Release::Reclaim }, &mut decisions);
                }
            }
        }
        decisions
    }

    /// The block or a doorbell could not be made.
    pub(crate) fn grant_failed(&mut self, id: ConnectionId) -> Vec<Decision> {
        let mut decisions = Vec::new();
        self.refuse(id, None, Refusal::OutOfResources, &mut decisions);
        decisions
    }

    /// An end changed the block before it was sealed. Nobody knows which.
    pub(crate) fn tampered(&mut self, id: ConnectionId) -> Vec<Decision> {
        let mut decisions = Vec::new();
        self.refuse(id, None, Refusal::Tampered, &mut decisions);
        decisions
    }

    /// Whether this connection waits for its ends to answer a grant.
    pub(crate) fn is_granted(&self, id: ConnectionId) -> bool {
        self.table.get(id).is_some_and(|row| matches!(row.phase, Phase::Granted(_)))
    }

    /// Refuses whatever has waited too long.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Decision> {
        let mut decisions = Vec::new();
        while let Some(id) = self.table.overdue(now) {
            let waiting = self.table.get(id).is_some_and(|row| row.phase == Phase::Waiting);
            let refusal = if waiting { Refusal::NoTwin } else { Refusal::NotReady };
            self.refuse(id, None, refusal, &mut decisions);
        }
        decisions
    }

    /// The service is going to shut down: what waits stays on TCP, what is established goes on by itself. What is granted may
    /// still come through, until [`Broker::end_grants`].
    pub(crate) fn drain(&mut self) -> Vec<Decision> {
        self.draining = true;
        self.refuse_all(|phase| matches!(phase, Phase::Waiting))
    }

    /// The service shuts down now.
    pub(crate) fn end_grants(&mut self) -> Vec<Decision> {
        self.refuse_all(|phase| matches!(phase, Phase::Granted(_)))
    }

    /// Whether nothing is granted that is not established, and nothing will be.
    pub(crate) fn is_drained(&self) -> bool {
        self.draining && !self.table.rows().any(|row| matches!(row.phase, Phase::Granted(_)))
    }

    fn refuse_all(&mut self, which: impl Fn(&Phase) -> bool) -> Vec<Decision> {
        let pending: Vec<_> = self.table.rows().filter(|row| which(&row.phase)).map(|row| row.id).collect();
        let mut decisions = Vec::new();
        for id in pending {
            self.refuse(id, None, Refusal::Draining, &mut decisions);
        }
        decisions
    }

    /// When [`Broker::expire`] has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.table.next_deadline()
    }

    /// An end by its addresses and state; nothing for a late word about one that has left.
    fn look_up(&self, end: EndKey) -> Option<(ConnectionId, Phase, usize)> {
        let row = self.table.of_end(end)?;
        Some((row.id, row.phase, row.side(end)?))
    }

    /// Takes a connection that is not established out of the table and tells its ends, but for the one that left.
    fn refuse(&mut self, id: ConnectionId, left: Option<EndKey>, refusal: Refusal, decisions: &mut Vec<Decision>) {
        let Some(row) = self.table.remove(id) else { return };
        for end in &row.ends {
            self.quota.leave(&end.client.key);
            if Some(end.key) != left {
                decisions.push(Decision::Refuse(end.key, refusal.clone()));
            }
        }
        if matches!(row.phase, Phase::Granted(_)) {
            self.release(&row, Release::Reclaim, decisions);
        }
        // A lone offer that was withdrawn stays on TCP for no reason that anybody would ask about.
        if left.is_none() || row.ends.len() > 1 {
            self.table.remember(&row.ends, row.since, refusal);
        }
    }

    fn release(&mut self, row: &Connection, how: Release, decisions: &mut Vec<Decision>) {
        if let [a, b] = row.ends.as_slice() {
            let clients = [&a.client.key, &b.client.key];
            if matches!(row.phase, Phase::Granted(_)) {
                self.quota.end_grant(clients);
            }
            self.quota.refund(clients, self.rules.block_bytes);
        }
        decisions.push(Decision::Release(row.id, how));
    }

    fn turn_away(&mut self, end: End, refusal: Refusal, now: Instant, decisions: &mut Vec<Decision>) {
        self.quota.leave(&end.client.key);
        decisions.push(Decision::Refuse(end.key, refusal.clone()));
        self.table.remember(&[end], now, refusal);
    }

    /// An offer that was refused before it came to the broker.
    pub(crate) fn note_refused(&mut self, end: End, refusal: Refusal, now: Instant) {
        self.table.remember(&[end], now, refusal);
    }
}

enum Found {
    Nobody,
    One(ConnectionId),
    Several,
}

#[cfg(test)]
mod tests;
