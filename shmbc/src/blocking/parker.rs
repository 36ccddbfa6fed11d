//! How a thread sleeps until its socket, its doorbell or somebody in this process wakes it.

use std::cell::RefCell;
use std::io;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Wake, Waker};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::doorbell::Waiter;
use crate::eventfd::EventFd;
use crate::own;

/// What one look has found worth waiting for. Collected by the socket and the doorbell while a thread looks.
#[derive(Clone, Debug, Default)]
pub(super) struct Wants {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The end of the connection, whether or not bytes are to be read before it.
    pub(super) end: bool,
    pub(super) bell: Option<Arc<Waiter>>,
}

/// What was found after a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// Look again. The socket may be readable or writable.
    Look { readable: bool, writable: bool },
    /// The time is up.
    Late,
}

/// A thread's own means to sleep.
#[derive(Debug)]
struct Parker {
    shared: Arc<Shared>,
    waker: Waker,
}

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    /// There until it is dropped.
    event: Option<EventFd>,
    /// The sweeps that had been noticed when it was opened. After another one its number may be another file's, and a new one is
    /// opened before the next sleep.
    sweeps: u64,
}

const RUNS: u8 = 0;
const SLEEPS: u8 = 1;
const NOTIFIED: u8 = 2;

thread_local! {
    static WANTS: RefCell<Wants> = RefCell::default();
    static PARKER: RefCell<Option<Parker>> = const { RefCell::new(None) };
}

/// Takes note of something worth waiting for.
pub(super) fn want(note: impl FnOnce(&mut Wants)) {
    // Fails when the thread is ending: then nobody is about to sleep.
    let _ = WANTS.try_with(|wants| note(&mut wants.borrow_mut()));
}

/// Forgets what was worth waiting for, and says by what this thread is woken.
pub(super) fn begin() -> io::Result<Waker> {
    want(|wants| *wants = Wants::default());
    let made = PARKER.try_with(|parker| {
        let mut parker = parker.borrow_mut();
        if parker.as_ref().is_none_or(|parker| parker.shared.is_swept()) {
            let shared = Arc::new(Shared::new()?);
            *parker = Some(Parker { waker: Waker::from(Arc::clone(&shared)), shared });
        }
        Ok(parker.as_ref().map(|parker| parker.waker.clone()))
    });
    made.map_err(io::Error::other)?.and_then(|waker| waker.ok_or_else(|| io::Error::other("no parker")))
}

/// Sleeps until something that was worth waiting for happens to `tcp`, or this thread's waker is used.
pub(super) fn park(tcp: BorrowedFd<'_>, until: Option<Instant>) -> io::Result<Woken> {
    let wants = WANTS.try_with(|wants| std::mem::take(&mut *wants.borrow_mut())).map_err(io::Error::other)?;
    PARKER
        .try_with(|parker| match &*parker.borrow() {
            Some(parker) => parker.shared.park(tcp, &wants, until),
            None => Err(io::Error::other("no parker")),
        })
        .map_err(io::Error::other)?
}

impl Shared {
    fn new() -> io::Result<Self> {
        Ok(Self {
            state: AtomicU8::new(RUNS),
            sweeps: own::sweeps(),
            event: Some(EventFd::adopt(own::high(EventFd::new()?.into()))?),
        })
    }

    fn is_swept(&self) -> bool {
        self.sweeps != own::sweeps()
    }

    fn event(&self) -> &EventFd {
        self.event.as_ref().expect("there until it is dropped")
    }

    fn park(&self, tcp: BorrowedFd<'_>, wants: &Wants, until: Option<Instant>) -> io::Result<Woken> {
        let timeout = match until.map(|until| until.saturating_duration_since(Instant::now())) {
            Some(left) if left.is_zero() => return Ok(Woken::Late),
            left => left.and_then(|left| Timespec::try_from(left).ok()),
        };
        // Notified since it began to look: look again.
        if self.state.compare_exchange(RUNS, SLEEPS, Ordering::AcqRel, Ordering::Acquire).is_err() {
            self.state.store(RUNS, Ordering::Release);
            std::hint::spin_loop();
            return Ok(Woken::Look { readable: false, writable: false });
        }
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN | PollFlags::RDHUP, wants.readable);
        interest.set(PollFlags::OUT, wants.writable);
        if wants.end {
            interest |= PollFlags::RDHUP;
        }
        let mut fds = vec![PollFd::from_borrowed_fd(tcp, interest), PollFd::new(self.event(), PollFlags::IN)];
        fds.extend(wants.bell.as_deref().map(|bell| PollFd::new(bell, PollFlags::IN)));
        let polled = poll(&mut fds, timeout.as_ref());
        let tcp = fds[0].revents();
        // Acquires what whoever notified has done.
        self.state.swap(RUNS, Ordering::AcqRel);
        // Whoever notifies writes after it has set the state, so its write may come after this sleep, and end the next one: it is
        // taken where it is seen, or that thread would never sleep again.
        let event = fds[1].revents();
        if event.contains(PollFlags::NVAL) {
            own::notice_sweep();
        } else if event.contains(PollFlags::IN) && !self.is_swept() {
            self.event().take()?;
        }
        match polled {
            Ok(0) => Ok(Woken::Late),
            Err(error) if error != rustix::io::Errno::INTR => Err(error.into()),
            _ => {
                let any = PollFlags::ERR | PollFlags::HUP;
                Ok(Woken::Look {
                    readable: tcp.intersects(PollFlags::IN | PollFlags::RDHUP | any),
                    writable: tcp.intersects(PollFlags::OUT | any),
                })
            }
        }
    }

    fn notify(&self) {
        if self.state.swap(NOTIFIED, Ordering::AcqRel) == SLEEPS
            // Swept or not: it may have been opened between the sweep and the moment in which that was noticed.
            && let Err(error) = self.event().notify()
        {
            tracing::error!(%error, "a waiting thread cannot be woken");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A thread that ends may be the first to notice.
        if (self.is_swept() || rustix::io::fcntl_getfd(self.event()).is_err())
            && let Some(event) = self.event.take()
        {
            let _ = OwnedFd::from(event).into_raw_fd();
        }
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn sleep_when_a_wake_up_comes_late_is_cut_short_once_and_no_more() {
        let shared = Shared::new().unwrap();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let park = || {
            let until = Some(Instant::now() + Duration::from_millis(5));
            shared.park(std::os::fd::AsFd::as_fd(&socket), &Wants::default(), until).unwrap()
        };
        assert_eq!(park(), Woken::Late);
        // The second half of a `notify` whose first came before the last sleep was over.
        shared.event().notify().unwrap();
        assert_eq!(park(), Woken::Look { readable: false, writable: false });
        assert_eq!(park(), Woken::Late);
    }
}
