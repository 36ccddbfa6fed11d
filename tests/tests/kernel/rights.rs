//! Descriptors in messages: what arrives when there is no room, and who may send them.

use std::io::{self, IoSlice, IoSliceMut, PipeReader, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use shmbc_tests::suite::{self, Test};
use shmbc_tests::{Need, raw, test};

pub(crate) const FEW_DESCRIPTORS: &str = "few-descriptors";

pub(crate) fn facts() -> Vec<Test> {
    let passrights = Need::Linux(6, 16, "SO_PASSRIGHTS");
    vec![
        test("descriptors_when_the_buffer_is_short_are_cut_and_the_rest_closed", cut_and_the_rest_closed),
        test("descriptors_when_read_without_a_buffer_are_closed", read_without_a_buffer_closes),
        test("descriptors_when_none_is_left_are_cut_without_an_error", none_left_is_cut_without_an_error),
        test("descriptors_when_asked_to_close_on_exec", close_on_exec),
        test("messages_with_descriptors_when_received_are_never_merged", never_merged),
        test("listener_with_passrights_off_when_sent_descriptors_refuses_before_accept", passrights_off_refuses)
            .needs(passrights),
        test("listener_with_passrights_off_when_it_sends_descriptors_may", passrights_off_may_send).needs(passrights),
    ]
}

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("socketpair")
}

fn send(socket: impl AsFd, fds: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(socket, &[IoSlice::new(b"x")], &mut ancillary, SendFlags::empty())
}

struct Got {
    bytes: usize,
    cut: bool,
    fds: Vec<OwnedFd>,
}

fn receive(socket: impl AsFd, space: &mut [MaybeUninit<u8>]) -> Got {
    let mut ancillary = RecvAncillaryBuffer::new(space);
    let mut bytes = [0; 16];
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    let got = got.expect("recvmsg");
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Got { bytes: got.bytes, cut: got.flags.contains(ReturnFlags::CTRUNC), fds: rights.flatten().collect() }
}

/// Sends the write ends of `n` pipes and keeps only their read ends, which see the end when nobody has the other.
fn send_pipes(socket: &OwnedFd, n: usize) -> Vec<PipeReader> {
    let (readers, writers): (Vec<_>, Vec<_>) = (0..n).map(|_| io::pipe().expect("pipe")).unzip();
    let fds: Vec<_> = writers.iter().map(AsFd::as_fd).collect();
    assert_eq!(send(socket, &fds), Ok(1));
    readers
}

/// Returns once nobody holds the write end; a hang here means that somebody does.
fn closed(mut reader: PipeReader) {
    assert_eq!(reader.read(&mut [0]).expect("read"), 0);
}

fn cut_and_the_rest_closed() {
    let (a, b) = pair();
    let mut pipes = send_pipes(&a, 8);
    let got = receive(&b, &mut [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    assert!(got.cut && got.bytes == 1);
    // The padding of a control message leaves room for more than one.
    assert!((1..8).contains(&got.fds.len()), "{}", got.fds.len());
    pipes.split_off(got.fds.len()).into_iter().for_each(closed);
    drop(got);
    pipes.into_iter().for_each(closed);
}

fn read_without_a_buffer_closes() {
    let (a, b) = pair();
    let pipes = send_pipes(&a, 3);
    assert_eq!(nix::unistd::read(&b, &mut [0; 16]), Ok(1));
    pipes.into_iter().for_each(closed);
    let pipes = send_pipes(&a, 3);
    let got = receive(&b, &mut []);
    assert!(got.cut && got.fds.is_empty());
    pipes.into_iter().for_each(closed);
}

fn none_left_is_cut_without_an_error() {
    let status = suite::player(FEW_DESCRIPTORS).status().unwrap();
    assert!(status.success(), "{status}");
}

/// Receives three descriptors with room for two.
pub(crate) fn few_descriptors() {
    let (a, b) = pair();
    let mut pipes = send_pipes(&a, 3);
    let open = |fd: &u64| std::path::Path::new(&format!("/proc/self/fd/{fd}")).exists();
    let third_free = (0..).filter(|fd| !open(fd)).nth(2).expect("a free number");
    setrlimit(Resource::RLIMIT_NOFILE, third_free, third_free).expect("setrlimit");
    let got = receive(&b, &mut [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))]);
    assert!(got.cut, "the cut is the only sign");
    assert_eq!((got.bytes, got.fds.len()), (1, 2));
    pipes.split_off(2).into_iter().for_each(closed);
}

fn close_on_exec() {
    let (a, b) = pair();
    let pipes = send_pipes(&a, 3);
    let got = receive(&b, &mut [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))]);
    assert!(!got.cut);
    assert_eq!(got.fds.len(), pipes.len());
    for fd in &got.fds {
        assert_eq!(fcntl(fd, FcntlArg::F_GETFD), Ok(libc::FD_CLOEXEC));
    }
}

fn never_merged() {
    let (a, b) = UnixStream::pair().unwrap();
    for fds in [&[a.as_fd()][..], &[a.as_fd(), b.as_fd()]] {
        send(&a, fds).unwrap();
    }
    for count in [1, 2] {
        let got = receive(&b, &mut [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))]);
        assert_eq!((got.bytes, got.fds.len()), (1, count), "a stream, and yet one message at a time");
    }
}

/// A listener that takes no descriptors, and a client that it has not accepted yet.
fn listener_without_rights() -> (std::os::unix::net::UnixListener, UnixStream) {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    raw::set_pass_rights(listener.as_fd(), false).expect("SO_PASSRIGHTS");
    (listener, UnixStream::connect(&path).expect("connect"))
}

fn passrights_off_refuses() {
    let (listener, client) = listener_without_rights();
    assert_eq!(send(&client, &[client.as_fd()]), Err(rustix::io::Errno::PERM), "not accepted yet");
    let (_server, _) = listener.accept().unwrap();
    assert_eq!(send(&client, &[client.as_fd()]), Err(rustix::io::Errno::PERM));
    assert_eq!(send(&client, &[]), Ok(1), "bytes alone may pass");
}

fn passrights_off_may_send() {
    let (listener, client) = listener_without_rights();
    let (server, _) = listener.accept().unwrap();
    assert_eq!(send(&server, &[server.as_fd()]), Ok(1));
    let got = receive(&client, &mut [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))]);
    assert_eq!(got.fds.len(), 1);
}
