//! What the hostile process strikes with: values for the header, and everything that can be done with the three descriptors.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::unistd::{ftruncate, read, write};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shmbc::layout::{HEADER, Words};
use shmbc_tests::raw::SharedMap;

use crate::attacker::Spoils;
use crate::orders::{Assault, Wreck};

/// The most an eventfd's counter can be.
const FULL: u64 = u64::MAX - 1;

/// `MADV_PAGEOUT` of <linux/mman.h>.
const PAGEOUT: i32 = 21;

/// One who strikes, with descriptors and a mapping of its own.
pub(crate) struct Striker {
    assault: Assault,
    map: SharedMap,
    words: [Words; 2],
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
    pub(crate) fn new(spoils: &Spoils, tcp: &TcpStream, assault: &Assault) -> io::Result<Self> {
        let copy = |fd: &Option<OwnedFd>| fd.as_ref().ok_or(ErrorKind::NotFound)?.try_clone();
        let (block, ringer, waiter) = (copy(&spoils.block)?, copy(&spoils.ringer)?, copy(&spoils.waiter)?);
        let len = spoils.sizes.block_len();
        Ok(Self {
            assault: assault.clone(),
            map: SharedMap::new(block.as_fd(), len)?,
            words: spoils.words(),
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

    pub(crate) fn strike(&mut self) -> io::Result<()> {
        match self.assault {
            Assault::Nothing => std::thread::yield_now(),
            Assault::Word(at, value) => self.map.set_word(at.offset(self.words), value),
            Assault::Back(at) => {
                let at = at.offset(self.words);
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
    pub(crate) fn leave(&mut self) -> io::Result<String> {
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
