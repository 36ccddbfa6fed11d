//! The hostile process's assaults: one thread moves bytes as an end should, with its own cursors; another strikes meanwhile.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::unistd::{ftruncate, read, write};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shmbc::control::message::End;
use shmbc::layout::HEADER;
use shmbc_tests::raw::SharedMap;

use crate::attacker::{MINE, Spoils};
use crate::orders::{Assault, Report, Wreck};

/// Bytes written at once.
const PIECE: u64 = 4096;

/// Looks in a row at which nothing moved, each after a ring or a millisecond: the assault has brought the connection to a standstill.
const STANDSTILL: u32 = 150;

const A_MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// An assault strikes so often even if its bytes have moved.
const STRIKES: u64 = 1000;

/// The most an eventfd's counter can be.
const FULL: u64 = u64::MAX - 1;

/// `MADV_PAGEOUT` of <linux/mman.h>.
const PAGEOUT: i32 = 21;

/// Moves `bytes` both ways while `assault` goes on.
pub(crate) fn assault(
    spoils: &mut Spoils,
    tcp: &TcpStream,
    sent: u64,
    assault: &Assault,
    bytes: u64,
) -> io::Result<Report> {
    tcp.set_nonblocking(true)?;
    let mut striker = Striker::new(spoils, tcp, assault)?;
    let scribbler = if assault.is_scribble() { Some(Striker::new(spoils, tcp, assault)?) } else { None };
    let stop = AtomicBool::new(false);
    let struck = std::sync::atomic::AtomicU64::new(0);
    let mut report = std::thread::scope(|scope| {
        let striking = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                striker.strike()?;
                struck.fetch_add(1, Ordering::Relaxed);
            }
            striker.leave()
        });
        let report = Report { is_a: spoils.end() == End::A, ..Report::default() };
        let mut traffic = Traffic { spoils, tcp, offset: sent, report, idle: 0, scribbler };
        while !traffic.is_over(bytes, &struck) && !striking.is_finished() {
            if *assault == Assault::Wreck(Wreck::Close) && traffic.report.wrote > bytes / 2 {
                (traffic.spoils.block, traffic.spoils.ringer, traffic.spoils.waiter) = (None, None, None);
            }
            traffic.step()?;
        }
        stop.store(true, Ordering::Relaxed);
        if assault.is_scribble() {
            traffic.linger()?;
        }
        let found = striking.join().map_err(|_| io::Error::other("the striker panicked"))??;
        io::Result::Ok(Report { found, ..traffic.report })
    })?;
    report.strikes = struck.into_inner();
    Ok(report)
}

/// Leaves no path free from the eventfd through two epoll instances: the victim's reactor is to be such a path.
pub(crate) fn exhaust(spoils: &mut Spoils) -> io::Result<String> {
    let ringer = spoils.ringer.as_ref().ok_or(ErrorKind::NotFound)?;
    let first = epoll_on(ringer)?;
    let refused = (0..2000).find_map(|_| epoll_on(&first.0).map(|second| spoils.hung.push(second)).err());
    spoils.hung.push(first);
    Ok(format!("{} until {refused:?}", spoils.hung.len()))
}

fn epoll_on(fd: &OwnedFd) -> nix::Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
    Ok(epoll)
}

/// An end's part of the conversation.
struct Traffic<'a> {
    spoils: &'a mut Spoils,
    tcp: &'a TcpStream,
    /// Bytes of the stream that went by TCP before the switch.
    offset: u64,
    report: Report,
    idle: u32,
    /// Strikes between two steps of the traffic too. The other thread alone would strike when it happens to run.
    scribbler: Option<Striker>,
}

impl Traffic<'_> {
    fn is_over(&self, bytes: u64, struck: &std::sync::atomic::AtomicU64) -> bool {
        let moved = self.report.wrote.min(self.report.read) >= bytes && struck.load(Ordering::Relaxed) >= STRIKES;
        self.report.reset || self.idle > STANDSTILL || moved
    }

    fn step(&mut self) -> io::Result<()> {
        let moved = self.produce()? + self.consume() + self.lifeline();
        if moved > 0 {
            self.idle = 0;
            return Ok(());
        }
        self.idle += 1;
        match &self.spoils.waiter {
            Some(waiter) => drop(poll(&mut [PollFd::new(waiter, PollFlags::IN)], Some(&A_MOMENT))?),
            None => drop(poll(&mut [], Some(&A_MOMENT))?),
        }
        Ok(())
    }

    /// What stands in the header now stays there, and nothing is taken out any more: the victim is to read and to fill its ring, and
    /// so to look at every word that it ever looks at.
    fn linger(&mut self) -> io::Result<()> {
        for _ in 0..STANDSTILL {
            if let Some(scribbler) = &mut self.scribbler {
                scribbler.strike()?;
            }
            self.ring();
            self.lifeline();
            if self.report.reset {
                break;
            }
            poll(&mut [], Some(&A_MOMENT))?;
        }
        Ok(())
    }

    fn produce(&mut self) -> io::Result<u64> {
        let ([mine, _], spoils) = (self.spoils.words(), &mut *self.spoils);
        let direction = spoils.end().sends();
        let (capacity, data) = (spoils.sizes.capacity(direction), spoils.sizes.data(direction));
        let head = spoils.map.word(mine.head.offset());
        let filled = spoils.tail.wrapping_sub(head);
        let at = spoils.tail % capacity;
        // A head that makes no sense is one of our own scribbles.
        let free = if filled > capacity { capacity } else { capacity - filled };
        let n = PIECE.min(free).min(capacity - at);
        if n > 0 {
            let mut piece = [0; PIECE as usize];
            MINE.fill(self.offset + spoils.tail, &mut piece[..n as usize]);
            for (i, &byte) in piece[..n as usize].iter().enumerate() {
                spoils.map.set(data + at as usize + i, byte);
            }
            spoils.tail += n;
            spoils.map.set_word(mine.tail.offset(), spoils.tail);
            spoils.map.set_word(mine.consumer_waits.offset(), 0);
            // Not each time: something is to flow.
            if let Some(scribbler) = &mut self.scribbler
                && spoils.tail % (4 * PIECE) == 0
            {
                scribbler.strike()?;
            }
            self.ring();
        }
        self.report.wrote += n;
        Ok(n)
    }

    fn consume(&mut self) -> u64 {
        let [_, its] = self.spoils.words();
        let capacity = self.spoils.sizes.capacity(self.spoils.end().receives());
        let tail = self.spoils.map.word(its.tail.offset());
        let n = tail.wrapping_sub(self.spoils.head);
        // Asks for a ring after each publication: the victim is to ring often.
        self.spoils.map.set_word(its.consumer_waits.offset(), 1);
        if n == 0 || n > capacity {
            return 0;
        }
        self.spoils.head = tail;
        self.spoils.map.set_word(its.head.offset(), tail);
        if self.spoils.map.word(its.producer_waits.offset()) != 0 {
            self.spoils.map.set_word(its.producer_waits.offset(), 0);
            self.ring();
        }
        self.report.read += n;
        n
    }

    fn ring(&self) {
        if let Some(ringer) = &self.spoils.ringer {
            // Full by our own doing.
            let _ = write(ringer, &1_u64.to_ne_bytes());
        }
    }

    /// Takes what comes by TCP: bytes from before the victim's switch, its token, probes.
    fn lifeline(&mut self) -> u64 {
        let mut bytes = [0; 16 << 10];
        match self.tcp.read(&mut bytes) {
            Ok(0) => self.report.reset = true,
            Ok(n) => {
                self.report.stray += n as u64;
                return n as u64;
            }
            Err(error) => self.report.reset |= error.kind() != ErrorKind::WouldBlock,
        }
        0
    }
}

/// The other thread: descriptors and mapping of its own.
struct Striker {
    assault: Assault,
    map: SharedMap,
    block: OwnedFd,
    ringer: OwnedFd,
    waiter: OwnedFd,
    tcp: TcpStream,
    len: i64,
    random: StdRng,
    strayed: u64,
    blocks: bool,
    hung: Vec<Epoll>,
    found: Vec<String>,
}

impl Striker {
    fn new(spoils: &Spoils, tcp: &TcpStream, assault: &Assault) -> io::Result<Self> {
        let copy = |fd: &Option<OwnedFd>| fd.as_ref().ok_or(ErrorKind::NotFound)?.try_clone();
        let (block, ringer, waiter) = (copy(&spoils.block)?, copy(&spoils.ringer)?, copy(&spoils.waiter)?);
        let len = spoils.sizes.block_len();
        Ok(Self {
            assault: assault.clone(),
            map: SharedMap::new(block.as_fd(), len)?,
            block,
            ringer,
            waiter,
            tcp: tcp.try_clone()?,
            len: len as i64,
            random: StdRng::from_os_rng(),
            strayed: 0,
            blocks: false,
            hung: Vec::new(),
            found: Vec::new(),
        })
    }

    fn strike(&mut self) -> io::Result<()> {
        match self.assault {
            Assault::Nothing => std::thread::yield_now(),
            Assault::Word(at, value) => self.map.set_word(at, value),
            Assault::Back(at) => {
                self.map.set_word(at, self.map.word(at).saturating_sub(self.random.random_range(1..9000)));
            }
            Assault::RandomWords => {
                self.map.set_word(self.random.random_range(0..HEADER / 8) * 8, self.random.random());
            }
            Assault::RandomBytes => self.map.set(self.random.random_range(0..HEADER), self.random.random()),
            Assault::Fill(byte) => (0..HEADER).for_each(|at| self.map.set(at, byte)),
            Assault::Storm => drop(write(&self.ringer, &1_u64.to_ne_bytes())),
            Assault::Stray(most) => {
                let n = (most - self.strayed).min(1000);
                match self.tcp.write(&[7; 1000][..n as usize]) {
                    Ok(n) => self.strayed += n as u64,
                    Err(_) => std::thread::yield_now(),
                }
            }
            Assault::Wreck(wreck) => self.wreck(wreck)?,
        }
        // The victim is to run too where there are few processors.
        if self.random.random_range(0..64) == 0 {
            std::thread::yield_now();
        }
        Ok(())
    }

    fn wreck(&mut self, wreck: Wreck) -> io::Result<()> {
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match wreck {
            Wreck::Unblock => {
                [&self.block, &self.ringer, &self.waiter].into_iter().try_for_each(|fd| flags(fd, OFlag::empty()))?;
            }
            Wreck::Fill => {
                let _ = write(&self.ringer, &FULL.to_ne_bytes());
                let _ = write(&self.waiter, &FULL.to_ne_bytes());
            }
            Wreck::FillAndDrain => [&self.ringer, &self.waiter].into_iter().for_each(fill_and_drain),
            Wreck::Block => {
                // Its own other thread blocks on the one that it rings, until the next time round. The other is the victim's,
                // if a write to it can block: all the time.
                block(&self.ringer)?;
                if !self.blocks {
                    block(&self.waiter)?;
                    self.blocks = true;
                }
                std::thread::yield_now();
            }
            Wreck::Hang if self.hung.is_empty() => self.hang()?,
            Wreck::Hang | Wreck::Close => std::thread::yield_now(),
            Wreck::Watch => {
                let mut many: Vec<_> = (0..1000).map(|_| PollFd::new(&self.waiter, PollFlags::PRI)).collect();
                poll(&mut many, Some(&Timespec { tv_sec: 0, tv_nsec: 500_000 }))?;
            }
            Wreck::Rewire => self.rewire(),
            Wreck::Resize => {
                for size in [0, 1, self.len / 2, self.len * 2] {
                    self.must_fail("ftruncate", ftruncate(&self.block, size));
                }
                self.must_fail("grow", fallocate(&self.block, FallocateFlags::empty(), self.len, 4096));
            }
            Wreck::Seal => {
                for seal in [SealFlag::F_SEAL_WRITE, SealFlag::from_bits_retain(0x10), SealFlag::F_SEAL_SEAL] {
                    self.must_fail("seal", fcntl(&self.block, FcntlArg::F_ADD_SEALS(seal)));
                }
            }
            Wreck::PunchRings => fallocate(&self.block, punch, HEADER as i64, self.len - HEADER as i64)?,
            Wreck::PunchAll => fallocate(&self.block, punch, 0, self.len)?,
            Wreck::Remove => self.map.advise(libc::MADV_REMOVE)?,
            Wreck::PageOut => self.map.advise(PAGEOUT)?,
        }
        Ok(())
    }

    fn must_fail<T: std::fmt::Debug>(&mut self, what: &str, result: nix::Result<T>) {
        if !matches!(result, Err(Errno::EPERM)) && self.found.len() < 10 {
            self.found.push(format!("{what}: {result:?}"));
        }
    }
}

impl Striker {
    /// As many epoll instances as the kernel allows, on both halves.
    fn hang(&mut self) -> io::Result<()> {
        for (name, fd) in [("waiter", self.waiter.try_clone()?), ("ringer", self.ringer.try_clone()?)] {
            let refused = (0..2000).find_map(|_| epoll_on(&fd).map(|epoll| self.hung.push(epoll)).err());
            self.found.push(format!("{} on the {name}: {refused:?}", self.hung.len()));
        }
        Ok(())
    }

    /// An epoll instance knows what it watches by file and number: the numbers can be had, the victim's eventfd cannot.
    fn rewire(&self) {
        let waiter = Epoll(self.waiter.try_clone().expect("a descriptor is left"));
        let strangers: Vec<_> = (0..64).map_while(|_| self.ringer.try_clone().ok()).collect();
        let mut event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
        for stranger in &strangers {
            // All of them may fail; none may matter to the victim.
            let _ = waiter.delete(stranger);
            let _ = waiter.add(stranger, event);
            let _ = waiter.modify(stranger, &mut event);
        }
    }

    /// The end of the assault: what it found, and nobody left blocked.
    fn leave(&mut self) -> io::Result<String> {
        if matches!(self.assault, Assault::Wreck(Wreck::Block | Wreck::Fill)) {
            for fd in [&self.ringer, &self.waiter] {
                flags(fd, OFlag::O_NONBLOCK)?;
                fill_and_drain(fd);
            }
        }
        Ok(self.found.join("; "))
    }
}

/// To be called with the counter anywhere. An epoll instance refuses both.
fn fill_and_drain(fd: &OwnedFd) {
    let _ = write(fd, &FULL.to_ne_bytes());
    let _ = read(fd, &mut [0; 8]);
}

/// Whoever writes to it next blocks, if it is an eventfd.
fn block(fd: &OwnedFd) -> io::Result<()> {
    flags(fd, OFlag::O_NONBLOCK)?;
    fill_and_drain(fd);
    let _ = write(fd, &FULL.to_ne_bytes());
    flags(fd, OFlag::empty())
}

fn flags(fd: &OwnedFd, flags: OFlag) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(flags))?;
    Ok(())
}
