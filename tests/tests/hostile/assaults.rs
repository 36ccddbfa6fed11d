//! The hostile process's assaults: one thread moves bytes as an end should, with its own cursors; another strikes meanwhile.

use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::unistd::write;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shmbc::layout::place;

use crate::attacker::{MINE, Spoils};
use crate::orders::{Assault, Report, Wreck};
use crate::striker::Striker;

/// Bytes written at once.
const PIECE: u64 = 4096;

/// Looks in a row at which nothing moved, each after a ring or a millisecond: the assault has brought the connection to a standstill.
const STANDSTILL: u32 = 150;

const A_MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// An assault strikes so often even if its bytes have moved.
const STRIKES: u64 = 1000;

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
    let struck = AtomicU64::new(0);
    let mut report = std::thread::scope(|scope| {
        let striking = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                striker.strike()?;
                struck.fetch_add(1, Ordering::Relaxed);
            }
            striker.leave()
        });
        let mut traffic = Traffic { spoils, tcp, offset: sent, report: Report::default(), idle: 0, scribbler };
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
    fn is_over(&self, bytes: u64, struck: &AtomicU64) -> bool {
        let moved = self.report.wrote.min(self.report.read + self.report.stray) >= bytes
            && struck.load(Ordering::Relaxed) >= STRIKES;
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
        let capacity = spoils.sizes.capacity(direction);
        let head = spoils.map.word(mine.head.offset());
        let filled = spoils.tail.wrapping_sub(head);
        let at = spoils.tail % capacity;
        // A head that makes no sense is one of our own scribbles.
        let free = if filled > capacity { capacity } else { capacity - filled };
        let (start, in_one_piece) = place(direction, at);
        let n = PIECE.min(free).min(in_one_piece as u64);
        if n > 0 {
            let mut piece = [0; PIECE as usize];
            MINE.fill(self.offset + spoils.tail, &mut piece[..n as usize]);
            for (i, &byte) in piece[..n as usize].iter().enumerate() {
                spoils.map.set(start + i, byte);
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
