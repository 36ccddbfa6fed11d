//! `rtt` and `stream` for contenders that block a thread: the same work as in `rtt` and `stream`, without a future.

use std::io::{self, ErrorKind};
use std::time::Instant;

use super::rtt::Trips;
use super::stream::{BUFFER, Rate, writes_between_looks};
use super::{Announce, during};
use crate::contender::{Bare, Duplex, VisitBare, visit_bare};
use crate::names;
use crate::protocol::{Outcome, Place, Times, Work};

/// Serves one connection of one contender.
pub(super) fn serve(name: names::Contender, work: Work, place: &Place, announce: Announce) -> io::Result<Outcome> {
    visit_bare(name, Serve { work, place, announce })
}

/// Makes one connection of one contender and measures on it.
pub(super) fn run(name: names::Contender, work: Work, address: &str) -> io::Result<Outcome> {
    visit_bare(name, Run { work, address })
}

struct Serve<'a> {
    work: Work,
    place: &'a Place,
    announce: Announce,
}

impl VisitBare for Serve<'_> {
    type Output = Outcome;

    fn visit<B: Bare>(self, contender: B) -> io::Result<Outcome> {
        let (listener, address) = contender.bind(self.place).map_err(|e| during("bind", &e))?;
        (self.announce)(vec![address])?;
        let stream = contender.accept(listener).map_err(|e| during("accept", &e))?;
        match self.work {
            Work::Rtt { size, .. } => echo(stream, size),
            Work::Stream { times, .. } => drain(stream, times),
            other => Err(unsuited(other)),
        }
    }
}

struct Run<'a> {
    work: Work,
    address: &'a str,
}

impl VisitBare for Run<'_> {
    type Output = Outcome;

    fn visit<B: Bare>(self, contender: B) -> io::Result<Outcome> {
        let stream = contender.connect(self.address).map_err(|e| during("connect", &e))?;
        match self.work {
            Work::Rtt { size, times } => ask(stream, size, times),
            Work::Stream { size, times } => fill(stream, size, times),
            other => Err(unsuited(other)),
        }
    }
}

/// What a measure says of a contender that it does not suit.
pub(super) fn unsuited(work: Work) -> io::Error {
    io::Error::other(format!("no work for this contender: {work:?}"))
}

fn echo(mut stream: impl Duplex, size: usize) -> io::Result<Outcome> {
    let mut message = vec![0; size];
    let mut bytes = 0;
    loop {
        match stream.read_exact(&mut message) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => break,
            other => other.map_err(|e| during("read", &e))?,
        }
        bytes += size as u64;
        stream.write_all(&message).map_err(|e| during("write", &e))?;
    }
    stream.finish()?;
    Ok(Outcome { bytes, ..Outcome::default() })
}

fn ask(mut stream: impl Duplex, size: usize, times: Times) -> io::Result<Outcome> {
    let message: Vec<u8> = (0..size).map(|i| i as u8).collect();
    let mut echo = vec![0; size];
    let mut trips = Trips::begin(times)?;
    loop {
        stream.write_all(&message).map_err(|e| during("write", &e))?;
        stream.read_exact(&mut echo).map_err(|e| during("read", &e))?;
        if trips.another(size) {
            break;
        }
    }
    stream.finish()?;
    read_end(&mut stream)?;
    trips.outcome(echo == message)
}

fn drain(mut stream: impl Duplex, times: Times) -> io::Result<Outcome> {
    let mut buffer = vec![0; BUFFER];
    let mut rate = Rate::begin(times);
    loop {
        match stream.read(&mut buffer).map_err(|e| during("read", &e))? {
            0 => break,
            n => rate.add(n),
        }
    }
    let outcome = rate.outcome();
    stream.finish()?;
    Ok(outcome)
}

fn fill(mut stream: impl Duplex, size: usize, times: Times) -> io::Result<Outcome> {
    let message: Vec<u8> = (0..size).map(|i| i as u8).collect();
    let writes = writes_between_looks(size);
    let mut bytes = 0;
    let begin = Instant::now();
    while begin.elapsed() < times.warm + times.run {
        for _ in 0..writes {
            stream.write_all(&message).map_err(|e| during("write", &e))?;
        }
        bytes += (writes * size) as u64;
    }
    stream.finish()?;
    read_end(&mut stream)?;
    Ok(Outcome { bytes, ..Outcome::default() })
}

fn read_end(stream: &mut impl Duplex) -> io::Result<()> {
    match stream.read(&mut [0; 1])? {
        0 => Ok(()),
        _ => Err(io::Error::other("a byte came after the last one that was sent")),
    }
}
