//! The socket and the doorbell of a stream for threads: both only take note of what is worth waiting for.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use super::parker::want;
use crate::doorbell::Waiter;
use crate::polled::Source;
use crate::reactor::{Bell, EndWatch, Registrar};

#[derive(Debug)]
pub(super) struct Thread(pub(super) TcpStream);

impl AsFd for Thread {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Source for Thread {
    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        want(|wants| wants.readable = true);
        Poll::Pending
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        want(|wants| wants.writable = true);
        Poll::Pending
    }

    fn watch_end(&self, _: &mut Context<'_>, _unread: bool) -> io::Result<EndWatch> {
        want(|wants| wants.end = true);
        Ok(EndWatch::Watched)
    }

    fn registrar(&self) -> Box<dyn Registrar> {
        Box::new(Threads)
    }

    fn into_std(self) -> io::Result<TcpStream> {
        Ok(self.0)
    }
}

#[derive(Debug)]
struct Threads;

impl Registrar for Threads {
    fn register(&self, waiter: Waiter) -> io::Result<Box<dyn Bell>> {
        Ok(Box::new(ThreadBell(Arc::new(waiter))))
    }
}

#[derive(Debug)]
struct ThreadBell(Arc<Waiter>);

impl Bell for ThreadBell {
    fn watch(&self, cx: &mut Context<'_>) -> io::Result<bool> {
        let rung = self.0.drain()?;
        if rung {
            // Another thread may be asleep on the same doorbell, and now finds it silent.
            cx.waker().wake_by_ref();
        }
        want(|wants| wants.bell = Some(Arc::clone(&self.0)));
        Ok(rung)
    }
}
