//! What mio's streams promise beyond what every kind does: registrations in any order, and events for what they say.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use shmbc::{blocking, mio as polling};

use crate::conversation::WATCHDOG;
use crate::kinds::tcp_pair;

/// One end for mio, one that blocks, neither used nor upgraded.
fn pair() -> (polling::ShmStream, blocking::ShmStream) {
    let (a, b) = tcp_pair();
    a.set_nonblocking(true).unwrap();
    (polling::ShmStream::from_std(a), blocking::ShmStream::from_std(b).unwrap())
}

/// Upgrades both. Nothing has been read since, so the peer has no reason to ring.
fn upgrade(a: &polling::ShmStream, b: &blocking::ShmStream) {
    thread::scope(|scope| {
        scope.spawn(|| b.upgraded(None).unwrap());
        // Registered nowhere, so there is nothing to wait for but time.
        while let Err(why) = a.upgraded() {
            assert_eq!(why, None);
            thread::sleep(Duration::from_millis(1));
        }
    });
}

/// The next events: readable, writable.
fn events(poll: &mut Poll) -> (bool, bool) {
    let mut events = Events::with_capacity(8);
    poll.poll(&mut events, Some(WATCHDOG)).unwrap();
    assert!(!events.is_empty(), "no event");
    let any = |what: fn(&mio::event::Event) -> bool| events.iter().any(what);
    (any(mio::event::Event::is_readable), any(mio::event::Event::is_writable))
}

/// Whether a readable event is there or comes.
fn becomes_readable(poll: &mut Poll) {
    while !events(poll).0 {}
}

/// Says so when `test` hangs.
fn watched(test: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let testing = thread::spawn(move || {
        test();
        done.send(()).unwrap();
    });
    match ended.recv_timeout(WATCHDOG) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs"),
        _ => testing.join().unwrap(),
    }
}

#[test]
fn bytes_when_left_unread_are_reported_by_the_next_registration() {
    watched(|| {
        let (mut a, mut b) = pair();
        upgrade(&a, &b);
        b.write_all(b"two!").unwrap();
        a.read_exact(&mut [0; 2]).unwrap();
        let mut one = Poll::new().unwrap();
        one.registry().register(&mut a, Token(1), Interest::READABLE).unwrap();
        becomes_readable(&mut one);
        one.registry().reregister(&mut a, Token(1), Interest::READABLE | Interest::WRITABLE).unwrap();
        becomes_readable(&mut one);
        one.registry().deregister(&mut a).unwrap();
        let mut other = Poll::new().unwrap();
        other.registry().register(&mut a, Token(2), Interest::READABLE).unwrap();
        becomes_readable(&mut other);
        let mut rest = [0; 8];
        assert_eq!(a.read(&mut rest).unwrap(), 2);
        assert_eq!(a.read(&mut rest).unwrap_err().kind(), ErrorKind::WouldBlock);
        b.write_all(b"more").unwrap();
        becomes_readable(&mut other);
        assert_eq!(a.read(&mut rest).unwrap(), 4);
    });
}

#[test]
fn bytes_when_they_came_while_only_writing_was_wanted_are_reported_when_reading_is() {
    watched(|| {
        let (mut a, mut b) = pair();
        upgrade(&a, &b);
        let mut poll = Poll::new().unwrap();
        poll.registry().register(&mut a, Token(1), Interest::WRITABLE).unwrap();
        assert_eq!(events(&mut poll), (false, true));
        b.write_all(b"came").unwrap();
        let mut none = Events::with_capacity(8);
        poll.poll(&mut none, Some(Duration::ZERO)).unwrap();
        assert!(!none.iter().any(mio::event::Event::is_readable), "{none:?}");
        poll.registry().reregister(&mut a, Token(1), Interest::READABLE).unwrap();
        becomes_readable(&mut poll);
        assert_eq!(a.read(&mut [0; 8]).unwrap(), 4);
    });
}

#[test]
fn room_when_only_writing_is_wanted_is_reported() {
    watched(|| {
        let (mut a, mut b) = pair();
        upgrade(&a, &b);
        let mut poll = Poll::new().unwrap();
        poll.registry().register(&mut a, Token(1), Interest::WRITABLE).unwrap();
        let mut sent = 0;
        for _ in 0..20 {
            while let Ok(n) = a.write(&[7; 5000]) {
                sent += n;
            }
            b.read_exact(&mut vec![0; sent]).unwrap();
            sent = 0;
            while !events(&mut poll).1 {}
            // A spurious one, of the registration, may have come first.
            while let Err(error) = a.write(&[7]) {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                while !events(&mut poll).1 {}
            }
            sent += 1;
        }
    });
}

#[test]
fn registration_when_there_is_one_or_none_fails_as_mios_and_changes_nothing() {
    watched(|| {
        let (mut a, mut b) = pair();
        let (mut poll, other) = (Poll::new().unwrap(), Poll::new().unwrap());
        assert!(poll.registry().reregister(&mut a, Token(1), Interest::READABLE).is_err());
        assert!(poll.registry().deregister(&mut a).is_err());
        poll.registry().register(&mut a, Token(1), Interest::READABLE | Interest::WRITABLE).unwrap();
        assert!(poll.registry().register(&mut a, Token(2), Interest::READABLE).is_err());
        assert!(other.registry().register(&mut a, Token(2), Interest::READABLE).is_err());
        assert!(other.registry().reregister(&mut a, Token(2), Interest::READABLE).is_err());
        assert!(other.registry().deregister(&mut a).is_err());
        // Where it is registered, the doorbell is too.
        upgrade(&a, &b);
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        b.write_all(b"ring").unwrap();
        loop {
            match a.read(&mut [0; 8]) {
                Ok(n) => break assert_eq!(n, 4),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            becomes_readable(&mut poll);
        }
        poll.registry().deregister(&mut a).unwrap();
        b.write_all(b"unheard").unwrap();
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty(), "{events:?}");
    });
}

#[test]
fn write_when_the_switch_is_stuck_in_a_full_socket_and_the_side_is_shut_is_an_error() {
    watched(|| {
        let (mut a, b) = pair();
        // The kernel makes room for a while, as it grows its buffers, and has some left in its last segment.
        let mut full = 0;
        while full < 50 {
            full += 1;
            for piece in [50_000, 1] {
                while a.write(&vec![7; piece]).is_ok() {
                    full = 0;
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
        thread::scope(|scope| {
            // Until it is over: what `a` has sent is not read.
            scope.spawn(|| drop(b.upgraded(None)));
            while a.peer_identity().is_none() {
                let _ = a.upgraded();
                thread::sleep(Duration::from_millis(1));
            }
            // It switches, as far as the socket lets it: told to go a moment after the grant.
            for _ in 0..100 {
                let _ = a.upgraded();
                thread::sleep(Duration::from_millis(1));
            }
            a.shutdown(Shutdown::Write).unwrap();
            let error = a.write(&[7]).map_err(|error| error.kind());
            b.shutdown(Shutdown::Both).unwrap();
            drop(a);
            assert_eq!(error, Err(ErrorKind::BrokenPipe));
        });
    });
}

#[test]
fn connecting_when_refused_is_reported_as_mios_is() {
    watched(|| {
        drop(tcp_pair());
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let Ok(mut stream) = polling::ShmStream::connect(nobody) else { return };
        let mut poll = Poll::new().unwrap();
        poll.registry().register(&mut stream, Token(1), Interest::WRITABLE).unwrap();
        events(&mut poll);
        assert_eq!(stream.take_error().unwrap().unwrap().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(stream.peer_addr().unwrap_err().kind(), ErrorKind::NotConnected);
    });
}

#[test]
fn closure_when_it_uses_the_descriptor_keeps_the_stream_on_tcp() {
    watched(|| {
        let (a, mut b) = pair();
        let mut poll = Poll::new().unwrap();
        let mut a = a;
        poll.registry().register(&mut a, Token(1), Interest::READABLE).unwrap();
        b.write_all(b"by hand").unwrap();
        becomes_readable(&mut poll);
        let mut buf = [0; 16];
        let flags = rustix::net::RecvFlags::empty();
        let (n, _) = a.try_io(|| Ok(rustix::net::recv(&a, &mut buf, flags)?)).unwrap();
        assert_eq!(n, 7);
        // Upgraded after that, it would be reset: the kernel's count is not the stream's.
        assert_eq!(a.upgraded(), Err(Some(shmbc::link::Reason::Disabled)));
    });
}
