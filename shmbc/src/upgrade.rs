//! What the agent and one stream share about the stream's upgrade.
//!
//! The agent writes: the phase, and once the grant that it mapped. The stream reads, and is woken when anything
//! changes. Holds no socket: a stream that is dropped closes its connection whoever still holds this.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Wake, Waker};

use atomic_waker::AtomicWaker;

use crate::control::message::{Identity, OfferId};
use crate::doorbell::Ringer;
use crate::link::{Event, Granted, Phase, Reason};
use crate::reactor::Bell;

/// A grant, mapped and registered.
#[derive(Debug)]
pub(crate) struct Shm {
    pub(crate) granted: Granted,
    pub(crate) ringer: Ringer,
    pub(crate) bell: Box<dyn Bell>,
    pub(crate) peer: Identity,
}

/// The upgrade of one stream.
#[derive(Debug)]
pub(crate) struct Upgrade {
    pub(crate) id: OfferId,
    phase: Mutex<Phase>,
    /// A digest of `phase` that costs one load: see [`Stage`].
    stage: AtomicU8,
    shm: OnceLock<Shm>,
    /// The stream has shut its write side.
    shut: AtomicBool,
    /// The stream has been offered: the agent knows of it.
    claimed: AtomicBool,
    /// The agent is to wake the stream in a while.
    wake_ordered: AtomicBool,
    wakers: Arc<Wakers>,
    /// Wakes everything in `wakers`.
    combined: Waker,
}

/// What the data path must know of a [`Phase`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No offer is out, and none is ruled out.
    Young = 0,
    /// Nothing to do but wait, or never anything to do.
    Wait = 1,
    /// Both ends are ready.
    Go = 2,
}

impl Upgrade {
    pub(crate) fn new(id: OfferId, reason: Reason, on_news: Box<dyn OnNews>) -> Arc<Self> {
        let wakers = Arc::new(Wakers { read: AtomicWaker::new(), write: AtomicWaker::new(), on_news });
        let combined = Waker::from(Arc::clone(&wakers));
        let stage = if reason == Reason::NotYet { Stage::Young } else { Stage::Wait };
        Arc::new(Self {
            id,
            phase: Mutex::new(Phase::Tcp(reason)),
            stage: AtomicU8::new(stage as u8),
            shm: OnceLock::new(),
            shut: AtomicBool::new(false),
            claimed: AtomicBool::new(false),
            wake_ordered: AtomicBool::new(false),
            wakers,
            combined,
        })
    }

    #[inline]
    pub(crate) fn stage(&self) -> Stage {
        // Pairs with the Release in `on`: who sees Go sees the grant.
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Young,
            1 => Stage::Wait,
            _ => Stage::Go,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Applies `event`, wakes everybody if it changed anything, and returns the phase.
    pub(crate) fn on(&self, event: Event) -> Phase {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let before = phase.clone();
        *phase = before.clone().on(event);
        let after = phase.clone();
        self.publish(&after);
        drop(phase);
        if after != before {
            self.wakers.wake_all();
        }
        after
    }

    /// Stays on TCP for `reason`, unless an offer is out or the stream has been told to go.
    pub(crate) fn stay(&self, reason: Reason) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if let Phase::Tcp(_) = *phase {
            *phase = Phase::Tcp(reason);
            self.publish(&phase);
            drop(phase);
            self.wakers.wake_all();
        }
    }

    /// The stream is about to be offered. False when somebody else is at it.
    pub(crate) fn claim(&self) -> bool {
        let young = Stage::Young as u8;
        let claimed =
            self.stage.compare_exchange(young, Stage::Wait as u8, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if claimed {
            self.claimed.store(true, Ordering::Relaxed);
        }
        claimed
    }

    /// Whether a wake-up is to be ordered from the agent: not while another is on its way.
    pub(crate) fn order_wake(&self) -> bool {
        !self.wake_ordered.swap(true, Ordering::Relaxed)
    }

    /// The agent's: the ordered wake-up.
    pub(crate) fn wake(&self) {
        self.wake_ordered.store(false, Ordering::Relaxed);
        self.wakers.wake_all();
    }

    /// Whether the agent has heard of this stream.
    pub(crate) fn was_claimed(&self) -> bool {
        self.claimed.load(Ordering::Relaxed)
    }

    /// An offer made before its time was refused: the traffic may still show that it is worth another.
    pub(crate) fn may_offer_again(&self) {
        let phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*phase, Phase::Tcp(_)) {
            self.stage.store(Stage::Young as u8, Ordering::Release);
        }
    }

    /// The stream wants to stay on TCP for good. False: too late, the peer may switch at any moment.
    pub(crate) fn withdraw(&self) -> bool {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*phase, Phase::Ready | Phase::Go) {
            return false;
        }
        if !matches!(*phase, Phase::Tcp(Reason::UsedBefore | Reason::Disabled)) {
            *phase = Phase::Tcp(Reason::Disabled);
        }
        self.publish(&phase);
        drop(phase);
        self.wakers.wake_all();
        true
    }

    fn publish(&self, phase: &Phase) {
        let stage = match phase {
            Phase::Tcp(Reason::NotYet) => Stage::Young,
            Phase::Tcp(_) | Phase::Offered | Phase::Ready => Stage::Wait,
            Phase::Go => Stage::Go,
        };
        self.stage.store(stage as u8, Ordering::Release);
    }

    /// The agent's: hands over the grant. Marks it half-closed if the stream has been shut meanwhile, which the other end must
    /// be able to see before it switches.
    pub(crate) fn grant(&self, shm: Shm) {
        if self.shm.set(shm).is_err() {
            return;
        }
        // Prevents that both this and `shut` miss the other's store.
        fence(Ordering::SeqCst);
        if self.shut.load(Ordering::Relaxed)
            && let Some(shm) = self.shm.get()
        {
            shm.granted.mark_half_closed();
        }
    }

    /// The stream's: says that the FIN which is about to be sent closes the write side only.
    pub(crate) fn shut(&self) {
        self.shut.store(true, Ordering::Relaxed);
        // Prevents that both this and `grant` miss the other's store.
        fence(Ordering::SeqCst);
        if let Some(shm) = self.shm.get() {
            shm.granted.mark_half_closed();
        }
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn shm(&self) -> Option<&Shm> {
        self.shm.get()
    }

    #[inline]
    pub(crate) fn granted(&self) -> Option<&Granted> {
        self.shm.get().map(|shm| &shm.granted)
    }

    pub(crate) fn wakers(&self) -> &Wakers {
        &self.wakers
    }

    /// A context that wakes whoever waits for this stream. Every source of events is watched with it.
    pub(crate) fn context(&self) -> Context<'_> {
        Context::from_waker(&self.combined)
    }
}

/// Everybody who waits for one stream. A wake-up that was for somebody else costs one more look.
#[derive(Debug)]
pub(crate) struct Wakers {
    /// The task of the last `poll_read` or `poll_peek`.
    pub(crate) read: AtomicWaker,
    /// The task of the last `poll_write`.
    pub(crate) write: AtomicWaker,
    /// Whoever else waits.
    pub(crate) on_news: Box<dyn OnNews>,
}

impl Wakers {
    pub(crate) fn wake_all(&self) {
        self.read.wake();
        self.write.wake();
        self.on_news.on_news();
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}

/// Is told of every event of a connection: whoever waits for anything but reading and writing.
pub trait OnNews: fmt::Debug + Send + Sync {
    /// Something has happened: look.
    fn on_news(&self);
}

/// Nobody else waits.
impl OnNews for () {
    fn on_news(&self) {}
}
