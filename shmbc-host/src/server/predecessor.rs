//! Whether an earlier service still serves at the path where a new one is to listen.
//!
//! That its socket can be connected to says nothing: the kernel keeps a socket of a process that is stopped, or that hangs while it
//! ends, and fills its queue. Whoever says hello and is not welcomed within a second has found nobody at home, and takes the
//! path over; what is connected to the old one stays so.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use shmbc::control::message::{PROTOCOL, ToHost};
use shmbc::control::socket;
use tokio::io::Interest;
use tracing::warn;

use crate::config::HostError;
use crate::kernel;

/// How long a service may take to answer a hello. It takes a living one less than a millisecond, and a thousand in a flood.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two attempts to reach one whose queue is full, or that turns us away.
const PAUSE: Duration = Duration::from_millis(10);

/// What became of one attempt.
enum Attempt {
    /// Nobody listens any more.
    Dead,
    /// It has answered.
    Alive,
    /// It closed the connection, as one does that ends, or that has too many.
    Closed,
    /// Its queue is full.
    Full,
}

/// Removes what a service that is no more has left at `path`.
pub(super) async fn make_way(path: &Path, address: &SocketAddrUnix) -> Result<(), HostError> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(HostError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    let mut pid = 0;
    let mut closed = false;
    let trying = async {
        loop {
            match attempt(address, &mut pid).await {
                Ok(Attempt::Dead) => return Ok(()),
                Ok(Attempt::Alive) => return Err(HostError::AlreadyRunning(path.to_owned())),
                Ok(Attempt::Closed) => closed = true,
                Ok(Attempt::Full) => closed = false,
                // Another kind of socket, in use.
                Err(_) => return Err(HostError::AlreadyRunning(path.to_owned())),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match tokio::time::timeout(PATIENCE, trying).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error),
        // It closes connections, so it lives.
        Err(_) if closed => return Err(HostError::AlreadyRunning(path.to_owned())),
        Err(_) => warn!(pid, "the service that listens here does not answer; this one takes its place"),
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            Err(HostError::Permission(path.parent().unwrap_or(path).to_owned()))
        }
        other => other.map_err(HostError::io("removing the socket file of a service that is gone")),
    }
}

async fn attempt(address: &SocketAddrUnix, pid: &mut i32) -> io::Result<Attempt> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    match rustix::net::connect(&probe, address) {
        Ok(()) => {}
        Err(Errno::CONNREFUSED | Errno::NOENT) => return Ok(Attempt::Dead),
        Err(Errno::AGAIN) => return Ok(Attempt::Full),
        Err(error) => return Err(error.into()),
    }
    *pid = getsockopt(&probe, PeerCredentials).map_or(0, |listener| listener.pid());
    if socket::send(probe.as_fd(), &ToHost::Hello { protocol: PROTOCOL }, &[]).is_err() {
        return Ok(Attempt::Closed);
    }
    let probe = kernel::register(probe, Interest::READABLE)?;
    let _ = probe.readable().await?;
    // Whatever it says: a stopped process says nothing.
    let mut byte = [0; 1];
    match rustix::net::recv(&probe, &mut byte, rustix::net::RecvFlags::DONTWAIT) {
        Ok((0, _)) | Err(_) => Ok(Attempt::Closed),
        Ok(_) => Ok(Attempt::Alive),
    }
}
