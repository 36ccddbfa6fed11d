//! `stream`: `write_all` of `size` bytes again and again, one way, on one connection.
//!
//! The reader measures: bytes that have arrived, from the end of the warm-up to the end of the stream.

use std::io;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{during, read_end};
use crate::protocol::{Outcome, Times};

/// What the reader reads into.
const BUFFER: usize = 128 << 10;
/// The writer looks at the clock once in so many bytes or writes, whichever is less: not to measure the clock.
const CLOCK_BYTES: usize = 256 << 10;
const CLOCK_WRITES: usize = 64;

/// Reads to the end and measures.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, times: Times) -> io::Result<Outcome> {
    let mut buffer = vec![0; BUFFER];
    let mut bytes: u64 = 0;
    let begin = Instant::now();
    let mut counted_from = None;
    for reads in 1_u64.. {
        let n = stream.read(&mut buffer).await.map_err(|e| during("read", &e))?;
        if n == 0 {
            break;
        }
        bytes += n as u64;
        if counted_from.is_none() && (n == BUFFER || reads.is_multiple_of(16)) && begin.elapsed() >= times.warm {
            counted_from = Some((Instant::now(), bytes));
        }
    }
    let end = Instant::now();
    stream.shutdown().await?;
    // A reader that did not get to run meanwhile would otherwise count what lay in buffers over almost no time.
    let (from, before) = counted_from.filter(|(from, _)| end - *from >= times.run / 2).unwrap_or((begin, 0));
    let rate = (bytes - before) as f64 / (end - from).as_secs_f64() / 1e9;
    Ok(Outcome { values: vec![vec![rate]], bytes, ..Outcome::default() })
}

/// Writes until the time is over.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    size: usize,
    times: Times,
) -> io::Result<Outcome> {
    let message: Vec<u8> = (0..size).map(|i| i as u8).collect();
    let writes = (CLOCK_BYTES / size).clamp(1, CLOCK_WRITES);
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
