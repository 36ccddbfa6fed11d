//! The client of the compose example: calls the server with hyper, by its service name, through shared memory and,
//! with `SHMBC_HOST=off` and nothing else changed, through TCP.
//!
//! `SHMBC_HOST` is a matter of the whole process, so each measurement is a process of its own: this one starts itself
//! again for every round, in turn with and without acceleration, and reports the medians.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Parser, Subcommand};
use comfy_table::{CellAlignment, Table, presets};
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use serde::{Deserialize, Serialize};
use shmbc_http::{ShmConnector, ShmPeer};
use shmbc_tokio::{Identity, Path, Reason};
use tower_service::Service;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Rounds with and rounds without acceleration, in turn.
const ROUNDS: usize = 3;

/// Connections that ask at the same time.
const CONNECTIONS: usize = 8;

/// How long requests are counted, and how long bytes.
const TIME: Duration = Duration::from_secs(1);

/// Size of one large answer.
const ANSWER: u64 = 256 << 20;

/// A connection that has not been upgraded after so much use will not be.
const UPGRADE_TIME: Duration = Duration::from_secs(10);

/// Measures a server through shared memory and through TCP.
#[derive(Debug, Parser)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
struct Args {
    /// Where the server is, such as http://server:8080
    #[arg(required = true)]
    server: Option<Uri>,
    /// Print one JSON object as the last line of standard output instead of a table
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true, name = "__measure")]
    Measure { server: Uri },
}

/// What one process measured.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    path: String,
    server: Option<Server>,
    figures: Figures,
}

/// Who answers, as the host service proved it.
#[derive(Debug, Serialize, Deserialize)]
struct Server {
    container_id: Option<String>,
    name: Option<String>,
    labels: BTreeMap<String, String>,
    pid: i32,
    uid: u32,
    gid: u32,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Figures {
    requests_s: f64,
    gb_s: f64,
}

/// The result.
#[derive(Debug, Serialize)]
struct Report {
    path: String,
    server: Server,
    shm: Figures,
    tcp: Figures,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match (args.role, args.server) {
        (Some(Role::Measure { server }), _) => measure(&server),
        (None, Some(server)) => compare(&server, args.json),
        (None, None) => Err("name the server, such as http://server:8080".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compose-client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(server: &Uri, json: bool) -> Result<()> {
    let (mut shm, mut tcp) = (Vec::new(), Vec::new());
    let mut seen = None;
    for round in 1..=ROUNDS {
        eprintln!("compose-client: round {round} of {ROUNDS}");
        let with = start(server, false)?;
        let identity = with.server.ok_or_else(|| format!("not in shared memory: the path is {}", with.path))?;
        seen = Some((with.path, identity));
        shm.push(with.figures);
        let without = start(server, true)?;
        if without.server.is_some() {
            return Err(format!("SHMBC_HOST=off and yet the path is {}", without.path).into());
        }
        tcp.push(without.figures);
    }
    let (path, server) = seen.ok_or("no round was run")?;
    let report = Report { path, server, shm: median(&shm), tcp: median(&tcp) };
    println!("{}", if json { serde_json::to_string(&report)? } else { render(&report) });
    Ok(())
}

/// One measurement, in a process of its own.
fn start(server: &Uri, off: bool) -> Result<Measured> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("__measure").arg(server.to_string()).stderr(Stdio::inherit());
    if off {
        command.env("SHMBC_HOST", "off");
    }
    let output = command.output()?;
    if !output.status.success() {
        return Err("a measurement failed, see above".into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[tokio::main(flavor = "current_thread")]
async fn measure(server: &Uri) -> Result<()> {
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        connections.push(Connection::open(server).await?);
    }
    let requests_s = requests_per_second(&mut connections).await?;
    let gb_s = gigabytes_per_second(&mut connections[0]).await?;
    // One that stayed behind speaks for all.
    let paths = connections.iter().map(|connection| connection.peer.path());
    let path = paths.reduce(|all, path| if all == Path::SharedMemory { path } else { all }).ok_or("no connection")?;
    let identity = connections[0].peer.identity().filter(|_| path == Path::SharedMemory);
    let measured = Measured {
        path: path.to_string(),
        server: identity.map(|identity| Server::from(identity.clone())),
        figures: Figures { requests_s, gb_s },
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// Small requests on all connections at once, each waiting for its answer before it asks again.
async fn requests_per_second(connections: &mut [Connection]) -> Result<f64> {
    let started = Instant::now();
    let asking = connections.iter_mut().map(async |connection| {
        let mut count = 0_u64;
        while started.elapsed() < TIME {
            connection.get("/").await?;
            count += 1;
        }
        Ok::<_, Box<dyn Error>>(count)
    });
    let counts = futures_util::future::try_join_all(asking).await?;
    Ok((counts.iter().sum::<u64>() as f64 / started.elapsed().as_secs_f64()).round())
}

/// Large answers on one connection, one after the other.
async fn gigabytes_per_second(connection: &mut Connection) -> Result<f64> {
    let path = format!("/bytes/{ANSWER}");
    connection.get(&path).await?;
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < TIME {
        let got = connection.get(&path).await?;
        if got != ANSWER {
            return Err(format!("{got} bytes came where {ANSWER} were asked for").into());
        }
        bytes += got;
    }
    Ok((bytes as f64 / started.elapsed().as_secs_f64() / 1e6).round() / 1e3)
}

/// A connection to the server that has been used for long enough to be where it will stay.
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    host: String,
    peer: ShmPeer,
}

impl Connection {
    async fn open(server: &Uri) -> Result<Self> {
        let io = ShmConnector::new().call(server.clone()).await?;
        let peer = io.inner().peer().clone();
        let (sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        let host = server.authority().ok_or("the address names no host")?.to_string();
        let mut opened = Self { sender, host, peer };
        let since = Instant::now();
        while opened.peer.path() == Path::Tcp(Reason::NotYet) && since.elapsed() < UPGRADE_TIME {
            opened.get("/").await?;
        }
        Ok(opened)
    }

    /// Asks, and reads the answer to its end; the answer's length.
    async fn get(&mut self, path: &str) -> Result<u64> {
        self.sender.ready().await?;
        let request = Request::get(path).header("host", &self.host).body(Empty::new())?;
        let response = self.sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(format!("{path} was answered with {}", response.status()).into());
        }
        let mut body = response.into_body();
        let mut len = 0;
        while let Some(frame) = body.frame().await {
            len += frame?.data_ref().map_or(0, |data| data.len() as u64);
        }
        Ok(len)
    }
}

impl From<Identity> for Server {
    fn from(identity: Identity) -> Self {
        let (container_id, name, labels) =
            identity.container.map_or_else(Default::default, |c| (Some(c.id), Some(c.name), c.labels));
        Self { container_id, name, labels, pid: identity.pid, uid: identity.uid, gid: identity.gid }
    }
}

fn median(figures: &[Figures]) -> Figures {
    let of = |get: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = figures.iter().map(get).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Figures { requests_s: of(|figures| figures.requests_s), gb_s: of(|figures| figures.gb_s) }
}

fn render(report: &Report) -> String {
    let Report { path, server, shm, tcp } = report;
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["", "requests/s", "GB/s"]);
    let row =
        |name: &str, figures: &Figures| [name.into(), figures.requests_s.to_string(), format!("{:.2}", figures.gb_s)];
    table.add_row(row(path, shm));
    table.add_row(row("TCP (SHMBC_HOST=off)", tcp));
    let times = |shm: f64, tcp: f64| format!("{:.1}x", shm / tcp);
    table.add_row(["".into(), times(shm.requests_s, tcp.requests_s), times(shm.gb_s, tcp.gb_s)]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!(
        "path                {path}\nserver's container  {} {}\nserver's process    pid {}, uid {}, gid {}\n",
        server.name.as_deref().unwrap_or("none"),
        server.container_id.as_deref().unwrap_or_default(),
        server.pid,
        server.uid,
        server.gid,
    );
    // Compose's own labels are many, and say nothing new here.
    for (name, value) in server.labels.iter().filter(|(name, _)| !name.starts_with("com.docker.compose.")) {
        text += &format!("server's label      {name}={value}\n");
    }
    format!(
        "{text}{table}\n{CONNECTIONS} connections for requests, one for bytes; medians of {ROUNDS} rounds taken in turn."
    )
}
