//! Proves an offer: looks at the very socket that the client named.
//!
//! The socket is pulled out of the client's process with `pidfd_getfd`, looked at, and closed at once, before anything else
//! is done: a copy held longer would delay the connection's FIN. Closing can take as long as the client likes (a lingering
//! socket whose last copy is ours, a file of a stuck file system), so sessions call this on a thread that may wait.
//!
//! A host that may not pull descriptors (`EPERM`) serves only processes of its own user, in its own container if it is in
//! one, and takes their word: they could do anything to each other anyway.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, ipproto, sockopt};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use shmbc::control::message::{Listening, Offer};

use crate::identity::Client;
use crate::identity::namespaces::Namespaces;
use crate::identity::place::{Place, place};
use crate::kernel;
use crate::table::connections::Scope;
use crate::twin::plain;

/// Who the host itself is.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) uid: u32,
    pub(crate) container: Option<String>,
    pub(crate) namespaces: Option<Namespaces>,
    pub(crate) scope: Scope,
}

impl Own {
    pub(crate) fn look() -> Self {
        let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let container = match place(&cgroups) {
            Ok(Place::Container(id)) => Some(id),
            _ => None,
        };
        let probe =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, rustix::net::SocketFlags::CLOEXEC, None);
        let cookie = probe.ok().and_then(|socket| kernel::netns_cookie(socket.as_fd()).ok());
        Self {
            uid: rustix::process::geteuid().as_raw(),
            container,
            namespaces: Namespaces::own(),
            scope: cookie.map_or(Scope::Unproven, Scope::Netns),
        }
    }
}

impl Own {
    /// Whether a client is of the same user, and in the same container or in the very same namespaces.
    pub(crate) fn is_housemate(&self, client: &Client) -> bool {
        let together = match &client.container {
            Some(_) => client.container == self.container,
            None => self.namespaces.as_ref().is_some_and(|own| client.is_in(own)),
        };
        together && client.uid == self.uid
    }
}

/// What the kernel says about a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) scope: Scope,
    pub(crate) socket: Option<u64>,
    /// The user who made the socket, where the host has seen it.
    pub(crate) owner: Option<u32>,
    /// The host could not look, and believes.
    pub(crate) believed: bool,
}

/// Why an offer is not proven. For logs: a client may have closed the connection meanwhile, so it is no lie to be punished.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotProven {
    #[error("descriptor {0} is not open in the client's process")]
    NotOpen(i32),
    #[error("the client has exited")]
    Exited,
    #[error(
        "this service may not look at the sockets of uid {0}: it needs CAP_SYS_PTRACE (docker run --cap-add SYS_PTRACE)"
    )]
    NotPermitted(u32),
    #[error("the descriptor is not a TCP socket of the kind that was named")]
    NotTcp,
    #[error("the socket is {0} to {1}, which is not what was offered")]
    OtherAddresses(SocketAddr, SocketAddr),
    #[error("pidfd_getfd: {0}")]
    Failed(Errno),
}

/// Looks at the socket that `offer` names.
pub(crate) fn prove(client: &Client, offer: &Offer, own: &Own) -> Result<Proof, NotProven> {
    socket(client, offer.fd, (offer.local, offer.peer), own, look)
}

/// Looks at the listening socket that `listening` names.
pub(crate) fn prove_listener(client: &Client, listening: &Listening, own: &Own) -> Result<Proof, NotProven> {
    let nobody: IpAddr = if listening.local.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    socket(client, listening.fd, (listening.local, SocketAddr::new(nobody, 0)), own, look_at_listener)
}

fn socket(
    client: &Client,
    fd: i32,
    (local, peer): (SocketAddr, SocketAddr),
    own: &Own,
    look: impl Fn(&OwnedFd) -> Option<Proof>,
) -> Result<Proof, NotProven> {
    // The library takes a negative number for a mistake of ours, and panics.
    if fd < 0 {
        return Err(NotProven::NotOpen(fd));
    }
    let (local, peer) = (plain(local), plain(peer));
    let proof = match pidfd_getfd(&client.pidfd, fd, PidfdGetfdFlags::empty()) {
        Ok(copy) => {
            let seen = look(&copy);
            drop(copy);
            seen.ok_or(NotProven::NotTcp)?
        }
        Err(Errno::BADF) => return Err(NotProven::NotOpen(fd)),
        Err(Errno::SRCH) => return Err(NotProven::Exited),
        Err(Errno::PERM | Errno::ACCESS | Errno::NOSYS) => {
            if !own.is_housemate(client) {
                return Err(NotProven::NotPermitted(client.uid));
            }
            return Ok(Proof { local, peer, scope: Scope::Unproven, socket: None, owner: None, believed: true });
        }
        Err(other) => return Err(NotProven::Failed(other)),
    };
    if proof.local != local || proof.peer != peer {
        return Err(NotProven::OtherAddresses(proof.local, proof.peer));
    }
    Ok(proof)
}

/// What the kernel says about a descriptor, if it is a connected TCP socket.
fn look(copy: &OwnedFd) -> Option<Proof> {
    let peer = SocketAddr::try_from(rustix::net::getpeername(copy).ok()??).ok()?;
    look_at_tcp(copy, peer)
}

/// What the kernel says about a descriptor, if it is a TCP socket that accepts connections.
fn look_at_listener(copy: &OwnedFd) -> Option<Proof> {
    let listens = sockopt::socket_acceptconn(copy).ok()?;
    let nobody: IpAddr = match sockopt::socket_domain(copy).ok()? {
        AddressFamily::INET => [0; 4].into(),
        _ => [0_u16; 8].into(),
    };
    look_at_tcp(copy, SocketAddr::new(nobody, 0)).filter(|_| listens)
}

fn look_at_tcp(copy: &OwnedFd, peer: SocketAddr) -> Option<Proof> {
    let tcp = sockopt::socket_type(copy).ok()? == SocketType::STREAM
        && matches!(sockopt::socket_domain(copy).ok()?, AddressFamily::INET | AddressFamily::INET6)
        && sockopt::socket_protocol(copy).ok()? == Some(ipproto::TCP);
    if !tcp {
        return None;
    }
    let local = SocketAddr::try_from(rustix::net::getsockname(copy).ok()?).ok()?;
    let scope = kernel::netns_cookie(copy.as_fd()).map_or(Scope::Unproven, Scope::Netns);
    let socket = sockopt::socket_cookie(copy).ok();
    // Of a socket the kernel knows this by itself.
    let owner = rustix::fs::fstat(copy).ok().map(|stat| stat.st_uid);
    Some(Proof { local: plain(local), peer: plain(peer), scope, socket, owner, believed: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    fn own(uid: u32, container: Option<&str>) -> Own {
        // In a container the namespaces are others than those of this test.
        let namespaces = if container.is_none() { Namespaces::own() } else { None };
        Own { uid, container: container.map(str::to_owned), namespaces, scope: Scope::Netns(1) }
    }

    #[test]
    fn housemate_when_of_another_user_or_container_is_none() {
        let client = Client::pretended;
        assert!(own(1000, None).is_housemate(&client(1000, None)));
        assert!(own(0, Some("c")).is_housemate(&client(0, Some("c"))));
        assert!(!own(1000, None).is_housemate(&client(1001, None)));
        assert!(!own(0, None).is_housemate(&client(0, Some("c"))), "root in a container is not root here");
        assert!(!own(0, Some("c")).is_housemate(&client(0, Some("d"))));
        assert!(!own(0, Some("c")).is_housemate(&client(0, None)));
    }

    #[test]
    fn socket_when_looked_at_tells_its_addresses_and_namespace_and_is_not_kept() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let offer = Offer { id: shmbc::control::message::OfferId(1), fd: stream.as_raw_fd(), local, peer, cpu: 0 };
        let me = Own::look();
        let client = Client::pretended(me.uid, None);
        let proof = prove(&client, &offer, &me).unwrap();
        assert_eq!((proof.local, proof.peer, proof.believed), (local, peer, false));
        assert_eq!(proof.scope, me.scope);
        assert!(proof.socket.is_some());
        // A copy that is kept would hold the FIN back.
        let (mut accepted, _) = listener.accept().unwrap();
        drop(stream);
        accepted.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        assert_eq!(std::io::Read::read(&mut accepted, &mut [0]).unwrap(), 0);
    }
}
