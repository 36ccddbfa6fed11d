//! What a program may know of the other end of a connection whose stream an HTTP stack has taken: addresses, which way
//! the bytes go, and who it is. Written by `HttpStream` only; read by handlers and callers.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use shmbc_tokio::{Identity, Path, ShmStream};

/// The other end of a connection, as seen from an HTTP handler or by the holder of a response.
///
/// A connection begins on TCP and moves to shared memory while it runs, so this is a view and not a snapshot: ask
/// it again and it says what is true by then. It is cheap to clone, and stays valid after the connection has ended.
///
/// In an axum handler it is `ConnectInfo<ShmPeer>`; on the client's side it is in the extensions of each
/// response. See the [crate's example](crate).
#[derive(Clone)]
pub struct ShmPeer {
    shared: Arc<Shared>,
}

struct Shared {
    local: SocketAddr,
    addr: SocketAddr,
    path: Mutex<Path>,
    identity: OnceLock<Identity>,
}

impl ShmPeer {
    pub(crate) fn new(stream: &ShmStream, local: SocketAddr, addr: SocketAddr) -> Self {
        let peer = Self {
            shared: Arc::new(Shared { local, addr, path: Mutex::new(stream.path()), identity: OnceLock::new() }),
        };
        peer.observe(stream);
        peer
    }

    /// The other end's address.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// This end's address.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local
    }

    /// Which way the connection's bytes went when it was last used.
    pub fn path(&self) -> Path {
        // A panic elsewhere cannot have left half a path behind.
        self.shared.path.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who the other end is, as the host service proved it. `None` until the connection has been granted shared memory.
    pub fn identity(&self) -> Option<&Identity> {
        self.shared.identity.get()
    }

    /// Takes over what `stream` knows by now.
    pub(crate) fn observe(&self, stream: &ShmStream) {
        if self.shared.identity.get().is_none()
            && let Some(identity) = stream.peer_identity()
        {
            self.shared.identity.get_or_init(|| identity.clone());
        }
        *self.shared.path.lock().unwrap_or_else(PoisonError::into_inner) = stream.path();
    }
}

impl fmt::Debug for ShmPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmPeer")
            .field("addr", &self.shared.addr)
            .field("path", &self.path())
            .field("identity", &self.identity())
            .finish_non_exhaustive()
    }
}
