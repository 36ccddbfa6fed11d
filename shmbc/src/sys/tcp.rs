//! Where a TCP socket stands in its two byte streams, as the kernel counts.
//!
//! A switch is published as a number of bytes sent by TCP, counted by the stream. If anything else wrote to or read from
//! the socket (before it became a stream, or through its descriptor), the count is wrong and the peer would take token
//! bytes for the program's. The kernel's own counters show that, in one system call, before anything is published.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd};

/// Bytes a socket has moved since it was connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpPosition {
    /// Bytes the program has written, sent or still queued.
    pub written: u64,
    /// Bytes that have arrived, read by the program or not.
    pub arrived: u64,
}

/// Closes the descriptor of a socket and leaves everything else that it has as it is, above all its place in a reactor: a forked
/// child shares the reactor's `epoll` with its parent, and taking the socket out of it there would take the parent's out.
#[cfg(not(loom))]
pub(crate) fn close_only(socket: impl AsFd) {
    use std::os::fd::{FromRawFd, OwnedFd};

    let descriptor = socket.as_fd().as_raw_fd();
    std::mem::forget(socket);
    // SAFETY: the descriptor is open, since `socket` had it, and nobody else closes it, since that was forgotten.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
}

/// Where `socket` stands. The bytes of SYN and FIN are not counted.
///
/// # Errors
///
/// Those of `getsockopt(2)`; `Unsupported` where the kernel (before 4.19) does not count.
pub fn tcp_position(socket: impl AsFd) -> io::Result<TcpPosition> {
    let (info, len) = tcp_info(socket)?;
    let counted = std::mem::offset_of!(libc::tcp_info, tcpi_bytes_retrans) + size_of::<u64>();
    if len < counted {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel does not count bytes sent"));
    }
    Ok(TcpPosition {
        written: info.tcpi_bytes_sent.saturating_sub(info.tcpi_bytes_retrans) + u64::from(info.tcpi_notsent_bytes),
        arrived: info.tcpi_bytes_received,
    })
}

/// Whether the peer of `socket` has sent a FIN or a reset. (`poll(2)` says so too of a socket whose own reading side is shut.)
///
/// # Errors
///
/// Those of `getsockopt(2)`.
#[cfg(not(loom))]
pub(crate) fn tcp_peer_has_ended(socket: impl AsFd) -> io::Result<bool> {
    // The states of `include/net/tcp_states.h` in which no FIN has come: ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2.
    Ok(!matches!(tcp_info(socket)?.0.tcpi_state, 1..=5))
}

/// What the kernel knows, and how many bytes of it.
fn tcp_info(socket: impl AsFd) -> io::Result<(libc::tcp_info, usize)> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `info`, which has that size; the descriptor is open.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain integers, zeroed before and written by the kernel.
    Ok((unsafe { info.assume_init() }, len as usize))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn position_when_bytes_are_queued_sent_or_read_is_exact_on_both_sides() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        assert_eq!(tcp_position(&client).unwrap(), TcpPosition::default());
        assert_eq!(tcp_position(&server).unwrap(), TcpPosition::default());
        client.set_nonblocking(true).unwrap();
        // Until the socket is full: some of it is sent, some is queued.
        let mut written = 0;
        while let Ok(n) = client.write(&[7; 50_000]) {
            written += n as u64;
        }
        assert_eq!(tcp_position(&client).unwrap().written, written);
        server.write_all(b"answer").unwrap();
        assert_eq!(tcp_position(&server).unwrap().written, 6);
        let mut rest = vec![0; written as usize];
        server.read_exact(&mut rest).unwrap();
        assert_eq!(tcp_position(&server).unwrap().arrived, written);
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut rest).unwrap(), 0);
        assert_eq!(tcp_position(&client).unwrap().written, written, "a FIN is not a byte");
    }
}
