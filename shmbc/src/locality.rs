//! Which addresses are on this host, as the host service last said.
//!
//! Asked by every connection before it offers, so that a remote peer costs no message. Pure; the client's agent
//! fills it from the host's `Locality` frames.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::control::message::{ContainerName, LocalEntry};

/// Most addresses that are kept. A host with more has containers whose connections stay on TCP; the limit bounds
/// what a host can make a client allocate.
pub const MAX_ADDRESSES: usize = 65_536;

/// What is known about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locality {
    /// It is on this host, in this container, or the host's own.
    SameHost {
        /// The container that has it.
        container: Option<ContainerName>,
    },
    /// It is not on this host.
    Remote,
    /// No host service has said anything yet.
    Unknown,
}

/// The table of local addresses.
#[derive(Debug, Default)]
pub struct LocalityTable {
    known: bool,
    addresses: HashMap<IpAddr, Option<ContainerName>>,
}

impl LocalityTable {
    /// Takes over one frame of the host's. `fresh` begins a new table.
    pub fn update(&mut self, fresh: bool, entries: Vec<LocalEntry>) {
        if fresh {
            self.addresses.clear();
            self.known = true;
        }
        for entry in entries {
            if self.addresses.len() >= MAX_ADDRESSES {
                return;
            }
            self.addresses.insert(entry.ip.to_canonical(), entry.container);
        }
    }

    /// Forgets everything: the host is gone.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// What is known about `ip`. Loopback addresses are on this host by definition; a v4-mapped address is its v4 self.
    pub fn query(&self, ip: IpAddr) -> Locality {
        let ip = ip.to_canonical();
        match self.addresses.get(&ip) {
            Some(container) => Locality::SameHost { container: container.clone() },
            None if ip.is_loopback() => Locality::SameHost { container: None },
            None if self.known => Locality::Remote,
            None => Locality::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_when_asked_for_is_local_remote_or_unknown() {
        let mut table = LocalityTable::default();
        let web: IpAddr = "172.18.0.2".parse().unwrap();
        let mapped: IpAddr = "::ffff:172.18.0.2".parse().unwrap();
        let elsewhere: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(table.query(web), Locality::Unknown);
        assert_eq!(table.query("127.0.0.9".parse().unwrap()), Locality::SameHost { container: None });
        assert_eq!(table.query("::1".parse().unwrap()), Locality::SameHost { container: None });
        let name = ContainerName { id: "a".repeat(64), name: "web".into() };
        table.update(true, vec![LocalEntry { ip: mapped, container: Some(name.clone()) }]);
        assert_eq!(table.query(web), Locality::SameHost { container: Some(name) });
        assert_eq!(table.query(elsewhere), Locality::Remote);
        table.update(true, vec![]);
        assert_eq!(table.query(web), Locality::Remote, "a fresh table forgets the old one");
        table.clear();
        assert_eq!(table.query(web), Locality::Unknown);
    }
}
