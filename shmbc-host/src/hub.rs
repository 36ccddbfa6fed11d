//! The one lock around the tables, and the hands of the broker: turns its decisions into frames, blocks and doorbells.
//!
//! Shared by all sessions, the Docker watcher and the clock. Decisions are carried out under the lock, so that an end is
//! told things in the order in which they were decided; nothing done under it waits for anybody.

mod addresses;
mod announced;
mod grumble;
mod learned;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use shmbc::block::{self, Block, DirectionStats};
use shmbc::control::message::{
    ContainerIdentity, Decline, End as EndName, Grant, Identity, Offer, OfferId, Pages, Refusal, ToClient,
};
use shmbc::doorbell;
use shmbc::layout::{Direction, Sizes};
use shmbc::link::SwitchToken;
use shmbc::sys::Node;
use tokio::sync::{Notify, mpsc, watch};
use tracing::{debug, warn};

pub(crate) use self::addresses::Told;
use self::announced::{Listener, end};
use self::grumble::Grumble;
use self::learned::Learned;
pub use self::report::Counts;
use crate::broker::{Broker, Decision, Release, Rules};
use crate::config::HostConfig;
use crate::huge_pages::HugePages;
use crate::hugetlb::{Maker, Order};
use crate::identity::Client;
use crate::numa::{self, Home, Move, Topology};
use crate::pool::Pool;
use crate::prove::pullers::Pullers;
use crate::prove::{Own, Proof};
use crate::quota::NoRoom;
use crate::session::outbox::{GrantFds, Outbox};
use crate::supervise::Panics;
use crate::table::connections::{ConnectionId, End, EndKey, Gone, Scope, SessionId};
use crate::table::containers::Containers;
use crate::twin::plain;

/// Bounds of the histogram, in seconds. An upgrade on a quiet machine takes 0.2 ms, and never more than both timeouts.
const UPGRADE_TIMES: [f64; 14] =
    [0.000_05, 0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.03, 0.1, 0.5, 2.0, 7.0];

#[derive(Debug)]
struct State {
    broker: Broker,
    containers: Containers,
    sessions: HashMap<SessionId, (Arc<Client>, Outbox)>,
    blocks: HashMap<ConnectionId, Held>,
    /// Addresses that sessions have brought, and those that the host has anyway.
    learned: Learned,
    own_addresses: BTreeSet<IpAddr>,
    /// In order of their sessions.
    listeners: BTreeMap<EndKey, Listener>,
    grumble: Grumble,
    /// Bytes that connections moved which are over.
    moved: u64,
    next_session: u64,
    armed: Option<Instant>,
}

/// The block of a connection, and where its rings are, A to B first.
#[derive(Debug)]
struct Held {
    block: Arc<Block>,
    /// Until then an end can take a huge page away, and who reads it dies of SIGBUS.
    sealed: bool,
    homes: [Home; 2],
}

impl Held {
    /// What the ends say about one direction; nothing while that cannot be read safely.
    fn stats(&self, direction: Direction) -> Option<DirectionStats> {
        self.sealed.then(|| self.block.stats(direction))
    }

    /// Bytes that have been written to each ring, as the ends say.
    fn produced(&self) -> [u64; 2] {
        Direction::BOTH.map(|direction| self.stats(direction).map_or(0, |stats| stats.produced))
    }

    /// Bytes that have been written to both.
    fn moved(&self) -> u64 {
        self.produced().into_iter().fold(0, u64::saturating_add)
    }
}

/// Leave to have one socket of a client's looked at. Given back when dropped.
#[derive(Debug)]
pub(crate) struct ProofPermit {
    hub: Arc<Hub>,
    client: Arc<Client>,
    stuck: bool,
}

impl ProofPermit {
    /// The look hangs: until this is dropped the client has no other.
    pub(crate) fn stuck(&mut self) {
        self.stuck = true;
        self.hub.state().broker.quota.proof_is_stuck(&self.client.key);
    }
}

impl Drop for ProofPermit {
    fn drop(&mut self) {
        self.hub.state().broker.quota.end_proof(&self.client.key, self.stuck);
    }
}

/// Why there is no permit.
#[derive(Debug)]
pub(crate) enum NoProof {
    /// As many of the client's are looked at as may be at once.
    Busy,
    Refused(Refusal),
}

/// The hub.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) own: Own,
    pub(crate) topology: Topology,
    pub(crate) panics: Panics,
    pub(crate) pullers: Pullers,
    /// From the first end's offer until both were told to go, in seconds.
    pub(crate) upgrade_time: Histogram,
    /// How sessions have ended, and how often.
    pub(crate) ended: Mutex<BTreeMap<&'static str, u64>>,
    sizes: Sizes,
    huge_pages: HugePages,
    pool: Arc<Pool>,
    /// Where blocks are on pages of the hugetlb pool.
    maker: Option<Maker>,
    state: Mutex<State>,
    locality: watch::Sender<Arc<Told>>,
    deadline: Notify,
    /// The last grant is answered, after a drain began.
    settled: Notify,
    containers_changed: Notify,
    docker_up: AtomicBool,
    asks: mpsc::Sender<String>,
    told_believed: AtomicBool,
    started: Instant,
}

impl Hub {
    /// `asks` takes ids of containers that the Docker watcher should look at now.
    pub(crate) fn new(
        config: &HostConfig,
        sizes: Sizes,
        pool: Arc<Pool>,
        maker: Option<Maker>,
        asks: mpsc::Sender<String>,
    ) -> Self {
        let own = Own::look();
        let rules = Rules {
            twin_timeout: config.twin_timeout,
            ready_timeout: config.ready_timeout,
            block_bytes: if maker.is_some() { block::huge_len(sizes) } else { sizes.block_len() } as u64,
            memory: config.memory,
            policy: config.policy.clone(),
            own: own.scope,
        };
        let state = State {
            broker: Broker::new(rules),
            containers: Containers::default(),
            sessions: HashMap::new(),
            blocks: HashMap::new(),
            learned: Learned::default(),
            own_addresses: BTreeSet::new(),
            listeners: BTreeMap::new(),
            grumble: Grumble::default(),
            moved: 0,
            next_session: 1,
            armed: None,
        };
        Self {
            own,
            topology: Topology::of_this_machine(),
            panics: Panics::default(),
            pullers: Pullers::new(),
            upgrade_time: Histogram::new(UPGRADE_TIMES),
            ended: Mutex::default(),
            sizes,
            huge_pages: config.huge_pages,
            pool,
            maker,
            state: Mutex::new(state),
            locality: watch::Sender::new(Arc::new(Told::of(Vec::new()))),
            deadline: Notify::new(),
            settled: Notify::new(),
            containers_changed: Notify::new(),
            docker_up: AtomicBool::new(false),
            asks,
            told_believed: AtomicBool::new(false),
            started: Instant::now(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock would be a mistake of ours; the tables are changed in small steps, so going on beats
        // refusing everybody for ever.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what can change while the service runs: policy, limits, the budget of memory and the timeouts.
    pub(crate) fn reload(&self, config: &HostConfig) {
        self.state().broker.set_rules(|rules| {
            rules.policy = config.policy.clone();
            rules.memory = config.memory;
            (rules.twin_timeout, rules.ready_timeout) = (config.twin_timeout, config.ready_timeout);
        });
    }

    // --- sessions

    /// Counts a client in, or says which limit keeps it out.
    pub(crate) fn open_session(&self, client: &Arc<Client>, outbox: Outbox) -> Result<SessionId, String> {
        let mut state = self.state();
        let State { broker, containers, .. } = &mut *state;
        broker.open_session(&client.key, containers)?;
        let id = SessionId(state.next_session);
        state.next_session += 1;
        state.sessions.insert(id, (Arc::clone(client), outbox));
        Ok(id)
    }

    /// A session has ended; with it go its offers and grants. Whether it had ends of established connections, about
    /// which [`Hub::forget_session`] is to be told what became of the process.
    pub(crate) fn end_session(&self, session: SessionId) -> bool {
        let mut state = self.state();
        let Some((client, _)) = state.sessions.remove(&session) else { return false };
        let decisions = state.broker.session_ended(session);
        self.carry_out(&mut state, decisions);
        state.broker.quota.close_session(&client.key);
        state.forget_listeners(session);
        self.unlearn(&mut state, session);
        state.broker.has_ends(session)
    }

    /// What became of the process of a session that has ended.
    pub(crate) fn forget_session(&self, session: SessionId, gone: Gone) {
        self.decide(|broker| broker.session_gone(session, gone));
    }

    /// Who `client` is, in the words that clients are told.
    pub(crate) fn identity(&self, client: &Client) -> Identity {
        identity(&self.state().containers, client)
    }

    /// Whether `client` may see the tables: who runs the service, or the machine.
    pub(crate) fn may_list(&self, client: &Client) -> bool {
        self.own.is_housemate(client) || (!client.contained && client.uid == 0)
    }

    // --- offers

    /// Whether an offer may be proven now, or whether it is to wait until another of its client's has been.
    pub(crate) fn begin_proof(self: &Arc<Self>, client: &Arc<Client>) -> Result<ProofPermit, NoProof> {
        let mut state = self.state();
        let State { broker, containers, .. } = &mut *state;
        // Room first: who waits for it has not offered yet.
        broker.quota.begin_proof(&client.key).map_err(|why| match why {
            NoRoom::Busy => NoProof::Busy,
            NoRoom::Stuck => NoProof::Refused(Refusal::Quota(
                "something that this client has open keeps the service from looking at its sockets".into(),
            )),
        })?;
        if let Err(refusal) = broker.may_offer(&client.key, containers, Instant::now()) {
            broker.quota.end_proof(&client.key, false);
            return Err(NoProof::Refused(refusal));
        }
        Ok(ProofPermit { hub: Arc::clone(self), client: Arc::clone(client), stuck: false })
    }

    /// A proven offer.
    pub(crate) fn offer(&self, session: SessionId, client: &Arc<Client>, offer: &Offer, proof: Proof) {
        self.tell_if_believed(&proof);
        let end = end(EndKey { session, offer: offer.id }, client, proof, offer.cpu);
        let mut state = self.state();
        let State { broker, containers, .. } = &mut *state;
        let decisions = broker.offer(end, containers, Instant::now());
        self.carry_out(&mut state, decisions);
    }

    fn tell_if_believed(&self, proof: &Proof) {
        if proof.believed && !self.told_believed.swap(true, Ordering::Relaxed) {
            warn!(
                "this service may not look at its clients' sockets (CAP_SYS_PTRACE): \
                 it serves uid {} only, and takes its processes' word",
                self.own.uid
            );
        }
    }

    /// An offer that is refused for what it is.
    pub(crate) fn refuse(&self, session: SessionId, client: &Arc<Client>, offer: &Offer, refusal: Refusal) {
        let key = EndKey { session, offer: offer.id };
        let (local, peer) = (plain(offer.local), plain(offer.peer));
        let (client, scope) = (Arc::clone(client), Scope::Unproven);
        let end = End { key, client, local, peer, scope, socket: None, cpu: offer.cpu, announced: None };
        let mut state = self.state();
        if state.broker.table.of_end(key).is_none() {
            state.broker.note_refused(end, refusal.clone(), Instant::now());
            self.carry_out(&mut state, vec![Decision::Refuse(key, refusal)]);
        }
    }

    pub(crate) fn mapped(&self, end: EndKey) {
        self.decide(|broker| broker.mapped(end));
    }

    pub(crate) fn ready(&self, end: EndKey) {
        let mut state = self.state();
        let decisions = state.broker.ready(end);
        if let [Decision::Go(first), _] = decisions.as_slice()
            && let Some(row) = state.broker.table.of_end(*first)
        {
            self.upgrade_time.observe(row.since.elapsed().as_secs_f64());
        }
        self.carry_out(&mut state, decisions);
    }

    pub(crate) fn decline(&self, end: EndKey, why: Decline) {
        self.decide(|broker| broker.decline(end, why));
    }

    pub(crate) fn close(&self, end: EndKey) {
        let mut state = self.state();
        if state.listeners.remove(&end).is_none() {
            let decisions = state.broker.close(end);
            self.carry_out(&mut state, decisions);
        }
    }

    /// Rings that are to follow their consumers to another NUMA node, at most `most`.
    pub(crate) fn moves(&self, most: usize) -> Vec<Move> {
        let mut state = self.state();
        // Those on huge pages stay: nobody can map them again to move them.
        let movable = state.blocks.values_mut().filter(|held| !held.block.is_huge());
        let rings = movable.flat_map(|Held { block, homes, .. }| {
            Direction::BOTH.into_iter().zip(homes).map(|(direction, home)| (&*block, direction, home))
        });
        let moves = rings.filter_map(|(block, direction, home)| {
            let stats = block.stats(direction);
            let node = stats.consumer_cpu.and_then(|cpu| self.topology.node(cpu));
            home.look(node, stats.consumed).map(|to| Move { block: Arc::clone(block), direction, to })
        });
        moves.take(most).collect()
    }

    /// Tells all ends that wait that they stay on TCP, and grants nothing from now on. Returns when what is granted is established,
    /// or after `patience`.
    pub(crate) async fn drain(&self, patience: Duration) {
        self.decide(Broker::drain);
        let settled = async {
            while !self.state().broker.is_drained() {
                self.settled.notified().await;
            }
        };
        let _ = tokio::time::timeout(patience, settled).await;
        self.decide(Broker::end_grants);
    }

    /// Refuses what has waited too long, whenever it has. Never returns.
    pub(crate) async fn keep_deadlines(&self) {
        loop {
            let next = self.state().armed;
            tokio::select! {
                () = sleep_until(next) => self.decide(|broker| broker.expire(Instant::now())),
                () = self.deadline.notified() => {}
            }
        }
    }

    fn decide(&self, event: impl FnOnce(&mut Broker) -> Vec<Decision>) {
        let mut state = self.state();
        let decisions = event(&mut state.broker);
        self.carry_out(&mut state, decisions);
    }

    fn carry_out(&self, state: &mut State, decisions: Vec<Decision>) {
        for decision in decisions {
            debug!(?decision);
            match decision {
                Decision::Grant(id, ends) => {
                    if let Err(error) = self.grant(state, id, ends) {
                        self.not_granted(state, id, &error);
                    }
                }
                Decision::Seal(id, ends) => self.seal(state, id, ends),
                Decision::Adopt(id) => self.adopt(state, id),
                Decision::Go(end) => state.tell(end, &ToClient::Go(end.offer)),
                Decision::Refuse(end, refusal) => {
                    let State { grumble, sessions, containers, .. } = state;
                    if let Some((client, _)) = sessions.get(&end.session) {
                        grumble.refused(client, &refusal, containers, Instant::now());
                    }
                    state.tell(end, &ToClient::Refused(end.offer, refusal));
                }
                Decision::Release(id, how) => {
                    if let Some(held) = state.blocks.remove(&id) {
                        state.moved = state.moved.saturating_add(held.moved());
                        let bytes = held.produced();
                        let block = held.block;
                        debug!(connection = id.0, ?bytes, "over");
                        match how {
                            Release::Reclaim => self.pool.reclaim(block),
                            Release::LetGo => self.pool.let_go(block),
                        }
                    }
                }
            }
        }
        if state.broker.is_drained() {
            self.settled.notify_one();
        }
        let next = state.broker.next_deadline();
        if next != state.armed {
            state.armed = next;
            self.deadline.notify_one();
        }
    }

    fn grant(&self, state: &mut State, id: ConnectionId, ends: [EndKey; 2]) -> io::Result<()> {
        let Some(row) = state.broker.table.get(id) else { return Ok(()) };
        let mut nodes = [0, 1].map(|side| self.topology.node(row.ends[side].cpu.into()));
        // Each ring belongs with the end that reads it: the first with B.
        nodes.reverse();
        if self.maker.as_ref().is_some_and(|maker| maker.order(Order { id, ends, nodes, sizes: self.sizes })) {
            return Ok(());
        }
        self.grant_ordinary(state, id, ends, nodes)
    }

    /// What has become of an order. A connection that could not have huge pages has ordinary ones.
    pub(crate) fn delivered(&self, Order { id, ends, nodes, .. }: Order, block: Option<Block>) {
        let mut state = self.state();
        if !state.broker.is_granted(id) {
            return;
        }
        let granted = match block {
            Some(block) => self.hand_out(&mut state, id, ends, self.pool.adopt(block), nodes),
            None => self.grant_ordinary(&mut state, id, ends, nodes),
        };
        if let Err(error) = granted {
            self.not_granted(&mut state, id, &error);
        }
    }

    /// Where blocks on huge pages are ordered.
    pub(crate) const fn maker(&self) -> Option<&Maker> {
        self.maker.as_ref()
    }

    /// Whether somebody still waits for this order.
    pub(crate) fn wants(&self, order: &Order) -> bool {
        self.state().broker.is_granted(order.id)
    }

    fn not_granted(&self, state: &mut State, id: ConnectionId, error: &io::Error) {
        warn!(%error, "no block or doorbell could be made for a connection; it stays on TCP");
        // Ends in refusals and a release, never in another grant.
        let decisions = state.broker.grant_failed(id);
        self.carry_out(state, decisions);
    }

    fn grant_ordinary(
        &self,
        state: &mut State,
        id: ConnectionId,
        ends: [EndKey; 2],
        nodes: [Option<Node>; 2],
    ) -> io::Result<()> {
        let block = self.pool.take()?;
        for (direction, node) in Direction::BOTH.into_iter().zip(nodes) {
            if let Some(node) = node {
                numa::settle(&block, direction, node);
            }
        }
        self.hand_out(state, id, ends, block, nodes)
    }

    /// Gives each end its half of a connection on this block.
    fn hand_out(
        &self,
        state: &mut State,
        id: ConnectionId,
        ends: [EndKey; 2],
        block: Arc<Block>,
        nodes: [Option<Node>; 2],
    ) -> io::Result<()> {
        let Some(row) = state.broker.table.get(id) else { return Ok(()) };
        let clients: Vec<_> = row.ends.iter().map(|end| Arc::clone(&end.client)).collect();
        let made = (|| {
            let mut random = [[0; SwitchToken::LEN]; 2];
            getrandom::fill(random.as_flattened_mut()).map_err(io::Error::other)?;
            let ((ringer_a, waiter_b), (ringer_b, waiter_a)) = (doorbell::pair()?, doorbell::pair()?);
            let copies = [block.as_fd().try_clone_to_owned()?, block.as_fd().try_clone_to_owned()?];
            Ok((random.map(SwitchToken::from_bytes), [ringer_a, ringer_b], [waiter_a, waiter_b], copies))
        })();
        let (tokens, ringers, waiters, copies) = match made {
            Ok(made) => made,
            Err(error) => {
                self.pool.reclaim(block);
                return Err(error);
            }
        };
        let capacity = [self.sizes.capacity(Direction::AToB), self.sizes.capacity(Direction::BToA)];
        let halves = copies.into_iter().zip(ringers).zip(waiters);
        for (side, ((copy, ringer), waiter)) in halves.enumerate() {
            let grant = Grant {
                id: ends[side].offer,
                end: [EndName::A, EndName::B][side],
                capacity,
                send_token: tokens[side],
                receive_token: tokens[1 - side],
                pages: if block.is_huge() { Pages::Hugetlb } else { self.huge_pages.of_ordinary_blocks() },
                peer: identity(&state.containers, &clients[1 - side]),
            };
            if let Some((_, outbox)) = state.sessions.get(&ends[side].session) {
                outbox.put(&ToClient::Grant(grant), Some(GrantFds { block: copy, ringer, waiter }));
            }
        }
        // Others were sealed when they were made.
        let sealed = !block.is_huge();
        state.blocks.insert(id, Held { block, sealed, homes: nodes.map(Home::new) });
        Ok(())
    }

    /// Both ends have mapped the block: makes it theirs, if it is still what was given to them.
    fn seal(&self, state: &mut State, id: ConnectionId, ends: [EndKey; 2]) {
        let Some(Held { block, .. }) = state.blocks.get(&id) else { return };
        // Others were sealed when they were made, and nobody has asked for this.
        if !block.is_huge() {
            return;
        }
        if let Err(error) = block.seal() {
            let of = |end: &EndKey| state.sessions.get(&end.session).map(|(client, _)| client.pid);
            warn!(%error, pids = ?ends.each_ref().map(of), "one of these changed a block before it was sealed; they stay on TCP");
            let decisions = state.broker.tampered(id);
            return self.carry_out(state, decisions);
        }
        if let Some(held) = state.blocks.get_mut(&id) {
            held.sealed = true;
        }
        for end in ends {
            state.tell(end, &ToClient::Sealed(end.offer));
        }
    }
}

impl State {
    fn tell(&self, end: EndKey, message: &ToClient) {
        if let Some((_, outbox)) = self.sessions.get(&end.session) {
            outbox.put(message, None);
        }
    }
}

fn identity(containers: &Containers, client: &Client) -> Identity {
    Identity {
        container: match client.container.as_deref() {
            Some(id) => Some(containers.identity(id)),
            None => client.contained.then(ContainerIdentity::default),
        },
        pid: client.pid,
        uid: client.uid,
        gid: client.gid,
    }
}

/// All numbers that a session can have given.
fn sides(session: SessionId) -> RangeInclusive<EndKey> {
    EndKey { session, offer: OfferId(0) }..=EndKey { session, offer: OfferId(u64::MAX) }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
