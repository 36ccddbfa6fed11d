//! The hostile process's garbage for the host service: frames, messages and descriptors of every wrong kind.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};
use shmbc::control::codec::{self, MAX_FRAME};
use shmbc::control::message::{Decline, Offer, OfferId, PROTOCOL, ToClient, ToHost};
use shmbc_tests::host::hello;

use crate::orders::Garbage;

/// Throws `garbage`; says how much of it the service took.
pub(crate) fn throw(host: &Path, garbage: Garbage) -> io::Result<String> {
    let thrower = Thrower { host };
    let thrown = match garbage {
        Garbage::Frames(seed) => thrower.frames(&mut StdRng::seed_from_u64(seed))?,
        Garbage::Lengths => thrower.lengths()?,
        Garbage::Disorder => thrower.disorder()?,
        Garbage::ForeignIds => thrower.foreign_ids()?,
        Garbage::FalseOffers(local, peer) => thrower.false_offers(local, peer)?,
        Garbage::Descriptors => thrower.descriptors()?,
        Garbage::Flood => thrower.flood()?,
        Garbage::Silence => thrower.silence()?,
    };
    Ok(thrown.to_string())
}

struct Thrower<'a> {
    host: &'a Path,
}

impl Thrower<'_> {
    fn session(&self) -> io::Result<OwnedFd> {
        hello(self.host).ok_or_else(|| io::Error::other("the host service does not answer a hello any more"))
    }

    fn unheard(&self) -> io::Result<OwnedFd> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(self.host)?)?;
        Ok(socket)
    }

    fn frames(&self, random: &mut StdRng) -> io::Result<usize> {
        let mut thrown = 0;
        for round in 0..200 {
            let session = if round % 2 == 0 { self.session()? } else { self.unheard()? };
            for _ in 0..random.random_range(1..10) {
                let mut frame = some_message(random);
                match random.random_range(0..4) {
                    0 => {
                        frame.resize(random.random_range(0..200), 0);
                        random.fill_bytes(&mut frame);
                    }
                    1 => frame.truncate(random.random_range(0..frame.len())),
                    2 => {
                        let at = random.random_range(0..frame.len());
                        frame[at] = random.random();
                    }
                    _ => frame[1..].iter_mut().for_each(|byte| *byte = random.random()),
                }
                thrown += usize::from(throw_one(&session, &frame, &[])?);
            }
        }
        Ok(thrown)
    }

    fn lengths(&self) -> io::Result<usize> {
        let mut thrown = 0;
        for len in [0, 1, 2, 100, MAX_FRAME - 1, MAX_FRAME, MAX_FRAME + 1, 100_000] {
            for byte in [0, 1, 0xff] {
                thrown += usize::from(throw_one(&self.session()?, &vec![byte; len], &[])?);
            }
        }
        Ok(thrown)
    }

    fn disorder(&self) -> io::Result<usize> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let tcp = std::net::TcpStream::connect(listener.local_addr()?)?;
        let (local, peer) = (tcp.local_addr()?, tcp.peer_addr()?);
        let offer = |id| ToHost::Offer(Offer { id: OfferId(id), fd: tcp.as_raw_fd(), local, peer, cpu: u32::MAX });
        let (hello, id) = (ToHost::Hello { protocol: PROTOCOL }, OfferId(1));
        let orders: Vec<Vec<ToHost>> = vec![
            vec![hello.clone(), hello],
            vec![ToHost::Hello { protocol: 0 }],
            vec![ToHost::Ready(id), offer(1), ToHost::Ready(id), ToHost::Ready(id)],
            vec![offer(1), offer(1), offer(1), ToHost::Close(id), offer(1)],
            vec![ToHost::Close(id), ToHost::Close(id), ToHost::Decline(id, Decline::Unsound), offer(1)],
            vec![offer(1), offer(2), offer(3), ToHost::Decline(OfferId(2), Decline::Closed), ToHost::Ready(OfferId(3))],
            vec![offer(u64::MAX), ToHost::Close(OfferId(u64::MAX)), offer(0)],
            vec![ToHost::ListContainers, ToHost::ListConnections, offer(1), ToHost::ListConnections],
        ];
        let mut thrown = 0;
        for order in orders {
            for session in [self.session()?, self.unheard()?] {
                for message in &order {
                    thrown += usize::from(throw_one(&session, &encode(message), &[])?);
                }
            }
        }
        Ok(thrown)
    }

    fn foreign_ids(&self) -> io::Result<usize> {
        let (session, mut thrown) = (self.session()?, 0);
        for id in (0..300).chain([u64::MAX]).map(OfferId) {
            for message in [ToHost::Close(id), ToHost::Ready(id), ToHost::Decline(id, Decline::OutOfResources)] {
                thrown += usize::from(throw_one(&session, &encode(&message), &[])?);
            }
        }
        Ok(thrown)
    }

    /// `local` and `peer` are the ends of a connection of other people's.
    fn false_offers(&self, local: SocketAddr, peer: SocketAddr) -> io::Result<usize> {
        let (session, mut thrown, mut id) = (self.session()?, 0, 0);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mine = std::net::TcpStream::connect(listener.local_addr()?)?;
        let file = std::fs::File::open("/dev/null")?;
        let any: SocketAddr = "[::]:0".parse().expect("an address");
        let fds = [
            0,
            1,
            -1,
            i32::MAX,
            i32::MIN,
            mine.as_raw_fd(),
            listener.as_raw_fd(),
            file.as_raw_fd(),
            session.as_raw_fd(),
        ];
        for fd in fds {
            for (local, peer) in [(local, peer), (peer, local), (any, any), (local, local), (mine.local_addr()?, peer)]
            {
                id += 1;
                let offer = Offer { id: OfferId(id), fd, local, peer, cpu: 0 };
                thrown += usize::from(throw_one(&session, &encode(&ToHost::Offer(offer)), &[])?);
            }
        }
        Ok(thrown)
    }

    fn descriptors(&self) -> io::Result<usize> {
        let file = std::fs::File::open("/dev/null")?;
        let frame = encode(&ToHost::Close(OfferId(1)));
        let mut thrown = 0;
        for count in [1, 3, 4, 100, 253] {
            for session in [self.session()?, self.unheard()?] {
                thrown += usize::from(throw_one(&session, &frame, &vec![file.as_fd(); count])?);
                thrown += usize::from(throw_one(&session, b"garbage", &vec![file.as_fd(); count])?);
            }
        }
        Ok(thrown)
    }

    fn flood(&self) -> io::Result<usize> {
        const MOST: usize = 100_000;
        let address: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        let session = self.session()?;
        let mut thrown = 0;
        while thrown < MOST {
            let offer = Offer { id: OfferId(thrown as u64), fd: -1, local: address, peer: address, cpu: 0 };
            if !throw_one(&session, &encode(&ToHost::Offer(offer)), &[])? {
                break;
            }
            thrown += 1;
        }
        Ok(thrown)
    }

    /// Fewer than the service allows one user: the others here are the same user.
    fn silence(&self) -> io::Result<usize> {
        let sessions = (0..300).map(|_| self.unheard()).collect::<io::Result<Vec<_>>>()?;
        Ok(sessions.len())
    }
}

fn encode(message: &ToHost) -> Vec<u8> {
    codec::encode(message).expect("a message within its limits")
}

fn some_message(random: &mut StdRng) -> Vec<u8> {
    let id = OfferId(random.random_range(0..5));
    let message = match random.random_range(0..7) {
        6 => ToHost::Mapped(id),
        0 => ToHost::Hello { protocol: PROTOCOL },
        1 => ToHost::Ready(id),
        2 => ToHost::Decline(id, Decline::Unsound),
        3 => ToHost::ListConnections,
        4 => return codec::encode(&ToClient::Go(id)).expect("a message within its limits"),
        _ => {
            let address = SocketAddr::from(([127, 0, 0, 1], random.random()));
            ToHost::Offer(Offer { id, fd: random.random_range(-1..9), local: address, peer: address, cpu: 0 })
        }
    };
    encode(&message)
}

/// Waits while the service is busy; false when it has ended the session or the kernel does not let such a thing through.
fn throw_one(session: &OwnedFd, frame: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    match sendmsg(session, &[io::IoSlice::new(frame)], &mut ancillary, SendFlags::NOSIGNAL) {
        Ok(_) => Ok(true),
        Err(error) => match io::Error::from(error) {
            gone if matches!(
                gone.kind(),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::NotConnected
            ) =>
            {
                Ok(false)
            }
            refused if refused.kind() == ErrorKind::PermissionDenied => Ok(false),
            error => Err(error),
        },
    }
}
