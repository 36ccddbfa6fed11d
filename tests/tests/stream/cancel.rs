//! Futures dropped half way: nothing is lost, nothing comes twice.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shmbc_tests::Pattern;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::pair::{KINDS, pair, run};

/// Polls `future` at most `times` times, then drops it.
async fn at_most<F: Future>(future: F, times: u32) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    poll_fn(|cx| match Pin::as_mut(&mut future).poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await
}

#[test]
fn read_write_and_peek_when_cancelled_at_any_poll_lose_and_repeat_nothing() {
    run(async {
        const TOTAL: usize = 2_000_000;
        for kind in KINDS {
            let (mut a, mut b) = pair(kind).await;
            let pattern = Pattern::new(5);
            let writer = tokio::spawn(async move {
                let mut rng = StdRng::seed_from_u64(1);
                let mut piece = vec![0; 20_000];
                let mut said = 0;
                while said < TOTAL {
                    let n = rng.random_range(1..=piece.len()).min(TOTAL - said);
                    pattern.fill(said as u64, &mut piece[..n]);
                    let tries = rng.random_range(0..3);
                    if let Some(written) = at_most(a.write(&piece[..n]), tries).await {
                        said += written.unwrap();
                    }
                    tokio::task::yield_now().await;
                }
                a
            });
            let mut rng = StdRng::seed_from_u64(2);
            let mut piece = vec![0; 30_000];
            let mut heard = 0;
            while heard < TOTAL {
                let n = rng.random_range(1..=piece.len());
                let tries = rng.random_range(0..3);
                if rng.random_bool(0.2) {
                    if let Some(seen) = at_most(b.peek(&mut piece[..n]), tries).await {
                        pattern.check(heard as u64, &piece[..seen.unwrap()]).unwrap();
                    }
                } else if let Some(read) = at_most(b.read(&mut piece[..n]), tries).await {
                    let read = read.unwrap();
                    pattern.check(heard as u64, &piece[..read]).unwrap();
                    heard += read;
                }
                tokio::task::yield_now().await;
            }
            drop(writer.await.unwrap());
        }
    });
}

#[test]
fn upgraded_when_cancelled_goes_on_by_itself() {
    run(async {
        let (a, b) = crate::pair::fresh().await;
        while a.path() != shmbc_tokio::Path::SharedMemory || b.path() != shmbc_tokio::Path::SharedMemory {
            at_most(a.upgraded(), 1).await;
            at_most(b.upgraded(), 1).await;
            tokio::task::yield_now().await;
        }
    });
}
