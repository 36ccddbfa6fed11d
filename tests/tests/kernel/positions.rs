//! Where in its byte stream a TCP socket stands, asked from the kernel: how an end finds out that bytes went by that it did not
//! count, and where it may switch.
//!
//! ```text
//! written so far  = tcpi_bytes_acked + SIOCOUTQ       1 too many at the end that connected (its SYN is counted)
//! read so far     = tcpi_bytes_received - SIOCINQ     exact at both ends
//! ```
//!
//! A FIN counts as one byte more: at the writer once it has shut its side, at the reader once it has come. An
//! acknowledgement that comes between the two questions makes the first sum too small or too large by what it
//! acknowledged, so it is asked until two answers agree.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;

use rustix::event::PollFlags;
use shmbc_tests::raw::{self, tcp_info};
use shmbc_tests::sockets::{tcp_pair, wait_for, wait_until};
use shmbc_tests::suite::Test;
use shmbc_tests::test;

/// What the SYN adds at the end that connected. At the end that accepted the count begins behind it.
const SYN: u64 = 1;
/// What a FIN adds.
const FIN: u64 = 1;

pub(crate) fn facts() -> Vec<Test> {
    vec![
        test("fresh_connection_when_asked_stands_at_the_syn", fresh_connection_stands_at_the_syn),
        test("writer_when_asked_is_at_acked_plus_queued", writer_is_at_acked_plus_queued),
        test("writer_when_the_peer_does_not_read_is_at_acked_plus_queued", writer_against_a_full_peer),
        test("reader_when_asked_is_at_received_minus_queued", reader_is_at_received_minus_queued),
        test("half_close_when_counted_is_one_byte_on_each_side", fin_is_one_byte),
        test("positions_when_both_ends_move_at_once_are_those_of_the_program", positions_under_traffic),
    ]
}

/// How many bytes the kernel has taken from the program for sending, and the SYN and FIN as above.
fn written(stream: &TcpStream) -> u64 {
    loop {
        let before = tcp_info(stream.as_fd()).expect("TCP_INFO").bytes_acked;
        let queued = raw::unacknowledged(stream.as_fd()).expect("SIOCOUTQ");
        if tcp_info(stream.as_fd()).expect("TCP_INFO").bytes_acked == before {
            return before + queued;
        }
    }
}

/// How many bytes the program has taken from the kernel, and the FIN as above.
fn read(stream: &TcpStream) -> u64 {
    loop {
        let before = tcp_info(stream.as_fd()).expect("TCP_INFO").bytes_received;
        let queued = raw::unread(stream.as_fd()).expect("SIOCINQ");
        if tcp_info(stream.as_fd()).expect("TCP_INFO").bytes_received == before {
            return before - queued;
        }
    }
}

fn fresh_connection_stands_at_the_syn() {
    let (connected, accepted) = tcp_pair();
    assert_eq!((written(&connected), read(&connected)), (SYN, 0));
    assert_eq!((written(&accepted), read(&accepted)), (0, 0));
}

fn writer_is_at_acked_plus_queued() {
    let (mut connected, mut accepted) = tcp_pair();
    let mut sent = 0;
    for n in [1, 2, 1000, 65536, 3] {
        connected.write_all(&vec![7; n]).unwrap();
        accepted.write_all(&vec![7; n]).unwrap();
        sent += n as u64;
        assert_eq!((written(&connected), written(&accepted)), (sent + SYN, sent));
    }
    let acked = |stream: &TcpStream| tcp_info(stream.as_fd()).unwrap().bytes_acked;
    wait_until("all is acknowledged", || (acked(&connected), acked(&accepted)) == (sent + SYN, sent));
}

fn writer_against_a_full_peer() {
    let (connected, accepted) = tcp_pair();
    for (mut stream, syn) in [(connected, SYN), (accepted, 0)] {
        stream.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(n) = stream.write(&[7; 50_000]) {
            sent += n as u64;
            assert_eq!(written(&stream), sent + syn);
        }
        assert!(raw::unacknowledged(stream.as_fd()).unwrap() > 0, "the queue is not empty");
        // Keeps this direction full while the other is tried.
        std::mem::forget(stream);
    }
}

fn reader_is_at_received_minus_queued() {
    let (connected, accepted) = tcp_pair();
    for (from, to) in [(&connected, &accepted), (&accepted, &connected)] {
        let (mut from, mut to) = (from, to);
        from.write_all(&[7; 1000]).unwrap();
        wait_until("all has come", || raw::unread(to.as_fd()).unwrap() == 1000);
        let mut taken = 0;
        for n in [1, 99, 400, 500] {
            assert_eq!(read(to), taken);
            to.read_exact(&mut vec![0; n]).unwrap();
            taken += n as u64;
        }
        assert_eq!(read(to), 1000);
    }
}

fn fin_is_one_byte() {
    let (mut connected, mut accepted) = tcp_pair();
    connected.write_all(b"last").unwrap();
    connected.shutdown(Shutdown::Write).unwrap();
    assert_eq!(written(&connected), 4 + SYN + FIN);
    wait_for(&accepted, PollFlags::RDHUP);
    assert_eq!(raw::unread(accepted.as_fd()).unwrap(), 4, "the queue does not count it");
    assert_eq!(read(&accepted), FIN, "so it shows before the bytes in front of it are read");
    accepted.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(read(&accepted), 4 + FIN);
}

fn positions_under_traffic() {
    const TOTAL: u64 = 8 << 20;
    let (connected, accepted) = tcp_pair();
    std::thread::scope(|scope| {
        for (stream, syn) in [(&connected, SYN), (&accepted, 0)] {
            scope.spawn(move || {
                let mut stream = stream;
                let mut sent = 0;
                while sent < TOTAL {
                    sent += stream.write(&[7; 10_000]).unwrap() as u64;
                    assert_eq!(written(stream), sent + syn);
                }
                stream.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let mut stream = stream;
                let mut buf = [0; 7000];
                let mut taken = 0;
                loop {
                    let n = stream.read(&mut buf).unwrap() as u64;
                    taken += n;
                    // The peer's FIN may have come behind what was read.
                    assert!([taken, taken + FIN].contains(&read(stream)), "{taken}: {}", read(stream));
                    if n == 0 {
                        break;
                    }
                }
                assert_eq!(read(stream), taken + FIN);
            });
        }
    });
}
