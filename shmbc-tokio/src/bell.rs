//! The doorbell of one connection in tokio's reactor.

#![expect(unsafe_code, reason = "`AsyncFd::register_with_interest` asks for a descriptor that stays the same")]

use std::io;
use std::task::{Context, Poll};

use shmbc::doorbell::Waiter;
use shmbc::reactor;
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
}

impl reactor::Bell for Bell {
    fn watch(&self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut was_rung = false;
        while let Poll::Ready(rung) = self.0.poll_read_ready(cx) {
            rung?.clear_ready();
            was_rung = true;
        }
        Ok(was_rung)
    }
}
