//! One process of a crowd: accepts connections, makes some, and has them upgraded when it is told to.
//!
//! It is told by lines of JSON on its standard input and answers each with one on its standard output. All that happens
//! meanwhile happens in one thread, and the agent's.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use shmbc_tokio::{Path, ShmListener, ShmStream};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::process::die_with_the_run;
use crate::worker::raise_descriptors;

/// An upgrade takes a millisecond, and in a crowd some; one that takes so long will never come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Upgrades of one process that are under way at once, when it is to upgrade many.
const AT_ONCE: usize = 4;

/// The first byte of a connection: whether it stays.
const STAYS: u8 = 1;
const GOES: u8 = 2;

/// What a peer can be asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ask {
    /// Make so many connections, to each of these in turn, and leave them on TCP.
    Connect { addresses: Vec<SocketAddr>, connections: usize },
    /// Upgrade them, and say a word on each.
    Upgrade,
    /// Make one connection after the other, upgrade it and close it: so many, one every so often.
    Probe { address: SocketAddr, times: usize, every: Duration },
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// It accepts connections there. The first line of all.
    Accepts(SocketAddr),
    /// Done; the times from asking for each upgrade until both its directions go through shared memory, ns, and how many
    /// connections stayed on TCP.
    Done { took: Vec<u64>, failed: usize },
    /// It could not be done.
    Failed(String),
}

/// The whole life of a peer.
pub(crate) fn run() -> Result<(), String> {
    die_with_the_run()?;
    raise_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("cannot start a runtime: {e}"))?;
    let result = runtime.block_on(talk()).map_err(|e| e.to_string());
    // A thread sits in a read of standard input.
    runtime.shutdown_background();
    result
}

async fn talk() -> io::Result<()> {
    let listener = ShmListener::bind("127.0.0.1:0").await?;
    say(&Answer::Accepts(listener.local_addr()?))?;
    let accepting = tokio::spawn(accept(listener));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut streams = VecDeque::new();
    while let Some(line) = lines.next_line().await? {
        let answer = match serde_json::from_str(&line)? {
            Ask::Connect { addresses, connections } => connect(&mut streams, &addresses, connections).await,
            Ask::Upgrade => upgrade_all(&mut streams).await,
            Ask::Probe { address, times, every } => probe(address, times, every).await,
        };
        let answer = answer.map(|(took, failed)| Answer::Done { took, failed });
        say(&answer.unwrap_or_else(|error| Answer::Failed(error.to_string())))?;
    }
    accepting.abort();
    Ok(())
}

type Outcome = io::Result<(Vec<u64>, usize)>;

async fn connect(streams: &mut VecDeque<ShmStream>, addresses: &[SocketAddr], connections: usize) -> Outcome {
    for address in addresses.iter().cycle().take(connections) {
        streams.push_back(within(ShmStream::connect(address)).await?);
    }
    Ok((Vec::new(), 0))
}

/// As many are under way at once as a process that starts has; each then says a word, and waits for one that never comes.
async fn upgrade_all(streams: &mut VecDeque<ShmStream>) -> Outcome {
    let (mut took, mut failed, mut upgrading) = (Vec::new(), 0, JoinSet::new());
    loop {
        while upgrading.len() < AT_ONCE
            && let Some(mut stream) = streams.pop_front()
        {
            upgrading.spawn(async move {
                let took = upgrade(&mut stream, STAYS).await?;
                stream.write_u8(0).await?;
                within(stream.read_u8()).await?;
                Ok::<_, io::Error>((took, stream))
            });
        }
        let Some(upgraded) = upgrading.join_next().await else { return Ok((took, failed)) };
        let (time, mut stream) = match upgraded? {
            Ok(upgraded) => upgraded,
            Err(error) => {
                eprintln!("shmbc-bench: the connecting end: {error}");
                failed += 1;
                continue;
            }
        };
        took.push(time.as_nanos() as u64);
        tokio::spawn(async move { stream.read_u8().await });
    }
}

async fn probe(address: SocketAddr, times: usize, every: Duration) -> Outcome {
    let (mut took, mut failed) = (Vec::with_capacity(times), 0);
    let mut ticks = interval(every.max(Duration::from_nanos(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..times {
        if !every.is_zero() {
            ticks.tick().await;
        }
        let mut stream = within(ShmStream::connect(address)).await?;
        match upgrade(&mut stream, GOES).await {
            Ok(time) => took.push(time.as_nanos() as u64),
            Err(error) => {
                eprintln!("shmbc-bench: the connecting end: {error}");
                failed += 1;
            }
        }
        // The other end closes first: sockets in TIME_WAIT do not take the ports that `connect` picks from.
        let _ = timeout(PATIENCE, stream.read(&mut [0])).await;
    }
    Ok((took, failed))
}

/// From asking for it, when both ends are at work, until both directions go through shared memory.
async fn upgrade(stream: &mut ShmStream, kind: u8) -> io::Result<Duration> {
    stream.set_nodelay(true)?;
    stream.write_u8(kind).await?;
    within(stream.read_u8()).await?;
    let begin = Instant::now();
    upgraded(stream).await?;
    Ok(begin.elapsed())
}

async fn upgraded(stream: &ShmStream) -> io::Result<()> {
    within(async {
        stream.upgraded().await.map_err(|reason| io::Error::other(format!("a connection stays on TCP: {reason}")))
    })
    .await?;
    match stream.path() {
        Path::SharedMemory => Ok(()),
        path @ Path::Tcp(_) => Err(io::Error::other(format!("the path is {path}, not shared memory"))),
    }
}

async fn accept(listener: ShmListener) {
    // An error ends what the connection was for; who made it finds out.
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream));
    }
}

async fn serve(mut stream: ShmStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let kind = stream.read_u8().await?;
    stream.write_u8(kind).await?;
    let result = upgraded(&stream).await;
    if let Err(error) = &result {
        // The other end hears of it late, and not why.
        eprintln!("shmbc-bench: the accepting end: {error}");
    }
    if kind == GOES {
        stream.shutdown().await?;
        stream.read_to_end(&mut Vec::new()).await?;
        return Ok(());
    }
    result?;
    loop {
        let word = stream.read_u8().await?;
        stream.write_u8(word).await?;
    }
}

async fn within<T>(done: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("not done within {PATIENCE:?}"));
    timeout(PATIENCE, done).await.map_err(late)?
}

fn say(answer: &Answer) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    out.flush()
}
