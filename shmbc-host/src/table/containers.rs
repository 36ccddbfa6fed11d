//! The container table, and with it which addresses are on this host.
//!
//! Filled by the Docker watcher (containers), by the server (the host's own addresses) and by sessions (addresses of
//! their clients' network namespaces). Asked by the broker. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use shmbc::control::message::{ContainerIdentity, ContainerName, ContainerRow, LocalEntry, MAX_LABELS, MAX_TEXT};

use super::connections::SessionId;

/// Most networks, and addresses in each, that a row for people shows: four rows have to fit one frame.
const MAX_SHOWN: usize = 8;

/// Names of containers that have gone, kept for the list of refused connections, which is no longer.
const MAX_GONE: usize = 256;

/// One container, as Docker tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Empty for a container in the host's network namespace, or without a network.
    pub(crate) networks: Vec<Network>,
    /// The container whose network namespace it joined.
    pub(crate) joined: Option<String>,
    pub(crate) published: Vec<Published>,
}

/// A container's place in one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
}

/// A TCP port of a container that the host answers on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// The address on the host; an unspecified one stands for all of its family.
    pub(crate) host: SocketAddr,
    /// The port in the container.
    pub(crate) port: u16,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    by_id: HashMap<String, Container>,
    owners: HashMap<IpAddr, Vec<String>>,
    host: BTreeSet<IpAddr>,
    learned: HashMap<SessionId, Vec<IpAddr>>,
    gone: VecDeque<(String, String)>,
}

impl Containers {
    /// Takes over what Docker says now, whole.
    pub(crate) fn replace(&mut self, containers: Vec<Container>) {
        let new = containers.into_iter().map(|c| (c.id.clone(), c)).collect();
        let old: HashMap<String, Container> = std::mem::replace(&mut self.by_id, new);
        for container in old.into_values() {
            if !self.by_id.contains_key(&container.id) {
                self.bury(container);
            }
        }
        self.index();
    }

    /// Adds or updates one.
    pub(crate) fn insert(&mut self, container: Container) {
        self.by_id.insert(container.id.clone(), container);
        self.index();
    }

    /// Forgets one.
    pub(crate) fn remove(&mut self, id: &str) {
        if let Some(container) = self.by_id.remove(id) {
            self.bury(container);
            self.index();
        }
    }

    fn bury(&mut self, container: Container) {
        if self.gone.len() >= MAX_GONE {
            self.gone.pop_front();
        }
        self.gone.push_back((container.id, container.name));
    }

    /// The name of a container that is, or was not long ago.
    pub(crate) fn name(&self, id: &str) -> Option<String> {
        let gone = || self.gone.iter().rev().find(|(gone, _)| gone == id).map(|(_, name)| cut(name));
        self.by_id.get(id).map(|container| cut(&container.name)).or_else(gone)
    }

    fn index(&mut self) {
        self.owners.clear();
        for container in self.by_id.values() {
            for ip in container.networks.iter().flat_map(|n| &n.addresses) {
                self.owners.entry(ip.to_canonical()).or_default().push(container.id.clone());
            }
        }
    }

    /// The host's own addresses.
    pub(crate) fn set_host(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.host = addresses.into_iter().filter(|ip| is_routable(*ip)).map(|ip| ip.to_canonical()).collect();
    }

    /// Addresses of a client's network namespace.
    pub(crate) fn learn(&mut self, session: SessionId, addresses: Vec<IpAddr>) {
        let addresses: Vec<_> = addresses.into_iter().filter(|ip| is_routable(*ip)).collect();
        if !addresses.is_empty() {
            self.learned.insert(session, addresses);
        }
    }

    /// A client has gone.
    pub(crate) fn forget(&mut self, session: SessionId) {
        self.learned.remove(&session);
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Container> {
        self.by_id.get(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The networks that a container is in, be it by joining another's namespace. Empty: Docker does not say.
    pub(crate) fn networks(&self, id: &str) -> &[Network] {
        let Some(container) = self.by_id.get(id) else { return &[] };
        let joined = container.joined.as_ref().and_then(|other| self.by_id.get(other));
        &joined.unwrap_or(container).networks
    }

    /// Whether Docker gave this address to some container.
    pub(crate) fn is_owned(&self, ip: IpAddr) -> bool {
        self.owners.contains_key(&ip)
    }

    /// Whether `dialled` on the host leads to `port` of this container.
    pub(crate) fn publishes(&self, id: &str, dialled: SocketAddr, port: u16) -> bool {
        self.by_id.get(id).is_some_and(|container| {
            container.published.iter().any(|p| {
                let anywhere = p.host.ip().is_unspecified()
                    && p.host.is_ipv4() == dialled.is_ipv4()
                    && self.host.contains(&dialled.ip());
                p.port == port && p.host.port() == dialled.port() && (p.host.ip() == dialled.ip() || anywhere)
            })
        })
    }

    /// What an end is told about the container of the other, which may decide by it whom to serve. So what is too long is
    /// left out and never cut: it could turn into what somebody else is.
    pub(crate) fn identity(&self, id: &str) -> ContainerIdentity {
        let Some(container) = self.by_id.get(id) else {
            return ContainerIdentity { id: id.to_owned(), ..ContainerIdentity::default() };
        };
        let fits = |text: &str| text.len() <= MAX_TEXT;
        let labels = container.labels.iter().filter(|(name, value)| fits(name) && fits(value)).take(MAX_LABELS);
        let labels = labels.map(|(name, value)| (name.clone(), value.clone())).collect();
        let name = if fits(&container.name) { container.name.clone() } else { String::new() };
        ContainerIdentity { id: id.to_owned(), name, labels }
    }

    /// Which addresses are on this host, in a fixed order.
    pub(crate) fn locality(&self) -> Vec<LocalEntry> {
        let mut seen = HashSet::new();
        let mut entries: Vec<_> = self
            .owners
            .iter()
            .map(|(&ip, owners)| {
                // Two networks may use one address; then there is no telling which container is meant.
                let container = match owners.as_slice() {
                    [id] => self.by_id.get(id).map(|c| ContainerName { id: c.id.clone(), name: cut(&c.name) }),
                    _ => None,
                };
                LocalEntry { ip, container }
            })
            .chain(self.host.iter().map(|&ip| LocalEntry { ip, container: None }))
            .chain(self.learned.values().flatten().map(|ip| LocalEntry { ip: ip.to_canonical(), container: None }))
            .filter(|entry| seen.insert(entry.ip))
            .collect();
        entries.sort_by_key(|entry| entry.ip);
        entries
    }

    /// All of them for people, by name. `connections` says how many established ones a container has.
    pub(crate) fn rows(&self, connections: &HashMap<String, u32>) -> Vec<ContainerRow> {
        let mut rows: Vec<_> = self
            .by_id
            .values()
            .map(|c| ContainerRow {
                id: c.id.clone(),
                name: cut(&c.name),
                state: c.state.clone(),
                networks: self
                    .networks(&c.id)
                    .iter()
                    .take(MAX_SHOWN)
                    .map(|n| (cut(&n.name), n.addresses.iter().copied().take(MAX_SHOWN).collect()))
                    .collect(),
                connections: connections.get(&c.id).copied().unwrap_or(0),
            })
            .collect();
        rows.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        rows
    }
}

/// Loopback is never told: it means another place in every network namespace. Nor is link-local, for the same reason.
fn is_routable(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_unicast_link_local(),
    }
}

/// At most [`MAX_TEXT`] bytes of `text`, whole characters.
pub(crate) fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: String, labels: BTreeMap<String, String>) -> ContainerIdentity {
        let mut containers = Containers::default();
        containers.insert(Container { id: "c".into(), name, labels, ..Container::default() });
        containers.identity("c")
    }

    #[test]
    fn identity_when_a_text_is_too_long_leaves_it_out_and_never_cuts_it() {
        let (longest, longer) = ("x".repeat(MAX_TEXT), "x".repeat(MAX_TEXT + 1));
        let labels = [("role", &*longest), ("cut", &*longer), (&*longest, "web"), (&*longer, "cut")];
        let told = identity(longer.clone(), labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(told.name, "", "a name that nobody has");
        let expected = [("role".to_owned(), longest.clone()), (longest.clone(), "web".to_owned())];
        assert_eq!(told.labels, expected.into());
        assert_eq!(identity(longest.clone(), BTreeMap::new()).name, longest);
    }

    #[test]
    fn identity_when_there_are_too_many_labels_has_the_first_by_name() {
        let labels: BTreeMap<_, _> = (0..MAX_LABELS + 6).map(|n| (format!("{n:04}"), String::new())).collect();
        let told = identity("web".into(), labels.clone());
        assert_eq!(told.labels, labels.into_iter().take(MAX_LABELS).collect());
    }
}
