//! The hostile process. It speaks the real control protocol over one end of a real TCP connection, holds the real descriptors of
//! its grant, and uses nothing of the core that keeps to rules: its own mapping, its own cursors.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::epoll::Epoll;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::event::PollFlags;
use shmbc::control::message::{End, Grant, Offer, OfferId, ToClient, ToHost};
use shmbc::control::socket;
use shmbc::layout::{FORBIDDEN, Sizes, Words};
use shmbc_tests::Pattern;
use shmbc_tests::host::hello;
use shmbc_tests::raw::SharedMap;
use shmbc_tests::sockets::wait_for;

use crate::orders::{HOST, Order, Report, Said, Switch};
use crate::{assaults, striker, thrower};

/// Carries out orders until there are no more.
pub(crate) fn obey() {
    let host = PathBuf::from(std::env::var_os(HOST).expect("a host service"));
    // As many descriptors as it can have: the kernel's other limits are to be met.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("its own limit");
    let mut attacker = Attacker { host, session: None, tcp: None, offers: 0, sent: 0, spoils: None, kept: Vec::new() };
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let order: Order = serde_json::from_str(&line).expect("an order");
        let said = attacker.obey(&order).unwrap_or_else(|error| Said::Failed(error.to_string()));
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &said).expect("plain data");
        out.write_all(b"\n").and_then(|()| out.flush()).expect("somebody listens");
    }
}

struct Attacker {
    host: PathBuf,
    session: Option<OwnedFd>,
    tcp: Option<TcpStream>,
    offers: u64,
    /// Bytes of the stream's sent by TCP.
    sent: u64,
    spoils: Option<Spoils>,
    kept: Vec<(TcpStream, Spoils)>,
}

/// What it was granted.
pub(crate) struct Spoils {
    pub(crate) block: Option<OwnedFd>,
    pub(crate) ringer: Option<OwnedFd>,
    pub(crate) waiter: Option<OwnedFd>,
    pub(crate) map: SharedMap,
    pub(crate) sizes: Sizes,
    /// What it hung on the descriptors.
    pub(crate) hung: Vec<Epoll>,
    /// Its own cursors, which no scribble reaches: next byte to write, next byte to read.
    pub(crate) tail: u64,
    pub(crate) head: u64,
    grant: Grant,
}

impl Spoils {
    fn take(grant: Grant, fds: Vec<OwnedFd>) -> io::Result<Self> {
        let sizes = grant.sizes().map_err(io::Error::other)?;
        let [block, ringer, waiter] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| io::Error::other("three come"))?;
        let map = SharedMap::new(block.as_fd(), sizes.block_len())?;
        Ok(Self {
            block: Some(block),
            ringer: Some(ringer),
            waiter: Some(waiter),
            map,
            sizes,
            hung: Vec::new(),
            tail: 0,
            head: 0,
            grant,
        })
    }

    /// The words of the direction it writes, and of the other.
    pub(crate) const fn words(&self) -> [Words; 2] {
        [Words::of(self.grant.end.sends()), Words::of(self.grant.end.receives())]
    }

    pub(crate) const fn end(&self) -> End {
        self.grant.end
    }
}

fn none<T>(what: Option<T>, name: &str) -> io::Result<T> {
    what.ok_or_else(|| io::Error::other(format!("no {name}")))
}

/// What the hostile process writes: the stream that the victim, which accepted, expects.
pub(crate) const MINE: Pattern = Pattern::new(1);

impl Attacker {
    fn obey(&mut self, order: &Order) -> io::Result<Said> {
        let mut found = String::new();
        match order {
            Order::Connect(address) => {
                self.sent = 0;
                self.tcp = Some(TcpStream::connect(address)?);
            }
            Order::Offer => self.offer()?,
            Order::Grant => self.spoils = Some(self.granted()?),
            Order::GrantUnmapped => drop(self.granted()?),
            Order::Exhaust => found = striker::exhaust(none(self.spoils.as_mut(), "grant")?)?,
            Order::Ready => self.say(&ToHost::Ready(OfferId(self.offers)))?,
            Order::Go => match self.hear()? {
                (ToClient::Go(OfferId(id)), _) if id == self.offers => {}
                other => return Err(io::Error::other(format!("{other:?}"))),
            },
            Order::SendByTcp(n) => self.send_by_tcp(*n)?,
            Order::Switch(how) => self.switch(*how)?,
            Order::HalfClose { fin } => {
                let spoils = none(self.spoils.as_ref(), "grant")?;
                spoils.map.set_word(spoils.words()[0].half_closed.offset(), 1);
                if *fin {
                    none(self.tcp.as_ref(), "connection")?.shutdown(std::net::Shutdown::Write)?;
                }
            }
            Order::ReadTcp => found = self.read_tcp()?.to_string(),
            Order::Assault(assault, bytes) => {
                let spoils = none(self.spoils.as_mut(), "grant")?;
                let report: Report =
                    assaults::assault(spoils, none(self.tcp.as_ref(), "connection")?, self.sent, assault, *bytes)?;
                return Ok(Said::Moved(report));
            }
            Order::Throw(garbage) => found = thrower::throw(&self.host, *garbage)?,
            Order::Keep => {
                let tcp = none(self.tcp.take(), "connection")?;
                self.kept.push((tcp, none(self.spoils.take(), "grant")?));
            }
            Order::Close => {
                self.spoils = None;
                self.tcp = None;
                if self.session.is_some() {
                    self.say(&ToHost::Close(OfferId(self.offers)))?;
                }
            }
        }
        Ok(Said::Done(found))
    }

    fn session(&mut self) -> io::Result<&OwnedFd> {
        if self.session.is_none() {
            self.session = Some(none(hello(&self.host), "host service")?);
        }
        none(self.session.as_ref(), "session")
    }

    fn say(&mut self, message: &ToHost) -> io::Result<()> {
        socket::send(self.session()?.as_fd(), message, &[])
    }

    /// The next message that is not about addresses.
    fn hear(&mut self) -> io::Result<(ToClient, Vec<OwnedFd>)> {
        let session = self.session()?;
        loop {
            wait_for(session, PollFlags::IN);
            let got = none(socket::receive::<ToClient>(session.as_fd())?, "session any more")?;
            if !matches!(got.message, ToClient::Locality { .. }) {
                return Ok((got.message, got.fds));
            }
        }
    }

    fn offer(&mut self) -> io::Result<()> {
        self.offers += 1;
        let id = OfferId(self.offers);
        let tcp = none(self.tcp.as_ref(), "connection")?;
        let offer = Offer { id, fd: tcp.as_raw_fd(), local: tcp.local_addr()?, peer: tcp.peer_addr()?, cpu: 0 };
        self.say(&ToHost::Offer(offer))
    }

    fn granted(&mut self) -> io::Result<Spoils> {
        let offer = OfferId(self.offers);
        loop {
            match self.hear()? {
                (ToClient::Grant(grant), fds) if grant.id == offer => return Spoils::take(grant, fds),
                // What became of an earlier one.
                (ToClient::Refused(id, _) | ToClient::Go(id), _) if id != offer => {}
                other => return Err(io::Error::other(format!("no grant but {other:?}"))),
            }
        }
    }

    fn send_by_tcp(&mut self, n: u64) -> io::Result<()> {
        let mut bytes = vec![0; usize::try_from(n).map_err(io::Error::other)?];
        MINE.fill(self.sent, &mut bytes);
        none(self.tcp.as_ref(), "connection")?.write_all(&bytes)?;
        self.sent += n;
        Ok(())
    }

    fn read_tcp(&self) -> io::Result<u64> {
        let mut tcp = none(self.tcp.as_ref(), "connection")?;
        tcp.set_nonblocking(true)?;
        let (mut sum, mut bytes) = (0, [0; 4096]);
        let end = loop {
            match tcp.read(&mut bytes) {
                Ok(0) => break Ok(sum),
                Ok(n) => sum += n as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(sum),
                Err(error) => break Err(error),
            }
        };
        tcp.set_nonblocking(false)?;
        end
    }

    fn switch(&mut self, how: Switch) -> io::Result<()> {
        let spoils = none(self.spoils.as_ref(), "grant")?;
        let [mine, its] = spoils.words();
        let count = match how {
            Switch::Unannounced => None,
            Switch::Past => Some(self.sent),
            Switch::Future => Some(1 << 40),
            Switch::Forbidden => Some(FORBIDDEN),
            _ => Some(self.sent + 1),
        };
        if how == Switch::ForbidVictim {
            spoils.map.set_word(its.switched.offset(), FORBIDDEN);
        }
        if let Some(count) = count {
            spoils.map.set_word(mine.switched.offset(), count);
        }
        let mut token = *spoils.grant.send_token.as_bytes();
        if how == Switch::WrongToken {
            token[15] ^= 1;
        }
        let token = match how {
            Switch::NoToken => &token[..0],
            Switch::HalfToken => &token[..8],
            _ => &token[..],
        };
        none(self.tcp.as_ref(), "connection")?.write_all(token)
    }
}
