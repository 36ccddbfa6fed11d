//! The one lock around the tables, and the hands of the broker: turns its decisions into frames, blocks and doorbells.
//!
//! Shared by all sessions, the Docker watcher and the clock. Decisions are carried out under the lock, so that an end is
//! told things in the order in which they were decided; nothing done under it waits for anybody.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shmbc::block::Block;
use shmbc::control::message::{
    ConnectionRow, ConnectionState, ContainerRow, Decline, End as EndName, EndRow, Grant, Identity, LocalEntry, Offer,
    OfferId, Refusal, ToClient,
};
use shmbc::doorbell;
use shmbc::layout::{Direction, Sizes};
use shmbc::link::SwitchToken;
use tokio::sync::{Notify, mpsc, watch};
use tracing::{debug, warn};

use crate::broker::{Broker, Decision, Release, Rules};
use crate::config::HostConfig;
use crate::identity::Client;
use crate::pool::Pool;
use crate::prove::{Own, Proof};
use crate::session::outbox::{GrantFds, Outbox};
use crate::table::connections::{ConnectionId, End, EndFacts, EndKey, Gone, Phase, Scope, SessionId};
use crate::table::containers::{Container, Containers, cut};
use crate::twin::plain;

/// How long a new session waits for Docker to tell about its container.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// What a service holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Clients that are connected.
    pub sessions: usize,
    /// Containers in the table.
    pub containers: usize,
    /// Offers that wait for their twin.
    pub offers: usize,
    /// Connections whose ends have grants but not both are ready.
    pub granted: usize,
    /// Connections that were told to go and that not both ends have left.
    pub established: usize,
    /// Blocks in use, or not yet given back to the machine; without the stock.
    pub blocks: usize,
    /// Size of those blocks, touched or not.
    pub block_bytes: u64,
    /// Descriptors open in the whole process.
    pub fds: usize,
}

#[derive(Debug)]
struct State {
    broker: Broker,
    containers: Containers,
    sessions: HashMap<SessionId, (Arc<Client>, Outbox)>,
    blocks: HashMap<ConnectionId, Block>,
    next_session: u64,
    armed: Option<Instant>,
}

/// The hub.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) own: Own,
    sizes: Sizes,
    pool: Arc<Pool>,
    state: Mutex<State>,
    locality: watch::Sender<Arc<Vec<LocalEntry>>>,
    deadline: Notify,
    containers_changed: Notify,
    docker_up: AtomicBool,
    asks: mpsc::Sender<String>,
    told_believed: AtomicBool,
}

impl Hub {
    /// `asks` takes ids of containers that the Docker watcher should look at now.
    pub(crate) fn new(config: &HostConfig, sizes: Sizes, pool: Arc<Pool>, asks: mpsc::Sender<String>) -> Self {
        let own = Own::look();
        let rules = Rules {
            twin_timeout: config.twin_timeout,
            ready_timeout: config.ready_timeout,
            block_bytes: sizes.block_len() as u64,
            limits: config.limits,
            own: own.scope,
        };
        let state = State {
            broker: Broker::new(rules),
            containers: Containers::default(),
            sessions: HashMap::new(),
            blocks: HashMap::new(),
            next_session: 1,
            armed: None,
        };
        Self {
            own,
            sizes,
            pool,
            state: Mutex::new(state),
            locality: watch::Sender::new(Arc::default()),
            deadline: Notify::new(),
            containers_changed: Notify::new(),
            docker_up: AtomicBool::new(false),
            asks,
            told_believed: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock would be a mistake of ours; the tables are changed in small steps, so going on beats
        // refusing everybody for ever.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- sessions

    /// Counts a client in, or says which limit keeps it out.
    pub(crate) fn open_session(&self, client: &Arc<Client>, outbox: Outbox) -> Result<SessionId, String> {
        let mut state = self.state();
        state.broker.quota.open_session(&client.key, Instant::now())?;
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
        state.containers.forget(session);
        self.publish_locality(&state);
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
        let at_home = client.container == self.own.container && client.uid == self.own.uid;
        at_home || (!client.contained && (client.uid == 0 || client.uid == self.own.uid))
    }

    // --- offers

    /// Whether an offer may be proven now. To be followed by `end_proof` if so.
    pub(crate) fn begin_proof(&self, client: &Client) -> Result<(), Refusal> {
        let mut state = self.state();
        state.broker.may_offer(&client.key, Instant::now())?;
        if state.broker.quota.begin_proof(&client.key) {
            return Ok(());
        }
        Err(Refusal::Quota("too many offers of this client are being looked at".into()))
    }

    pub(crate) fn end_proof(&self, client: &Client) {
        self.state().broker.quota.end_proof(&client.key);
    }

    /// A proven offer.
    pub(crate) fn offer(&self, session: SessionId, client: &Arc<Client>, id: OfferId, proof: Proof) {
        if proof.believed && !self.told_believed.swap(true, Ordering::Relaxed) {
            warn!(
                "this service may not look at its clients' sockets (CAP_SYS_PTRACE): \
                 it serves uid {} only, and takes its processes' word",
                self.own.uid
            );
        }
        let end = End {
            key: EndKey { session, offer: id },
            client: Arc::clone(client),
            local: proof.local,
            peer: proof.peer,
            scope: proof.scope,
            socket: proof.socket,
        };
        let mut state = self.state();
        let State { broker, containers, .. } = &mut *state;
        let decisions = broker.offer(end, containers, Instant::now());
        self.carry_out(&mut state, decisions);
    }

    /// An offer that is refused for what it is.
    pub(crate) fn refuse(&self, session: SessionId, client: &Arc<Client>, offer: &Offer, refusal: Refusal) {
        let key = EndKey { session, offer: offer.id };
        let (local, peer) = (plain(offer.local), plain(offer.peer));
        let end = End { key, client: Arc::clone(client), local, peer, scope: Scope::Unproven, socket: None };
        let mut state = self.state();
        if state.broker.table.of_end(key).is_none() {
            state.broker.note_refused(end, refusal.clone(), Instant::now());
            self.carry_out(&mut state, vec![Decision::Refuse(key, refusal)]);
        }
    }

    pub(crate) fn ready(&self, end: EndKey) {
        self.decide(|broker| broker.ready(end));
    }

    pub(crate) fn decline(&self, end: EndKey, why: Decline) {
        self.decide(|broker| broker.decline(end, why));
    }

    pub(crate) fn close(&self, end: EndKey) {
        self.decide(|broker| broker.close(end));
    }

    /// Tells all ends that are not established that they stay on TCP.
    pub(crate) fn drain(&self) {
        self.decide(Broker::drain);
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
                        warn!(%error, "no block or doorbell could be made for a connection; it stays on TCP");
                        // Ends in refusals and a release, never in another grant.
                        let decisions = state.broker.grant_failed(id);
                        self.carry_out(state, decisions);
                    }
                }
                Decision::Go(end) => state.tell(end, &ToClient::Go(end.offer)),
                Decision::Refuse(end, refusal) => state.tell(end, &ToClient::Refused(end.offer, refusal)),
                Decision::Release(id, how) => {
                    if let Some(block) = state.blocks.remove(&id) {
                        match how {
                            Release::Reclaim => self.pool.reclaim(block),
                            Release::LetGo => self.pool.let_go(block),
                        }
                    }
                }
            }
        }
        let next = state.broker.next_deadline();
        if next != state.armed {
            state.armed = next;
            self.deadline.notify_one();
        }
    }

    fn grant(&self, state: &mut State, id: ConnectionId, ends: [EndKey; 2]) -> io::Result<()> {
        let mut random = [[0; SwitchToken::LEN]; 2];
        getrandom::fill(random.as_flattened_mut()).map_err(io::Error::other)?;
        let tokens = random.map(SwitchToken::from_bytes);
        let (ringers, waiters) = {
            let ((ringer_a, waiter_b), (ringer_b, waiter_a)) = (doorbell::pair()?, doorbell::pair()?);
            ([ringer_a, ringer_b], [waiter_a, waiter_b])
        };
        let Some(row) = state.broker.table.get(id) else { return Ok(()) };
        let clients: Vec<_> = row.ends.iter().map(|end| Arc::clone(&end.client)).collect();
        let block = self.pool.take()?;
        let copies = block.as_fd().try_clone_to_owned().and_then(|a| Ok([a, block.as_fd().try_clone_to_owned()?]));
        let copies = match copies {
            Ok(copies) => copies,
            Err(error) => {
                self.pool.reclaim(block);
                return Err(error);
            }
        };
        let capacity = [self.sizes.capacity(Direction::AToB), self.sizes.capacity(Direction::BToA)];
        let halves = copies.into_iter().zip(ringers).zip(waiters);
        for (side, ((block, ringer), waiter)) in halves.enumerate() {
            let grant = Grant {
                id: ends[side].offer,
                end: [EndName::A, EndName::B][side],
                capacity,
                send_token: tokens[side],
                receive_token: tokens[1 - side],
                peer: identity(&state.containers, &clients[1 - side]),
            };
            if let Some((_, outbox)) = state.sessions.get(&ends[side].session) {
                outbox.put(&ToClient::Grant(grant), Some(GrantFds { block, ringer, waiter }));
            }
        }
        state.blocks.insert(id, block);
        Ok(())
    }

    // --- containers and addresses

    /// Changes the container table; tells all clients if addresses came or went.
    pub(crate) fn with_containers(&self, change: impl FnOnce(&mut Containers)) {
        let mut state = self.state();
        change(&mut state.containers);
        self.publish_locality(&state);
        self.containers_changed.notify_waiters();
    }

    /// Takes over Docker's whole list.
    pub(crate) fn with_containers_replaced(&self, list: Vec<Container>) {
        self.with_containers(|containers| containers.replace(list));
    }

    /// Takes over addresses of a client's network namespace, if it is one whose word counts: an ordinary user can give a
    /// namespace of his own any addresses, and would have everybody offer connections to them.
    pub(crate) fn learn(&self, session: SessionId, client: &Client) {
        if !client.contained && client.uid != 0 && client.uid != self.own.uid {
            return;
        }
        let addresses = client.addresses();
        self.with_containers(|containers| containers.learn(session, addresses));
    }

    /// The host's own addresses: those of the service's network namespace, and of the machine's first process if that is
    /// another one (the service runs in a container).
    pub(crate) fn learn_own(&self) {
        let mut addresses: Vec<IpAddr> = crate::identity::namespace_addresses(1);
        if let Ok(interfaces) = nix::ifaddrs::getifaddrs() {
            addresses.extend(interfaces.filter_map(|interface| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
            }));
        }
        self.with_containers(|containers| containers.set_host(addresses));
    }

    fn publish_locality(&self, state: &State) {
        let entries = state.containers.locality();
        self.locality.send_if_modified(|current| {
            let changed = **current != entries;
            if changed {
                *current = Arc::new(entries);
            }
            changed
        });
    }

    pub(crate) fn locality(&self) -> watch::Receiver<Arc<Vec<LocalEntry>>> {
        self.locality.subscribe()
    }

    /// Whether Docker tells about containers now.
    pub(crate) fn set_docker_up(&self, up: bool) {
        self.docker_up.store(up, Ordering::Relaxed);
    }

    /// Waits until Docker has told about this client's container, if Docker is there and does so in time: its labels may
    /// forbid what it is about to ask for.
    pub(crate) async fn know(&self, client: &Client) {
        let Some(id) = &client.container else { return };
        let known = async {
            loop {
                let changed = self.containers_changed.notified();
                if !self.docker_up.load(Ordering::Relaxed) || self.state().containers.get(id).is_some() {
                    return;
                }
                // A full queue means that it is looking at others; the list it makes now and then has them all.
                let _ = self.asks.try_send(id.clone());
                changed.await;
            }
        };
        if tokio::time::timeout(KNOWN_TIMEOUT, known).await.is_err() {
            debug!(container = id, "Docker does not know this container");
        }
    }

    // --- for people

    /// The connection table, oldest first, then the last ones that were refused.
    pub(crate) fn connection_rows(&self) -> Vec<ConnectionRow> {
        let state = self.state();
        let now = Instant::now();
        let age = |since: Instant| now.saturating_duration_since(since).as_millis() as u64;
        let mut rows: Vec<_> = state.broker.table.rows().collect();
        rows.sort_by_key(|row| row.id);
        let live = rows.into_iter().map(|row| {
            let block = state.blocks.get(&row.id);
            ConnectionRow {
                state: match row.phase {
                    Phase::Waiting => ConnectionState::Offered,
                    Phase::Granted(_) => ConnectionState::Granted,
                    Phase::Established([None, None]) => ConnectionState::Established,
                    Phase::Established(_) => ConnectionState::Closing,
                },
                ends: row.ends.iter().map(|end| state.end_row(end.into())).collect(),
                bytes: block.map_or([0; 2], |b| Direction::BOTH.map(|d| b.stats(d).produced)),
                block: block.map_or(0, |b| b.sizes().block_len() as u64),
                age_ms: age(row.since),
                refusal: None,
            }
        });
        let refused = state.broker.table.refused().map(|row| ConnectionRow {
            state: ConnectionState::Refused,
            ends: row.ends.iter().map(|end| state.end_row(end.clone())).collect(),
            bytes: [0; 2],
            block: 0,
            age_ms: age(row.since),
            refusal: Some(row.refusal.clone()),
        });
        live.chain(refused).collect()
    }

    /// The container table.
    pub(crate) fn container_rows(&self) -> Vec<ContainerRow> {
        let state = self.state();
        let mut connections = HashMap::new();
        for row in state.broker.table.rows().filter(|row| matches!(row.phase, Phase::Established(_))) {
            for id in row.ends.iter().filter_map(|end| end.client.container.clone()) {
                *connections.entry(id).or_insert(0) += 1;
            }
        }
        state.containers.rows(&connections)
    }

    pub(crate) fn counts(&self) -> Counts {
        let state = self.state();
        let mut counts = Counts {
            sessions: state.sessions.len(),
            containers: state.containers.len(),
            blocks: self.pool.out(),
            block_bytes: self.pool.out() as u64 * self.sizes.block_len() as u64,
            ..Counts::default()
        };
        for row in state.broker.table.rows() {
            match row.phase {
                Phase::Waiting => counts.offers += 1,
                Phase::Granted(_) => counts.granted += 1,
                Phase::Established(_) => counts.established += 1,
            }
        }
        drop(state);
        // The directory is itself one of those it lists.
        counts.fds = std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1));
        counts
    }
}

impl State {
    fn tell(&self, end: EndKey, message: &ToClient) {
        if let Some((_, outbox)) = self.sessions.get(&end.session) {
            outbox.put(message, None);
        }
    }

    fn end_row(&self, end: EndFacts) -> EndRow {
        let known = end.container.as_deref().and_then(|id| self.containers.get(id));
        let container = known.map(|container| cut(&container.name));
        let EndFacts { local, peer, container: container_id, pid, uid } = end;
        EndRow { local, peer, container_id, container, pid, uid }
    }
}

fn identity(containers: &Containers, client: &Client) -> Identity {
    Identity {
        container: client.container.as_deref().map(|id| containers.identity(id)),
        pid: client.pid,
        uid: client.uid,
        gid: client.gid,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
