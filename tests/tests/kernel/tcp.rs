//! What TCP does when an end closes, half-closes, is killed or stopped: the sequences that the streams pass on, and the probe.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::PollFlags;
use shmbc_tests::raw;
use shmbc_tests::sockets::{poll_now, read_once, tcp_pair, wait_for, wait_until};
use shmbc_tests::suite::Test;
use shmbc_tests::test;

const RESET: PollFlags = PollFlags::ERR.union(PollFlags::HUP);
const EOF: Result<Vec<u8>, ErrorKind> = Ok(Vec::new());

pub(crate) fn facts() -> Vec<Test> {
    vec![
        test("close_with_unread_bytes_resets_once_then_eof_then_broken_pipe", close_with_unread_resets),
        test("close_with_unread_bytes_lets_sent_bytes_be_read_before_the_reset", close_with_unread_after_reply),
        test("close_when_all_is_read_is_eof_first_write_passes_second_breaks", clean_close),
        test("close_with_zero_linger_resets", zero_linger_resets),
        test("half_close_when_one_side_shuts_lets_the_other_write_on", half_close_works_both_ways),
        test("shutdown_for_reading_at_the_peer_changes_nothing", shut_rd_changes_nothing),
        test("killed_peer_with_nothing_unread_is_eof", killed_with_nothing_unread_is_eof),
        test("killed_peer_with_unread_bytes_is_reset", killed_with_unread_is_reset),
        test("killed_peer_that_had_half_closed_is_silent_until_a_byte_raises_reset", killed_half_closed_needs_a_probe),
        test("connection_when_a_child_has_it_too_stays_open", second_holder_keeps_it_open),
        test("stopped_peer_when_written_to_is_backpressure_and_nothing_else", stopped_peer_is_backpressure),
        test("backlog_when_full_lets_further_connects_wait", full_backlog_lets_connects_wait),
        test("listener_when_closed_resets_what_it_did_not_accept", closed_listener_resets),
        test("port_when_closed_refuses", closed_port_refuses),
        test("socket_after_reset_has_no_peer_and_cannot_be_shut", after_reset_not_connected),
        test("rdhup_when_bytes_are_unread_is_seen_before_them", rdhup_is_seen_behind_unread),
        test("reset_when_polled_shows_error_and_hangup", reset_shows_error_and_hangup),
    ]
}

/// A write to a peer that is gone, with `SIGPIPE` off as in every Rust program.
fn write_once(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    stream.write(b"late").map_err(|e| e.kind())
}

fn so_error(stream: &TcpStream) -> Option<ErrorKind> {
    stream.take_error().expect("SO_ERROR").map(|e| e.kind())
}

/// A process that holds `stream` and does nothing with it.
fn holder(stream: TcpStream) -> Child {
    let mut command = Command::new("sleep");
    command.arg("1000000").stdin(OwnedFd::from(stream)).stdout(Stdio::null()).stderr(Stdio::null());
    raw::dies_with_us(&mut command).spawn().expect("sleep")
}

fn sigkill(mut child: Child) {
    child.kill().expect("kill");
    child.wait().expect("wait");
}

/// Waits until `n` bytes lie unread at `stream`.
fn arrived(stream: &TcpStream, n: u64) {
    wait_until("bytes arrive", || raw::unread(stream.as_fd()).expect("FIONREAD") == n);
}

fn close_with_unread_resets() {
    let (mut mine, its) = tcp_pair();
    mine.write_all(b"never read").unwrap();
    arrived(&its, 10);
    drop(its);
    wait_for(&mine, RESET);
    assert_eq!(read_once(&mut mine), Err(ErrorKind::ConnectionReset));
    assert_eq!(read_once(&mut mine), EOF);
    assert_eq!(write_once(&mut mine), Err(ErrorKind::BrokenPipe));
}

fn close_with_unread_after_reply() {
    let (mut mine, mut its) = tcp_pair();
    mine.write_all(b"never read").unwrap();
    arrived(&its, 10);
    its.write_all(b"reply").unwrap();
    drop(its);
    wait_for(&mine, RESET);
    assert_eq!(poll_now(&mine), RESET | PollFlags::IN | PollFlags::OUT | PollFlags::RDHUP);
    assert_eq!(read_once(&mut mine), Ok(b"reply".to_vec()));
    assert_eq!(read_once(&mut mine), Err(ErrorKind::ConnectionReset));
    assert_eq!(read_once(&mut mine), EOF);
}

fn clean_close() {
    let (mut mine, mut its) = tcp_pair();
    its.write_all(b"bye").unwrap();
    drop(its);
    wait_for(&mine, PollFlags::RDHUP);
    assert_eq!(read_once(&mut mine), Ok(b"bye".to_vec()));
    assert_eq!(read_once(&mut mine), EOF);
    assert_eq!(read_once(&mut mine), EOF);
    assert_eq!(write_once(&mut mine), Ok(4), "nobody has said yet that nobody reads");
    wait_for(&mine, RESET);
    assert_eq!(write_once(&mut mine), Err(ErrorKind::BrokenPipe));
    assert_eq!(so_error(&mine), None);
}

fn zero_linger_resets() {
    let (mut mine, its) = tcp_pair();
    socket2::SockRef::from(&its).set_linger(Some(Duration::ZERO)).unwrap();
    drop(its);
    wait_for(&mine, RESET);
    assert_eq!(read_once(&mut mine), Err(ErrorKind::ConnectionReset));
    assert_eq!(read_once(&mut mine), EOF);
    assert_eq!(write_once(&mut mine), Err(ErrorKind::BrokenPipe));
}

fn half_close_works_both_ways() {
    for (mut mine, mut its) in [tcp_pair(), {
        let (c, s) = tcp_pair();
        (s, c)
    }] {
        mine.write_all(b"last").unwrap();
        mine.shutdown(Shutdown::Write).unwrap();
        assert_eq!(write_once(&mut mine), Err(ErrorKind::BrokenPipe));
        let mut all = Vec::new();
        its.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"last");
        assert_eq!(poll_now(&its), PollFlags::IN | PollFlags::OUT | PollFlags::RDHUP);
        its.write_all(b"answer").unwrap();
        drop(its);
        all.clear();
        mine.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"answer");
    }
}

fn shut_rd_changes_nothing() {
    let (mut mine, mut its) = tcp_pair();
    its.shutdown(Shutdown::Read).unwrap();
    mine.write_all(b"hello").unwrap();
    arrived(&its, 5);
    assert_eq!(read_once(&mut its), Ok(b"hello".to_vec()));
    assert_eq!(poll_now(&mine), PollFlags::OUT);
}

fn killed_with_nothing_unread_is_eof() {
    let (mut mine, its) = tcp_pair();
    sigkill(holder(its));
    wait_for(&mine, PollFlags::RDHUP);
    assert_eq!(read_once(&mut mine), EOF);
    assert_eq!(write_once(&mut mine), Ok(4));
    wait_for(&mine, RESET);
    assert_eq!(write_once(&mut mine), Err(ErrorKind::BrokenPipe));
}

fn killed_with_unread_is_reset() {
    let (mut mine, its) = tcp_pair();
    mine.write_all(b"never read").unwrap();
    arrived(&its, 10);
    sigkill(holder(its));
    wait_for(&mine, RESET);
    assert_eq!(read_once(&mut mine), Err(ErrorKind::ConnectionReset));
    assert_eq!(write_once(&mut mine), Err(ErrorKind::BrokenPipe));
}

fn killed_half_closed_needs_a_probe() {
    let (mut mine, its) = tcp_pair();
    its.shutdown(Shutdown::Write).unwrap();
    wait_for(&mine, PollFlags::RDHUP);
    assert_eq!(read_once(&mut mine), EOF);
    let before = poll_now(&mine);
    sigkill(holder(its));
    assert_eq!(poll_now(&mine), before, "its FIN was sent long ago: the kernel has nothing more to say");
    assert_eq!(so_error(&mine), None);
    mine.write_all(b"?").unwrap();
    wait_for(&mine, RESET);
    assert_eq!(write_once(&mut mine), Err(ErrorKind::BrokenPipe));
}

fn second_holder_keeps_it_open() {
    let (mine, its) = tcp_pair();
    let child = holder(its.try_clone().unwrap());
    drop(its);
    assert!(!poll_now(&mine).intersects(PollFlags::IN | PollFlags::RDHUP));
    sigkill(child);
    wait_for(&mine, PollFlags::IN | PollFlags::RDHUP);
}

fn stopped_peer_is_backpressure() {
    let (mut mine, its) = tcp_pair();
    let child = holder(its);
    let pid = Pid::from_raw(child.id() as i32);
    kill(pid, Signal::SIGSTOP).unwrap();
    assert_eq!(waitpid(pid, Some(WaitPidFlag::WUNTRACED)), Ok(WaitStatus::Stopped(pid, Signal::SIGSTOP)));
    mine.set_nonblocking(true).unwrap();
    let piece = [7; 65536];
    let mut taken = 0;
    // Full for good once nothing more can be written and what was has reached the other side's queue.
    let error = loop {
        match mine.write(&piece) {
            Ok(n) => taken += n,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(taken > 0);
    assert_eq!(so_error(&mine), None);
    assert!(!poll_now(&mine).intersects(RESET | PollFlags::RDHUP | PollFlags::IN));
    sigkill(child);
    wait_for(&mine, RESET);
}

fn full_backlog_lets_connects_wait() {
    const ESTABLISHED: u8 = 1;
    const SYN_SENT: u8 = 2;
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let clients: Vec<_> = (0..5)
        .map(|_| {
            let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            let error = client.connect(&address).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
            client
        })
        .collect();
    let in_state = |state| clients.iter().filter(|c| raw::tcp_info(c.as_fd()).unwrap().state == state).count();
    wait_until("two connects complete", || in_state(ESTABLISHED) == 2);
    assert_eq!(in_state(SYN_SENT), 3, "neither refused nor accepted");
}

fn closed_listener_resets() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    drop(listener);
    wait_for(&client, RESET);
    assert_eq!(read_once(&mut client), Err(ErrorKind::ConnectionReset));
}

fn closed_port_refuses() {
    // Bound and not listening: nobody else can get this port meanwhile.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

fn after_reset_not_connected() {
    let (mine, its) = tcp_pair();
    socket2::SockRef::from(&its).set_linger(Some(Duration::ZERO)).unwrap();
    drop(its);
    wait_for(&mine, RESET);
    assert_eq!(mine.peer_addr().unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(mine.shutdown(Shutdown::Write).unwrap_err().kind(), ErrorKind::NotConnected);
}

fn rdhup_is_seen_behind_unread() {
    let (mine, mut its) = tcp_pair();
    its.write_all(b"unread").unwrap();
    its.shutdown(Shutdown::Write).unwrap();
    wait_for(&mine, PollFlags::RDHUP);
    assert_eq!(raw::unread(mine.as_fd()).unwrap(), 6, "and nothing of it was read");
    assert!(!poll_now(&mine).intersects(RESET), "one side only");
}

fn reset_shows_error_and_hangup() {
    let (mine, mut its) = tcp_pair();
    its.write_all(b"unread").unwrap();
    arrived(&mine, 6);
    socket2::SockRef::from(&its).set_linger(Some(Duration::ZERO)).unwrap();
    drop(its);
    wait_for(&mine, RESET);
    assert_eq!(poll_now(&mine), RESET | PollFlags::IN | PollFlags::OUT | PollFlags::RDHUP);
    assert_eq!(so_error(&mine), Some(ErrorKind::ConnectionReset));
    assert_eq!(so_error(&mine), None, "told once");
}
