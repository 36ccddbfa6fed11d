//! A process that means no good: floods the host service in one of several ways, so many times a second.
//!
//! Started by `flood` as a user of its own. Says how it went, in one line of JSON, when its standard input ends.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::{Deserialize, Serialize};
use shmbc::control::message::{Offer, OfferId, PROTOCOL, ToClient, ToHost};
use shmbc::control::socket::{receive, send};

use super::process::{cpu_time, die_with_the_run};
use crate::worker::raise_descriptors;

/// The ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// Offers of real connections, always of one end only.
    RealOffers,
    /// Offers of descriptors that are not open, no sockets, or other connections than they say.
    BogusOffers,
    /// Offers of both ends of real connections; the grants are never answered.
    UnansweredGrants,
    /// Sessions that never say hello.
    HalfOpen,
    /// Offers whose answers are never read.
    NeverReads,
    /// Messages with descriptors attached.
    Descriptors,
    /// No attack: takes as much CPU time as one, for comparison.
    #[value(hide = true)]
    Burn,
}

/// What the process is told.
#[derive(Args, Debug)]
pub(crate) struct Options {
    way: Way,
    /// The service's socket.
    socket: PathBuf,
    /// How often a second; of `burn`, CPU time in millionths of a core.
    rate: u64,
}

/// How it went.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// What was sent, or begun, a second.
    pub(crate) rate: f64,
    /// CPU time in millionths of a core.
    pub(crate) cpu: u64,
}

/// Connections that offers are about: more than one pair, so that the service's table has rows.
const CONNECTIONS: usize = 500;

/// Sessions that are open without a word, when there are more the oldest is closed: more than a client may have.
const SILENT: usize = 2_000;

/// Things happen in bursts, so often: a process that sleeps between any two would never reach its rate.
const TICK: Duration = Duration::from_millis(1);

/// The whole life of the process.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    die_with_the_run()?;
    raise_descriptors();
    let mut attacker = Attacker::new(options).map_err(|e| format!("the attacker cannot begin: {e}"))?;
    println!("ready");
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    let me = std::process::id();
    let (begin, before) = (Instant::now(), cpu_time(me)?);
    let (mut due, mut done) = (0.0, 0_u64);
    let mut last = begin;
    while !over.load(Ordering::Relaxed) {
        if options.way == Way::Burn {
            let until = cpu_time(me)? + TICK.mul_f64(options.rate as f64 / 1e6);
            while cpu_time(me)? < until {}
        } else {
            // What could not be done in time is not done later.
            due = (last.elapsed().as_secs_f64() * options.rate as f64 + due).min(options.rate as f64 / 10.0);
            last = Instant::now();
            while due >= 1.0 && !over.load(Ordering::Relaxed) {
                due -= 1.0;
                match attacker.once() {
                    Ok(true) => done += 1,
                    // The service does not take more for now.
                    Ok(false) => break,
                    Err(_) => attacker.session = None,
                }
            }
        }
        std::thread::sleep(TICK);
    }
    let took = begin.elapsed().as_secs_f64();
    let cpu = (cpu_time(me)? - before).as_secs_f64() / took;
    let report = Report { rate: done as f64 / took, cpu: (cpu * 1e6) as u64 };
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &report).map_err(|e| e.to_string())?;
    out.write_all(b"\n").map_err(|e| e.to_string())
}

struct Attacker {
    way: Way,
    socket: PathBuf,
    session: Option<OwnedFd>,
    silent: VecDeque<OwnedFd>,
    /// Both ends of each.
    connections: Vec<[TcpStream; 2]>,
    listener: TcpListener,
    file: File,
    offers: u64,
}

impl Attacker {
    fn new(options: &Options) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let pair = |_| Ok([TcpStream::connect(address)?, listener.accept()?.0]);
        let many = if options.way == Way::Burn { 0 } else { CONNECTIONS };
        let connections = (0..many).map(pair).collect::<io::Result<_>>()?;
        Ok(Self {
            way: options.way,
            socket: options.socket.clone(),
            session: None,
            silent: VecDeque::new(),
            connections,
            listener,
            file: File::open("/dev/null")?,
            offers: 0,
        })
    }

    /// One of what it does. False: not now.
    fn once(&mut self) -> io::Result<bool> {
        if self.way == Way::HalfOpen {
            if self.silent.len() >= SILENT {
                self.silent.pop_front();
            }
            self.silent.push_back(self.connect()?);
            return Ok(true);
        }
        if self.session.is_none() {
            let session = self.connect()?;
            say(&session, &ToHost::Hello { protocol: PROTOCOL }, &[])?;
            self.session = Some(session);
        }
        if self.way != Way::NeverReads {
            self.hear()?;
        }
        let Some(session) = &self.session else { return Ok(false) };
        if self.way == Way::Descriptors {
            let fds = [self.file.as_fd(), self.listener.as_fd(), session.as_fd()];
            return match say(session, &ToHost::Close(OfferId(1)), &fds) {
                // The kernel does not let them through.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(true),
                other => other,
            };
        }
        say(session, &ToHost::Offer(self.offer()?), &[]).inspect(|sent| self.offers += u64::from(*sent))
    }

    fn offer(&self) -> io::Result<Offer> {
        let id = OfferId(self.offers);
        let n = self.offers as usize;
        let end = |pair: usize, side: usize| {
            let end = &self.connections[pair % CONNECTIONS][side];
            Ok::<_, io::Error>((end.as_raw_fd(), end.local_addr()?, end.peer_addr()?))
        };
        let (fd, local, peer) = match self.way {
            Way::UnansweredGrants => end(n / 2, n % 2)?,
            Way::BogusOffers => {
                let (_, local, peer) = end(n, 0)?;
                let fds = [i32::MAX, self.file.as_raw_fd(), self.listener.as_raw_fd(), end(n + 1, 0)?.0];
                (fds[n % fds.len()], local, peer)
            }
            _ => end(n, 0)?,
        };
        Ok(Offer { id, fd, local, peer, cpu: 0 })
    }

    /// Takes all answers; what comes with them is closed.
    fn hear(&self) -> io::Result<()> {
        let Some(session) = &self.session else { return Ok(()) };
        loop {
            match receive::<ToClient>(session.as_fd()) {
                Ok(Some(_)) => {}
                Ok(None) => return Err(ErrorKind::ConnectionReset.into()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn connect(&self) -> io::Result<OwnedFd> {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(&self.socket)?)?;
        Ok(fd)
    }
}

/// False: the service does not take it now.
fn say(session: &OwnedFd, message: &ToHost, fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
    match send(session.as_fd(), message, fds) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}
