//! The switch at every byte offset of short conversations: no byte is lost, repeated, or a token's.

use std::os::fd::AsFd;

use shmbc_tests::Pattern;
use shmbc_tokio::{Path, ShmStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::pair::{fresh, run};

const TOKEN: usize = 16;

/// Bytes that the kernel holds for `stream`.
fn unread(stream: &ShmStream) -> usize {
    rustix::io::ioctl_fionread(stream.as_fd()).unwrap() as usize
}

/// Waits until `bytes` lie unread in the socket, while `drive` goes on with the upgrade.
async fn until_unread(stream: &ShmStream, bytes: usize) {
    while unread(stream) < bytes {
        tokio::task::yield_now().await;
    }
}

/// `before` bytes each way by TCP, of which the readers take `taken` before the switch; then both switch; then `after` bytes by ring.
async fn converse(before: [usize; 2], taken: [usize; 2], after: usize, chunk: usize) {
    let (mut a, mut b) = fresh().await;
    let patterns = [Pattern::new(1), Pattern::new(2)];
    let bytes = |way: usize, from: usize, n: usize| {
        let mut bytes = vec![0; n];
        patterns[way].fill(from as u64, &mut bytes);
        bytes
    };
    a.write_all(&bytes(0, 0, before[0])).await.unwrap();
    b.write_all(&bytes(1, 0, before[1])).await.unwrap();
    let mut heard = [vec![0; taken[0]], vec![0; taken[1]]];
    b.read_exact(&mut heard[0]).await.unwrap();
    a.read_exact(&mut heard[1]).await.unwrap();

    // Both ends ask; each writes its token as soon as it may; nobody reads until the tokens lie in the sockets behind what is
    // left of the bytes before them. Where nothing is left, `upgraded` takes the token itself.
    {
        let both = async { tokio::join!(a.upgraded(), b.upgraded()) };
        let tokens = async {
            for (stream, left) in [(&b, before[0] - taken[0]), (&a, before[1] - taken[1])] {
                if left > 0 {
                    until_unread(stream, left + TOKEN).await;
                }
            }
        };
        if before == taken {
            both.await.0.unwrap();
        } else {
            tokio::select! { () = tokens => {}, _ = both => {} }
        }
    }
    a.write_all(&bytes(0, before[0], after)).await.unwrap();
    b.write_all(&bytes(1, before[1], after)).await.unwrap();
    a.shutdown().await.unwrap();
    b.shutdown().await.unwrap();
    let mut piece = vec![0; chunk];
    let [at_b, at_a] = &mut heard;
    for (stream, heard) in [(&mut b, at_b), (&mut a, at_a)] {
        loop {
            let n = stream.read(&mut piece).await.unwrap();
            if n == 0 {
                break;
            }
            heard.extend_from_slice(&piece[..n]);
        }
    }
    for way in [0, 1] {
        assert_eq!(heard[way].len(), before[way] + after, "{before:?} {taken:?} {chunk}");
        patterns[way].check(0, &heard[way]).unwrap();
    }
    assert_eq!((a.path(), b.path()), (Path::SharedMemory, Path::SharedMemory));
}

#[test]
fn switch_when_at_every_offset_of_a_short_conversation_leaves_every_byte_in_place() {
    run(async {
        for offset in 0..=40 {
            for chunk in [1, 3, 16, 17, 64] {
                converse([offset, 40 - offset], [0, 0], 20, chunk).await;
            }
        }
    });
}

#[test]
fn switch_when_the_reader_stopped_at_every_offset_before_it_leaves_every_byte_in_place() {
    run(async {
        for taken in 0..=24 {
            for chunk in [1, 5, 40] {
                converse([24, 30], [taken, 24 - taken], 33, chunk).await;
            }
        }
    });
}

#[test]
fn switch_when_at_random_offsets_of_long_conversations_leaves_every_byte_in_place() {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    run(async {
        let mut rng = StdRng::seed_from_u64(3);
        for _ in 0..40 {
            let before = [rng.random_range(0..60_000), rng.random_range(0..60_000)];
            let taken = [rng.random_range(0..=before[0]), rng.random_range(0..=before[1])];
            converse(before, taken, rng.random_range(0..60_000), rng.random_range(1..100_000)).await;
        }
    });
}

#[test]
fn peek_when_it_meets_the_token_shows_only_the_programs_bytes() {
    run(async {
        for before in 0..=5 {
            let (mut a, mut b) = fresh().await;
            a.write_all(&vec![7; before]).await.unwrap();
            {
                let token = until_unread(&b, before + TOKEN);
                let both = async { tokio::join!(a.upgraded(), b.upgraded()) };
                tokio::select! { () = token => {}, _ = both => {} }
            }
            a.write_all(&[8; 10]).await.unwrap();
            let mut seen = [0; 40];
            let n = b.peek(&mut seen).await.unwrap();
            assert!(seen[..n.min(before)].iter().all(|&x| x == 7) && seen[before.min(n)..n].iter().all(|&x| x == 8));
            let mut all = vec![0; before + 10];
            b.read_exact(&mut all).await.unwrap();
            assert!(all[..before].iter().all(|&x| x == 7) && all[before..].iter().all(|&x| x == 8));
        }
    });
}

#[test]
fn end_when_it_closes_while_its_peer_switches_closes_in_order_and_loses_nothing() {
    run(async {
        for round in 0..300_usize {
            let (mut a, mut b) = fresh().await;
            let said = vec![round as u8; 1 + round * 1000];
            for stream in [&a, &b] {
                tokio::select! { biased; _ = stream.upgraded() => {}, () = std::future::ready(()) => {} }
            }
            // `a` writes and closes at some moment of the upgrade; `b` writes nothing but, maybe, its token.
            let closer = tokio::spawn(async move {
                a.write_all(&said).await.unwrap();
                for _ in 0..round % 20 {
                    tokio::task::yield_now().await;
                }
                drop(a);
            });
            let mut heard = Vec::new();
            b.read_to_end(&mut heard).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert_eq!(heard, vec![round as u8; 1 + round * 1000]);
            closer.await.unwrap();
        }
    });
}
