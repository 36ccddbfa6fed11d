//! The socket and the doorbell of a stream in async-io's reactor, which reports once each time it is asked.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use async_io::Async;

use crate::doorbell::Waiter;
use crate::polled::Source;
use crate::reactor::{Bell, EndWatch, Registrar};

#[derive(Debug)]
pub(super) struct Registered(pub(super) Async<TcpStream>);

impl AsFd for Registered {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Source for Registered {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_readable(cx)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_writable(cx)
    }

    fn watch_end(&self, cx: &mut Context<'_>, unread: bool) -> io::Result<EndWatch> {
        // Unread bytes would be reported again and again.
        if unread {
            return Ok(EndWatch::Unwatchable);
        }
        Ok(match self.0.poll_readable(cx)? {
            Poll::Ready(()) => EndWatch::Happened,
            Poll::Pending => EndWatch::Watched,
        })
    }

    fn registrar(&self) -> Box<dyn Registrar> {
        Box::new(Reactor)
    }

    fn into_std(self) -> io::Result<TcpStream> {
        self.0.into_inner()
    }
}

#[derive(Debug)]
struct Reactor;

impl Registrar for Reactor {
    fn register(&self, waiter: Waiter) -> io::Result<Box<dyn Bell>> {
        Ok(Box::new(ReactorBell { waiter: Async::new_nonblocking(waiter)?, watching: Mutex::new(()) }))
    }
}

#[derive(Debug)]
struct ReactorBell {
    waiter: Async<Waiter>,
    /// The reading and the writing task share the doorbell. What one drains was reported to both, because neither can get
    /// from asking to sleeping between the other's report and its draining: else a ring that came there would be lost.
    watching: Mutex<()>,
}

impl Bell for ReactorBell {
    fn watch(&self, cx: &mut Context<'_>) -> io::Result<bool> {
        let _one_at_a_time = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rung = false;
        while self.waiter.poll_readable(cx)?.is_ready() {
            rung |= self.waiter.get_ref().drain()?;
        }
        Ok(rung)
    }
}
