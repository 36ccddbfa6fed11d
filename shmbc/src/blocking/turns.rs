//! Threads that want the same side of a stream take turns, and none waits longer than it may.

use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

/// A lock that can be waited for until some time. Free, which it nearly always is, it costs what a mutex does.
#[derive(Debug, Default)]
pub(super) struct Turns {
    turn: Mutex<()>,
    /// Threads that wait for it.
    waiting: AtomicUsize,
    queue: Mutex<()>,
    over: Condvar,
}

/// Somebody's turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    held: Option<MutexGuard<'a, ()>>,
}

impl Turns {
    /// Waits for a turn. Nothing when it is late.
    pub(super) fn take(&self, until: Option<Instant>) -> Option<Turn<'_>> {
        self.try_take().or_else(|| self.wait(until))
    }

    fn try_take(&self) -> Option<Turn<'_>> {
        let held = match self.turn.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Turn { turns: self, held: Some(held) })
    }

    #[cold]
    fn wait(&self, until: Option<Instant>) -> Option<Turn<'_>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // With the one in `drop`: prevents that this misses the end of a turn whose holder misses this.
        fence(Ordering::SeqCst);
        let turn = loop {
            if let Some(turn) = self.try_take() {
                break Some(turn);
            }
            queue = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.over.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => break None,
                Some(left) => self.over.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        turn
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.held = None;
        fence(Ordering::SeqCst);
        if self.turns.waiting.load(Ordering::Relaxed) > 0 {
            // Whoever waits either has not looked yet or sleeps.
            drop(self.turns.queue.lock());
            self.turns.over.notify_all();
        }
    }
}
