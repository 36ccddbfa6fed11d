//! The doorbell of one connection in tokio's reactor. The only `unsafe` of this crate.

#![expect(unsafe_code, reason = "`AsyncFd::register_with_interest` asks for a descriptor that stays the same")]

use std::io;
use std::task::{Context, Poll};

use shmbc::doorbell::Waiter;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

/// A registered [`Waiter`].
#[derive(Debug)]
pub(crate) struct Bell(AsyncFd<Waiter>);

impl Bell {
    /// Registers `waiter` with the reactor of `runtime`.
    ///
    /// Errors: the runtime is gone or has no I/O driver, or `epoll_ctl(2)` fails.
    pub(crate) fn register(waiter: Waiter, runtime: &Handle) -> io::Result<Self> {
        let _guard = runtime.enter();
        // SAFETY: `Waiter` owns one descriptor for its whole life and `as_raw_fd` returns that one.
        let fd = unsafe { AsyncFd::register_with_interest(waiter, Interest::READABLE) };
        Ok(Self(fd.map_err(io::Error::from)?))
    }

    /// Forgets the rings so far and arranges that `cx` is woken by the next one.
    ///
    /// Errors: the runtime is gone.
    pub(crate) fn watch(&self, cx: &mut Context<'_>) -> io::Result<()> {
        while let Poll::Ready(rung) = self.0.poll_read_ready(cx) {
            rung?.clear_ready();
        }
        Ok(())
    }
}
