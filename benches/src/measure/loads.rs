//! `loads`: 64-byte round trips while something else wants the time of the two ends.
//!
//! What a task of the two processes can do is done here: many connections, a busy runtime, a peer that works before it
//! answers. The loads from outside, busy cores and a CPU quota, are put on the processes by the run (`crate::burden`).

use std::hint;
use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::{self, JoinHandle, JoinSet};

use super::rtt::{self, Trips};
use super::{during, read_end};
use crate::names::Load;
use crate::protocol::{Outcome, Times};

/// How many of the connections ask all the time.
const BUSY: usize = 4;
/// How long each of the others rests between two questions.
const REST: Duration = Duration::from_millis(10);
/// How long the other task of a busy runtime computes between two yields.
const TURN: Duration = Duration::from_micros(20);

/// A task that computes beside the measured one until it is dropped.
struct Busy(JoinHandle<()>);

impl Busy {
    fn of(load: Load) -> Option<Self> {
        let work = async {
            loop {
                compute(TURN);
                task::yield_now().await;
            }
        };
        (load == Load::BusyRuntime).then(|| Self(tokio::spawn(work)))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Echoes on all connections until the other end closes them.
pub(super) async fn serve<S>(streams: Vec<S>, size: usize, load: Load) -> io::Result<Outcome>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _busy = Busy::of(load);
    let mut tasks = JoinSet::new();
    for stream in streams {
        match load.work() {
            Some(work) => tasks.spawn(answer(stream, size, work)),
            None => tasks.spawn(rtt::serve(stream, size)),
        };
    }
    let mut bytes = 0;
    while let Some(served) = tasks.join_next().await {
        bytes += served.map_err(io::Error::other)??.bytes;
    }
    Ok(Outcome { bytes, ..Outcome::default() })
}

/// Echoes whole messages, each after so much work.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, size: usize, work: Duration) -> io::Result<Outcome> {
    let mut message = vec![0; size];
    let mut bytes = 0;
    loop {
        match stream.read_exact(&mut message).await {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            read => read.map_err(|e| during("read", &e))?,
        };
        bytes += size as u64;
        compute(work);
        stream.write_all(&message).await.map_err(|e| during("write", &e))?;
    }
    stream.shutdown().await?;
    Ok(Outcome { bytes, ..Outcome::default() })
}

/// Asks on all connections until the time is over. What the nearly idle ones do is not counted, but for its bytes.
pub(super) async fn run<S>(streams: Vec<S>, size: usize, load: Load, times: Times) -> io::Result<Outcome>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _busy = Busy::of(load);
    let (mut busy, mut idle) = (JoinSet::new(), JoinSet::new());
    for (i, stream) in streams.into_iter().enumerate() {
        let trips = Trips::begin(times)?;
        match i {
            ..BUSY => busy.spawn(ask(stream, size, trips, None)),
            _ => idle.spawn(ask(stream, size, trips, Some(REST))),
        };
    }
    let (mut all, mut rate, mut bytes) = (Trips::begin(times)?.histogram, 0.0, 0);
    while let Some(trips) = busy.join_next().await {
        let trips = trips.map_err(io::Error::other)??;
        rate += trips.rate();
        bytes += trips.bytes;
        all.add(trips.histogram).map_err(io::Error::other)?;
    }
    while let Some(trips) = idle.join_next().await {
        bytes += trips.map_err(io::Error::other)??.bytes;
    }
    let quantile = |q| Some(all.value_at_quantile(q) as f64);
    Ok(Outcome {
        values: vec![vec![rate]],
        p50: quantile(0.5),
        p99: quantile(0.99),
        p999: quantile(0.999),
        bytes,
        ..Outcome::default()
    })
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    size: usize,
    mut trips: Trips,
    rest: Option<Duration>,
) -> io::Result<Trips> {
    let message: Vec<u8> = (0..size).map(|i| i as u8).collect();
    let mut echo = vec![0; size];
    loop {
        if let Some(rest) = rest {
            tokio::time::sleep(rest).await;
            trips.again();
        }
        stream.write_all(&message).await.map_err(|e| during("write", &e))?;
        stream.read_exact(&mut echo).await.map_err(|e| during("read", &e))?;
        if trips.another(size) {
            break;
        }
    }
    stream.shutdown().await?;
    read_end(&mut stream).await?;
    if echo == message { Ok(trips) } else { Err(io::Error::other("the echo is not what was sent")) }
}

/// Uses the CPU for so long.
fn compute(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        hint::spin_loop();
    }
}
