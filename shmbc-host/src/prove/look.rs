//! What a puller does, in its own process: takes a copy of a client's socket, asks the kernel about it, and closes the copy.
//!
//! Each step here can hang, and then only this process does. What is no socket is not taken at all, if it can be helped: a client may
//! have put another file under the number since. Requests and answers are lines of text between processes of one program.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::str::FromStr;

use rustix::fs::{FileType, Mode, OFlags, fstat, open, readlink};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, ipproto, sockopt};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::Proof;
use crate::kernel;
use crate::table::connections::Scope;
use crate::twin::plain;

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// A connected TCP socket.
    Connection { pid: i32, fd: i32 },
    /// A listening TCP socket.
    Listener { pid: i32, fd: i32 },
    /// What a process has mapped at this address and length, if it is a memfd: after a restart, the block of a connection that an
    /// earlier service has granted. `/proc/PID/map_files` leads there, for who has `CAP_CHECKPOINT_RESTORE`, and into another
    /// user's directory `CAP_DAC_READ_SEARCH`.
    Mapped { pid: i32, address: u64, len: u64 },
}

impl Request {
    /// The descriptor that it is about.
    pub(super) const fn fd(&self) -> i32 {
        match *self {
            Self::Connection { fd, .. } | Self::Listener { fd, .. } => fd,
            Self::Mapped { .. } => -1,
        }
    }
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A socket of the kind that was asked for.
    Socket(Proof),
    /// A memfd, which comes with the answer.
    Memory,
    NotOpen,
    Exited,
    NotPermitted,
    NotTcp,
    Failed(i32),
}

/// Does what a request says.
pub(super) fn look(request: &Request, pidfd: BorrowedFd<'_>) -> (Seen, Option<OwnedFd>) {
    match *request {
        Request::Connection { pid, fd } => (socket(pid, fd, pidfd, connection), None),
        Request::Listener { pid, fd } => (socket(pid, fd, pidfd, listener), None),
        Request::Mapped { pid, address, len } => match mapped(pid, address, len) {
            Some(file) => (Seen::Memory, Some(file)),
            None => (Seen::NotTcp, None),
        },
    }
}

fn socket(pid: i32, fd: i32, pidfd: BorrowedFd<'_>, ask: fn(&OwnedFd) -> Option<Proof>) -> Seen {
    // The library takes a negative number for a mistake of ours, and panics.
    if fd < 0 {
        return Seen::NotOpen;
    }
    // Closing a copy of a file asks its file system, which is nothing to have done to it for a number that was reused.
    if readlink(format!("/proc/{pid}/fd/{fd}"), Vec::new()).is_ok_and(|to| !to.to_bytes().starts_with(b"socket:")) {
        return Seen::NotTcp;
    }
    match pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty()) {
        // Closed at once: a copy held longer would delay the connection's FIN.
        Ok(copy) => ask(&copy).map_or(Seen::NotTcp, Seen::Socket),
        Err(Errno::BADF) => Seen::NotOpen,
        Err(Errno::SRCH) => Seen::Exited,
        Err(Errno::PERM | Errno::ACCESS | Errno::NOSYS) => Seen::NotPermitted,
        Err(other) => Seen::Failed(other.raw_os_error()),
    }
}

/// What the kernel says about a descriptor, if it is a connected TCP socket.
fn connection(copy: &OwnedFd) -> Option<Proof> {
    let peer = SocketAddr::try_from(rustix::net::getpeername(copy).ok()??).ok()?;
    tcp(copy, peer)
}

/// What the kernel says about a descriptor, if it is a TCP socket that accepts connections.
fn listener(copy: &OwnedFd) -> Option<Proof> {
    let listens = sockopt::socket_acceptconn(copy).ok()?;
    let nobody: IpAddr = match sockopt::socket_domain(copy).ok()? {
        AddressFamily::INET => [0; 4].into(),
        _ => [0_u16; 8].into(),
    };
    tcp(copy, SocketAddr::new(nobody, 0)).filter(|_| listens)
}

fn tcp(copy: &OwnedFd, peer: SocketAddr) -> Option<Proof> {
    let tcp = sockopt::socket_type(copy).ok()? == SocketType::STREAM
        && matches!(sockopt::socket_domain(copy).ok()?, AddressFamily::INET | AddressFamily::INET6)
        && sockopt::socket_protocol(copy).ok()? == Some(ipproto::TCP);
    if !tcp {
        return None;
    }
    let local = SocketAddr::try_from(rustix::net::getsockname(copy).ok()?).ok()?;
    let scope = kernel::netns_cookie(copy.as_fd()).map_or(Scope::Unproven, Scope::Netns);
    let socket = sockopt::socket_cookie(copy).ok();
    // Of a socket the kernel knows this by itself.
    let owner = fstat(copy).ok().map(|stat| stat.st_uid);
    Some(Proof { local: plain(local), peer: plain(peer), scope, socket, owner, believed: false })
}

/// Where a client points is its own choice, so before anything is opened for use it must be an ordinary file of the kernel's own shared
/// memory: no device, nothing of a file system that somebody else answers for.
fn mapped(pid: i32, address: u64, len: u64) -> Option<OwnedFd> {
    let path = format!("/proc/{pid}/map_files/{address:x}-{:x}", address.checked_add(len)?);
    let found = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let memory = rustix::fs::memfd_create("shmbc-probe", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    let (memory, file) = (fstat(&memory).ok()?, fstat(&found).ok()?);
    if FileType::from_raw_mode(file.st_mode) != FileType::RegularFile || file.st_dev != memory.st_dev {
        return None;
    }
    open(format!("/proc/self/fd/{}", found.as_raw_fd()), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).ok()
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection { pid, fd } => write!(f, "connection {pid} {fd}"),
            Self::Listener { pid, fd } => write!(f, "listener {pid} {fd}"),
            Self::Mapped { pid, address, len } => write!(f, "mapped {pid} {address} {len}"),
        }
    }
}

impl FromStr for Request {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = Words(text.split(' '));
        Ok(match words.word()? {
            "connection" => Self::Connection { pid: words.next()?, fd: words.next()? },
            "listener" => Self::Listener { pid: words.next()?, fd: words.next()? },
            "mapped" => Self::Mapped { pid: words.next()?, address: words.next()?, len: words.next()? },
            _ => return Err(()),
        })
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(Proof { local, peer, scope, socket, owner, .. }) => {
                write!(f, "socket {local} {peer}")?;
                let netns = match scope {
                    Scope::Netns(cookie) => Some(*cookie),
                    Scope::Unproven => None,
                };
                for number in [netns, *socket, owner.map(u64::from)] {
                    match number {
                        Some(number) => write!(f, " {number}")?,
                        None => write!(f, " -")?,
                    }
                }
                Ok(())
            }
            Self::Memory => f.write_str("memory"),
            Self::NotOpen => f.write_str("not-open"),
            Self::Exited => f.write_str("exited"),
            Self::NotPermitted => f.write_str("not-permitted"),
            Self::NotTcp => f.write_str("not-tcp"),
            Self::Failed(errno) => write!(f, "failed {errno}"),
        }
    }
}

impl FromStr for Seen {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = Words(text.split(' '));
        Ok(match words.word()? {
            "socket" => Self::Socket(Proof {
                local: words.next()?,
                peer: words.next()?,
                scope: words.number()?.map_or(Scope::Unproven, Scope::Netns),
                socket: words.number()?,
                owner: words.number()?,
                believed: false,
            }),
            "memory" => Self::Memory,
            "not-open" => Self::NotOpen,
            "exited" => Self::Exited,
            "not-permitted" => Self::NotPermitted,
            "not-tcp" => Self::NotTcp,
            "failed" => Self::Failed(words.next()?),
            _ => return Err(()),
        })
    }
}

struct Words<'a>(std::str::Split<'a, char>);

impl<'a> Words<'a> {
    fn word(&mut self) -> Result<&'a str, ()> {
        self.0.next().ok_or(())
    }

    fn next<T: FromStr>(&mut self) -> Result<T, ()> {
        self.word()?.parse().map_err(|_| ())
    }

    /// A number, or a stroke for none.
    fn number<T: FromStr>(&mut self) -> Result<Option<T>, ()> {
        match self.word()? {
            "-" => Ok(None),
            number => number.parse().map(Some).map_err(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_when_written_are_read_as_they_were() {
        for request in [
            Request::Connection { pid: 1, fd: -1 },
            Request::Listener { pid: i32::MAX, fd: 7 },
            Request::Mapped { pid: 3, address: u64::MAX, len: 1 },
        ] {
            assert_eq!(request.to_string().parse(), Ok(request));
        }
        let (local, peer) = ("[::1]:80".parse().unwrap(), "10.0.0.1:65535".parse().unwrap());
        let proof = Proof { local, peer, scope: Scope::Netns(5), socket: Some(u64::MAX), owner: None, believed: false };
        let unproven = Proof { scope: Scope::Unproven, socket: None, owner: Some(u32::MAX), ..proof };
        for seen in [
            Seen::Socket(proof),
            Seen::Socket(unproven),
            Seen::Memory,
            Seen::NotOpen,
            Seen::Exited,
            Seen::NotPermitted,
            Seen::NotTcp,
            Seen::Failed(24),
        ] {
            assert_eq!(seen.to_string().parse(), Ok(seen));
        }
        for garbage in ["", "socket", "socket 1 2 3 4 5", "look 1 2", "failed x"] {
            assert_eq!((garbage.parse::<Seen>(), garbage.parse::<Request>()), (Err(()), Err(())));
        }
    }
}
