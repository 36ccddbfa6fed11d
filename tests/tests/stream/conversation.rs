//! Conversations: what is said must be heard, once and in order, whatever way it takes.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shmbc_tests::Pattern;
use shmbc_tokio::ShmStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::pair::{KINDS, pair, run, tokio_pair};

/// Writes `total` bytes of the pattern in random pieces, plain or vectored.
pub(crate) async fn speak(mut to: impl AsyncWrite + Unpin, seed: u64, total: usize, most: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let pattern = Pattern::new(seed);
    let mut said = 0;
    let mut piece = vec![0; most];
    while said < total {
        let n = rng.random_range(1..=most).min(total - said);
        pattern.fill(said as u64, &mut piece[..n]);
        if rng.random_bool(0.3) {
            let cut = rng.random_range(0..=n);
            let slices = [std::io::IoSlice::new(&piece[..cut]), std::io::IoSlice::new(&piece[cut..n])];
            let written = to.write_vectored(&slices).await.unwrap();
            assert!(written > 0);
            said += written;
        } else {
            to.write_all(&piece[..n]).await.unwrap();
            said += n;
        }
    }
}

/// Reads in random pieces and checks `total` bytes of the pattern.
pub(crate) async fn listen(mut from: impl AsyncRead + Unpin, seed: u64, total: usize, most: usize) {
    let mut rng = StdRng::seed_from_u64(seed ^ 1);
    let pattern = Pattern::new(seed);
    let mut heard = 0;
    let mut piece = vec![0; most];
    while heard < total {
        let n = rng.random_range(1..=most).min(total - heard);
        let got = from.read(&mut piece[..n]).await.unwrap();
        assert!(got > 0, "the end after {heard} of {total} bytes");
        pattern.check(heard as u64, &piece[..got]).unwrap();
        heard += got;
    }
}

async fn both_ways<A, B>(a: A, b: B, seed: u64, total: usize, most: usize)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (a_read, a_write) = tokio::io::split(a);
    let (b_read, b_write) = tokio::io::split(b);
    tokio::join!(
        speak(a_write, seed, total, most),
        listen(b_read, seed, total, most),
        speak(b_write, seed + 1, total, most),
        listen(a_read, seed + 1, total, most),
    );
}

const SIZES: [(usize, usize); 4] = [(1, 1), (5_000, 7), (300_000, 5_000), (3_000_000, 300_000)];

#[test]
fn bytes_when_spoken_both_ways_at_once_arrive_once_and_in_order() {
    run(async {
        for (total, most) in SIZES {
            for kind in KINDS {
                let (a, b) = pair(kind).await;
                both_ways(a, b, 7, total, most).await;
            }
            let (a, b) = tokio_pair().await;
            both_ways(a, b, 7, total, most).await;
        }
    });
}

#[test]
fn bytes_when_halves_are_borrowed_or_owned_by_tasks_arrive_once_and_in_order() {
    run(async {
        for (total, most) in SIZES {
            for kind in KINDS {
                let (mut a, mut b) = pair(kind).await;
                {
                    let ((a_read, a_write), (b_read, b_write)) = (a.split(), b.split());
                    tokio::join!(
                        speak(a_write, 1, total, most),
                        listen(b_read, 1, total, most),
                        speak(b_write, 2, total, most),
                        listen(a_read, 2, total, most)
                    );
                }
                let ((a_read, a_write), (b_read, b_write)) = (a.into_split(), b.into_split());
                let tasks = [
                    tokio::spawn(speak(a_write, 3, total, most)),
                    tokio::spawn(speak(b_write, 4, total, most)),
                    tokio::spawn(listen(b_read, 3, total, most)),
                    tokio::spawn(listen(a_read, 4, total, most)),
                ];
                for task in tasks {
                    task.await.unwrap();
                }
            }
        }
    });
}

#[test]
fn requests_when_answered_one_by_one_upgrade_by_themselves_and_are_all_answered() {
    run(async {
        let (mut a, mut b) = crate::pair::fresh().await;
        let server = tokio::spawn(async move {
            let mut request = [0; 64];
            while b.read_exact(&mut request).await.is_ok() {
                b.write_all(&request).await.unwrap();
            }
            b.path()
        });
        let mut answer = [0; 64];
        let mut exchanges = 0_u32;
        // Nobody asks for the upgrade: the traffic does.
        while a.path() != shmbc_tokio::Path::SharedMemory {
            let request = [exchanges as u8; 64];
            a.write_all(&request).await.unwrap();
            a.read_exact(&mut answer).await.unwrap();
            assert_eq!(request, answer);
            exchanges += 1;
        }
        assert!(exchanges >= 2, "a connection is not upgraded before its second request");
        let identity = a.peer_identity().unwrap();
        assert_eq!(identity.pid, std::process::id() as i32);
        drop(a);
        assert_eq!(server.await.unwrap(), shmbc_tokio::Path::SharedMemory);
    });
}

#[test]
fn peek_when_bytes_are_there_shows_them_and_leaves_them() {
    run(async {
        for kind in KINDS {
            let (mut a, mut b) = pair(kind).await;
            for round in 0..50_u8 {
                a.write_all(&[round, 1, 2, 3]).await.unwrap();
                let mut seen = [0; 2];
                assert_eq!(b.peek(&mut seen).await.unwrap(), 2);
                assert_eq!(seen, [round, 1]);
                let mut read = [0; 4];
                b.read_exact(&mut read).await.unwrap();
                assert_eq!(read, [round, 1, 2, 3]);
                b.write_all(&[round]).await.unwrap();
                assert_eq!(a.read_u8().await.unwrap(), round);
            }
            drop(a);
            assert_eq!(b.peek(&mut [0; 1]).await.unwrap(), 0, "the end");
        }
    });
}

/// Moves bytes with the readiness calls alone.
async fn by_readiness(a: &ShmStream, b: &ShmStream, total: usize) {
    let pattern = Pattern::new(11);
    let write = async {
        let mut said = 0;
        let mut piece = vec![0; 10_000];
        while said < total {
            a.writable().await.unwrap();
            let n = piece.len().min(total - said);
            pattern.fill(said as u64, &mut piece[..n]);
            match a.try_write(&piece[..n]) {
                Ok(n) => said += n,
                Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
    };
    let read = async {
        let mut heard = 0;
        let mut piece = vec![0; 7_000];
        while heard < total {
            b.readable().await.unwrap();
            match b.try_read(&mut piece) {
                Ok(n) => {
                    pattern.check(heard as u64, &piece[..n]).unwrap();
                    heard += n;
                }
                Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
    };
    tokio::join!(write, read);
}

#[test]
fn readiness_when_awaited_moves_every_byte() {
    run(async {
        for kind in KINDS {
            let (a, b) = pair(kind).await;
            by_readiness(&a, &b, 1_000_000).await;
            by_readiness(&b, &a, 1_000_000).await;
        }
    });
}

#[test]
fn readable_when_many_tasks_wait_wakes_all_of_them() {
    run(async {
        for kind in KINDS {
            let (mut a, b) = pair(kind).await;
            let b = std::sync::Arc::new(b);
            let waiters: Vec<_> = (0..20)
                .map(|_| {
                    let b = std::sync::Arc::clone(&b);
                    tokio::spawn(async move { b.readable().await.unwrap() })
                })
                .collect();
            tokio::task::yield_now().await;
            a.write_all(b"x").await.unwrap();
            for waiter in waiters {
                waiter.await.unwrap();
            }
        }
    });
}
