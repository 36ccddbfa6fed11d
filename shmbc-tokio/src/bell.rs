//! The doorbell of one connection in tokio's reactor. The only `unsafe` of this crate.

#![expect(unsafe_code, reason = "`AsyncFd::register_with_interest` asks for a descriptor that stays the same")]

use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

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

    /// Forgets the rings so far and arranges that `cx` is woken by the next one. Whether there were any.
    ///
    /// Errors: the runtime is gone.
    pub(crate) fn watch(&self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut was_rung = false;
        while let Poll::Ready(rung) = self.0.poll_read_ready(cx) {
            rung?.clear_ready();
            was_rung = true;
        }
        Ok(was_rung)
    }
}

/// Most rings in a second that find nothing to do. An honest peer rings because it has moved bytes; one that merely rings
/// costs us a wake-up each, and this is the point where we have had enough.
pub(crate) const VAIN_MAX: u32 = 10_000;

/// Counts the rings that found nothing to do.
#[derive(Debug, Default)]
pub(crate) struct Storm {
    /// Bytes moved each way when the last ring came.
    moved: [u64; 2],
    vain: u32,
    since: Option<Instant>,
}

impl Storm {
    /// Takes note of a ring. True: it is one of too many.
    pub(crate) fn rung(&mut self, moved: [u64; 2]) -> bool {
        if moved != self.moved {
            (self.moved, self.vain) = (moved, 0);
            return false;
        }
        self.vain += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.vain < VAIN_MAX {
            return false;
        }
        (self.vain, self.since) = (0, None);
        since.elapsed() < Duration::from_secs(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storm_when_no_byte_moves_is_noticed_and_when_some_do_is_none() {
        let mut storm = Storm::default();
        for n in 0..u64::from(VAIN_MAX) * 3 {
            assert!(!storm.rung([n, 0]) && !storm.rung([n, 1]));
        }
        let mut storm = Storm::default();
        let started = Instant::now();
        let noticed = (0..VAIN_MAX).any(|_| storm.rung([0, 0]));
        assert_eq!(noticed, started.elapsed() < Duration::from_secs(1));
    }
}
