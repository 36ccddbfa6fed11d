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
    let mut histogram = Histogram::<u64>::new_with_bounds(1, LONGEST.as_nanos() as u64, 3).map_err(io::Error::other)?;
    let message: Vec<u8> = (0..size).map(|i| i as u8).collect();
    let mut echo = vec![0; size];
    let mut bytes = 0;
    let begin = Instant::now();
    let mut before = begin;
    loop {
        stream.write_all(&message).await.map_err(|e| during("write", &e))?;
        stream.read_exact(&mut echo).await.map_err(|e| during("read", &e))?;
        let now = Instant::now();
        bytes += size as u64;
        if before - begin >= times.warm {
            histogram.saturating_record((now - before).as_nanos() as u64);
        }
        if now - begin >= times.warm + times.run && !histogram.is_empty() {
            break;
        }
        before = now;
    }
    stream.shutdown().await?;
    read_end(&mut stream).await?;
    if echo != message {
        return Err(io::Error::other("the echo is not what was sent"));
    }
    Ok(Outcome {
        values: vec![vec![histogram.value_at_quantile(0.5) as f64]],
        p99: Some(histogram.value_at_quantile(0.99) as f64),
        p999: Some(histogram.value_at_quantile(0.999) as f64),
        bytes,
    })
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
