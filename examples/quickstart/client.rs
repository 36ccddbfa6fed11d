//! The sending process: reads the files into memory, connects three times, and lets the three streams take turns, round
//! by round. It is the one that measures. What it does it tells its parent, one JSON object a line.

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use shmbc_tokio::ShmStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::files::{self, Batch, Loaded};
use crate::server::Addresses;
use crate::wire::{Answer, Command, PIECE, PING, cpu_ns, now_ns};

/// Bytes each contender moves, or a little more.
const VOLUME: u64 = 512 << 20;

/// Least rounds, so that the medians have something to choose from.
const ROUNDS: usize = 9;

/// Most rounds, where a few small files make small batches.
const ROUNDS_MAX: usize = 64;

/// After this no further round begins, once every file has been moved.
const TIME: Duration = Duration::from_secs(9);

/// Pings between two looks at the clock.
const PINGS: u64 = 256;

/// A contender's pings in one round end at whichever comes first.
const PING_TIME: Duration = Duration::from_millis(40);
const PINGS_MAX: u64 = 16 * PINGS;

/// Round trips above this are counted as this.
const LONGEST_PING_NS: u64 = 10_000_000_000;

/// What the client tells its parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// The files are in memory.
    Loaded { files: u64, bytes: u64, unreadable: usize, cut: bool, rounds: usize },
    /// The stream that should be in shared memory is not, and why.
    NotUpgraded { path: String },
    /// A round is over.
    Round,
    /// All is done.
    Done(Report),
    /// Something else went wrong.
    Failed(String),
}

/// What came out.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Which way the upgraded stream went.
    pub(crate) path: String,
    /// Files moved, each counted once.
    pub(crate) files: u64,
    /// Bytes in them.
    pub(crate) bytes: u64,
    /// Every file arrived unchanged, each time, over each contender.
    pub(crate) digests_ok: bool,
    pub(crate) shm: Figures,
    pub(crate) tcp: Figures,
    pub(crate) uds: Figures,
    /// Bytes each contender moved in the measured rounds; for the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) volume: Option<u64>,
}

/// What one contender took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) rtt_ns_p50: u64,
    pub(crate) rtt_ns_p99: u64,
    /// Median of the rounds.
    pub(crate) gbit_s: f64,
    /// User and system time of both processes, for all that was moved.
    pub(crate) cpu_s: f64,
}

/// One contender's measurements so far.
struct Contender {
    pings: Histogram<u64>,
    gbit_s: Vec<f64>,
    cpu_ns: u64,
    digests_ok: bool,
}

/// Runs the client. Errors go to the parent as an event like everything else.
pub(crate) async fn run(dir: &Path, addresses: &Addresses) {
    if let Err(error) = measure(dir, addresses).await {
        tell(&Event::Failed(error.to_string()));
    }
}

async fn measure(dir: &Path, addresses: &Addresses) -> Result<(), Box<dyn Error>> {
    let mut survey = files::survey(dir)?;
    let loaded = survey.load(dir)?;
    let (files, bytes) = (loaded.files, loaded.bytes);
    let rounds = rounds(&loaded);
    tell(&Event::Loaded { files, bytes, unreadable: survey.unreadable, cut: survey.cut, rounds });

    let mut shm = ShmStream::connect(addresses.shm).await?;
    shm.set_nodelay(true)?;
    if shm.upgraded().await.is_err() {
        tell(&Event::NotUpgraded { path: shm.path().to_string() });
        return Ok(());
    }
    let mut tcp = ShmStream::connect(addresses.tcp).await?;
    tcp.set_acceleration(false);
    tcp.set_nodelay(true)?;
    let mut uds = UnixStream::connect(&addresses.uds).await?;

    let mut contenders = [Contender::new(), Contender::new(), Contender::new()];
    let started = Instant::now();
    let (mut round, mut volume) = (0, 0);
    // Round 0 touches the memory for the first time, and is not measured.
    while round <= loaded.batches.len() || (round <= rounds && started.elapsed() < TIME) {
        let batch = &loaded.batches[round.saturating_sub(1) % loaded.batches.len()];
        for turn in 0..contenders.len() {
            // Nobody always comes first.
            let which = (round + turn) % contenders.len();
            let contender = &mut contenders[which];
            match which {
                0 => contender.round(&mut shm, batch).await,
                1 => contender.round(&mut tcp, batch).await,
                _ => contender.round(&mut uds, batch).await,
            }?;
        }
        if round == 0 {
            contenders.iter_mut().for_each(Contender::forget_warm_up);
        } else {
            volume += batch.len();
            tell(&Event::Round);
        }
        round += 1;
    }

    let digests_ok = contenders.iter().all(|contender| contender.digests_ok);
    let [shm_figures, tcp_figures, uds_figures] = contenders.map(Contender::figures);
    tell(&Event::Done(Report {
        path: shm.path().to_string(),
        files,
        bytes,
        digests_ok,
        shm: shm_figures,
        tcp: tcp_figures,
        uds: uds_figures,
        volume: Some(volume),
    }));
    Ok(())
}

/// How many rounds move every file, and [`VOLUME`] unless the files are tiny.
fn rounds(loaded: &Loaded) -> usize {
    let pass: u64 = loaded.batches.iter().map(Batch::len).sum();
    let passes = usize::try_from(VOLUME.div_ceil(pass)).unwrap_or(usize::MAX);
    (passes * loaded.batches.len()).clamp(ROUNDS, ROUNDS_MAX).max(loaded.batches.len())
}

impl Contender {
    fn new() -> Self {
        let pings = Histogram::new_with_bounds(1, LONGEST_PING_NS, 3).expect("these bounds are allowed");
        Self { pings, gbit_s: Vec::new(), cpu_ns: 0, digests_ok: true }
    }

    fn forget_warm_up(&mut self) {
        *self = Self { digests_ok: self.digests_ok, ..Self::new() };
    }

    async fn round(&mut self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin), batch: &Batch) -> io::Result<()> {
        self.ping(stream).await?;
        self.transfer(stream, batch).await
    }

    async fn ping(&mut self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
        let started = Instant::now();
        let mut sent = 0;
        while sent < PINGS_MAX && started.elapsed() < PING_TIME {
            Command::Ping(PINGS).send(stream).await?;
            let mut ping = [0x5a; PING];
            for count in 0..PINGS {
                let before = Instant::now();
                stream.write_all(&ping).await?;
                stream.read_exact(&mut ping).await?;
                // The first also pays for the server reading the command.
                if count > 0 {
                    self.pings.saturating_record(u64::try_from(before.elapsed().as_nanos()).unwrap_or(u64::MAX));
                }
            }
            sent += PINGS;
        }
        Ok(())
    }

    /// Sends a batch. The time is from before its first byte is written until its last has been read; digests
    /// are computed and compared after that, for every contender alike.
    async fn transfer(&mut self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin), batch: &Batch) -> io::Result<()> {
        let cpu_before = cpu_ns();
        let started_at_ns = now_ns();
        Command::Batch(batch.len()).send(stream).await?;
        for _ in 0..batch.repeat {
            for piece in batch.frames.chunks(PIECE) {
                stream.write_all(piece).await?;
            }
        }
        stream.flush().await?;
        let cpu_ns = cpu_ns() - cpu_before;
        let answer = Answer::receive(stream, batch.files()).await?;
        self.cpu_ns += cpu_ns + answer.cpu_ns;
        // Bits a nanosecond are gigabits a second.
        let took_ns = answer.read_at_ns.saturating_sub(started_at_ns).max(1);
        self.gbit_s.push((batch.len() * 8) as f64 / took_ns as f64);
        self.digests_ok &= answer.digests.chunks(batch.digests.len()).all(|received| received == batch.digests);
        Ok(())
    }

    fn figures(mut self) -> Figures {
        self.gbit_s.sort_by(f64::total_cmp);
        Figures {
            rtt_ns_p50: self.pings.value_at_quantile(0.5),
            rtt_ns_p99: self.pings.value_at_quantile(0.99),
            gbit_s: round3(self.gbit_s[self.gbit_s.len() / 2]),
            cpu_s: round3(self.cpu_ns as f64 / 1e9),
        }
    }
}

fn round3(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// One line to the parent. When the parent is gone there is nobody to measure for.
fn tell(event: &Event) {
    let line = serde_json::to_string(event).expect("events have nothing that JSON cannot say");
    let mut out = io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}
