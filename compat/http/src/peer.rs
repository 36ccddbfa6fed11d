//! What a program may know of the other end of a connection whose stream an HTTP stack has taken: addresses, which way
//! the bytes go, and who it is. Looks at the stream for as long as that lives, and keeps what was true last.

use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Poll;

use shmbc_tokio::{Identity, Path, Reason, ShmStream};

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
    /// Locked while somebody looks, so that taking the stream back fails for those only who wait.
    stream: Mutex<Weak<ShmStream>>,
    /// The path when the stream was dropped or given back.
    last: OnceLock<Path>,
    identity: OnceLock<Identity>,
}

impl ShmPeer {
    pub(crate) fn new(stream: &Arc<ShmStream>, local: SocketAddr, addr: SocketAddr) -> Self {
        let stream = Mutex::new(Arc::downgrade(stream));
        Self { shared: Arc::new(Shared { local, addr, stream, last: OnceLock::new(), identity: OnceLock::new() }) }
    }

    /// One whose connection is over, proven or not.
    #[cfg(all(test, feature = "tower05"))]
    pub(crate) fn gone(identity: Option<Identity>) -> Self {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let peer = Shared {
            local: anywhere,
            addr: anywhere,
            stream: Mutex::default(),
            last: OnceLock::new(),
            identity: OnceLock::new(),
        };
        if let Some(identity) = identity {
            let _ = peer.identity.set(identity);
        }
        Self { shared: Arc::new(peer) }
    }

    /// The other end's address.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// This end's address.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local
    }

    /// Which way the connection's bytes go, or went last.
    pub fn path(&self) -> Path {
        let now = || self.stream().upgrade().map(|stream| stream.path());
        // Whoever drops the stream has left its last word before.
        let last = || self.shared.last.get().cloned();
        last().or_else(now).or_else(last).unwrap_or(Path::Tcp(Reason::Closed))
    }

    /// Who the other end is, as the host service proved it. `None` until the connection has been granted shared memory.
    ///
    /// It is the process that held the other end of this very TCP connection when it was offered, concluded from kernel
    /// facts, and its container with name and labels as Docker has them. See [`Identity`].
    pub fn identity(&self) -> Option<&Identity> {
        if self.shared.identity.get().is_none()
            && let stream = self.stream()
            && let Some(stream) = stream.upgrade()
        {
            self.observe(&stream);
        }
        self.shared.identity.get()
    }

    /// Waits until the host service has proved who the other end is; offers the connection at once if that has not been
    /// done.
    ///
    /// The other end has to offer it too: it does after a second request, or as soon as it has connected when it was told
    /// so ([`ShmConnector::offer_at_once`](crate::ShmConnector::offer_at_once)). So bound the wait, or send an answer that
    /// makes the other end go on. Unlike [`ShmStream::upgraded`] this does not need anybody to read meanwhile.
    ///
    /// # Errors
    ///
    /// The [`Reason`] for which the connection stays on TCP, and the peer unknown.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the proof goes on by itself.
    pub async fn proven(&self) -> Result<&Identity, Reason> {
        if let Some(identity) = self.identity() {
            return Ok(identity);
        }
        let stream = self.stream().upgrade().ok_or(Reason::Closed)?;
        let mut upgraded = pin!(stream.upgraded());
        // The grant, which says who it is, comes before both directions have switched, and wakes whoever waits for that.
        let ended = std::future::poll_fn(|cx| {
            let upgraded = upgraded.as_mut().poll(cx);
            self.observe(&stream);
            if self.shared.identity.get().is_some() { Poll::Ready(Ok(())) } else { upgraded }
        });
        ended.await?;
        self.shared.identity.get().ok_or(Reason::Closed)
    }

    /// Takes over who the other end is, once the stream knows.
    fn observe(&self, stream: &ShmStream) {
        if self.shared.identity.get().is_none()
            && let Some(identity) = stream.peer_identity()
        {
            self.shared.identity.get_or_init(|| identity.clone());
        }
    }

    /// Keeps everybody else from looking at the stream.
    pub(crate) fn stream(&self) -> MutexGuard<'_, Weak<ShmStream>> {
        self.shared.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream is about to go: keeps what it says last.
    pub(crate) fn keep(&self, stream: &ShmStream) {
        self.observe(stream);
        self.shared.last.get_or_init(|| stream.path());
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
