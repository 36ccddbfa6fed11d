//! Proves an offer: looks at the very socket that the client named.
//!
//! The looking is done by small processes that may hang and be replaced (`pullers`), because whatever a client has open may be a
//! file that makes who touches it wait for ever: a file system of his own that does not answer, a socket that lingers. What one
//! does is `look`; this says what to look at, and compares what was seen with what the client claimed.
//!
//! A host that may not pull descriptors (`EPERM`) serves only processes of its own user, in its own container if it is in
//! one, and takes their word: they could do anything to each other anyway.

pub(crate) mod look;
pub(crate) mod pullers;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use rustix::net::{AddressFamily, SocketType};
use shmbc::block::Block;
use shmbc::control::message::{Listening, Offer};
use tracing::debug;

use self::look::{Request, Seen};
use self::pullers::{Pullers, Unanswered};
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
#[derive(Debug, thiserror::Error)]
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
    #[error("looking at it: {0}")]
    Failed(std::io::Error),
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// Looks at the socket that `offer` names.
pub(crate) async fn prove(pullers: &Pullers, client: &Client, offer: &Offer, own: &Own) -> Result<Proof, NotProven> {
    let request = Request::Connection { pid: client.pid, fd: offer.fd };
    socket(pullers, client, request, (offer.local, offer.peer), own).await
}

/// Looks at the listening socket that `listening` names.
pub(crate) async fn prove_listener(
    pullers: &Pullers,
    client: &Client,
    listening: &Listening,
    own: &Own,
) -> Result<Proof, NotProven> {
    let nobody: IpAddr = if listening.local.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let request = Request::Listener { pid: client.pid, fd: listening.fd };
    socket(pullers, client, request, (listening.local, SocketAddr::new(nobody, 0)), own).await
}

/// The block that the client has mapped at an address, if it is one and may be looked at.
pub(crate) async fn mapped_block(
    pullers: &Pullers,
    client: &Client,
    (address, len): (u64, u64),
) -> Result<Option<Block>, Unanswered> {
    let request = Request::Mapped { pid: client.pid, address, len };
    let (seen, file) = pullers.ask(&request, client.pidfd.as_fd()).await?;
    // The number may have been another process's by then.
    let (Seen::Memory, Some(file), false) = (seen, file, client.has_exited()) else { return Ok(None) };
    Ok(Block::adopt(file).inspect_err(|error| debug!(%error, pid = client.pid, "not a block")).ok())
}

async fn socket(
    pullers: &Pullers,
    client: &Client,
    request: Request,
    (local, peer): (SocketAddr, SocketAddr),
    own: &Own,
) -> Result<Proof, NotProven> {
    let (local, peer) = (plain(local), plain(peer));
    let (seen, _) = pullers.ask(&request, client.pidfd.as_fd()).await?;
    let proof = match seen {
        Seen::Socket(proof) => proof,
        Seen::NotOpen => return Err(NotProven::NotOpen(request.fd())),
        Seen::Exited => return Err(NotProven::Exited),
        Seen::NotPermitted if own.is_housemate(client) => {
            return Ok(Proof { local, peer, scope: Scope::Unproven, socket: None, owner: None, believed: true });
        }
        Seen::NotPermitted => return Err(NotProven::NotPermitted(client.uid)),
        Seen::NotTcp | Seen::Memory => return Err(NotProven::NotTcp),
        Seen::Failed(errno) => return Err(NotProven::Failed(std::io::Error::from_raw_os_error(errno))),
    };
    if proof.local != local || proof.peer != peer {
        return Err(NotProven::OtherAddresses(proof.local, proof.peer));
    }
    Ok(proof)
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

    #[tokio::test]
    async fn socket_when_looked_at_tells_its_addresses_and_namespace_and_is_not_kept() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let offer = Offer { id: shmbc::control::message::OfferId(1), fd: stream.as_raw_fd(), local, peer, cpu: 0 };
        let me = Own::look();
        let client = Client::pretended(me.uid, None);
        let proof = prove(&Pullers::new(), &client, &offer, &me).await.unwrap();
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
