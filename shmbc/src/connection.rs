//! [`Connection`]: one connection, its two sides and their locks. What every kind of stream is made of.
//!
//! Owns the driver and its sides; calls nothing else. For authors of stream types: programs use
//! those of `shmbc-tokio`, or of this crate.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::config::{Config, When};
use crate::control::message::Identity;
pub use crate::driver::Moved;
use crate::driver::{Driver, ReadSide, WriteSide, lock};
use crate::link::{Path, Phase, Reason};
use crate::reactor::Socket;
use crate::sys::{TcpPosition, tcp_position};
pub use crate::upgrade::OnNews;
use crate::upgrade::Stage;
use crate::wait::Wait;

/// One connection over TCP that goes on through shared memory when both ends are on this host.
///
/// Dropping it closes it: the peer reads what was written, then its end; with bytes unread it is reset.
#[derive(Debug)]
pub struct Connection<S: Socket> {
    driver: Driver<S>,
    read: Mutex<ReadSide>,
    write: Mutex<WriteSide>,
    /// To be offered before its first byte, or nothing may be read or written before the host service has decided:
    /// [`When::Eager`] and [`When::Await`].
    held: AtomicBool,
}

/// Why a read would not block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readable {
    /// The socket says so.
    Tcp,
    /// There are bytes in the ring.
    Ring,
    /// The peer has closed its side, or there is an error to report.
    Closed,
    /// No read has shown that it is not: the last one was satisfied, or there was none since it was accepted.
    Assumed,
}

impl<S: Socket> Connection<S> {
    /// A connection over `socket`. `unused`: no byte has been written to or read from it; otherwise nobody can say where to
    /// switch, and it stays on TCP ([`Reason::UsedBefore`]). `on_news` is told of every event, besides the tasks that wait for
    /// reading and writing.
    pub fn new(socket: S, unused: bool, on_news: Box<dyn OnNews>) -> Self {
        let driver = Driver::new(socket, unused, on_news);
        let early = Config::current().when != When::Traffic && driver.upgrade.stage() == Stage::Young;
        let this = Self { driver, read: Mutex::default(), write: Mutex::default(), held: AtomicBool::new(early) };
        if early {
            this.is_undecided();
        }
        this
    }

    /// Takes it for readable until a read shows that it is not: for one that was just accepted, whose peer may have written
    /// already.
    pub fn assume_readable(&mut self) {
        self.read.get_mut().unwrap_or_else(PoisonError::into_inner).assume_readable();
    }

    /// The TCP leg.
    #[inline]
    pub const fn socket(&self) -> &S {
        self.driver.socket()
    }

    /// Takes the socket out. Nothing, and the connection is closed, when it goes, or may go at any moment, through shared memory.
    pub fn into_socket(mut self) -> Option<S> {
        self.driver.take_socket()
    }

    /// Which way the bytes go now.
    pub fn path(&self) -> Path {
        self.driver.path()
    }

    /// Who the other end is, as the host service has proved it. Nothing before a grant.
    pub fn peer_identity(&self) -> Option<&Identity> {
        self.driver.upgrade.shm().map(|shm| &shm.peer)
    }

    /// How it waits from now on.
    pub fn set_wait(&self, wait: Wait) {
        self.driver.wait.set(wait);
    }

    /// How it waits.
    pub fn wait(&self) -> Wait {
        self.driver.wait.get()
    }

    /// Keeps it on TCP, unless its upgrade has already been granted. Whether it will stay there for good.
    pub fn withdraw(&self) -> bool {
        matches!(self.driver.upgrade.phase(), Phase::Tcp(Reason::Disabled | Reason::UsedBefore))
            || self.driver.upgrade.withdraw()
    }

    /// How far its rings have moved, and the socket behind them.
    pub fn moved(&self) -> Moved {
        self.driver.moved(&self.read, &self.write)
    }

    /// Whether the wait for the upgrade is over, which this offers if that has not been done. If not, `on_news` is told when
    /// it may be.
    pub fn upgraded(&self) -> Option<Result<(), Reason>> {
        self.driver.upgraded(&self.read, &self.write)
    }

    /// Shuts the write side: the peer reads what was written, then its end.
    ///
    /// # Errors
    ///
    /// Those of `shutdown(2)`; none when the peer has reset the connection, which leaves nothing to shut.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.driver.shutdown_write()
    }

    /// Whether nothing may be read or written yet. Every task that waits is woken when that may have changed.
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed) && self.is_undecided()
    }

    #[cold]
    fn is_undecided(&self) -> bool {
        let upgrade = &self.driver.upgrade;
        if !upgrade.was_claimed() {
            if upgrade.stage() == Stage::Young {
                self.driver.offer(true);
            }
            if !upgrade.was_claimed() {
                // Not connected yet: offered when it is. Unless it is not to be.
                self.held.store(upgrade.stage() == Stage::Young, Ordering::Relaxed);
                return false;
            }
        }
        if Config::current().when != When::Await {
            self.held.store(false, Ordering::Relaxed);
            return false;
        }
        let phase = self.driver.upgrade.phase();
        // Of one that is broken there is nothing to decide.
        let undecided = matches!(phase, Phase::Tcp(Reason::NotYet) | Phase::Offered | Phase::Ready)
            && !self.socket().may_have_failed();
        // Once decided, never held again: not by a later offer either.
        self.held.store(undecided, Ordering::Relaxed);
        undecided
    }

    /// For calls that cannot wait otherwise.
    #[cold]
    fn hold_thread(&self) {
        while self.is_held() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Wakes `waker`, and no longer the last one, when a read may give something.
    pub fn register_reader(&self, waker: &Waker) {
        self.driver.upgrade.wakers().read.register(waker);
    }

    /// Wakes `waker`, and no longer the last one, when a write may take something.
    pub fn register_writer(&self, waker: &Waker) {
        self.driver.upgrade.wakers().write.register(waker);
    }

    /// Reads into `buf`. Ready with nothing read: the peer has closed its side.
    ///
    /// # Errors
    ///
    /// As reading from a TCP socket; `ConnectionReset` also when the peer broke the format.
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut S::Buf<'_, '_>) -> Poll<io::Result<()>> {
        if self.is_held() {
            self.register_reader(cx.waker());
            // Decided meanwhile: then nobody may have been woken.
            if self.is_held() {
                return Poll::Pending;
            }
        }
        // Not shared, so not locked: 12 ns of the 400 of a round trip.
        let read = self.read.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.driver.poll_read(read, &self.write, cx, buf)
    }

    /// [`poll_read`](Self::poll_read) of a half.
    ///
    /// # Errors
    ///
    /// As `poll_read`.
    #[inline]
    pub fn poll_read_shared(&self, cx: &mut Context<'_>, buf: &mut S::Buf<'_, '_>) -> Poll<io::Result<()>> {
        if self.is_held() {
            self.register_reader(cx.waker());
            // Decided meanwhile: then nobody may have been woken.
            if self.is_held() {
                return Poll::Pending;
            }
        }
        self.driver.poll_read(&mut lock(&self.read), &self.write, cx, buf)
    }

    /// Writes from `bufs`, one buffer after the other.
    ///
    /// # Errors
    ///
    /// As writing to a TCP socket; `ConnectionReset` also when the peer broke the format.
    #[inline]
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.is_held() {
            self.register_writer(cx.waker());
            // Decided meanwhile: then nobody may have been woken.
            if self.is_held() {
                return Poll::Pending;
            }
        }
        let write = self.write.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.driver.poll_write(write, cx, bufs)
    }

    /// [`poll_write`](Self::poll_write) of a half.
    ///
    /// # Errors
    ///
    /// As `poll_write`.
    #[inline]
    pub fn poll_write_shared(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.is_held() {
            self.register_writer(cx.waker());
            // Decided meanwhile: then nobody may have been woken.
            if self.is_held() {
                return Poll::Pending;
            }
        }
        self.driver.poll_write(&mut lock(&self.write), cx, bufs)
    }

    /// Reads what is there. 0: the peer has closed its side, or `buf` is full.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is there; then every source of events is watched. Else as reading.
    pub fn try_read(&self, buf: &mut S::Buf<'_, '_>) -> io::Result<usize> {
        if self.is_held() {
            self.hold_thread();
        }
        self.driver.try_read(&mut lock(&self.read), &self.write, buf)
    }

    /// Writes what fits.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing fits; else as writing.
    pub fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.is_held() {
            self.hold_thread();
        }
        self.driver.try_write(&mut lock(&self.write), bufs)
    }

    /// Copies what is there into `buf` and does not take it. Pending: every source of events is watched.
    ///
    /// # Errors
    ///
    /// As reading.
    pub fn poll_peek(&self, buf: &mut S::Buf<'_, '_>) -> Poll<io::Result<usize>> {
        if self.is_held() {
            return Poll::Pending;
        }
        self.driver.poll_peek(&mut lock(&self.read), &self.write, buf)
    }

    /// Whether a read would not block, as far as is known: it is ready until a read has shown that nothing is there. Pending: every
    /// source of events is watched.
    ///
    /// # Errors
    ///
    /// The reactor is gone.
    pub fn poll_readable(&self) -> Poll<io::Result<Readable>> {
        if self.is_held() {
            return Poll::Pending;
        }
        let mut read = lock(&self.read);
        while let Poll::Ready(readable) = self.driver.poll_readable(&mut read, &self.write)? {
            if let Some(readable) = readable {
                return Poll::Ready(Ok(readable));
            }
        }
        if read.is_assumed() { Poll::Ready(Ok(Readable::Assumed)) } else { Poll::Pending }
    }

    /// Whether a write would not block, as far as is known: it is ready until a write has shown that there is no room. Pending:
    /// every source of events is watched.
    ///
    /// # Errors
    ///
    /// The reactor is gone.
    pub fn poll_writable(&self) -> Poll<io::Result<()>> {
        if self.is_held() {
            return Poll::Pending;
        }
        let mut write = lock(&self.write);
        match self.driver.poll_writable(&mut write) {
            Poll::Pending if write.is_assumed() => Poll::Ready(Ok(())),
            polled => polled,
        }
    }
}

/// Whether no byte has been written to or read from `stream` since it was connected.
pub fn is_unused(stream: impl AsFd) -> bool {
    // Bytes may arrive between the two questions: then ask again. A peer that sends so fast costs the upgrade.
    const ATTEMPTS: usize = 16;
    (0..ATTEMPTS).any(|_| {
        tcp_position(&stream).is_ok_and(|TcpPosition { written, arrived }| {
            written == 0 && rustix::io::ioctl_fionread(&stream).is_ok_and(|unread| unread == arrived)
        })
    })
}

impl<S: Socket> Connection<S> {
    /// Whether this is a forked child's copy of a connection that its parent made: dropping it closes the descriptor and does
    /// nothing else.
    pub fn is_inherited(&self) -> bool {
        self.driver.is_inherited()
    }
}

impl<S: Socket> Drop for Connection<S> {
    fn drop(&mut self) {
        self.driver.close(self.read.get_mut().unwrap_or_else(PoisonError::into_inner));
    }
}
