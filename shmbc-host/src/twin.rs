//! Whether two proven offers are the two ends of one TCP connection. Pure.
//!
//! Within one network namespace the kernel allows one connection with two given addresses, so mirrored addresses are proof.
//! Between namespaces they are not: whoever may set up a namespace of his own can give it any addresses, make a
//! connection there that looks like somebody else's, and offer that. Hence the further questions: whose addresses are these, and
//! do the two containers share a network in which they have them? A wrong pair would be found out by the switch
//! tokens, but only after a connection has been broken.

use std::net::{IpAddr, SocketAddr};

use crate::table::connections::{End, Scope};
use crate::table::containers::{Containers, Network};

/// How two ends belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Twin {
    /// Each has the other's addresses.
    Mirrored,
    /// The one dialled a port of the host that leads to the other.
    Published,
}

/// How `a` and `b` belong together, if they do. `own` is the host's network namespace.
pub(crate) fn twin(a: &End, b: &End, containers: &Containers, own: Scope) -> Option<Twin> {
    if a.socket.is_some() && a.socket == b.socket {
        return None;
    }
    if a.local == b.peer && a.peer == b.local {
        return same_network(a, b, containers, own).then_some(Twin::Mirrored);
    }
    let published = |client: &End, server: &End| {
        client.local == server.peer
            && server.client.container.as_deref().is_some_and(|id| {
                containers.publishes(id, client.peer, server.local.port())
                    && has(containers.networks(id), server.local.ip())
            })
            && !client.local.ip().is_loopback()
            && may_have_its_address(client, containers, own)
            && !strangers(client, server, own)
    };
    (published(a, b) || published(b, a)).then_some(Twin::Published)
}

fn same_network(a: &End, b: &End, containers: &Containers, own: Scope) -> bool {
    if a.scope == b.scope || a.scope == Scope::Unproven || b.scope == Scope::Unproven {
        return true;
    }
    if [a.local, b.local].iter().any(|address| address.ip().is_loopback()) {
        return false;
    }
    let (mine, yours) = (networks(a, containers), networks(b, containers));
    let shared = mine.is_empty()
        || yours.is_empty()
        || mine.iter().any(|m| {
            let same = yours.iter().filter(|y| y.id == m.id);
            m.addresses.contains(&a.local.ip()) && same.flat_map(|y| &y.addresses).any(|ip| *ip == b.local.ip())
        });
    shared
        && may_have_its_address(a, containers, own)
        && may_have_its_address(b, containers, own)
        && !strangers(a, b, own)
}

/// The networks Docker put the end into; empty when it did not, or does not say.
fn networks<'a>(end: &End, containers: &'a Containers) -> &'a [Network] {
    end.client.container.as_deref().map_or(&[], |id| containers.networks(id))
}

fn has(networks: &[Network], ip: IpAddr) -> bool {
    networks.iter().any(|n| n.addresses.contains(&ip))
}

/// A container has the addresses that Docker gave it, and nobody else has those.
fn may_have_its_address(end: &End, containers: &Containers, own: Scope) -> bool {
    let ip = end.local.ip();
    match networks(end, containers) {
        [] => end.scope == own || !containers.is_owned(ip),
        networks => has(networks, ip),
    }
}

/// Whether one of them is an ordinary user in a namespace of his own making, and the other is not his.
fn strangers(a: &End, b: &End, own: Scope) -> bool {
    let homemade = |end: &End| end.client.container.is_none() && end.client.uid != 0 && end.scope != own;
    (homemade(a) || homemade(b)) && a.client.uid != b.client.uid
}

/// The address as it is compared: v4-mapped made plain, without flow label and scope id.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
