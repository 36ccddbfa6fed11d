//! Keeps the service's own long-running tasks running: one that panics, by a mistake of ours, is logged, counted and started
//! again. Sessions are not: a panic in one ends that one (`server.rs`).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tracing::error;

/// First and longest pause before a task is started again. A mistake that repeats itself must not take a core.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Panics that were caught since the service started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panics(Arc<AtomicU64>);

impl Panics {
    /// Counts one.
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub(crate) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs what `start` makes until it ends by itself.
pub(crate) async fn supervise<F: Future<Output = ()>>(
    name: &'static str,
    panics: Panics,
    mut start: impl FnMut() -> F,
) {
    let mut pause = PAUSE.0;
    // What a task shares with others is behind locks that outlive a panic, and changed in small steps.
    while AssertUnwindSafe(async { start().await }).catch_unwind().await.is_err() {
        panics.count();
        error!(task = name, ?pause, "a task failed by a mistake of the service; it is started again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn task_when_it_panics_is_started_again_later_each_time_and_counted() {
        let (panics, started) = (Panics::default(), AtomicU64::new(0));
        let begun = tokio::time::Instant::now();
        supervise("test", panics.clone(), || async {
            if started.fetch_add(1, Ordering::Relaxed) < 3 {
                panic!("a mistake, by wish");
            }
        })
        .await;
        assert_eq!((started.into_inner(), panics.total()), (4, 3));
        assert_eq!(begun.elapsed(), PAUSE.0 * 7, "1 + 2 + 4");
    }
}
