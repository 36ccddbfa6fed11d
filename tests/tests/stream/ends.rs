//! What TCP's users rely on, row by row of the design's table: the same on TCP and through shared memory.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shmbc_tokio::{Path, Reason, ShmStream, Wait};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};

use crate::pair::{KINDS, Kind, fresh, host, pair, run};

/// Writes until it fails, which it must: bounded, so that a write that goes into the void forever fails the test.
async fn write_until_error(stream: &mut ShmStream) -> ErrorKind {
    for _ in 0..100_000 {
        if let Err(error) = stream.write_all(&[1; 1000]).await {
            return error.kind();
        }
        tokio::task::yield_now().await;
    }
    panic!("100 MB written to a peer that is gone");
}

#[test]
fn shutdown_when_bytes_are_unread_lets_them_be_read_then_the_end_and_keeps_the_other_direction() {
    run(async {
        for kind in KINDS {
            let (mut a, mut b) = pair(kind).await;
            a.write_all(&[7; 50_000]).await.unwrap();
            for _ in 0..3 {
                a.shutdown().await.unwrap();
            }
            assert_eq!(a.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe, "{kind:?}");
            let mut all = Vec::new();
            b.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, vec![7; 50_000]);
            assert_eq!(b.read(&mut [0; 9]).await.unwrap(), 0, "the end stays");
            // More than any buffer between the two holds: the half-open direction has its backpressure, too.
            let writer = tokio::spawn(async move {
                b.write_all(&[8; 1_000_000]).await.unwrap();
                b
            });
            let mut back = vec![0; 1_000_000];
            a.read_exact(&mut back).await.unwrap();
            assert!(back.iter().all(|&x| x == 8));
            drop(writer.await.unwrap());
            assert_eq!(a.read(&mut back).await.unwrap(), 0, "{kind:?}");
        }
    });
}

#[test]
fn drop_when_nothing_is_unread_is_an_end_for_the_reader_and_an_error_for_the_writer() {
    run(async {
        for kind in KINDS {
            let (mut a, mut b) = pair(kind).await;
            a.write_all(&[7; 30_000]).await.unwrap();
            drop(a);
            let mut all = Vec::new();
            b.read_to_end(&mut all).await.unwrap();
            assert_eq!(all.len(), 30_000);
            let error = write_until_error(&mut b).await;
            assert!(matches!(error, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{kind:?} {error}");
        }
    });
}

#[test]
fn drop_when_bytes_are_unread_resets_the_connection() {
    run(async {
        for kind in [Kind::Tcp, Kind::Shm] {
            let (a, mut b) = pair(kind).await;
            b.write_all(b"never read").await.unwrap();
            a.readable().await.unwrap();
            drop(a);
            assert_eq!(b.read(&mut [0; 9]).await.unwrap_err().kind(), ErrorKind::ConnectionReset, "{kind:?}");
            assert_eq!(b.read(&mut [0; 9]).await.unwrap(), 0, "once");
            assert_eq!(b.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe, "{kind:?}");
        }
    });
}

#[test]
fn zero_linger_when_dropped_lets_the_peer_read_what_is_there_then_resets() {
    run(async {
        for kind in [Kind::Tcp, Kind::Shm] {
            let (mut a, mut b) = pair(kind).await;
            a.write_all(b"last words").await.unwrap();
            b.readable().await.unwrap();
            a.set_zero_linger().unwrap();
            assert_eq!(a.linger().unwrap(), Some(Duration::ZERO));
            drop(a);
            let mut words = [0; 10];
            b.read_exact(&mut words).await.unwrap();
            assert_eq!(&words, b"last words");
            assert_eq!(b.read(&mut words).await.unwrap_err().kind(), ErrorKind::ConnectionReset, "{kind:?}");
            assert_eq!(b.read(&mut words).await.unwrap(), 0);
        }
    });
}

#[test]
fn peer_when_half_closed_and_then_gone_fails_a_blocked_writer() {
    run(async {
        for kind in [Kind::Tcp, Kind::Shm] {
            let (mut a, mut b) = pair(kind).await;
            a.shutdown().await.unwrap();
            assert_eq!(b.read(&mut [0; 1]).await.unwrap(), 0);
            // Fill everything, so that the next write blocks.
            while let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(50), b.write(&[0; 10_000])).await {}
            let writer = tokio::spawn(async move { write_until_error(&mut b).await });
            tokio::task::yield_now().await;
            drop(a);
            let error = writer.await.unwrap();
            assert!(matches!(error, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{kind:?} {error}");
        }
    });
}

#[test]
fn buffers_when_full_hold_the_writer_back_and_never_grow() {
    run(async {
        for kind in [Kind::Tcp, Kind::Shm] {
            let (a, b) = pair(kind).await;
            let mut held = 0;
            loop {
                match a.try_write(&[3; 1000]) {
                    Ok(n) => held += n,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::WouldBlock);
                        // TCP goes on a little while the kernel moves bytes from one buffer to the other.
                        if kind == Kind::Shm || held > 2_000_000 {
                            break;
                        }
                        a.writable().await.unwrap();
                    }
                }
            }
            if kind == Kind::Shm {
                assert_eq!(held, 64 * 1024, "the ring and not a byte more");
                for _ in 0..1000 {
                    assert_eq!(a.try_write(&[3; 1000]).unwrap_err().kind(), ErrorKind::WouldBlock);
                }
            }
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            if kind == Kind::Shm {
                assert!(a.poll_write_ready(&mut cx).is_pending());
            }
            // Room for one byte is not room worth waking for; room for all is.
            let mut heard = 0;
            let mut piece = [0; 1000];
            while heard < held {
                b.readable().await.unwrap();
                match b.try_read(&mut piece) {
                    Ok(n) => heard += n,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
            a.writable().await.unwrap();
            assert_eq!(a.try_write(&[1]).unwrap(), 1);
        }
    });
}

#[test]
fn writer_when_blocked_on_a_full_buffer_is_woken_by_the_reader() {
    run(async {
        for kind in KINDS {
            let (mut a, mut b) = pair(kind).await;
            let writer = tokio::spawn(async move {
                a.write_all(&vec![5; 8_000_000]).await.unwrap();
            });
            let mut heard = 0;
            let mut piece = vec![0; 100_000];
            while heard < 8_000_000 {
                heard += b.read(&mut piece).await.unwrap();
            }
            writer.await.unwrap();
        }
    });
}

#[test]
fn waiting_when_of_any_kind_sees_bytes_room_and_the_end() {
    run(async {
        for wait in
            [Wait::Off, Wait::Adaptive, Wait::Fixed(Duration::from_micros(1)), Wait::Fixed(Duration::from_millis(1))]
        {
            let (mut a, mut b) = pair(Kind::Shm).await;
            a.set_wait(wait);
            b.set_wait(wait);
            let writer = tokio::spawn(async move {
                a.write_all(&vec![1; 1_000_000]).await.unwrap();
                assert_eq!(a.read(&mut [0; 1]).await.unwrap(), 0, "{wait:?}");
            });
            b.read_exact(&mut vec![0; 1_000_000]).await.unwrap();
            drop(b);
            writer.await.unwrap();
        }
    });
}

#[test]
fn empty_reads_and_writes_when_made_do_nothing_and_succeed() {
    run(async {
        for kind in [Kind::Tcp, Kind::Shm] {
            let (mut a, mut b) = pair(kind).await;
            assert_eq!(a.write(&[]).await.unwrap(), 0);
            assert_eq!(a.write_vectored(&[]).await.unwrap(), 0);
            assert_eq!(a.write_vectored(&[std::io::IoSlice::new(&[])]).await.unwrap(), 0);
            a.write_all(b"x").await.unwrap();
            b.readable().await.unwrap();
            assert_eq!(b.read(&mut []).await.unwrap(), 0);
            assert_eq!(b.try_read(&mut []).unwrap(), 0);
            assert_eq!(b.read_u8().await.unwrap(), b'x', "{kind:?}: and took nothing");
        }
    });
}

#[test]
fn bytes_when_written_are_visible_without_a_flush() {
    run(async {
        for kind in KINDS {
            let (mut a, mut b) = pair(kind).await;
            assert_eq!(a.write(b"now").await.unwrap(), 3);
            let mut seen = [0; 3];
            b.read_exact(&mut seen).await.unwrap();
            a.flush().await.unwrap();
        }
    });
}

#[test]
fn socket_when_asked_for_is_the_real_one() {
    run(async {
        for kind in [Kind::Tcp, Kind::Shm] {
            let (a, b) = pair(kind).await;
            assert_eq!(a.local_addr().unwrap(), b.peer_addr().unwrap());
            assert_eq!(a.peer_addr().unwrap(), b.local_addr().unwrap());
            a.set_nodelay(true).unwrap();
            assert!(a.nodelay().unwrap());
            a.set_ttl(70).unwrap();
            assert_eq!(a.ttl().unwrap(), 70);
            SockRef::from(&a.as_fd()).set_keepalive(true).unwrap();
            assert!(SockRef::from(&a.as_fd()).keepalive().unwrap());
            assert!(a.take_error().unwrap().is_none());
        }
    });
}

#[test]
fn into_std_when_on_tcp_gives_the_socket_and_when_switched_says_that_it_cannot() {
    run(async {
        use std::io::{Read, Write};
        let (a, mut b) = pair(Kind::Tcp).await;
        let mut std = a.into_std().unwrap();
        std.set_nonblocking(false).unwrap();
        std.write_all(b"plain").unwrap();
        let mut seen = [0; 5];
        b.read_exact(&mut seen).await.unwrap();
        b.write_all(b"!").await.unwrap();
        std.read_exact(&mut seen[..1]).unwrap();

        let (a, _b) = pair(Kind::Shm).await;
        let error = a.into_std().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("set_acceleration(false)"), "{error}");
    });
}

#[test]
fn from_std_when_the_socket_was_used_before_stays_on_tcp_and_when_not_is_upgraded() {
    run(async {
        use std::io::Write;
        for used in [true, false] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            if used {
                client.write_all(b"hello").unwrap();
            }
            for socket in [&client, &server] {
                socket.set_nonblocking(true).unwrap();
            }
            let (a, mut b) = (ShmStream::from_std(client).unwrap(), ShmStream::from_std(server).unwrap());
            if used {
                // What lies unread at the other end was not taken before: that end could still switch.
                assert_eq!(a.path(), Path::Tcp(Reason::UsedBefore));
                assert_eq!(a.upgraded().await, Err(Reason::UsedBefore));
                let mut seen = [0; 5];
                b.read_exact(&mut seen).await.unwrap();
            } else {
                let (up, down) = tokio::join!(a.upgraded(), b.upgraded());
                up.unwrap();
                down.unwrap();
            }
        }
    });
}

#[test]
fn bytes_when_written_past_the_stream_keep_it_on_tcp_and_arrive() {
    run(async {
        let (mut a, mut b) = fresh().await;
        SockRef::from(&a.as_fd()).send(b"past").unwrap();
        a.write_all(b" the stream").await.unwrap();
        let mut seen = [0; 15];
        b.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"past the stream");
        // The other direction switches; this one never does.
        let (result, _) = tokio::join!(a.upgraded(), async {
            while a.peer_identity().is_none() {
                tokio::select! { biased; _ = b.upgraded() => {}, () = tokio::task::yield_now() => {} }
            }
            b.write_all(b"back").await.unwrap();
        });
        assert_eq!(result, Err(Reason::UsedBefore));
        a.write_all(b"on TCP").await.unwrap();
        b.read_exact(&mut seen[..6]).await.unwrap();
        assert_eq!(&seen[..6], b"on TCP");
    });
}

#[test]
fn ready_when_the_peer_has_closed_says_so() {
    run(async {
        for kind in [Kind::Tcp, Kind::Shm] {
            let (a, b) = pair(kind).await;
            let ready = b.ready(Interest::WRITABLE).await.unwrap();
            assert!(ready.is_writable() && !ready.is_read_closed(), "{kind:?}");
            drop(a);
            while !b.ready(Interest::READABLE).await.unwrap().is_read_closed() {
                tokio::task::yield_now().await;
            }
            assert_eq!(b.try_read(&mut [0; 1]).unwrap(), 0);
        }
    });
}

#[test]
fn ring_when_always_ready_lets_the_other_tasks_of_its_thread_run() {
    host();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for kind in [Kind::Tcp, Kind::Shm] {
            let (mut a, mut b) = pair(kind).await;
            let turns = Arc::new(AtomicU64::new(0));
            let other = tokio::spawn({
                let turns = Arc::clone(&turns);
                async move {
                    loop {
                        turns.fetch_add(1, Ordering::Relaxed);
                        tokio::task::yield_now().await;
                    }
                }
            });
            // One task that always finds room, then always finds bytes: without tokio's budget it would never stop.
            let busy = tokio::spawn(async move {
                let mut byte = [0; 1];
                for _ in 0..100 {
                    for _ in 0..500 {
                        a.write_all(&[1]).await.unwrap();
                    }
                    for _ in 0..500 {
                        b.read_exact(&mut byte).await.unwrap();
                    }
                }
            });
            busy.await.unwrap();
            assert!(turns.load(Ordering::Relaxed) >= 100_000 / 128 / 2, "{kind:?}: {turns:?} turns");
            other.abort();
        }
    });
}
