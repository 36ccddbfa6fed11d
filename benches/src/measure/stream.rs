//! `stream`: `write_all` of `size` bytes again and again, one way, on one connection.
//!
//! The reader measures: bytes that have arrived, from the end of the warm-up to the end of the stream.

use std::io;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{during, read_end};
use crate::protocol::{Outcome, Times};

/// What the reader reads into.
pub(super) const BUFFER: usize = 128 << 10;
/// The writer looks at the clock once in so many bytes or writes, whichever is less: not to measure the clock.
const CLOCK_BYTES: usize = 256 << 10;
const CLOCK_WRITES: usize = 64;

/// Reads to the end and measures.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, times: Times) -> io::Result<Outcome> {
    let mut buffer = vec![0; BUFFER];
    let mut rate = Rate::begin(times);
    loop {
        match stream.read(&mut buffer).await.map_err(|e| during("read", &e))? {
            0 => break,
            n => rate.add(n),
        }
    }
    let outcome = rate.outcome();
    stream.shutdown().await?;
    Ok(outcome)
}

/// Writes until the time is over.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    size: usize,
    times: Times,
) -> io::Result<Outcome> {
    let message: Vec<u8> = (0..size).map(|i| i as u8).collect();
    let writes = writes_between_looks(size);
    let mut bytes = 0;
    let begin = Instant::now();
    while begin.elapsed() < times.warm + times.run {
        for _ in 0..writes {
            stream.write_all(&message).await.map_err(|e| during("write", &e))?;
        }
        bytes += (writes * size) as u64;
    }
    stream.shutdown().await?;
    read_end(&mut stream).await?;
    Ok(Outcome { bytes, ..Outcome::default() })
}

/// Writes from one look at the clock to the next.
pub(super) fn writes_between_looks(size: usize) -> usize {
    (CLOCK_BYTES / size).clamp(1, CLOCK_WRITES)
}

/// Bytes that have arrived, and how fast those behind the warm-up did.
#[derive(Debug)]
pub(super) struct Rate {
    times: Times,
    begin: Instant,
    reads: u64,
    bytes: u64,
    /// The end of the warm-up and what had arrived by then.
    counted_from: Option<(Instant, u64)>,
}

impl Rate {
    pub(super) fn begin(times: Times) -> Self {
        Self { times, begin: Instant::now(), reads: 0, bytes: 0, counted_from: None }
    }

    /// What one read brought.
    #[inline]
    pub(super) fn add(&mut self, n: usize) {
        self.reads += 1;
        self.bytes += n as u64;
        let look = n >= BUFFER || self.reads.is_multiple_of(16);
        if self.counted_from.is_none() && look && self.begin.elapsed() >= self.times.warm {
            self.counted_from = Some((Instant::now(), self.bytes));
        }
    }

    /// Whether the sample's time is not over.
    pub(super) fn goes_on(&self) -> bool {
        self.begin.elapsed() < self.times.warm + self.times.run
    }

    /// Ends the measurement now.
    pub(super) fn outcome(self) -> Outcome {
        let end = Instant::now();
        // A reader that did not get to run meanwhile would otherwise count what lay in buffers over almost no time.
        let measured = self.counted_from.filter(|(from, _)| end - *from >= self.times.run / 2);
        let (from, before) = measured.unwrap_or((self.begin, 0));
        let rate = (self.bytes - before) as f64 / (end - from).as_secs_f64() / 1e9;
        Outcome { values: vec![vec![rate]], bytes: self.bytes, ..Outcome::default() }
    }
}
