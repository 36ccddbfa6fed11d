//! What is on its way to one client: a queue of frames with a limit, so that a client that does not read costs little.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shmbc::control::codec;
use shmbc::control::message::ToClient;
use shmbc::doorbell::{Ringer, Waiter};
use tokio::sync::{Notify, mpsc};
use tracing::error;

/// Most bytes that wait for a client, besides what the kernel holds for it (200 KiB). A few hundred grants: more than the
/// quota of offers lets come in the time a client that is alive takes to read.
const MAX_QUEUED: usize = 64 * 1024;

/// The descriptors of one grant. Closed here once they are sent.
#[derive(Debug)]
pub(crate) struct GrantFds {
    pub(crate) block: OwnedFd,
    pub(crate) ringer: Ringer,
    pub(crate) waiter: Waiter,
}

/// One frame on its way.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) frame: Vec<u8>,
    fds: Option<GrantFds>,
}

/// A frame that is made already, without descriptors.
impl From<Vec<u8>> for Outgoing {
    fn from(frame: Vec<u8>) -> Self {
        Self { frame, fds: None }
    }
}

impl Outgoing {
    /// The frame of a message without descriptors.
    pub(crate) fn of(message: &ToClient) -> Option<Self> {
        match codec::encode(message) {
            Ok(frame) => Some(frame.into()),
            Err(error) => {
                // A mistake of ours. The client waits in vain for one message and stays on TCP.
                error!(%error, "a message to a client breaks its own limits");
                None
            }
        }
    }

    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.fds.as_ref().map_or_else(Vec::new, |fds| vec![fds.block.as_fd(), fds.ringer.as_fd(), fds.waiter.as_fd()])
    }
}

/// The hub's side of the queue.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: mpsc::UnboundedSender<Outgoing>,
    shared: Arc<Shared>,
}

/// The session's side of the queue.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: mpsc::UnboundedReceiver<Outgoing>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicUsize,
    overflow: Notify,
}

/// A new queue.
pub(crate) fn outbox() -> (Outbox, Inbox) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::default());
    (Outbox { queue: sender, shared: Arc::clone(&shared) }, Inbox { queue: receiver, shared })
}

impl Outbox {
    /// Puts a message on its way, or ends the session if too much is on its way already.
    pub(crate) fn put(&self, message: &ToClient, fds: Option<GrantFds>) {
        let Some(mut outgoing) = Outgoing::of(message) else { return };
        outgoing.fds = fds;
        let len = outgoing.frame.len();
        if self.shared.bytes.fetch_add(len, Ordering::Relaxed) + len > MAX_QUEUED {
            self.shared.overflow.notify_one();
            return;
        }
        // A session that has ended has no use for it.
        let _ = self.queue.send(outgoing);
    }
}

impl Inbox {
    /// The next frame.
    pub(crate) async fn next(&mut self) -> Option<Outgoing> {
        let outgoing = self.queue.recv().await?;
        self.shared.bytes.fetch_sub(outgoing.frame.len(), Ordering::Relaxed);
        Some(outgoing)
    }

    /// The next frame, if it is there.
    pub(crate) fn try_next(&mut self) -> Option<Outgoing> {
        let outgoing = self.queue.try_recv().ok()?;
        self.shared.bytes.fetch_sub(outgoing.frame.len(), Ordering::Relaxed);
        Some(outgoing)
    }

    /// Tells when the client has let too much pile up.
    pub(crate) fn overflow(&self) -> Overflow {
        Overflow(Arc::clone(&self.shared))
    }
}

/// Tells when a client has let too much pile up.
#[derive(Debug)]
pub(crate) struct Overflow(Arc<Shared>);

impl Overflow {
    /// Returns once it has.
    pub(crate) async fn happened(&self) {
        self.0.overflow.notified().await;
    }
}
