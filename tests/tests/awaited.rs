//! `SHMBC_UPGRADE=await`: no byte before the host service has decided. The settings are a process's own, so this is one.

use std::sync::OnceLock;
use std::time::Duration;

use shmbc::sys::tcp_position;
use shmbc_host::{Docker, Host, HostConfig};
use shmbc_tokio::{Config, Path, Reason, ShmListener, ShmStream, When};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Runs `test` in a runtime with one thread, where a call that blocked the wrong one would hang.
fn run(test: impl Future<Output = ()>) {
    static HOST: OnceLock<(tempfile::TempDir, tokio::runtime::Runtime, Host)> = OnceLock::new();
    HOST.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("host.sock");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut config = HostConfig::at(&socket);
        config.docker = Docker::Off;
        // Long for the streams that are to be upgraded, on a busy machine; what those wait that are not.
        config.twin_timeout = Duration::from_millis(500);
        let host = runtime.block_on(Host::start(config)).unwrap();
        Config::default().host(&socket).upgrade(When::Await).install().unwrap();
        (dir, runtime, host)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs") });
}

#[test]
fn first_byte_when_awaited_goes_through_shared_memory() {
    run(async {
        let listener = ShmListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = ShmStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let server = tokio::spawn(async move {
            let (mut server, _) = listener.accept().await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), 7);
            server
        });
        client.write_u8(7).await.unwrap();
        let server = server.await.unwrap();
        assert_eq!(tcp_position(&server).unwrap().arrived, 16, "by TCP the token came, and nothing else");
        assert_eq!(client.try_write(b"more").unwrap(), 4);
    });
}

#[test]
fn stream_when_its_peer_never_offers_goes_on_by_tcp() {
    run(async {
        let listener = ShmListener::bind("127.0.0.1:0").await.unwrap();
        let mut plain = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        plain.write_all(b"hello").await.unwrap();
        let mut hello = [0; 5];
        server.read_exact(&mut hello).await.unwrap();
        assert_eq!((&hello, server.path()), (b"hello", Path::Tcp(Reason::PeerNotAware)));
        server.write_all(b"there").await.unwrap();
        plain.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"there");
    });
}

#[test]
fn try_calls_when_awaited_are_answered_after_the_decision() {
    run(async {
        let listener = ShmListener::bind("127.0.0.1:0").await.unwrap();
        let mut plain = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        assert_eq!(server.try_write(b"x").unwrap(), 1);
        assert_eq!(server.path(), Path::Tcp(Reason::PeerNotAware));
        assert_eq!(plain.read_u8().await.unwrap(), b'x');
    });
}

/// Both ends in one thread, which none of their calls may block.
#[test]
fn mio_streams_when_awaited_would_block_and_report_the_decision() {
    use std::io::{ErrorKind, Read, Write};

    use mio::{Events, Interest, Poll, Token};
    use shmbc::mio::{ShmListener, ShmStream};

    run(async {});
    let listener = ShmListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut poll = Poll::new().unwrap();
    let mut client = ShmStream::connect(listener.local_addr().unwrap()).unwrap();
    poll.registry().register(&mut client, Token(0), Interest::READABLE | Interest::WRITABLE).unwrap();
    let mut server = loop {
        match listener.accept() {
            Ok((server, _)) => break server,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    };
    poll.registry().register(&mut server, Token(1), Interest::READABLE).unwrap();
    let mut events = Events::with_capacity(8);
    let (mut written, mut heard) = (false, 0);
    while heard < 5 {
        poll.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
        assert!(!events.is_empty(), "the test hangs");
        for event in &events {
            if event.token() == Token(0) && event.is_writable() && !written {
                match client.write(b"hello") {
                    Ok(n) => written = n == 5,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
            if event.token() == Token(1) {
                match server.read(&mut [0; 8]) {
                    Ok(n) => heard += n,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
        }
    }
    assert_eq!(tcp_position(&server).unwrap().arrived, 16, "by TCP the token came, and nothing else");
}

#[test]
fn mio_stream_when_awaited_in_vain_reports_what_it_has_kept_back() {
    use std::io::{ErrorKind, Read, Write};

    use mio::{Events, Interest, Poll, Token};

    run(async {});
    let listener = shmbc::mio::ShmListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut plain = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    plain.write_all(b"hello").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let mut poll = Poll::new().unwrap();
    poll.registry().register(&mut server, Token(1), Interest::READABLE).unwrap();
    let mut events = Events::with_capacity(8);
    let mut peeked = false;
    loop {
        poll.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
        assert!(!events.is_empty(), "the test hangs");
        let looked = if peeked { server.read(&mut [0; 8]) } else { server.peek(&mut [0; 8]) };
        match looked {
            Ok(n) => break assert_eq!(n, 5),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        peeked = true;
    }
    assert_eq!(server.path(), Path::Tcp(Reason::PeerNotAware));
}

#[test]
fn blocking_stream_when_awaited_and_reset_meanwhile_says_so_and_does_not_turn_round() {
    use std::io::{ErrorKind, Read};

    run(async {});
    let listener = shmbc::blocking::ShmListener::bind("127.0.0.1:0").unwrap();
    let plain = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    socket2::SockRef::from(&plain).set_linger(Some(Duration::ZERO)).unwrap();
    drop(plain);
    assert_eq!(server.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // Before the host service gave up waiting for the other end.
    assert_eq!(server.path(), Path::Tcp(Reason::NotYet));
}
