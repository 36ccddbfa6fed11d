//! A program closes descriptors that it did not open, as `closefrom(3)` does, and with them those of the library's own.
//!
//! Their numbers are the program's next files: nothing is read from them, written into them, or closed. No thread takes a core, and
//! new connections are upgraded again.

use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use shmbc::blocking::{ShmListener, ShmStream};
use shmbc_tests::sockets::wait_until;
use shmbc_tests::suite::{player, role};
use shmbc_tests::{HostProcess, raw, suite, test};

/// More numbers than the library had, so that all of them are files of the program's.
const FILES: usize = 32;

/// What a process of its own does, by name.
const ROLES: [(&str, fn()); 4] = [
    ("idle", || swept(false, Then::Connects)),
    ("with-a-child", || swept(true, Then::Connects)),
    ("asks-at-once", || swept(false, Then::ConnectsAtOnce)),
    ("without-host", swept_without_host),
];

fn main() -> ExitCode {
    if let Some(role) = role() {
        let (_, play) = ROLES.into_iter().find(|(name, _)| *name == role).expect("a role of this program");
        play();
        return ExitCode::SUCCESS;
    }
    suite(vec![
        test("descriptors_when_swept_away_end_the_agent_until_it_is_needed", || plays("idle")),
        test("descriptors_when_swept_away_and_kept_by_a_child_are_made_anew", || plays("with-a-child")),
        test("descriptors_when_swept_away_in_mid_session_are_made_anew", || plays("asks-at-once")),
        test("descriptors_when_swept_away_from_a_waiting_thread_are_made_anew", || plays("without-host")),
    ])
}

/// A process of its own plays `role`, with a host service of its own.
fn plays(role: &str) {
    let host = HostProcess::start();
    let socket = if role == "without-host" { "off".into() } else { host.socket().to_owned() };
    let mut command = player(role);
    let status = command.env("SHMBC_HOST", socket).env_remove("SHMBC_WAIT").env_remove("SHMBC_UPGRADE").status();
    let status = status.expect("start this program");
    assert!(status.success(), "{role}: {status}");
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Waits until the agent has noticed.
    Connects,
    ConnectsAtOnce,
}

fn swept(keeping_child: bool, then: Then) {
    for _ in 0..3 {
        let (a, b) = upgraded();
        let listener = ShmListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        if then == Then::Connects {
            // In the midst of what it says of the listener it may have what nobody could take from it in time.
            wait_until("the agent sleeps", || agents().iter().all(|state| state == "S"));
        }
        // Has what the parent's agent waits for, which therefore does not end there.
        let child = keeping_child.then(|| raw::fork().expect("fork").unwrap_or_else(|| waits_for_its_end()));
        sweep();
        // As the program would do with its own streams: their numbers are other files by now.
        std::mem::forget((a, b, listener));
        let files = Files::open();
        if then == Then::Connects && !keeping_child {
            wait_until("no agent any more", || agents().is_empty());
        }
        files.check();
        let streams = upgraded();
        files.check();
        drop(streams);
        if let Some(child) = child {
            nix::sys::signal::kill(child, nix::sys::signal::SIGKILL).expect("our child");
            nix::sys::wait::waitpid(child, None).expect("our child");
        }
        // Whatever an earlier agent still had to say or to close.
        wait_until("one agent, which sleeps", || agents() == ["S"]);
        files.check();
    }
}

/// A child that keeps what it has inherited until it is killed, at the latest with its parent.
fn waits_for_its_end() -> ! {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::SIGKILL).expect("prctl");
    loop {
        nix::unistd::pause();
    }
}

/// On TCP, with no agent to notice: what a thread has to be woken by is its own.
fn swept_without_host() {
    for _ in 0..3 {
        let (a, b) = pair();
        a.set_read_timeout(Some(std::time::Duration::from_millis(1))).expect("a timeout");
        b.set_read_timeout(Some(std::time::Duration::from_millis(1))).expect("a timeout");
        assert_eq!((&b).read(&mut [0]).expect_err("nothing comes").kind(), ErrorKind::WouldBlock);
        sweep();
        std::mem::forget((a, b));
        let (a, b) = pair();
        let before = switches();
        let echo = std::thread::spawn(move || {
            let mut byte = [0];
            while (&b).read(&mut byte).expect("read") == 1 {
                (&b).write_all(&byte).expect("write");
            }
        });
        // This thread sleeps until its peer, which waits for the word, has answered.
        for round in 0..50_u8 {
            (&a).write_all(&[round]).expect("write");
            let mut byte = [0];
            (&a).read_exact(&mut byte).expect("read");
            assert_eq!(byte, [round]);
        }
        assert!(switches() > before, "it never slept");
        drop(a);
        echo.join().expect("the peer is well");
    }
}

/// How often this thread has gone to sleep.
fn switches() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("a count");
    line.trim().parse().expect("a number")
}

/// Both ends of a connection.
fn pair() -> (ShmStream, ShmStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let a = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
    let (b, _) = listener.accept().expect("accept");
    (ShmStream::from_std(a).expect("a stream"), ShmStream::from_std(b).expect("a stream"))
}

/// Both ends of a connection in shared memory, which has moved a few bytes.
fn upgraded() -> (ShmStream, ShmStream) {
    let (a, b) = pair();
    let peer = a.try_clone().expect("another handle");
    let peer = std::thread::spawn(move || peer.upgraded(None).expect("upgraded"));
    b.upgraded(None).expect("upgraded");
    // All of the thread: what it had to sleep is closed when it ends.
    peer.join().expect("upgraded");
    let mut hello = [0; 5];
    (&a).write_all(b"hello").expect("write");
    (&b).read_exact(&mut hello).expect("read");
    assert_eq!(&hello, b"hello");
    (a, b)
}

/// Closes every descriptor but the standard ones.
fn sweep() {
    raw::close_from(3).expect("close_range");
}

/// The states of the agent's threads.
fn agents() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs").flatten();
    let stat = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("stat")).ok();
    let agents = tasks.filter_map(stat).filter(|stat| stat.contains("(shmbc-agent)"));
    agents.filter_map(|stat| stat.rsplit(") ").next()?.split(' ').next().map(str::to_owned)).collect()
}

/// Files of the program's under all numbers that were free.
struct Files {
    regular: Vec<std::fs::File>,
    sockets: Vec<(UnixStream, UnixStream)>,
    pipes: Vec<(OwnedFd, OwnedFd)>,
    events: Vec<EventFd>,
    epolls: Vec<(Epoll, EventFd)>,
    timers: Vec<TimerFd>,
}

const TEXT: &[u8] = b"what the program wrote";

impl Files {
    /// In an order that leaves each kind under each of a few numbers.
    fn open() -> Self {
        let mut files = Self {
            regular: Vec::new(),
            sockets: Vec::new(),
            pipes: Vec::new(),
            events: Vec::new(),
            epolls: Vec::new(),
            timers: Vec::new(),
        };
        for _ in 0..FILES / 8 {
            let (one, other) = UnixStream::pair().expect("sockets");
            one.set_nonblocking(true).and_then(|()| other.set_nonblocking(true)).expect("non-blocking");
            (&one).write_all(TEXT).expect("write");
            files.sockets.push((one, other));
            let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).expect("a pipe");
            nix::unistd::write(&write, TEXT).expect("write");
            files.pipes.push((read, write));
            let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("an eventfd");
            event.write(7).expect("write");
            files.events.push(event);
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(TEXT).expect("write");
            files.regular.push(file);
            let (epoll, event) =
                (Epoll::new(EpollCreateFlags::empty()).expect("epoll"), EventFd::new().expect("eventfd"));
            epoll.add(&event, nix::sys::epoll::EpollEvent::new(edge(), 7)).expect("add");
            event.write(1).expect("write");
            files.epolls.push((epoll, event));
            files.timers.push(TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).expect("timerfd"));
        }
        files
    }

    /// All are open and as the program left them, and are so again afterwards.
    fn check(&self) {
        for mut file in &self.regular {
            let mut all = Vec::new();
            file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut all)).expect("still open");
            assert_eq!(all, TEXT);
        }
        for (one, other) in &self.sockets {
            assert_eq!(taken(other), TEXT);
            assert_eq!(taken(one), b"", "nobody else has written");
            (&*one).write_all(TEXT).expect("still open");
        }
        for (read, write) in &self.pipes {
            assert_eq!(taken(read), TEXT);
            nix::unistd::write(write, TEXT).expect("still open");
        }
        for event in &self.events {
            assert_eq!(event.read(), Ok(7));
            event.write(7).expect("still open");
        }
        for (epoll, event) in &self.epolls {
            let mut events = [nix::sys::epoll::EpollEvent::empty()];
            let n = epoll.wait(&mut events, nix::sys::epoll::EpollTimeout::ZERO).expect("still open");
            assert_eq!((n, events[0].data()), (1, 7), "nobody else has taken the event");
            event.write(1).expect("still open");
        }
        for timer in &self.timers {
            assert_eq!(timer.get(), Ok(None), "nobody else has set it");
        }
    }
}

fn edge() -> nix::sys::epoll::EpollFlags {
    nix::sys::epoll::EpollFlags::EPOLLIN | nix::sys::epoll::EpollFlags::EPOLLET
}

/// All that is there to be read.
fn taken(file: &(impl AsFd + AsRawFd)) -> Vec<u8> {
    let (mut all, mut bytes) = (Vec::new(), [0; 256]);
    loop {
        match nix::unistd::read(file, &mut bytes) {
            Ok(0) | Err(nix::errno::Errno::EAGAIN) => return all,
            Ok(n) => all.extend_from_slice(&bytes[..n]),
            Err(error) => panic!("descriptor {}: {error}", file.as_raw_fd()),
        }
    }
}
