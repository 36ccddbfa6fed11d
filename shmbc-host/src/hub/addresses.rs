//! Which containers there are and which addresses are on this host: taken in, and told to all clients.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shmbc::control::message::LocalEntry;
use tokio::sync::watch;
use tracing::debug;

use super::{Hub, State};
use crate::identity::Client;
use crate::table::connections::SessionId;
use crate::table::containers::{Container, Containers};

/// How long a new session waits for Docker to tell about its container.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(1);

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

    pub(super) fn publish_locality(&self, state: &State) {
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
}
