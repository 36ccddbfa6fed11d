//! What blocking streams promise beyond what every kind does: std's semantics of shutting down, timeouts and handles.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::unistd::gettid;
use shmbc::blocking::ShmStream;
use shmbc::link::Path;
use shmbc::sys::tcp_position;

use crate::conversation::WATCHDOG;
use crate::kinds::tcp_pair;

/// Both ends of a connection, by TCP or in shared memory.
fn pair(upgrade: bool) -> (ShmStream, ShmStream) {
    let (a, b) = tcp_pair();
    let (a, b) = (ShmStream::from_std(a).unwrap(), ShmStream::from_std(b).unwrap());
    if upgrade {
        thread::scope(|scope| {
            scope.spawn(|| a.upgraded(None).unwrap());
            b.upgraded(None).unwrap();
        });
    }
    (a, b)
}

/// Runs `test` by TCP and in shared memory; says so when it hangs.
fn both_ways(test: impl Fn(ShmStream, ShmStream) + Send + Sync + Copy + 'static) {
    for upgrade in [false, true] {
        let (done, ended) = mpsc::channel();
        let testing = thread::spawn(move || {
            let (a, b) = pair(upgrade);
            test(a, b);
            done.send(()).unwrap();
        });
        match ended.recv_timeout(WATCHDOG) {
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("upgraded: {upgrade}: hangs"),
            _ => testing.join().unwrap_or_else(|_| panic!("upgraded: {upgrade}")),
        }
    }
}

/// Returns when `thread` sleeps in `poll(2)`.
fn asleep(thread: nix::unistd::Pid) {
    let calls = format!("/proc/self/task/{thread}/syscall");
    let polls = [libc::SYS_poll, libc::SYS_ppoll].map(|number| format!("{number} "));
    while !std::fs::read_to_string(&calls).is_ok_and(|call| polls.iter().any(|poll| call.starts_with(poll))) {
        thread::yield_now();
    }
}

/// Writes until there is no room.
fn fill(stream: &ShmStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut sent = 0;
    loop {
        match (&*stream).write(&[7; 5000]) {
            Ok(n) => sent += n,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                stream.set_nonblocking(false).unwrap();
                return sent;
            }
        }
    }
}

#[test]
fn writer_when_its_own_side_is_shut_while_it_sleeps_gets_a_broken_pipe() {
    both_ways(|a, b| {
        fill(&a);
        let shutting = a.try_clone().unwrap();
        let (begun, has_begun) = mpsc::channel();
        let writing = thread::spawn(move || {
            begun.send(gettid()).unwrap();
            (&a).write(&[7; 5000]).unwrap_err().kind()
        });
        asleep(has_begun.recv().unwrap());
        shutting.shutdown(Shutdown::Write).unwrap();
        assert_eq!(writing.join().unwrap(), ErrorKind::BrokenPipe);
        drop(b);
    });
}

#[test]
fn reader_when_its_own_side_is_shut_while_it_sleeps_is_at_its_end() {
    both_ways(|a, b| {
        let shutting = a.try_clone().unwrap();
        let (begun, has_begun) = mpsc::channel();
        let reading = thread::spawn(move || {
            begun.send(gettid()).unwrap();
            (&a).read(&mut [0; 8]).unwrap()
        });
        asleep(has_begun.recv().unwrap());
        shutting.shutdown(Shutdown::Read).unwrap();
        assert_eq!(reading.join().unwrap(), 0);
        drop(b);
    });
}

#[test]
fn writer_when_it_has_shut_its_reading_side_goes_on_writing() {
    const PIECES: usize = 10_000;
    both_ways(|a, b| {
        let upgraded = a.path() == Path::SharedMemory;
        a.shutdown(Shutdown::Read).unwrap();
        let before = tcp_position(&a).unwrap().written;
        let writing = thread::spawn(move || {
            for _ in 0..PIECES {
                (&a).write_all(&[7]).unwrap();
            }
            // It is not taken for one whose peer is gone, to whom it would send probes; and too many of those are a fault.
            assert!(!upgraded || tcp_position(&a).unwrap().written == before);
        });
        let mut all = Vec::new();
        (&b).read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), PIECES);
        writing.join().unwrap();
    });
}

#[test]
fn timeouts_when_longer_than_any_clock_wait_for_ever() {
    both_ways(|a, b| {
        a.set_read_timeout(Some(Duration::MAX)).unwrap();
        a.set_write_timeout(Some(Duration::MAX)).unwrap();
        (&a).write_all(b"x").unwrap();
        (&b).write_all(b"y").unwrap();
        (&a).read_exact(&mut [0; 1]).unwrap();
        if a.path() == Path::SharedMemory {
            a.upgraded(Some(Duration::MAX)).unwrap();
        }
        drop(b);
    });
}

#[test]
fn read_when_another_thread_sleeps_in_one_keeps_its_own_time() {
    both_ways(|a, b| {
        let sleeper = a.try_clone().unwrap();
        let (begun, has_begun) = mpsc::channel();
        let sleeping = thread::spawn(move || {
            begun.send(gettid()).unwrap();
            (&sleeper).read(&mut [0; 1]).unwrap()
        });
        // A read that begins later may take its time from what is set below.
        asleep(has_begun.recv().unwrap());
        for _ in 0..20 {
            a.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
            let late = a.peek(&mut [0; 1]).unwrap_err();
            assert_eq!(late.kind(), ErrorKind::WouldBlock);
            a.set_read_timeout(None).unwrap();
            thread::yield_now();
        }
        a.set_nonblocking(true).unwrap();
        assert_eq!(a.peek(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
        a.set_nonblocking(false).unwrap();
        (&b).write_all(b"x").unwrap();
        assert_eq!(sleeping.join().unwrap(), 1);
    });
}

#[test]
fn writer_when_it_writes_seldom_hears_soon_that_its_peer_is_gone() {
    both_ways(|a, b| {
        drop(b);
        let seldom = Duration::from_millis(20);
        let written = (0..)
            .take_while(|_| {
                thread::sleep(seldom);
                (&a).write(b"x").is_ok()
            })
            .count();
        assert!(written <= 2, "{written} writes to nobody");
    });
}

#[test]
fn read_and_write_when_nothing_happens_in_time_would_block() {
    both_ways(|a, b| {
        assert!(a.set_read_timeout(Some(Duration::ZERO)).is_err());
        a.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        a.set_write_timeout(Some(Duration::from_millis(5))).unwrap();
        assert_eq!((&a).read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
        let mut sent = 0;
        let full = loop {
            match (&a).write(&[7; 5000]) {
                Ok(n) => sent += n,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        a.set_nonblocking(true).unwrap();
        a.set_write_timeout(None).unwrap();
        assert_eq!((&a).write(&[7]).unwrap_err().kind(), ErrorKind::WouldBlock);
        a.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        (&b).read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), sent);
    });
}
