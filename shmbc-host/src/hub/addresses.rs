//! Which containers there are and which addresses are on this host: taken in, and told to all clients.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shmbc::control::message::{LocalEntry, MAX_LOCAL_ENTRIES, ToClient};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{Hub, State};
use crate::identity::Client;
use crate::identity::stranger::Stranger;
use crate::quota::ClientKey;
use crate::session::outbox::Outgoing;
use crate::table::connections::SessionId;
use crate::table::containers::{Container, Containers};

/// How long a new session waits for Docker to tell about its container.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// In whose name the container table has what all sessions together have brought. No session has this number.
const EVERYBODY: SessionId = SessionId(0);

/// The table of local addresses as it is told to every client: made into frames once for all of them.
#[derive(Debug)]
pub(crate) struct Told {
    entries: Vec<LocalEntry>,
    pub(crate) frames: Vec<Vec<u8>>,
}

impl Told {
    pub(super) fn of(entries: Vec<LocalEntry>) -> Self {
        let mut pieces: Vec<_> = entries.chunks(MAX_LOCAL_ENTRIES).collect();
        if pieces.is_empty() {
            // Nothing is also a table.
            pieces.push(&[]);
        }
        let message =
            |(n, piece): (usize, &[LocalEntry])| ToClient::Locality { fresh: n == 0, entries: piece.to_vec() };
        let frames = pieces.into_iter().enumerate().map(message);
        let frames = frames.filter_map(|message| Outgoing::of(&message)).map(|outgoing| outgoing.frame).collect();
        Self { entries, frames }
    }
}

impl Hub {
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

    /// Takes over the labels of all networks.
    pub(crate) fn set_networks(&self, networks: HashMap<String, BTreeMap<String, String>>) {
        self.state().containers.set_networks(networks);
    }

    /// Whether the labels of this container's networks are known.
    pub(crate) fn knows_networks(&self, container: &Container) -> bool {
        let state = self.state();
        container.networks.iter().all(|network| state.containers.network_labels(&network.id).is_some())
    }

    /// Takes over addresses of a client's network namespace, if it is one whose word counts: an ordinary user can give a
    /// namespace of his own any addresses, and would have everybody offer connections to them.
    pub(crate) fn learn(&self, session: SessionId, client: &Client) {
        match client.key {
            ClientKey::Container(_) => {}
            ClientKey::Uid(uid) | ClientKey::Unknown(Stranger { uid, .. }) if uid == 0 || uid == self.own.uid => {}
            ClientKey::Uid(_) | ClientKey::Unknown(_) => return,
        }
        let mut addresses: Vec<_> = client.addresses().iter().map(IpAddr::to_canonical).collect();
        let mut state = self.state();
        addresses.retain(|ip| !state.own_addresses.contains(ip));
        if state.learned.enter(session, addresses) {
            self.publish_learned(&mut state);
        }
    }

    /// Forgets what a session has brought.
    pub(super) fn unlearn(&self, state: &mut State, session: SessionId) {
        if state.learned.leave(session) {
            self.publish_learned(state);
        }
    }

    fn publish_learned(&self, state: &mut State) {
        state.containers.forget(EVERYBODY);
        state.containers.learn(EVERYBODY, state.learned.all());
        self.publish_locality(state);
    }

    /// The host's own addresses: those of the service's network namespace, and of the machine's first process if that is
    /// another one (the service runs in a container).
    pub(crate) fn learn_own(&self) {
        let mut addresses: Vec<IpAddr> = crate::identity::host_addresses();
        if let Ok(interfaces) = nix::ifaddrs::getifaddrs() {
            addresses.extend(interfaces.filter_map(|interface| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
            }));
        }
        self.state().own_addresses = addresses.iter().map(IpAddr::to_canonical).collect();
        self.with_containers(|containers| containers.set_host(addresses));
    }

    fn publish_locality(&self, state: &State) {
        let entries = state.containers.locality();
        self.locality.send_if_modified(|current| {
            let changed = current.entries != entries;
            if changed {
                *current = Arc::new(Told::of(entries));
            }
            changed
        });
    }

    pub(crate) fn locality(&self) -> watch::Receiver<Arc<Told>> {
        self.locality.subscribe()
    }

    /// Whether Docker tells about containers now.
    pub(crate) fn set_docker_up(&self, up: bool) {
        self.docker_up.store(up, Ordering::Relaxed);
    }

    /// Finds out whether this client is in the container that its cgroup names. Waits until Docker has told about that, if Docker is
    /// there and does so in time: its labels may forbid what the client is about to ask for.
    ///
    /// Where Docker knows the container, only its word counts. Else a name counts that stands where a manager of containers makes
    /// such: there are others than Docker.
    pub(crate) async fn recognise(&self, client: &mut Client) {
        let Some(claim) = &client.claim else { return };
        let word = async {
            loop {
                let changed = self.containers_changed.notified();
                if !self.docker_up.load(Ordering::Relaxed) {
                    return None;
                }
                let first = self.state().containers.get(&claim.id).map(|container| container.pid);
                // It may have been started again, and Docker's word of that is on the way.
                if first.is_some_and(|first| claim.is_of(first)) {
                    return Some(true);
                }
                // A full queue means that it is looking at others; the list it makes now and then has them all.
                let _ = self.asks.try_send(claim.id.clone());
                changed.await;
            }
        };
        let word = tokio::time::timeout(KNOWN_TIMEOUT, word).await;
        let known = self.docker_up.load(Ordering::Relaxed) && self.state().containers.get(&claim.id).is_some();
        match word.unwrap_or_else(|_| known.then_some(false)) {
            Some(true) => client.recognise(),
            None if claim.is_managed() => client.recognise(),
            None => debug!(container = claim.id, pid = client.pid, "nobody knows this container"),
            Some(false) => {
                let (container, pid, uid) = (&claim.id, client.pid, client.uid);
                warn!(container, pid, uid, "a process is in a cgroup that is named like this container, and not in it");
            }
        }
    }
}
