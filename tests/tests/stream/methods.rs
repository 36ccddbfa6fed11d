//! The methods of tokio's types that conversations do not use, and the readiness that tokio's own tests ask of accepted
//! sockets: the same on TCP and through shared memory.

use std::io::{ErrorKind, IoSlice};
use std::os::fd::AsFd;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, recv, send};
use shmbc_tokio::net::TcpStream;
use shmbc_tokio::{
    OwnedReadHalf, OwnedWriteHalf, Path, ReadHalf, Reason, ReuniteError, ShmListener, ShmSocket, ShmStream, WriteHalf,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};

use crate::pair::{KINDS, Kind, fresh, host, pair, run, run_on_one_thread};

/// What the first poll of `future` says.
fn first<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits until a read of `stream` finds something, without a look at its readiness.
async fn until_there(stream: &ShmStream) {
    while stream.peek(&mut [0]).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
}

/// A pair whose first end has never been read.
async fn accepted_with(kind: Kind, bytes: &[u8]) -> (ShmStream, ShmStream) {
    let (mut client, server) = pair(kind).await;
    client.write_all(bytes).await.unwrap();
    if !bytes.is_empty() {
        until_there(&server).await;
    }
    (server, client)
}

#[test]
fn try_read_buf_when_bytes_are_there_fills_the_spare_room_and_no_more() {
    run(async {
        for kind in [Kind::Tcp, Kind::Shm] {
            let (server, mut client) = accepted_with(kind, b"hello world").await;
            let mut buf = Vec::with_capacity(5);
            buf.push(b'>');
            let room = buf.capacity() - 1;
            assert_eq!(server.try_read_buf(&mut buf).unwrap(), room.min(11), "{kind:?}");
            assert!(b">hello world".starts_with(&buf), "{buf:?}");
            assert_eq!(server.try_read_buf(&mut &mut [0_u8; 0][..]).unwrap(), 0, "no room");
            let mut rest = Vec::with_capacity(100);
            assert_eq!(server.try_read_buf(&mut rest).unwrap(), 11 - room.min(11), "{kind:?}");
            assert_eq!(server.try_read_buf(&mut rest).unwrap_err().kind(), ErrorKind::WouldBlock);
            client.shutdown().await.unwrap();
            server.readable().await.unwrap();
            assert_eq!(server.try_read_buf(&mut rest).unwrap(), 0, "the end");
            let (read, _write) = server.into_split();
            assert_eq!(read.try_read_buf(&mut rest).unwrap(), 0);
        }
    });
}

#[test]
fn try_io_when_on_tcp_runs_when_ready_and_keeps_the_stream_there() {
    run(async {
        let (a, b) = fresh().await;
        assert_eq!(a.try_write(b"raw").unwrap(), 3);
        b.readable().await.unwrap();
        let mut raw = [0; 8];
        let got = loop {
            let got = b.try_io(Interest::READABLE, || Ok(recv(b.as_fd(), &mut raw[..], RecvFlags::DONTWAIT)?.0));
            match got {
                Err(error) if error.kind() == ErrorKind::WouldBlock => b.readable().await.unwrap(),
                got => break got.unwrap(),
            }
        };
        assert_eq!(&raw[..got], b"raw");
        let mut runs = 0;
        let nothing = b.try_io(Interest::READABLE, || {
            runs += 1;
            Ok(recv(b.as_fd(), &mut raw[..], RecvFlags::DONTWAIT)?.0)
        });
        assert_eq!(nothing.unwrap_err().kind(), ErrorKind::WouldBlock);
        let unready = b.try_io(Interest::READABLE, || -> std::io::Result<()> { unreachable!("not ready any more") });
        assert_eq!(unready.unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(runs <= 1);
        assert_eq!(b.path(), Path::Tcp(Reason::Disabled));
        assert_eq!(b.upgraded().await, Err(Reason::Disabled));
        // And the bytes that only the kernel has counted do no harm.
        assert_eq!(b.try_io(Interest::WRITABLE, || Ok(send(b.as_fd(), b"back", SendFlags::empty())?)).unwrap(), 4);
        a.readable().await.unwrap();
        let mut back = [0; 4];
        let mut a = a;
        a.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"back");
    });
}

#[test]
fn try_io_when_switched_runs_when_the_stream_is_ready() {
    run(async {
        let (server, mut client) = accepted_with(Kind::Shm, b"").await;
        assert_eq!(server.try_read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
        let unready = server.try_io(Interest::READABLE, || -> std::io::Result<()> { unreachable!("nothing to read") });
        assert_eq!(unready.unwrap_err().kind(), ErrorKind::WouldBlock);
        client.write_all(b"12345").await.unwrap();
        let mut buf = [0; 5];
        assert_eq!(server.try_io(Interest::READABLE, || server.try_read(&mut buf)).unwrap(), 5);
        assert_eq!(&buf, b"12345");
        let told = server.try_io(Interest::WRITABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
        assert_eq!(told.unwrap_err().kind(), ErrorKind::WouldBlock, "what the closure says");
        assert_eq!(server.try_io(Interest::WRITABLE, || server.try_write(b"back")).unwrap(), 4);
        assert_eq!(client.read_u32().await.unwrap(), u32::from_be_bytes(*b"back"));
        assert_eq!((server.path(), client.path()), (Path::SharedMemory, Path::SharedMemory));
    });
}

#[test]
fn closure_when_it_uses_the_descriptor_of_a_switched_stream_is_told() {
    run(async {
        let (server, client) = accepted_with(Kind::Shm, b"never by the socket").await;
        let calls = AtomicU32::new(0);
        let error = server
            .async_io(Interest::READABLE, || {
                calls.fetch_add(1, Ordering::Relaxed);
                Ok(recv(server.as_fd(), &mut [0; 8], RecvFlags::DONTWAIT)?)
            })
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("shared memory"), "{error}");
        assert!(calls.into_inner() > 1);
        let wrote = client.try_io(Interest::WRITABLE, || Ok(send(client.as_fd(), b"x", SendFlags::empty())?));
        assert_eq!(wrote.unwrap_err().kind(), ErrorKind::Unsupported);
        // The stream's own bytes are as they were.
        let mut all = [0; 19];
        assert_eq!(server.try_read(&mut all).unwrap(), 19);
        assert_eq!(&all, b"never by the socket");
    });
}

#[test]
fn async_io_when_nothing_is_there_waits_and_calls_again() {
    run(async {
        for kind in KINDS {
            let (server, mut client) = accepted_with(kind, b"").await;
            let calls = AtomicU32::new(0);
            let mut buf = [0; 8];
            {
                let mut heard = pin!(server.async_io(Interest::READABLE, || {
                    calls.fetch_add(1, Ordering::Relaxed);
                    server.try_read(&mut buf)
                }));
                assert!(first(heard.as_mut()).is_pending());
                client.write_all(b"xyz").await.unwrap();
                assert_eq!(heard.await.unwrap(), 3, "{kind:?}");
            }
            assert_eq!(&buf[..3], b"xyz");
            assert!(calls.into_inner() >= 1);
            let end = server.async_io(Interest::READABLE, || server.try_read(&mut buf));
            drop(client);
            assert_eq!(end.await.unwrap(), 0, "{kind:?}");
        }
    });
}

#[test]
fn options_when_set_are_the_sockets_own() {
    run(async {
        for kind in [Kind::Tcp, Kind::Shm] {
            let (a, _b) = pair(kind).await;
            for on in [true, false] {
                a.set_quickack(on).unwrap();
                assert_eq!(a.quickack().unwrap(), on);
            }
            #[expect(deprecated, reason = "it exists as long as tokio's does")]
            a.set_linger(Some(Duration::from_secs(3))).unwrap();
            assert_eq!(a.linger().unwrap(), Some(Duration::from_secs(3)));
            #[expect(deprecated, reason = "it exists as long as tokio's does")]
            a.set_linger(None).unwrap();
            assert_eq!(a.linger().unwrap(), None);
        }
    });
}

#[test]
fn socket_when_set_up_by_hand_makes_streams_and_listeners_that_upgrade() {
    run(async {
        let local = "127.0.0.1:0".parse().unwrap();
        let socket = ShmSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        assert!(socket.reuseaddr().unwrap());
        socket.bind(local).unwrap();
        let address = socket.local_addr().unwrap();
        // By its number and back, as programs hand descriptors over.
        let socket: ShmSocket = shmbc_tests::raw::by_number(socket);
        assert_eq!(socket.local_addr().unwrap(), address);
        let listener = socket.listen(8).unwrap();
        let socket = ShmSocket::new_v4().unwrap();
        socket.set_nodelay(true).unwrap();
        let (a, b) = tokio::join!(socket.connect(address), async { listener.accept().await.unwrap().0 });
        let a = a.unwrap();
        assert!(a.nodelay().unwrap());
        let (up, down) = tokio::join!(a.upgraded(), b.upgraded());
        assert_eq!((up, down), (Ok(()), Ok(())));
        let refused = ShmSocket::new_v6().unwrap().connect("[::1]:1".parse().unwrap()).await;
        assert!(refused.is_err());
    });
}

// The next eight ask of a stream in shared memory what tokio asks of a socket that was just accepted: its first operations
// try at once instead of waiting for an event.

#[test]
fn accepted_when_bytes_are_there_is_read_and_written_without_an_event() {
    run(async {
        for kind in KINDS {
            let (server, _client) = accepted_with(kind, b"hello").await;
            let mut buf = [0; 16];
            assert_eq!(server.try_read(&mut buf).unwrap(), 5, "{kind:?}");
            assert_eq!(&buf[..5], b"hello");
            if kind != Kind::Switching {
                assert_eq!(server.try_write(b"world").unwrap(), 5);
            }
        }
    });
}

#[test]
fn accepted_when_nothing_is_there_counts_as_readable_until_a_read_finds_nothing() {
    // With the reactor on another thread, the socket's first event can come while the read looks; tokio then keeps the readiness.
    run_on_one_thread(async {
        for kind in [Kind::Tcp, Kind::Shm] {
            let (server, mut client) = accepted_with(kind, b"").await;
            assert!(first(server.readable()).is_ready(), "{kind:?}");
            let mut buf = [0; 16];
            assert_eq!(server.try_read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
            assert!(first(server.readable()).is_pending(), "{kind:?}");
            assert_eq!(server.try_write(b"early").unwrap(), 5);
            client.write_all(b"later").await.unwrap();
            server.readable().await.unwrap();
            assert_eq!(server.try_read(&mut buf).unwrap(), 5);
            // Nor does a read that was satisfied show that there is no more.
            assert!(first(server.readable()).is_ready(), "{kind:?}");
        }
    });
}

#[test]
fn first_poll_of_each_kind_when_bytes_are_there_is_ready() {
    run(async {
        for kind in [Kind::Tcp, Kind::Shm] {
            let (mut server, _client) = accepted_with(kind, b"helloworld").await;
            let mut buf = [0; 5];
            assert!(matches!(first(server.peek(&mut buf)), Poll::Ready(Ok(5))), "{kind:?}");
            // A read that fills its buffer keeps the stream readable.
            assert!(matches!(first(server.read(&mut buf)), Poll::Ready(Ok(5))), "{kind:?}");
            assert!(matches!(first(server.read(&mut buf)), Poll::Ready(Ok(5))), "{kind:?}");
            assert!(matches!(first(server.write(b"x")), Poll::Ready(Ok(1))));
            let bufs = [IoSlice::new(b"ab"), IoSlice::new(b"cd")];
            assert!(matches!(first(server.write_vectored(&bufs)), Poll::Ready(Ok(4))));
        }
    });
}

#[test]
fn reads_when_the_runtime_is_gone_report_it_and_do_not_hang() {
    host();
    for kind in [Kind::Tcp, Kind::Shm] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (mut server, _client) = runtime.block_on(accepted_with(kind, b"hello"));
        drop(runtime);
        assert_eq!(server.try_read(&mut [0; 5]).unwrap(), 5, "{kind:?}");
        let _ = server.try_read(&mut [0; 5]);
        run(async move {
            let error = server.read(&mut [0; 5]).await.unwrap_err();
            assert!(tokio::runtime::is_rt_shutdown_err(&error), "{kind:?}: {error}");
        });
    }
}

#[test]
fn writable_when_a_write_was_cut_short_holds_until_one_would_block() {
    run(async {
        for kind in [Kind::Tcp, Kind::Shm] {
            let (server, client) = accepted_with(kind, b"").await;
            loop {
                assert!(first(client.writable()).is_ready(), "{kind:?}");
                match client.try_write(&[1; 4000]) {
                    Ok(_) => {}
                    Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
            // On TCP the kernel may make room again by itself.
            assert!(kind == Kind::Tcp || first(client.writable()).is_pending());
            drop(server);
        }
    });
}

#[test]
fn readiness_when_awaited_costs_nothing_of_the_tasks_budget() {
    run(async {
        for kind in [Kind::Tcp, Kind::Shm] {
            let (server, _client) = accepted_with(kind, b"x").await;
            // Far more than tokio's budget for one turn of a task.
            for turn in 0..1000 {
                assert!(first(server.readable()).is_ready(), "{kind:?} {turn}");
            }
        }
    });
}

#[test]
fn types_when_used_across_threads_and_panics_are_as_tokios() {
    fn holds<T: Send + Sync + Unpin + UnwindSafe + RefUnwindSafe>() {}
    fn moves<T: Send + Sync>(_: &T) {}
    holds::<ShmStream>();
    holds::<ShmListener>();
    holds::<ShmSocket>();
    holds::<ReadHalf<'_>>();
    holds::<WriteHalf<'_>>();
    holds::<OwnedReadHalf>();
    holds::<OwnedWriteHalf>();
    holds::<ReuniteError>();
    run(async {
        let connect = TcpStream::connect("127.0.0.1:1");
        moves(&connect);
        let (a, _b) = fresh().await;
        moves(&a.ready(Interest::READABLE));
        moves(&a.peek(&mut [0]));
        moves(&a.async_io(Interest::READABLE, || Ok(())));
    });
}
