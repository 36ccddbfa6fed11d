//! `rtt`: one message of `size` bytes there, its echo back, again and again on one connection.
//!
//! Each round trip is timed by itself from one clock reading to the next, so that reading the clock (about 25 ns) is
//! part of it.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{during, read_end};
use crate::protocol::{Outcome, Times};

/// The longest round trip that is told apart from a longer one.
const LONGEST: Duration = Duration::from_secs(10);

/// Echoes whole messages until the other end is done.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, size: usize) -> io::Result<Outcome> {
    let mut message = vec![0; size];
    let mut bytes = 0;
    while read_message(&mut stream, &mut message).await.map_err(|e| during("read", &e))? {
        bytes += size as u64;
        stream.write_all(&message).await.map_err(|e| during("write", &e))?;
    }
    stream.shutdown().await?;
    Ok(Outcome { bytes, ..Outcome::default() })
}

/// Sends, waits for the echo, and notes how long it took.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    size: usize,
    times: Times,
) -> io::Result<Outcome> {
    let message: Vec<u8> = (0..size).map(|i| i as u8).collect();
    let mut echo = vec![0; size];
    let mut trips = Trips::begin(times)?;
    loop {
        stream.write_all(&message).await.map_err(|e| during("write", &e))?;
        stream.read_exact(&mut echo).await.map_err(|e| during("read", &e))?;
        if trips.another(size) {
            break;
        }
    }
    stream.shutdown().await?;
    read_end(&mut stream).await?;
    trips.outcome(echo == message)
}

/// Reads one whole message; false at the end of the stream, an error in the middle of a message.
async fn read_message<S: AsyncRead + Unpin>(stream: &mut S, message: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < message.len() {
        match stream.read(&mut message[filled..]).await? {
            0 if filled == 0 => return Ok(false),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => filled += n,
        }
    }
    Ok(true)
}

/// How long each round trip took.
#[derive(Debug)]
pub(super) struct Trips {
    times: Times,
    begin: Instant,
    before: Instant,
    pub(super) bytes: u64,
    pub(super) histogram: Histogram<u64>,
}

impl Trips {
    /// The first one begins now.
    pub(super) fn begin(times: Times) -> io::Result<Self> {
        let longest = LONGEST.as_nanos() as u64;
        let histogram = Histogram::new_with_bounds(1, longest, 3).map_err(io::Error::other)?;
        let begin = Instant::now();
        Ok(Self { times, begin, before: begin, bytes: 0, histogram })
    }

    /// One has ended and the next begins, unless the time is over: then true.
    #[inline]
    pub(super) fn another(&mut self, size: usize) -> bool {
        let now = Instant::now();
        self.bytes += size as u64;
        if self.before - self.begin >= self.times.warm {
            self.histogram.saturating_record((now - self.before).as_nanos() as u64);
        }
        self.before = now;
        now - self.begin >= self.times.warm + self.times.run && !self.histogram.is_empty()
    }

    /// The next one begins only now.
    pub(super) fn again(&mut self) {
        self.before = Instant::now();
    }

    /// Counted round trips in a second.
    pub(super) fn rate(&self) -> f64 {
        self.histogram.len() as f64 / (self.before - self.begin - self.times.warm).as_secs_f64()
    }

    /// What came of it, if the echoes were right.
    pub(super) fn outcome(self, echoed: bool) -> io::Result<Outcome> {
        if !echoed {
            return Err(io::Error::other("the echo is not what was sent"));
        }
        let quantile = |q| self.histogram.value_at_quantile(q) as f64;
        Ok(Outcome {
            values: vec![vec![quantile(0.5)]],
            p99: Some(quantile(0.99)),
            p999: Some(quantile(0.999)),
            bytes: self.bytes,
            ..Outcome::default()
        })
    }
}
