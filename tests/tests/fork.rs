//! A forked child drops its copy of a stream or listener: its parent and the peer go on, and the end is what TCP says.
//!
//! The child does that with a stream of each kind and in each state. The stream is one of the parent's, and the peer another: of
//! this test's for tokio's, of the parent's own for the others.
//!
//! Not tried with tokio's own stream, whose copy takes the parent's out of the `epoll` that both share: the parent hears nothing more.

use std::future::{Future, poll_fn};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::pin::pin;
use std::process::ExitCode;
use std::task::Poll;
use std::time::Duration;

use futures_util::{AsyncReadExt, AsyncWriteExt};
use mio::{Events, Interest, Token};
use nix::sys::wait::{WaitStatus, waitpid};
use shmbc::link::{Path, Reason};
use shmbc::{blocking, futures, mio as polling};
use shmbc_tests::peer::{connect, upgraded};
use shmbc_tests::script::{Command, Kind, Move, Moved, TO_THE_END};
use shmbc_tests::sockets::wait_until;
use shmbc_tests::suite::{player, role};
use shmbc_tests::{HostProcess, Peer, Setup, raw, suite, test};
use shmbc_tokio::ShmStream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What a process of its own does, by name.
const ROLES: [(&str, fn()); 8] = [
    ("threads-on-tcp", || threads(State::Tcp)),
    ("threads-offered", || threads(State::Offered)),
    ("threads-told-to-go", || threads(State::ToldToGo)),
    ("threads-in-shared-memory", || threads(State::SharedMemory)),
    ("mio", mio_goes_on),
    ("futures", futures_goes_on),
    ("futures-listener", futures_listener_goes_on),
    ("halves", halves_go_on),
];

fn main() -> ExitCode {
    if let Some(role) = role() {
        let (_, play) = ROLES.into_iter().find(|(name, _)| *name == role).expect("a role of this program");
        play();
        return ExitCode::SUCCESS;
    }
    suite(vec![
        test("stream_when_dropped_in_a_forked_child_goes_on_and_is_upgraded", || goes_on(false)),
        test("stream_when_dropped_in_a_forked_child_goes_on_in_shared_memory", || goes_on(true)),
        test("listener_when_dropped_in_a_forked_child_goes_on_and_is_known", listener_goes_on),
        test("halves_when_dropped_in_a_forked_child_do_not_shut_the_parents", || plays("halves")),
        test("blocking_stream_on_tcp_when_dropped_in_a_forked_child_goes_on", || plays("threads-on-tcp")),
        test("blocking_stream_that_is_offered_when_dropped_in_a_forked_child_goes_on", || plays("threads-offered")),
        test("blocking_stream_with_a_token_unread_when_dropped_in_a_forked_child_switches", || {
            plays("threads-told-to-go");
        }),
        test("blocking_stream_in_shared_memory_when_dropped_in_a_forked_child_goes_on", || {
            plays("threads-in-shared-memory");
        }),
        test("mio_stream_when_dropped_in_a_forked_child_is_still_reported", || plays("mio")),
        test("futures_stream_when_dropped_in_a_forked_child_is_still_reported", || plays("futures")),
        test("futures_listener_when_dropped_in_a_forked_child_is_still_reported", || plays("futures-listener")),
    ])
}

fn goes_on(upgrade: bool) {
    let host = HostProcess::start();
    let setup = Setup::with_host(host.socket());
    let (mut parent, mut peer) = (Peer::start(&setup), Peer::start(&setup));
    let address = parent.listen(Kind::Shm, Ipv4Addr::LOCALHOST);
    let (p, s) = connect(&mut peer, Kind::Shm, &mut parent, address);
    if upgrade {
        assert_eq!(upgraded(&mut peer, p, &mut parent, s), ["upgraded"; 2]);
    }
    // Bytes that nobody has read: a close would be a reset.
    let sent = Moved { wrote: 1000, ..Moved::default() };
    assert_eq!(peer.moves(p, Move { write: 1000, ..Move::default() }), sent);
    parent.done(&Command::DropInChild(s));
    assert_eq!(parent.moves(s, Move { read: 1000, ..Move::default() }).read, 1000);
    assert_eq!(upgraded(&mut peer, p, &mut parent, s), ["upgraded"; 2]);
    // Turn after turn, so that both sleep and are woken.
    let chat = |stream, first| Command::PingPong { stream, first, rounds: 200, bytes: 100 };
    peer.tell(&chat(p, true));
    parent.tell(&chat(s, false));
    let all = Moved { wrote: 20_000, read: 20_000, ..Moved::default() };
    assert_eq!((peer.moved(), parent.moved()), (all.clone(), all));
    parent.done(&Command::DropInChild(s));
    parent.done(&Command::Drop(s));
    let end = peer.moves(p, Move { read: TO_THE_END, ..Move::default() });
    assert_eq!((end.read, end.read_end.as_deref()), (0, Some("eof")));
}

fn listener_goes_on() {
    let host = HostProcess::start();
    let setup = Setup::with_host(host.socket());
    let (mut parent, mut peer) = (Peer::start(&setup), Peer::start(&setup));
    let address = parent.listen(Kind::Shm, Ipv4Addr::LOCALHOST);
    let known = || host.connections().iter().any(|row| row["state"] == "listening");
    wait_until("the host service knows of the listener", known);
    for _ in 0..2 {
        parent.done(&Command::DropListenerInChild);
        let (p, s) = connect(&mut peer, Kind::Shm, &mut parent, address);
        // The agent's words are in order: had the child said something of the listener, it would be known by now.
        assert_eq!(upgraded(&mut peer, p, &mut parent, s), ["upgraded"; 2]);
        assert!(known());
    }
}

/// A process of its own plays `role`, with a host service of its own.
fn plays(role: &str) {
    let host = HostProcess::start();
    let mut command = player(role);
    let status = command.env("SHMBC_HOST", host.socket()).env_remove("SHMBC_WAIT").env_remove("SHMBC_UPGRADE").status();
    assert!(status.expect("start this program").success(), "{role}");
}

/// Has a forked child drop `$copy`, and end.
macro_rules! dropped_in_child {
    ($copy:expr) => {
        let Some(child) = raw::fork().expect("fork") else {
            drop($copy);
            raw::exit_at_once();
        };
        assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
    };
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
    (client, listener.accept().expect("accept").0)
}

/// How far a stream is when the child drops its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Tcp,
    /// Its peer has not offered.
    Offered,
    /// Its peer has switched, and the token lies unread in the socket.
    ToldToGo,
    SharedMemory,
}

fn threads(state: State) {
    let (a, b) = tcp_pair();
    let a = blocking::ShmStream::from_std(a).expect("a stream");
    let b = blocking::ShmStream::from_std(b).expect("a stream");
    let upgrading = || {
        let a = a.try_clone().expect("another handle");
        std::thread::spawn(move || a.upgraded(None).expect("upgraded"))
    };
    match state {
        State::Tcp => (&a).write_all(b"hello").expect("write"),
        State::Offered => assert_eq!(b.upgraded(Some(Duration::ZERO)), Err(Reason::NotYet)),
        State::ToldToGo => {
            assert_eq!(b.upgraded(Some(Duration::ZERO)), Err(Reason::NotYet));
            // Waits for the other direction too, which `b` switches at its next step.
            upgrading();
            let unread = || rustix::io::ioctl_fionread(b.as_fd()).expect("a socket");
            wait_until("the token is there", || unread() == 16);
        }
        State::SharedMemory => {
            let peer = upgrading();
            b.upgraded(None).expect("upgraded");
            peer.join().expect("upgraded");
            (&a).write_all(b"hello").expect("write");
        }
    }
    dropped_in_child!(b);
    if matches!(state, State::Tcp | State::SharedMemory) {
        let mut unread = [0; 5];
        (&b).read_exact(&mut unread).expect("what was there before");
        assert_eq!(&unread, b"hello");
    }
    let peer = upgrading();
    b.upgraded(None).expect("upgraded");
    peer.join().expect("upgraded");
    assert_eq!(b.path(), Path::SharedMemory);
    std::thread::scope(|threads| {
        threads.spawn(|| echo(&a));
        for round in 0..200_u8 {
            (&b).write_all(&[round; 100]).expect("write");
            let mut back = [0; 100];
            (&b).read_exact(&mut back).expect("read");
            assert_eq!(back, [round; 100]);
        }
        // An end, and no reset: `echo` would say so.
        drop(b);
    });
}

/// Sends back what comes, until the end.
fn echo(stream: &blocking::ShmStream) {
    let (mut bytes, mut stream) = ([0; 4096], stream);
    loop {
        match stream.read(&mut bytes).expect("read") {
            0 => return,
            n => stream.write_all(&bytes[..n]).expect("write"),
        }
    }
}

fn mio_goes_on() {
    let (a, b) = tcp_pair();
    b.set_nonblocking(true).expect("non-blocking");
    let (mut a, mut b) = (blocking::ShmStream::from_std(a).expect("a stream"), polling::ShmStream::from_std(b));
    let (mut poll, mut events) = (mio::Poll::new().expect("epoll"), Events::with_capacity(8));
    poll.registry().register(&mut b, Token(1), Interest::READABLE | Interest::WRITABLE).expect("register");
    std::thread::scope(|threads| {
        threads.spawn(|| a.upgraded(None).expect("upgraded"));
        while let Err(why) = b.upgraded() {
            assert_eq!(why, None);
            poll.poll(&mut events, None).expect("poll");
        }
    });
    for _ in 0..3 {
        // Nothing is there, so the next event is a ring of the peer's.
        assert_eq!(b.read(&mut [0; 8]).expect_err("nothing to read").kind(), ErrorKind::WouldBlock);
        dropped_in_child!(b);
        a.write_all(b"hello").expect("write");
        let mut read = [0; 5];
        let mut filled = 0;
        while filled < 5 {
            poll.poll(&mut events, None).expect("poll");
            while let Ok(n) = b.read(&mut read[filled..]) {
                filled += n;
                if n == 0 {
                    break;
                }
            }
        }
        assert_eq!(&read, b"hello");
        // The reactor must go on telling of the socket too: of its end, below.
        b.write_all(b"world").expect("there is room");
        a.read_exact(&mut [0; 5]).expect("read");
    }
    drop(a);
    let mut end = b.read(&mut [0; 8]);
    while end.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
        poll.poll(&mut events, None).expect("poll");
        end = b.read(&mut [0; 8]);
    }
    assert_eq!(end.expect("an end and no reset"), 0);
}

fn futures_goes_on() {
    let (a, b) = tcp_pair();
    let mut a = blocking::ShmStream::from_std(a).expect("a stream");
    let mut b = futures::ShmStream::from_std(b).expect("a stream");
    std::thread::scope(|threads| {
        threads.spawn(|| a.upgraded(None).expect("upgraded"));
        async_io::block_on(b.upgraded()).expect("upgraded");
    });
    for _ in 0..3 {
        dropped_in_child!(b);
        async_io::block_on(async {
            let mut hello = [0; 5];
            let mut reading = pin!(b.read_exact(&mut hello));
            assert!(poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx).is_pending())).await);
            a.write_all(b"hello").expect("write");
            reading.await.expect("read");
            assert_eq!(&hello, b"hello");
            b.write_all(b"world").await.expect("write");
        });
        a.read_exact(&mut [0; 5]).expect("read");
    }
    drop(a);
    assert_eq!(async_io::block_on(b.read(&mut [0; 8])).expect("an end and no reset"), 0);
}

fn futures_listener_goes_on() {
    let listener = futures::ShmListener::bind((Ipv4Addr::LOCALHOST, 0).into()).expect("bind");
    let address = listener.local_addr().expect("bound");
    for _ in 0..2 {
        dropped_in_child!(listener);
        async_io::block_on(async {
            let mut accepting = pin!(listener.accept());
            assert!(poll_fn(|cx| Poll::Ready(accepting.as_mut().poll(cx).is_pending())).await);
            let client = TcpStream::connect(address).expect("connect");
            let (_, from) = accepting.await.expect("accept");
            assert_eq!(from, client.local_addr().expect("connected"));
        });
    }
}

fn halves_go_on() {
    let (a, b) = tcp_pair();
    a.set_nonblocking(true).expect("non-blocking");
    b.set_nonblocking(true).expect("non-blocking");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (mut a, b) = (ShmStream::from_std(a).expect("a stream"), ShmStream::from_std(b).expect("a stream"));
        let both = tokio::join!(a.upgraded(), b.upgraded());
        assert_eq!(both, (Ok(()), Ok(())));
        let (mut read_half, mut write) = b.into_split();
        dropped_in_child!(write);
        dropped_in_child!((read_half, write));
        for _ in 0..3 {
            // Looks first, and finds neither bytes nor an end.
            let mut hello = [0; 5];
            let (read, written) = tokio::join!(biased; a.read_exact(&mut hello), write.write_all(b"hello"));
            assert_eq!((read.expect("read"), written.expect("write"), &hello), (5, (), b"hello"));
            a.write_all(b"world").await.expect("write");
            read_half.read_exact(&mut [0; 5]).await.expect("read");
        }
        drop(write);
        assert_eq!(a.read(&mut [0; 8]).await.expect("an end"), 0);
        a.write_all(b"still").await.expect("only one direction has ended");
        read_half.read_exact(&mut [0; 5]).await.expect("read");
    });
}
