//! One client's session: reads its frames, has its offers proven, and sends what the hub has for it.
//!
//! One task each, started by the server. Frames are handled one after the other, so a client that floods the service waits
//! for itself. Anything that is no message of the protocol ends the session, and nothing else. Tables (addresses,
//! answers for people) are sent piece by piece as the client takes them, never queued whole.

pub(crate) mod outbox;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use shmbc::control::message::{Announcement, Listening, MAX_ROWS, Offer, PROTOCOL, Refusal, ToClient, ToHost};
use shmbc::control::socket::{self, Received};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tracing::debug;

use self::outbox::{Inbox, Outgoing};
use crate::hub::{Hub, NoProof, ProofPermit, Told};
use crate::identity::Client;
use crate::pool;
use crate::prove::pullers::{PATIENCE, Unanswered};
use crate::prove::{self, NotProven};
use crate::table::connections::{EndKey, Gone, SessionId};

/// How long a client may take to say hello. It has nothing else to do first.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an offer waits for another look of its client's to end, each time. One takes some tens of microseconds.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// How long an announcement waits for its client's share of the service, each time.
const QUOTA_PAUSE: Duration = Duration::from_millis(10);

/// How long a process whose session ended has to turn out dead; else it lives on without a session.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Frames handled in a row before other tasks have a turn.
const FRAMES_IN_A_ROW: u32 = 32;

/// Why a session ended. For logs.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client has closed it")]
    Closed,
    #[error("the service is shutting down")]
    Stopping,
    #[error("the client did not say hello within {HELLO_TIMEOUT:?}")]
    NoHello,
    #[error("the first message was not a hello")]
    NotHello,
    #[error("the client said hello twice")]
    HelloAgain,
    #[error("the client speaks version {0} of the protocol, not {PROTOCOL}")]
    Protocol(u16),
    #[error("the client sent descriptors")]
    Descriptors,
    #[error("the client does not read what it is sent")]
    Overflow,
    #[error("looking at something that the client has open takes more than {PATIENCE:?}")]
    SlowProof,
    #[error("the client's process is no longer who it was when the session began")]
    Changed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl End {
    /// A short word, for programs that count.
    const fn name(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Stopping => "stopping",
            Self::NoHello => "no-hello",
            Self::NotHello | Self::HelloAgain | Self::Io(_) => "garbage",
            Self::Protocol(_) => "other-version",
            Self::Descriptors => "descriptors",
            Self::Overflow => "does-not-read",
            Self::SlowProof => "slow-proof",
            Self::Changed => "changed",
        }
    }
}

/// A table on its way to the client.
enum Bulk {
    Locality(Arc<Told>, usize),
    Rows(VecDeque<ToClient>),
}

struct Session {
    hub: Arc<Hub>,
    id: SessionId,
    client: Arc<Client>,
    socket: AsyncFd<OwnedFd>,
    inbox: Inbox,
    bulk: VecDeque<Bulk>,
    /// The frame that is being sent.
    outgoing: Option<Outgoing>,
}

/// Serves a client until it, or the service, ends the session.
pub(crate) async fn serve(
    hub: Arc<Hub>,
    mut client: Client,
    socket: AsyncFd<OwnedFd>,
    stopping: watch::Receiver<bool>,
) {
    hub.recognise(&mut client).await;
    let client = Arc::new(client);
    let (outbox, inbox) = outbox::outbox();
    let id = match hub.open_session(&client, outbox) {
        Ok(id) => id,
        Err(limit) => {
            debug!(pid = client.pid, limit, "client turned away");
            return;
        }
    };
    // Whatever ends this task, also by being dropped with its runtime, takes the session out of the tables.
    let registered = Registered { hub: Arc::clone(&hub), id, client: Arc::clone(&client) };
    let mut session =
        Session { hub: Arc::clone(&hub), id, client, socket, inbox, bulk: VecDeque::new(), outgoing: None };
    let end = session.run(stopping).await;
    debug!(session = id.0, pid = session.client.pid, uid = session.client.uid, %end, "session ended");
    *hub.ended.lock().unwrap_or_else(PoisonError::into_inner).entry(end.name()).or_default() += 1;
    let client = Arc::clone(&session.client);
    drop(session);
    if hub.end_session(id) && !matches!(end, End::Stopping) {
        // The kernel closes a dying process's sockets some microseconds before it says that it is dead.
        let _ = tokio::time::timeout(EXIT_TIMEOUT, client.exited()).await;
    }
    drop(registered);
}

struct Registered {
    hub: Arc<Hub>,
    id: SessionId,
    client: Arc<Client>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.hub.end_session(self.id);
        // A process that lives may still read from blocks of established connections: not to be taken from under it.
        let gone = if self.client.has_exited() { Gone::Closed } else { Gone::Lost };
        self.hub.forget_session(self.id, gone);
    }
}

impl Session {
    async fn run(&mut self, mut stopping: watch::Receiver<bool>) -> End {
        match self.talk(&mut stopping).await {
            Ok(never) => match never {},
            Err(End::Stopping) => {
                // Refusals that were decided on the way out.
                while let Some(outgoing) = self.outgoing.take().or_else(|| self.inbox.try_next()) {
                    if send(&self.socket, Some(&outgoing)).await.is_err() {
                        break;
                    }
                }
                End::Stopping
            }
            Err(end) => end,
        }
    }

    async fn talk(&mut self, stopping: &mut watch::Receiver<bool>) -> Result<std::convert::Infallible, End> {
        tokio::select! {
            greeted = tokio::time::timeout(HELLO_TIMEOUT, receive(&self.socket)) => {
                let message = greeted.map_err(|_| End::NoHello)??;
                self.greet(message).await?;
            }
            () = stopped(stopping) => return Err(End::Stopping),
        }
        let mut locality = self.hub.locality();
        locality.mark_changed();
        let overflow = self.inbox.overflow();
        let mut in_a_row = 0;
        loop {
            if self.outgoing.is_none() {
                self.outgoing = self.inbox.try_next().or_else(|| self.next_piece());
            }
            // Answers for people are long; who asked reads one before asking for the next.
            let listening = !self.bulk.iter().any(|bulk| matches!(bulk, Bulk::Rows(_)));
            tokio::select! {
                message = receive(&self.socket), if listening => {
                    self.handle(message?).await?;
                    in_a_row += 1;
                    if in_a_row >= FRAMES_IN_A_ROW {
                        in_a_row = 0;
                        tokio::task::yield_now().await;
                    }
                }
                sent = send(&self.socket, self.outgoing.as_ref()), if self.outgoing.is_some() => {
                    sent?;
                    self.outgoing = None;
                }
                next = self.inbox.next(), if self.outgoing.is_none() => self.outgoing = next,
                Ok(()) = locality.changed() => {
                    let told = Arc::clone(&locality.borrow_and_update());
                    self.bulk.retain(|bulk| !matches!(bulk, Bulk::Locality(..)));
                    self.bulk.push_front(Bulk::Locality(told, 0));
                }
                () = overflow.happened() => return Err(End::Overflow),
                () = stopped(stopping) => return Err(End::Stopping),
            }
        }
    }

    async fn greet(&mut self, first: ToHost) -> Result<(), End> {
        let ToHost::Hello { protocol } = first else { return Err(End::NotHello) };
        if protocol == PROTOCOL {
            self.hub.learn(self.id, &self.client);
        }
        let welcome = ToClient::Welcome { protocol: PROTOCOL, you: self.hub.identity(&self.client) };
        send(&self.socket, Outgoing::of(&welcome).as_ref()).await?;
        // Another version reads ours in the welcome, and stays on TCP.
        if protocol == PROTOCOL { Ok(()) } else { Err(End::Protocol(protocol)) }
    }

    async fn handle(&mut self, message: ToHost) -> Result<(), End> {
        #[cfg(test)]
        assert_ne!(message, crate::host::tests::PANICS, "a mistake, by wish");
        let end = |offer| EndKey { session: self.id, offer };
        match message {
            ToHost::Hello { .. } => return Err(End::HelloAgain),
            ToHost::Offer(offer) => self.offer(offer).await?,
            ToHost::Mapped(id) => self.hub.mapped(end(id)),
            ToHost::Ready(id) => self.hub.ready(end(id)),
            ToHost::Decline(id, why) => self.hub.decline(end(id), why),
            ToHost::Close(id) => self.hub.close(end(id)),
            ToHost::Announce(announcement) => self.announce(announcement).await?,
            ToHost::Listen(listening) => self.listen(listening).await?,
            ToHost::ListConnections => {
                let hub = Arc::clone(&self.hub);
                let rows = match self.allowed() {
                    // Where pages are takes system calls for each connection.
                    true => Some(
                        tokio::task::spawn_blocking(move || hub.connection_rows()).await.map_err(io::Error::other)?,
                    ),
                    false => None,
                };
                self.answer(rows, MAX_ROWS, |rows, last| ToClient::Connections { rows, last });
            }
            ToHost::Status => {
                let answer = match self.allowed() {
                    true => {
                        let hub = Arc::clone(&self.hub);
                        // It counts the service's descriptors.
                        let status = tokio::task::spawn_blocking(move || hub.status()).await;
                        ToClient::Status(status.map_err(io::Error::other)?)
                    }
                    false => forbidden(),
                };
                self.bulk.push_back(Bulk::Rows([answer].into()));
            }
            ToHost::ListContainers => {
                let rows = self.allowed().then(|| self.hub.container_rows());
                // One can fill a frame.
                self.answer(rows, 1, |rows, last| ToClient::Containers { rows, last });
            }
        }
        Ok(())
    }

    async fn offer(&self, offer: Offer) -> Result<(), End> {
        if self.client.is_guarded() {
            self.hub.refuse(self.id, &self.client, &offer, Refusal::Guarded);
            return Ok(());
        }
        if pool::touching_can_fail() {
            self.hub.refuse(self.id, &self.client, &offer, Refusal::StrictAccount);
            return Ok(());
        }
        let permit = match self.permit().await {
            Ok(permit) => permit,
            Err(refusal) => {
                self.hub.refuse(self.id, &self.client, &offer, refusal);
                return Ok(());
            }
        };
        let proof = prove::prove(&self.hub.pullers, &self.client, &offer, &self.hub.own).await;
        match self.seen(permit, proof)? {
            // What the process made as somebody else, or was given, is not the session's.
            Ok(proof) if proof.owner.is_some_and(|owner| owner != self.client.uid) => {
                self.hub.refuse(self.id, &self.client, &offer, Refusal::OtherOwner);
            }
            Ok(proof) => self.hub.offer(self.id, &self.client, &offer, proof),
            Err(why) => {
                // Once per process at most would be too little: each is about another connection.
                let refusal = match &why {
                    NotProven::Unanswered(_) => Refusal::OutOfResources,
                    _ => Refusal::NotProven,
                };
                match &why {
                    NotProven::NotPermitted(_) | NotProven::Unanswered(_) => {
                        tracing::warn!(pid = self.client.pid, "{why}");
                    }
                    why => debug!(pid = self.client.pid, %why, "offer not proven"),
                }
                self.hub.refuse(self.id, &self.client, &offer, refusal);
            }
        }
        Ok(())
    }

    /// An end of a connection that an earlier service has granted. What cannot be seen to be one is not listed, and goes on.
    async fn announce(&self, announcement: Announcement) -> Result<(), End> {
        let Some(permit) = self.patient_permit().await else { return Ok(()) };
        let Hub { pullers, own, .. } = &*self.hub;
        let proof = prove::prove(pullers, &self.client, &announcement.offer, own).await;
        let proof = match self.seen(permit, proof)? {
            Ok(proof) => proof,
            Err(why) => {
                self.not_seen(&why);
                return Ok(());
            }
        };
        let Some(permit) = self.patient_permit().await else { return Ok(()) };
        let block = prove::mapped_block(pullers, &self.client, announcement.mapped).await;
        let block = self.seen(permit, block.map_err(NotProven::from))?.unwrap_or_default();
        self.hub.announce(self.id, &self.client, &announcement, proof, block);
        Ok(())
    }

    /// A listening socket.
    async fn listen(&self, listening: Listening) -> Result<(), End> {
        let Some(permit) = self.patient_permit().await else { return Ok(()) };
        let proof = prove::prove_listener(&self.hub.pullers, &self.client, &listening, &self.hub.own).await;
        match self.seen(permit, proof)? {
            Ok(proof) => self.hub.listen(EndKey { session: self.id, offer: listening.id }, &self.client, proof),
            Err(why) => self.not_seen(&why),
        }
        Ok(())
    }

    fn not_seen(&self, why: &NotProven) {
        debug!(pid = self.client.pid, %why, "announcement not proven");
    }

    /// Leave to have a socket of this client's looked at, or why there is none.
    async fn permit(&self) -> Result<ProofPermit, Refusal> {
        loop {
            match self.hub.begin_proof(&self.client) {
                Ok(permit) => return Ok(permit),
                Err(NoProof::Refused(refusal)) => return Err(refusal),
                Err(NoProof::Busy) => tokio::time::sleep(BUSY_PAUSE).await,
            }
        }
    }

    /// The same for what announces itself: all of a client's connections do so at once when the service has restarted, so none is refused
    /// for being one too many in this second. Nothing when the service is shutting down.
    async fn patient_permit(&self) -> Option<ProofPermit> {
        loop {
            match self.permit().await {
                Ok(permit) => return Some(permit),
                Err(Refusal::Quota(_)) => tokio::time::sleep(QUOTA_PAUSE).await,
                Err(_) => return None,
            }
        }
    }

    /// What was seen counts only if the process is who it was afterwards. A look that hangs ends the session, and keeps its permit for
    /// as long as it does.
    fn seen<T>(&self, mut permit: ProofPermit, seen: Result<T, NotProven>) -> Result<Result<T, NotProven>, End> {
        if let Err(NotProven::Unanswered(Unanswered::Stuck(stuck))) = seen {
            permit.stuck();
            tokio::spawn(async move {
                stuck.gone().await;
                drop(permit);
            });
            return Err(End::SlowProof);
        }
        if self.client.is_unchanged() { Ok(seen) } else { Err(End::Changed) }
    }

    fn allowed(&self) -> bool {
        self.hub.may_list(&self.client)
    }

    /// At most `most` rows in a frame.
    fn answer<R>(&mut self, rows: Option<Vec<R>>, most: usize, frame: impl Fn(Vec<R>, bool) -> ToClient) {
        let Some(rows) = rows else {
            self.bulk.push_back(Bulk::Rows([forbidden()].into()));
            return;
        };
        let mut rows = rows.into_iter();
        let mut frames = VecDeque::new();
        loop {
            let piece: Vec<R> = rows.by_ref().take(most).collect();
            let last = rows.len() == 0;
            frames.push_back(frame(piece, last));
            if last {
                break;
            }
        }
        self.bulk.push_back(Bulk::Rows(frames));
    }

    /// The next frame of a table.
    fn next_piece(&mut self) -> Option<Outgoing> {
        let (outgoing, done) = match self.bulk.front_mut()? {
            Bulk::Locality(told, sent) => {
                let outgoing = told.frames.get(*sent).cloned().map(Outgoing::from);
                *sent += 1;
                (outgoing, *sent >= told.frames.len())
            }
            Bulk::Rows(frames) => (Outgoing::of(&frames.pop_front()?), frames.is_empty()),
        };
        if done {
            self.bulk.pop_front();
        }
        outgoing
    }
}

fn forbidden() -> ToClient {
    let why = "only root and the service's own user, outside of containers, may see the tables".into();
    ToClient::Forbidden { why }
}

/// Returns when the service is to stop, or has already gone.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// One message. Takes none if dropped before it is done.
async fn receive(socket: &AsyncFd<OwnedFd>) -> Result<ToHost, End> {
    loop {
        let mut guard = socket.readable().await?;
        match guard.try_io(|socket| socket::receive::<ToHost>(socket.as_fd())) {
            Ok(Ok(Some(Received { message, fds }))) if fds.is_empty() => return Ok(message),
            Ok(Ok(Some(_))) => return Err(End::Descriptors),
            Ok(Ok(None)) => return Err(End::Closed),
            Ok(Err(error)) => return Err(error.into()),
            Err(_would_block) => {}
        }
    }
}

/// Sends one frame. Sends nothing if dropped before it is done.
async fn send(socket: &AsyncFd<OwnedFd>, outgoing: Option<&Outgoing>) -> Result<(), End> {
    let Some(outgoing) = outgoing else { return Ok(()) };
    loop {
        let mut guard = socket.writable().await?;
        match guard.try_io(|socket| socket::send_frame(socket.as_fd(), &outgoing.frame, &outgoing.fds())) {
            Ok(sent) => return Ok(sent?),
            Err(_would_block) => {}
        }
    }
}
