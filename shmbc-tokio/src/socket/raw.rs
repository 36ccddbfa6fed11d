//! A socket out of the number of its descriptor. Nothing but that: the trait asks for an `unsafe` function.

#![expect(
    unsafe_code,
    reason = "`FromRawFd` is how a program hands over a descriptor that it knows only by its number"
)]

use std::os::fd::{FromRawFd, RawFd};

use tokio::net::TcpSocket;

use super::ShmSocket;

/// The socket must be in non-blocking mode, as with tokio's.
impl FromRawFd for ShmSocket {
    unsafe fn from_raw_fd(fd: RawFd) -> Self {
        // SAFETY: the caller promises what is asked for: an open descriptor that nobody else owns.
        Self { tcp: unsafe { TcpSocket::from_raw_fd(fd) } }
    }
}
