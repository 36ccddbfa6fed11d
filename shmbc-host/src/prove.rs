//! Proves an offer: looks at the very socket that the client named.
//!
//! The socket is pulled out of the client's process with `pidfd_getfd`, looked at, and closed at once, before anything else
//! is done: a copy held longer would delay the connection's FIN. Closing can take as long as the client likes (a lingering
//! socket whose last copy is ours, a file of a stuck file system), so sessions call this on a thread that may wait.
//!
//! A host that may not pull descriptors (`EPERM`) serves only processes of its own user, in its own container if it is in
//! one, and takes their word: they could do anything to each other anyway.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, ipproto, sockopt};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use shmbc::control::message::Offer;

use crate::identity::{Client, Place, place};
use crate::kernel;
use crate::table::connections::Scope;
use crate::twin::plain;

/// Who the host itself is.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) uid: u32,
    pub(crate) container: Option<String>,
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
            scope: cookie.map_or(Scope::Unproven, Scope::Netns),
        }
    }
}

/// What the kernel says about a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) scope: Scope,
    pub(crate) socket: Option<u64>,
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
    #[error("the descriptor is not a connected TCP socket")]
    NotTcp,
    #[error("the socket is {0} to {1}, which is not what was offered")]
    OtherAddresses(SocketAddr, SocketAddr),
    #[error("pidfd_getfd: {0}")]
    Failed(Errno),
}

/// Looks at the socket that `offer` names.
pub(crate) fn prove(client: &Client, offer: &Offer, own: &Own) -> Result<Proof, NotProven> {
    // The library takes a negative number for a mistake of ours, and panics.
    if offer.fd < 0 {
        return Err(NotProven::NotOpen(offer.fd));
    }
    let proof = match pidfd_getfd(&client.pidfd, offer.fd, PidfdGetfdFlags::empty()) {
        Ok(copy) => {
            let seen = look(&copy);
            drop(copy);
            seen.ok_or(NotProven::NotTcp)?
        }
        Err(Errno::BADF) => return Err(NotProven::NotOpen(offer.fd)),
        Err(Errno::SRCH) => return Err(NotProven::Exited),
        Err(Errno::PERM | Errno::ACCESS | Errno::NOSYS) => {
            if client.uid != own.uid || client.container != own.container {
                return Err(NotProven::NotPermitted(client.uid));
            }
            let (local, peer) = (plain(offer.local), plain(offer.peer));
            return Ok(Proof { local, peer, scope: Scope::Unproven, socket: None, believed: true });
        }
        Err(other) => return Err(NotProven::Failed(other)),
    };
    if proof.local != plain(offer.local) || proof.peer != plain(offer.peer) {
        return Err(NotProven::OtherAddresses(proof.local, proof.peer));
    }
    Ok(proof)
}

/// What the kernel says about a descriptor, if it is a connected TCP socket.
fn look(copy: &OwnedFd) -> Option<Proof> {
    let tcp = sockopt::socket_type(copy).ok()? == SocketType::STREAM
        && matches!(sockopt::socket_domain(copy).ok()?, AddressFamily::INET | AddressFamily::INET6)
        && sockopt::socket_protocol(copy).ok()? == Some(ipproto::TCP);
    if !tcp {
        return None;
    }
    let local = SocketAddr::try_from(rustix::net::getsockname(copy).ok()?).ok()?;
    let peer = SocketAddr::try_from(rustix::net::getpeername(copy).ok()??).ok()?;
    let scope = kernel::netns_cookie(copy.as_fd()).map_or(Scope::Unproven, Scope::Netns);
    let socket = sockopt::socket_cookie(copy).ok();
    Some(Proof { local: plain(local), peer: plain(peer), scope, socket, believed: false })
}
