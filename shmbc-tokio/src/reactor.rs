//! tokio's reactor, as the driver of a connection sees it: the TCP leg, its readiness, the doorbells, and the task's budget.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use shmbc::connection::OnNews;
use shmbc::doorbell::Waiter;
use shmbc::reactor::{self, EndWatch, Registrar, Socket, Way};
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::coop;

use crate::bell::Bell;

/// The TCP leg of a stream.
#[derive(Debug)]
pub(crate) struct Leg(pub(crate) TcpStream);

impl AsFd for Leg {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Socket for Leg {
    type Buf<'a, 'b: 'a> = Buffer<'a, 'b>;
    type Budget = Budget;

    #[inline]
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx)
    }

    #[inline]
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_write_ready(cx)
    }

    #[inline]
    fn attempt<T>(&self, way: Way, io: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let interest = match way {
            Way::In => Interest::READABLE,
            Way::Out => Interest::WRITABLE,
        };
        self.0.try_io(interest, io)
    }

    #[inline]
    fn may_be_readable(&self) -> bool {
        self.0.try_io(Interest::READABLE, || Ok(())).is_ok()
    }

    fn may_have_failed(&self) -> bool {
        self.0.try_io(Interest::ERROR, || Ok(())).is_ok()
    }

    /// Nothing is written by TCP any more, so the readiness to write stands for the end: every event sets it. (The one to read
    /// cannot be used: it stays set while unread bytes lie before a FIN.)
    fn watch_end(&self, cx: &mut Context<'_>) -> io::Result<EndWatch> {
        for _ in 0..2 {
            if self.0.poll_write_ready(cx)?.is_pending() {
                return Ok(EndWatch::Watched);
            }
            let _ = self.0.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
        Ok(EndWatch::Happened)
    }

    #[inline]
    fn recv(&self, buf: &mut Buffer<'_, '_>) -> io::Result<usize> {
        self.0.try_read_buf(buf.0)
    }

    fn registrar(&self) -> Option<Box<dyn Registrar>> {
        Some(Box::new(Runtime(Handle::try_current().ok()?)))
    }

    fn into_std(self) -> io::Result<std::net::TcpStream> {
        self.0.into_std()
    }

    #[inline]
    fn proceed(cx: &mut Context<'_>) -> Poll<Budget> {
        Poll::Ready(Budget(ready!(coop::poll_proceed(cx))))
    }
}

/// What tokio reads into.
#[derive(Debug)]
pub(crate) struct Buffer<'a, 'b>(pub(crate) &'a mut ReadBuf<'b>);

impl reactor::Buffer for Buffer<'_, '_> {
    #[inline]
    fn filled(&self) -> &[u8] {
        self.0.filled()
    }

    #[inline]
    fn remaining(&self) -> usize {
        self.0.remaining()
    }

    #[inline]
    fn next(&mut self, n: usize) -> &mut [u8] {
        self.0.initialize_unfilled_to(n)
    }

    #[inline]
    fn set_filled(&mut self, n: usize) {
        self.0.set_filled(n);
    }
}

/// A unit of a task's budget.
#[derive(Debug)]
pub(crate) struct Budget(coop::RestoreOnPending);

impl reactor::Budget for Budget {
    #[inline]
    fn made_progress(self) {
        self.0.made_progress();
    }
}

/// A runtime, to register doorbells with.
#[derive(Debug)]
struct Runtime(Handle);

impl Registrar for Runtime {
    fn register(&self, waiter: Waiter) -> io::Result<Box<dyn reactor::Bell>> {
        Ok(Box::new(Bell::register(waiter, &self.0)?))
    }
}

/// Any number of tasks in `readable`, `writable`, `ready`, `peek`, `upgraded`.
#[derive(Debug, Default)]
pub(crate) struct Others(pub(crate) Arc<Notify>);

impl OnNews for Others {
    fn on_news(&self) {
        self.0.notify_waiters();
    }
}
