//! The container table, and with it which addresses are on this host.
//!
//! Filled by the Docker watcher (containers), by the server (the host's own addresses) and by sessions (addresses of
//! their clients' network namespaces). Asked by the broker. No I/O.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use shmbc::control::message::{
    ContainerIdentity, ContainerName, ContainerRow, LocalEntry, MAX_LABELS, MAX_TEXT, MountRow, NetworkRow,
};

use super::connections::SessionId;
use crate::quota::ClientKey;

/// What a row for people shows at most: it has to fit one frame.
mod shown {
    pub(super) const NETWORKS: usize = 8;
    pub(super) const ADDRESSES: usize = 8;
    pub(super) const ALIASES: usize = 4;
    pub(super) const LISTENING: usize = 32;
    pub(super) const EXPOSED: usize = 32;
    pub(super) const PUBLISHED: usize = 16;
    pub(super) const MOUNTS: usize = 8;
    pub(super) const LABELS: usize = 24;
}

/// Names of containers that have gone, kept for the list of refused connections, which is no longer.
const MAX_GONE: usize = 256;

/// One container, as Docker tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) state: String,
    /// Its first process, as the machine sees it.
    pub(crate) pid: i32,
    /// As it was named when it started.
    pub(crate) image: String,
    pub(crate) mounts: Vec<MountRow>,
    /// TCP ports that its image or its start names.
    pub(crate) exposed: BTreeSet<u16>,
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
    /// Names that the container has there besides its own.
    pub(crate) aliases: Vec<String>,
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
    /// Labels of networks, by id.
    networks: HashMap<String, BTreeMap<String, String>>,
}

impl Containers {
    /// Takes over what Docker says now, whole.
    pub(crate) fn replace(&mut self, containers: Vec<Container>) {
        let new: HashMap<String, Container> = containers.into_iter().map(|c| (c.id.clone(), c)).collect();
        let gone: Vec<_> = self.by_id.keys().filter(|id| !new.contains_key(*id)).cloned().collect();
        for id in gone {
            self.remove(&id);
        }
        for container in new.into_values() {
            self.insert(container);
        }
    }

    /// Adds or updates one.
    pub(crate) fn insert(&mut self, container: Container) {
        if let Some(old) = self.by_id.remove(&container.id) {
            self.disown(&old);
        }
        for ip in addresses(&container) {
            self.owners.entry(ip).or_default().push(container.id.clone());
        }
        self.by_id.insert(container.id.clone(), container);
    }

    /// Forgets one.
    pub(crate) fn remove(&mut self, id: &str) {
        if let Some(container) = self.by_id.remove(id) {
            self.disown(&container);
            self.bury(container);
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

    /// Takes a container's addresses from it.
    fn disown(&mut self, container: &Container) {
        for ip in addresses(container) {
            if let Entry::Occupied(mut owners) = self.owners.entry(ip) {
                owners.get_mut().retain(|id| *id != container.id);
                if owners.get().is_empty() {
                    owners.remove();
                }
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

    /// Takes over the labels of all networks, by id.
    pub(crate) fn set_networks(&mut self, networks: HashMap<String, BTreeMap<String, String>>) {
        self.networks = networks;
    }

    /// The labels of a network.
    pub(crate) fn network_labels(&self, id: &str) -> Option<&BTreeMap<String, String>> {
        self.networks.get(id)
    }

    /// The container that a client is, if it is one that is known.
    pub(crate) fn of_client(&self, key: &ClientKey) -> Option<&Container> {
        match key {
            ClientKey::Container(id) => self.get(id),
            ClientKey::Uid(_) | ClientKey::Unknown(_) => None,
        }
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

    /// All of them for people, by name. `connections` says how many established ones a container has, `listening` where its
    /// programs listen.
    pub(crate) fn rows(
        &self,
        connections: &HashMap<String, u32>,
        listening: &HashMap<String, BTreeSet<SocketAddr>>,
    ) -> Vec<ContainerRow> {
        let mut rows: Vec<_> = self
            .by_id
            .values()
            .map(|c| ContainerRow {
                id: c.id.clone(),
                name: cut(&c.name),
                state: c.state.clone(),
                image: cut(&c.image),
                networks: self.networks(&c.id).iter().take(shown::NETWORKS).map(network_row).collect(),
                listening: listening.get(&c.id).into_iter().flatten().copied().take(shown::LISTENING).collect(),
                exposed: c.exposed.iter().copied().take(shown::EXPOSED).collect(),
                published: c.published.iter().map(|p| (p.host, p.port)).take(shown::PUBLISHED).collect(),
                mounts: c.mounts.iter().take(shown::MOUNTS).map(mount_row).collect(),
                labels: c.labels.iter().take(shown::LABELS).map(|(name, value)| (cut(name), cut(value))).collect(),
                connections: connections.get(&c.id).copied().unwrap_or(0),
            })
            .collect();
        rows.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        rows
    }
}

/// All addresses of a container, in the form in which they are looked up, each once.
fn addresses(container: &Container) -> BTreeSet<IpAddr> {
    container.networks.iter().flat_map(|n| &n.addresses).map(IpAddr::to_canonical).collect()
}

fn network_row(network: &Network) -> NetworkRow {
    NetworkRow {
        name: cut(&network.name),
        addresses: network.addresses.iter().copied().take(shown::ADDRESSES).collect(),
        aliases: network.aliases.iter().take(shown::ALIASES).map(|alias| cut(alias)).collect(),
    }
}

fn mount_row(mount: &MountRow) -> MountRow {
    let MountRow { kind, source, target, writable } = mount;
    MountRow { kind: cut(kind), source: cut(source), target: cut(target), writable: *writable }
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

    #[test]
    fn address_when_its_owners_come_and_go_belongs_to_those_that_are_there() {
        let of = |id: &str, last: u8| Container {
            id: id.into(),
            networks: vec![Network {
                addresses: vec![[10, 0, 0, last].into(), [10, 0, 0, 9].into()],
                ..Network::default()
            }],
            ..Container::default()
        };
        let mut containers = Containers::default();
        let owned = |containers: &Containers| {
            let ids = |entry: LocalEntry| (entry.ip.to_string(), entry.container.map(|c| c.id));
            containers.locality().into_iter().map(ids).collect::<Vec<_>>()
        };
        let both = |ip: &str, id: &str| (ip.to_owned(), Some(id.to_owned()));
        containers.insert(of("a", 1));
        containers.insert(of("b", 2));
        let shared = ("10.0.0.9".to_owned(), None);
        assert_eq!(owned(&containers), [both("10.0.0.1", "a"), both("10.0.0.2", "b"), shared]);
        containers.insert(of("a", 3));
        containers.remove("b");
        assert_eq!(owned(&containers), [both("10.0.0.3", "a"), both("10.0.0.9", "a")]);
        containers.replace(vec![of("c", 4)]);
        assert_eq!(owned(&containers), [both("10.0.0.4", "c"), both("10.0.0.9", "c")]);
        containers.replace(Vec::new());
        assert!(containers.owners.is_empty() && owned(&containers).is_empty());
        assert_eq!(containers.name("c"), Some(String::new()), "it was there");
    }

    #[test]
    fn row_when_everything_in_it_is_as_large_as_can_be_fits_a_frame() {
        let text = "x".repeat(2 * MAX_TEXT);
        let mount = MountRow { kind: text.clone(), source: text.clone(), target: text.clone(), writable: true };
        let network = Network {
            id: text.clone(),
            name: text.clone(),
            addresses: vec![IpAddr::V6(std::net::Ipv6Addr::from(u128::MAX)); 99],
            aliases: vec![text.clone(); 99],
        };
        let socket = |port: u16| SocketAddr::from((u128::MAX.to_be_bytes(), u16::MAX - port));
        let mut containers = Containers::default();
        containers.insert(Container {
            id: "c".repeat(64),
            name: text.clone(),
            state: "restarting".into(),
            pid: i32::MAX,
            image: text.clone(),
            mounts: vec![mount; 99],
            exposed: (u16::MAX - 99..=u16::MAX).collect(),
            labels: (0..99).map(|n| (format!("{n:0>256}"), text.clone())).collect(),
            networks: vec![network; 99],
            joined: None,
            published: (0..99).map(|port| Published { host: socket(port), port: u16::MAX }).collect(),
        });
        let id = "c".repeat(64);
        let listening = [(id.clone(), (0..99).map(socket).collect())].into();
        let rows = containers.rows(&[(id, u32::MAX)].into(), &listening);
        let message = shmbc::control::message::ToClient::Containers { rows, last: true };
        let frame = shmbc::control::codec::encode(&message).expect("it fits");
        assert!(frame.len() > shmbc::control::codec::MAX_FRAME / 2, "{} bytes: more could be shown", frame.len());
    }
}
