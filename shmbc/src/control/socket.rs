//! One frame and its descriptors over a control socket.
//!
//! Called by the client's agent and by the host's sessions, on sockets that they made non-blocking or poll before use.
//! What is received is closed on exec; a truncated frame or descriptor list is an error and whatever came with it
//! is closed. Never used on a descriptor that a peer could reach.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::codec::{self, MAX_FRAME, Message};

/// Most descriptors in one frame: those of a grant.
pub const MAX_FDS: usize = 3;

const FD_SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_FDS));

/// Where clients look for the host service, unless the environment variable `SHMBC_HOST` names another path.
pub const DEFAULT_PATH: &str = "/run/shmbc/host.sock";

/// What came in one datagram.
#[derive(Debug)]
pub struct Received<M> {
    /// The message.
    pub message: M,
    /// The descriptors that came with it, in the order they were sent.
    pub fds: Vec<OwnedFd>,
}

/// Sends one message with `fds`.
///
/// # Errors
///
/// `WouldBlock` when the socket is full; `BrokenPipe`, `ConnectionReset` when the other side is gone; `InvalidInput`
/// for a message over its limits.
pub fn send<M: Message>(socket: BorrowedFd<'_>, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let frame = codec::encode(message).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    send_frame(socket, &frame, fds)
}

/// Sends one message that [`codec::encode`] has made a frame of, with `fds`.
///
/// # Errors
///
/// As [`send`].
pub fn send_frame(socket: BorrowedFd<'_>, frame: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); FD_SPACE];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "more descriptors than a message has"));
    }
    sendmsg(socket, &[IoSlice::new(frame)], &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

/// Receives one message. `Ok(None)` means the other side has closed.
///
/// # Errors
///
/// `WouldBlock` when there is none; `InvalidData` when what came is no message, was cut, or came with more
/// descriptors than [`MAX_FDS`] (or than this process has room for): the session is to be ended.
pub fn receive<M: Message>(socket: BorrowedFd<'_>) -> io::Result<Option<Received<M>>> {
    let mut frame = vec![0; MAX_FRAME];
    let mut space = [MaybeUninit::uninit(); FD_SPACE];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut frame)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let cut = got.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC);
    let fds: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    let invalid = |e: String| io::Error::new(io::ErrorKind::InvalidData, e);
    if cut || fds.len() > MAX_FDS {
        return Err(invalid("more bytes or descriptors came than a message has, or no descriptor is left".into()));
    }
    if got.bytes == 0 && fds.is_empty() {
        return Ok(None);
    }
    let message = codec::decode(&frame[..got.bytes]).map_err(|e| invalid(e.to_string()))?;
    Ok(Some(Received { message, fds }))
}

#[cfg(test)]
mod tests {
    use super::super::message::{OfferId, ToHost};
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::os::fd::AsFd;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    fn open_fds() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[test]
    fn frame_with_descriptors_when_received_is_whole_and_closes_on_exec() {
        let (a, b) = pair();
        send(a.as_fd(), &ToHost::Ready(OfferId(1)), &[a.as_fd(), b.as_fd()]).unwrap();
        let got = receive::<ToHost>(b.as_fd()).unwrap().unwrap();
        assert_eq!(got.message, ToHost::Ready(OfferId(1)));
        assert_eq!(got.fds.len(), 2);
        for fd in &got.fds {
            let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
            assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        }
        drop(a);
        drop(got);
        assert!(receive::<ToHost>(b.as_fd()).unwrap().is_none());
    }

    #[test]
    fn more_descriptors_than_allowed_when_received_are_an_error_and_all_closed() {
        // Descriptors of other tests come and go in this process, so the count is taken in a process of its own.
        if std::env::var_os("SHMBC_TEST_ALONE").is_none() {
            let me = std::env::current_exe().unwrap();
            let name =
                "control::socket::tests::more_descriptors_than_allowed_when_received_are_an_error_and_all_closed";
            let status =
                std::process::Command::new(me).args([name, "--exact"]).env("SHMBC_TEST_ALONE", "1").status().unwrap();
            assert!(status.success());
            return;
        }
        let (a, b) = pair();
        let before = open_fds();
        let frame = codec::encode(&ToHost::Ready(OfferId(1))).unwrap();
        let many = [a.as_fd(); MAX_FDS + 3];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&many)));
        sendmsg(&a, &[IoSlice::new(&frame)], &mut ancillary, SendFlags::empty()).unwrap();
        let error = receive::<ToHost>(b.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(open_fds(), before);
    }

    #[test]
    fn garbage_when_received_is_invalid_data() {
        let (a, b) = pair();
        nix::unistd::write(&a, b"garbage").unwrap();
        assert_eq!(receive::<ToHost>(b.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(receive::<ToHost>(b.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
