//! A TCP leg whose readiness nobody keeps: it is assumed until a call says otherwise. What the streams of `blocking`, `mio`
//! and `futures` have in common; how each learns of events is its [`Source`].

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use rustix::time::{ClockId, clock_gettime};

use crate::connection::OnNews;
use crate::driver::lock;
use crate::reactor::{EndWatch, Registrar, Slice, Socket, Way};

/// How one kind of stream learns that something happened to its socket, which it owns.
pub(crate) trait Source: AsFd + std::fmt::Debug + Sized {
    /// Arranges that `cx` is woken when a read may give something; ready when it may already.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Arranges that `cx` is woken when a write may take something; ready when it may already.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Arranges that `cx` is woken at the end of a connection that has not yet ended. `unread`: bytes lie in the socket.
    fn watch_end(&self, cx: &mut Context<'_>, unread: bool) -> io::Result<EndWatch>;

    fn registrar(&self) -> Box<dyn Registrar>;

    fn into_std(self) -> io::Result<TcpStream>;
}

/// A non-blocking socket and what is assumed of it.
#[derive(Debug)]
pub(crate) struct Polled<S> {
    pub(crate) source: S,
    readable: Hint,
    writable: Hint,
    /// How often the writing side has asked whether there is something to read.
    asked: AtomicU32,
    /// The tick of the clock at which it last did, in nanoseconds.
    asked_at: AtomicU64,
}

/// A writer to the ring looks at its lifeline once in so many writes, and at the first of each tick of the kernel's clock (1 to
/// 10 ms), so that one who writes seldom learns of its peer's death as early as by TCP. A look costs 500 ns, as much as ten
/// small writes; a reactor that keeps readiness makes it free.
const LOOK_EVERY: u32 = 64;

impl<S: Source> Polled<S> {
    pub(crate) fn new(source: S) -> Self {
        Self {
            source,
            readable: Hint::ready(),
            writable: Hint::ready(),
            asked: AtomicU32::new(0),
            asked_at: AtomicU64::new(0),
        }
    }

    /// Something may have happened: the next attempt is made.
    pub(crate) fn assume(&self, way: Way) {
        self.hint(way).set();
    }

    const fn hint(&self, way: Way) -> &Hint {
        match way {
            Way::In => &self.readable,
            Way::Out => &self.writable,
        }
    }

    /// What `poll(2)` says now.
    fn now(&self, wanted: PollFlags) -> PollFlags {
        let mut fds = [PollFd::new(&self.source, wanted)];
        match poll(&mut fds, Some(&Timespec::default())) {
            Ok(_) => fds[0].revents(),
            // The next call on the socket says what is wrong with it.
            Err(_) => PollFlags::ERR,
        }
    }
}

impl<S: Source> AsFd for Polled<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

impl<S: Source> Socket for Polled<S> {
    type Buf<'a, 'b: 'a> = Slice<'a>;
    type Budget = ();

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.readable.is_set() {
            return Poll::Ready(Ok(()));
        }
        self.source.poll_readable(cx).map_ok(|()| self.readable.set())
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.writable.is_set() {
            return Poll::Ready(Ok(()));
        }
        self.source.poll_writable(cx).map_ok(|()| self.writable.set())
    }

    fn attempt<T>(&self, way: Way, io: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let before = self.hint(way).stamp();
        let done = io();
        if let Err(error) = &done
            && error.kind() == io::ErrorKind::WouldBlock
        {
            self.hint(way).clear(before);
        }
        done
    }

    fn may_be_readable(&self) -> bool {
        // A clock that costs no more than a load, and is as exact as the kernel's ticks.
        let now = clock_gettime(ClockId::MonotonicCoarse);
        let now = (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64);
        let again = self.asked_at.swap(now, Ordering::Relaxed) == now;
        if !self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK_EVERY) && again {
            return false;
        }
        !self.now(PollFlags::IN | PollFlags::RDHUP).is_empty()
    }

    fn may_have_failed(&self) -> bool {
        self.now(PollFlags::empty()).intersects(PollFlags::ERR | PollFlags::HUP)
    }

    fn watch_end(&self, cx: &mut Context<'_>) -> io::Result<EndWatch> {
        let now = self.now(PollFlags::IN | PollFlags::RDHUP);
        if now.intersects(PollFlags::ERR | PollFlags::HUP) {
            return Ok(EndWatch::Happened);
        }
        // Behind a FIN only an error or a hang-up can come, which not every reactor tells from what is there already.
        if now.contains(PollFlags::RDHUP) {
            return Ok(EndWatch::Unwatchable);
        }
        self.source.watch_end(cx, now.contains(PollFlags::IN))
    }

    fn recv(&self, buf: &mut Slice<'_>) -> io::Result<usize> {
        use crate::reactor::Buffer;
        let (filled, room) = (buf.filled().len(), buf.remaining());
        let (n, _) = recv(&self.source, buf.next(room), RecvFlags::DONTWAIT)?;
        buf.set_filled(filled + n);
        Ok(n)
    }

    fn registrar(&self) -> Option<Box<dyn Registrar>> {
        Some(self.source.registrar())
    }

    fn into_std(self) -> io::Result<TcpStream> {
        self.source.into_std()
    }

    fn proceed(_: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// A readiness: 0 when a call has said that there is none, else the number of the time it was set. The number keeps a clear
/// that comes late from undoing a set that it has not seen.
#[derive(Debug)]
struct Hint(AtomicU64);

impl Hint {
    const fn ready() -> Self {
        Self(AtomicU64::new(1))
    }

    fn is_set(&self) -> bool {
        self.stamp() != 0
    }

    fn stamp(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self) {
        // Never the stamp of an earlier time that was not cleared.
        static TIMES: AtomicU64 = AtomicU64::new(1);
        self.0.store(TIMES.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Release);
    }

    fn clear(&self, stamp: u64) {
        let _ = self.0.compare_exchange(stamp, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Whoever waits in `upgraded`.
#[derive(Debug, Default)]
pub(crate) struct News(Mutex<Vec<Waker>>);

impl News {
    pub(crate) fn tell(&self, waker: &Waker) {
        let mut waiting = lock(&self.0);
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }
}

impl OnNews for Arc<News> {
    fn on_news(&self) {
        for waiting in std::mem::take(&mut *lock(&self.0)) {
            waiting.wake();
        }
    }
}
