//! `idle`: many connections that have said a word and now wait for the next: what they cost, and what is left of a burst.
//!
//! The connecting end measures: memory of the whole machine, by the kernel's own count, before and after; CPU time of both ends
//! and of the run, which embeds the host service.

use std::fs;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{connect, during};
use crate::contender::Contender;
use crate::protocol::{Outcome, Place};

/// Connections that are made at once.
const AT_ONCE: u32 = 50;
/// Connections with a burst, and its bytes each way.
const BURSTS: usize = 100;
const BURST: usize = 4 << 20;
/// How long memory has to come to rest, and how long CPU time is taken.
const A_SECOND: Duration = Duration::from_secs(1);

/// Accepts so many connections and echoes on each what comes, until they are closed; or until each has said a word, if they are to be
/// held.
pub(super) async fn serve<C: Contender>(
    contender: C,
    listener: &C::Listener,
    place: &Place,
    conns: u32,
    hold: bool,
) -> io::Result<Outcome> {
    let mut tasks = JoinSet::new();
    let (said, mut heard) = mpsc::unbounded_channel();
    for _ in 0..conns {
        let mut stream = contender.accept(listener).await.map_err(|e| during("accept", &e))?;
        let (place, said) = (place.clone(), said.clone());
        tasks.spawn(async move {
            contender.settle(&stream, &place).await?;
            // Who measures looks at this process, too.
            stream.write_u32(std::process::id()).await?;
            let mut buffer = [0; 1024];
            let mut bytes = 0;
            loop {
                let n = stream.read(&mut buffer).await?;
                if n == 0 {
                    return Ok::<_, io::Error>(bytes);
                }
                stream.write_all(&buffer[..n]).await?;
                if bytes == 0 {
                    let _ = said.send(());
                }
                bytes += n as u64;
            }
        });
    }
    if hold {
        // Not driven from here on.
        for _ in 0..conns {
            heard.recv().await;
        }
        tasks.detach_all();
        return Ok(Outcome::default());
    }
    let mut bytes = 0;
    while let Some(echoed) = tasks.join_next().await {
        bytes += echoed.map_err(io::Error::other)??;
    }
    Ok(Outcome { bytes, ..Outcome::default() })
}

/// Makes the connections and measures: bytes of memory a connection, those left after bursts, and ms of CPU time a second.
pub(super) async fn run<C: Contender>(
    contender: C,
    address: &str,
    place: &Place,
    conns: u32,
    all: u32,
    before: i64,
) -> io::Result<Outcome> {
    let (mut streams, server) = make(contender, address, place, conns).await?;
    // As a client that keeps its connections: each waits for what comes.
    let mut busy = streams.split_off(streams.len() - streams.len().min(BURSTS));
    let mut waiting: JoinSet<_> = streams.into_iter().map(wait).collect();
    sleep(A_SECOND).await;
    let idle = memory()? - before;

    let processes = [std::process::id(), server, nix::unistd::getppid().as_raw() as u32];
    let cpu = cpu_time(&processes)?;
    sleep(A_SECOND).await;
    let cpu = cpu_time(&processes)? - cpu;

    let bursts = busy.len();
    for stream in &mut busy {
        echo(stream, BURST).await.map_err(|e| during("burst", &e))?;
    }
    waiting.extend(busy.into_iter().map(wait));
    sleep(A_SECOND).await;
    let rest = memory()? - before;

    waiting.abort_all();
    while waiting.join_next().await.is_some() {}
    let each = |bytes: i64| vec![bytes.max(0) as f64 / f64::from(all)];
    let bytes = (u64::from(conns) * 64) + (bursts * BURST) as u64;
    Ok(Outcome { values: vec![each(idle), each(rest), vec![cpu.as_secs_f64() * 1e3]], bytes, ..Outcome::default() })
}

/// Makes so many connections that stay as they are.
pub(super) async fn hold<C: Contender>(contender: C, address: &str, place: &Place, conns: u32) -> io::Result<Outcome> {
    let (streams, _) = make(contender, address, place, conns).await?;
    streams.into_iter().for_each(|stream| drop(tokio::spawn(wait(stream))));
    tokio::task::yield_now().await;
    Ok(Outcome::default())
}

/// Connections that have each said a word, and the process at their other end.
async fn make<C: Contender>(
    contender: C,
    address: &str,
    place: &Place,
    conns: u32,
) -> io::Result<(Vec<C::Stream>, u32)> {
    let (mut streams, mut server) = (Vec::with_capacity(conns as usize), 0);
    while streams.len() < conns as usize {
        let mut making = JoinSet::new();
        for _ in 0..AT_ONCE.min(conns - streams.len() as u32) {
            let (address, place) = (address.to_owned(), place.clone());
            making.spawn(async move {
                let mut stream = connect(contender, &address, &place).await?;
                let server = stream.read_u32().await.map_err(|e| during("read", &e))?;
                echo(&mut stream, 64).await.map_err(|e| during("echo", &e))?;
                Ok::<_, io::Error>((stream, server))
            });
        }
        while let Some(made) = making.join_next().await {
            let (stream, at) = made.map_err(io::Error::other)??;
            streams.push(stream);
            server = at;
        }
    }
    Ok((streams, server))
}

/// Sends so many bytes and takes their echo, at the same time.
async fn echo<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(stream: &mut S, bytes: usize) -> io::Result<()> {
    let (mut reading, mut writing) = tokio::io::split(stream);
    let message = vec![7; bytes.min(64 << 10)];
    let write = async {
        for _ in 0..bytes / message.len() {
            writing.write_all(&message).await?;
        }
        Ok::<_, io::Error>(())
    };
    let read = async {
        let (mut buffer, mut left) = (vec![0; 64 << 10], bytes);
        while left > 0 {
            match reading.read(&mut buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => left -= n,
            }
        }
        Ok(())
    };
    tokio::try_join!(write, read).map(|_| ())
}

/// Nothing comes: until it is aborted.
async fn wait<S: tokio::io::AsyncRead + Unpin>(mut stream: S) {
    let _ = stream.read(&mut [0; 1]).await;
}

/// Bytes of memory in use that programs and their kernel objects have, of the whole machine.
pub(crate) fn memory() -> io::Result<i64> {
    const PARTS: [&str; 6] = ["AnonPages:", "Shmem:", "Slab:", "PageTables:", "KernelStack:", "Percpu:"];
    let text = fs::read_to_string("/proc/meminfo")?;
    let mut kib = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next().is_some_and(|name| PARTS.contains(&name)) {
            kib += words.next().and_then(|n| n.parse::<i64>().ok()).unwrap_or(0);
        }
    }
    Ok(kib << 10)
}

/// CPU time that the threads of some processes have had.
fn cpu_time(processes: &[u32]) -> io::Result<Duration> {
    let mut total = 0;
    for process in processes {
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            // "time on the CPU, time in its queue, times it ran", in ns.
            let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            total += text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(Duration::from_nanos(total))
}
