//! Many streams between two processes, which move bytes and check each, while new ones are made all the time.
//!
//! Both are children of the ordeal: one accepts and sends back, the other makes the streams. A line on the other's standard input
//! asks for a report of what it has counted.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng;
use serde::{Deserialize, Serialize};
use shmbc_tests::Pattern;
use shmbc_tests::raw::dies_with_us;
use shmbc_tokio::{Path, ShmListener, ShmStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Largest message of a stream.
const MESSAGE: usize = 16 << 10;

/// Time between two new connections, and between two messages of one stream: a thousand streams leave the processor some air.
const PAUSE: Duration = Duration::from_millis(50);

/// What the streams have done since the last report.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Report {
    /// Messages that came back as they were sent.
    pub(super) messages: u64,
    /// Streams that ended, or brought a wrong byte.
    pub(super) broken: u64,
    /// New connections that could not be made or used.
    pub(super) failed: u64,
    pub(super) connects: u64,
    /// Streams that are in shared memory now.
    pub(super) upgraded: u64,
}

/// A running crowd; killed when dropped.
pub(super) struct Crowd {
    server: Child,
    load: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Crowd {
    pub(super) fn start(host: &std::path::Path, streams: usize) -> io::Result<Self> {
        let (server, address) = server(host)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--child", "load", "--to", &address.to_string(), "--streams", &streams.to_string()]);
        command.env("SHMBC_HOST", host).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut load = dies_with_us(&mut command).spawn()?;
        let asks = load.stdin.take().expect("piped");
        let answers = BufReader::new(load.stdout.take().expect("piped"));
        Ok(Self { server, load, asks, answers })
    }

    /// What came since the last report.
    pub(super) fn report(&mut self) -> Result<Report, String> {
        let mut line = String::new();
        let asked = self.asks.write_all(b"\n").and_then(|()| self.answers.read_line(&mut line));
        asked.map_err(|error| format!("the crowd does not answer: {error}"))?;
        serde_json::from_str(&line).map_err(|error| format!("the crowd answers {line:?}: {error}"))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in [&mut self.load, &mut self.server] {
            // Both fail only when it is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a process that sends back what it gets; and where it listens.
pub(super) fn server(host: &std::path::Path) -> io::Result<(Child, SocketAddr)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--child", "serve"]).env("SHMBC_HOST", host).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = dies_with_us(&mut command).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line)?;
    let address = line.trim().parse().map_err(|_| io::Error::other(format!("no address: {line:?}")))?;
    Ok((child, address))
}

/// The child that sends back.
#[tokio::main(flavor = "current_thread")]
pub(super) async fn serve() -> ExitCode {
    let listener = ShmListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    println!("{}", listener.local_addr().expect("a bound socket"));
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let mut piece = vec![0; MESSAGE];
            while let Ok(n @ 1..) = stream.read(&mut piece).await {
                if stream.write_all(&piece[..n]).await.is_err() {
                    break;
                }
            }
        });
    }
}

#[derive(Default)]
struct Counts {
    messages: AtomicU64,
    broken: AtomicU64,
    failed: AtomicU64,
    connects: AtomicU64,
}

/// The child that makes the streams.
#[tokio::main(flavor = "current_thread")]
pub(super) async fn load(to: SocketAddr, streams: usize) -> ExitCode {
    let counts = Arc::new(Counts::default());
    let mut upgraded = Vec::new();
    for number in 0..streams {
        let (counts, is_upgraded) = (Arc::clone(&counts), Arc::new(AtomicBool::new(false)));
        upgraded.push(Arc::clone(&is_upgraded));
        tokio::spawn(async move {
            if let Err(error) = talk(to, number as u64, u64::MAX, &counts, &is_upgraded).await {
                eprintln!("stream {number}: {error}");
                counts.broken.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let (lines, mut asked) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for _ in io::stdin().lock().lines().map_while(Result::ok) {
            let _ = lines.send(());
        }
        std::process::exit(0);
    });
    let making = Arc::clone(&counts);
    tokio::spawn(async move {
        for number in streams as u64.. {
            tokio::time::sleep(PAUSE).await;
            let making = Arc::clone(&making);
            tokio::spawn(async move {
                making.connects.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = talk(to, number, 3, &making, &AtomicBool::new(false)).await {
                    eprintln!("new connection {number}: {error}");
                    making.failed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    while asked.recv().await.is_some() {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        let report = Report {
            messages: take(&counts.messages),
            broken: take(&counts.broken),
            failed: take(&counts.failed),
            connects: take(&counts.connects),
            upgraded: upgraded.iter().filter(|upgraded| upgraded.load(Ordering::Relaxed)).count() as u64,
        };
        println!("{}", serde_json::to_string(&report).expect("plain data"));
    }
    ExitCode::SUCCESS
}

/// Sends messages of random lengths and checks what comes back.
async fn talk(to: SocketAddr, seed: u64, messages: u64, counts: &Counts, upgraded: &AtomicBool) -> io::Result<()> {
    let mut stream = ShmStream::connect(to).await?;
    let (pattern, mut at, mut sent, mut got) = (Pattern::new(seed), 0, Vec::new(), Vec::new());
    for _ in 0..messages {
        let len = rand::rng().random_range(1..=MESSAGE);
        sent.resize(len, 0);
        got.resize(len, 0);
        pattern.fill(at, &mut sent);
        stream.write_all(&sent).await?;
        stream.read_exact(&mut got).await?;
        pattern.check(at, &got).map_err(io::Error::other)?;
        at += len as u64;
        counts.messages.fetch_add(1, Ordering::Relaxed);
        upgraded.store(stream.path() == Path::SharedMemory, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
