//! TCP connections on loopback and questions to their kernel ends, for tests that look at what the kernel does.

use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

/// How long anything that is sure to happen may take.
pub const SURELY: Duration = Duration::from_secs(30);

/// A TCP connection over loopback: the end that connected, the end that accepted. Both block.
pub fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let client = TcpStream::connect(listener.local_addr().expect("local_addr")).expect("connect");
    loop {
        let (server, from) = listener.accept().expect("accept");
        if from == client.local_addr().expect("local_addr") {
            return (client, server);
        }
    }
}

/// What poll says about `fd` now, of everything it can say about a connection.
pub fn poll_now(fd: &impl AsFd) -> PollFlags {
    let mut set = [PollFd::new(fd, PollFlags::IN | PollFlags::OUT | PollFlags::RDHUP)];
    rustix::event::poll(&mut set, Some(&rustix::event::Timespec::default())).expect("poll");
    set[0].revents()
}

/// Waits until `condition` holds, for [`SURELY`] at most, and says whether it does.
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + SURELY;
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Waits until `condition` holds.
///
/// # Panics
///
/// When it does not for [`SURELY`], with `what` it was.
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(eventually(condition), "{what}: still not so after {SURELY:?}");
}

/// Waits until poll shows all of `flags` on `fd`.
///
/// # Panics
///
/// When it does not for [`SURELY`].
pub fn wait_for(fd: &impl AsFd, flags: PollFlags) {
    wait_until(&format!("{flags:?}"), || poll_now(fd).contains(flags));
}

/// Reads once: the bytes, or the kind of error.
pub fn read_once(stream: &mut TcpStream) -> Result<Vec<u8>, io::ErrorKind> {
    let mut buf = [0; 4096];
    stream.read(&mut buf).map(|n| buf[..n].to_vec()).map_err(|e| e.kind())
}
