//! `shmbc query HOST:PORT`: where a name leads, and what a stream to it would do and why.
//!
//! Answers as a program in this very container would: it asks the library's own resolver, by the conversation that every
//! program has with the host service. With `--connect` it opens a stream, and sees. Writes no byte of its own to anybody.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use shmbc::control::client::{Client, socket_path};
use shmbc::control::socket::DEFAULT_PATH;
use shmbc_tokio::{Config, Locality, Path, Reason, ShmStream};

use crate::list::print_json;
use crate::rows::short;

/// How long the host service may take to send the first part of its table, once it has answered a greeting.
const TABLE: Duration = Duration::from_secs(5);

/// How often the table is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(2);

/// An address that no machine has (RFC 5737): whatever is said about it but `Unknown` says that the table has come.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

pub(crate) const HELP: &str = "\
Exit codes:
  0  the first address is on this host; with --connect: the stream went over to shared memory
  1  the name leads nowhere, or no connection could be opened
  2  wrong arguments
  3  the first address is on another machine
  4  not known (no host service answers); with --connect: on this host, and the stream stayed on TCP

Examples:
  shmbc query api:8080
  shmbc query --connect api:8080
  shmbc query --json 172.18.0.3:6379";

/// Arguments of `shmbc query`.
#[derive(Debug, Args)]
pub(crate) struct Query {
    /// The address as a program would name it.
    #[arg(value_name = "HOST:PORT", value_parser = address)]
    address: String,
    /// Open a stream and wait for its upgrade. No byte is written, so a peer that upgrades only when the traffic shows that
    /// it is worth it (all but SHMBC_UPGRADE=eager) may leave it on TCP.
    #[arg(long)]
    connect: bool,
    /// With --connect: how many seconds the upgrade may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    wait: u64,
    /// The control socket of the host service; without it as SHMBC_HOST says.
    #[arg(long)]
    socket: Option<std::path::PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn address(text: &str) -> Result<String, String> {
    let expected = || "expected HOST:PORT, such as api:8080 or [::1]:5432".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let plain = !host.is_empty() && !host.contains(['/', ':']);
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if !plain && !bracketed || port.parse::<u16>().is_err() {
        return Err(expected());
    }
    Ok(text.to_owned())
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    asked: &'a str,
    addresses: Vec<Place>,
    /// Where `--connect` got to.
    connected: Option<Connected>,
}

/// One address of the name.
#[derive(Debug, Serialize)]
struct Place {
    address: SocketAddr,
    /// `same-host`, `remote` or `unknown`.
    place: &'static str,
    container: Option<String>,
    container_id: Option<String>,
    /// What a stream would do, and why.
    stream: String,
}

#[derive(Debug, Serialize)]
struct Connected {
    address: SocketAddr,
    /// `shared-memory` or `tcp`.
    path: &'static str,
    /// Why it is on TCP, and what to change.
    reason: Option<String>,
    advice: Option<String>,
    /// Who the peer is, as the host service has proved it.
    peer_container: Option<String>,
    peer_pid: Option<i32>,
    /// How long connecting and the upgrade took together, in microseconds.
    took_us: u128,
}

pub(crate) fn run(query: &Query) -> Result<ExitCode, String> {
    let config = Config::from_env().map_err(|e| e.to_string())?;
    let off = std::env::var_os("SHMBC_HOST").is_some_and(|value| value == "off") && query.socket.is_none();
    let given = query.socket.clone().or_else(|| std::env::var_os("SHMBC_HOST").map(Into::into));
    // Why nobody can say where an address is; nothing when the host service answers.
    let (config, silent) = if off {
        (config, Some(("SHMBC_HOST=off turns acceleration off".to_owned(), Reason::Disabled)))
    } else {
        let path = socket_path(&given.unwrap_or_else(|| DEFAULT_PATH.into())).map_err(|e| e.to_string())?;
        let silent = Client::connect(&path).err().map(|error| (error.to_string(), Reason::NoHost));
        (config.host(path), silent)
    };
    config.install().map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Runtime::new().map_err(|e| format!("the runtime cannot be started: {e}"))?;
    let code = runtime.block_on(ask(query, silent));
    // A name that is still being looked up is no reason to wait.
    runtime.shutdown_background();
    code
}

async fn ask(query: &Query, silent: Option<(String, Reason)>) -> Result<ExitCode, String> {
    let found = tokio::net::lookup_host(&query.address)
        .await
        .map_err(|e| format!("{}: the name cannot be looked up: {e}", query.address))?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(format!("{}: the name has no address", query.address));
    }
    if silent.is_none() {
        let until = Instant::now() + TABLE;
        while shmbc_tokio::query(NOBODY) == Locality::Unknown && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
    }
    let places: Vec<_> = addresses.iter().map(|address| Place::of(*address, silent.as_ref())).collect();
    let mut code = match places.first().map(|place| place.place) {
        Some("same-host") => 0,
        Some("remote") => 3,
        _ => 4,
    };
    let mut connected = None;
    if query.connect {
        let seen = connect(&addresses, Duration::from_secs(query.wait)).await?;
        code = match (seen.path, places.iter().find(|place| place.address == seen.address)) {
            ("shared-memory", _) => 0,
            (_, Some(place)) if place.place == "remote" => 3,
            _ => 4,
        };
        connected = Some(seen);
    }
    let answer = Answer { asked: &query.address, addresses: places, connected };
    if query.json {
        print_json(&answer)?;
    } else {
        answer.print()?;
    }
    Ok(ExitCode::from(code))
}

impl Place {
    fn of(address: SocketAddr, silent: Option<&(String, Reason)>) -> Self {
        let locality = shmbc_tokio::query(address.ip());
        let stays = |reason: &Reason, why: &str| format!("a stream stays on TCP: {reason} ({why})");
        let (place, container, stream) = match (locality, silent) {
            (Locality::Remote, _) => {
                let why =
                    "no container and no interface of this host that is known has this address; TCP is right for it";
                ("remote", None, stays(&Reason::Remote, why))
            }
            (Locality::SameHost { container }, None) => {
                let stream =
                    "a stream goes over to shared memory, if the program there speaks SHMBC and no rule forbids it";
                ("same-host", container, stream.to_owned())
            }
            (Locality::SameHost { container }, Some((why, reason))) => ("same-host", container, stays(reason, why)),
            (Locality::Unknown, Some((why, reason))) => ("unknown", None, stays(reason, why)),
            (Locality::Unknown, None) => {
                let why = "it answers, and has not sent its table of addresses: see its log";
                ("unknown", None, stays(&Reason::NoHost, why))
            }
        };
        let (container, container_id) = container.map(|c| (c.name, c.id)).unzip();
        Self { address, place, container, container_id, stream }
    }

    fn words(&self) -> String {
        let host = match (&self.container, &self.container_id) {
            (Some(name), _) if !name.is_empty() => format!("this host, container {name}"),
            (_, Some(id)) => format!("this host, container {}", short(id)),
            _ => "this host, in no container that is known".to_owned(),
        };
        match self.place {
            "same-host" => host,
            "remote" => "another machine".to_owned(),
            _ => "not known".to_owned(),
        }
    }
}

/// Opens a stream as a program would, each address in turn, and asks for its upgrade.
async fn connect(addresses: &[SocketAddr], wait: Duration) -> Result<Connected, String> {
    let began = Instant::now();
    let stream = tokio::time::timeout(wait, ShmStream::connect(addresses))
        .await
        .map_err(|_| format!("no connection within {} s", wait.as_secs()))?
        .map_err(|e| format!("cannot connect: {e}"))?;
    let address = stream.peer_addr().map_err(|e| format!("cannot connect: {e}"))?;
    // Its result is what the path says, too.
    let _ = tokio::time::timeout(wait, stream.upgraded()).await;
    let took_us = began.elapsed().as_micros();
    let (path, reason) = match stream.path() {
        Path::SharedMemory => ("shared-memory", None),
        Path::Tcp(reason) => ("tcp", Some(reason)),
    };
    let peer = stream.peer_identity();
    Ok(Connected {
        address,
        path,
        advice: reason.as_ref().and_then(Reason::advice).map(str::to_owned),
        reason: reason.map(|reason| reason.to_string()),
        peer_container: peer.as_ref().and_then(|peer| peer.container.as_ref()).map(|c| c.name.clone()),
        peer_pid: peer.as_ref().map(|peer| peer.pid),
        took_us,
    })
}

impl Answer<'_> {
    fn print(&self) -> Result<(), String> {
        let mut lines = Vec::new();
        for place in &self.addresses {
            lines.push(format!("{}  {}: {}", place.address, place.words(), place.stream));
        }
        if let Some(connected) = &self.connected {
            let mut line = match &connected.reason {
                None => format!("{}  connected: on shared memory after {} us", connected.address, connected.took_us),
                Some(reason) => format!("{}  connected: on TCP ({reason})", connected.address),
            };
            if let Some(advice) = &connected.advice {
                line = format!("{line}; {advice}");
            }
            if let Some(pid) = connected.peer_pid {
                let container =
                    connected.peer_container.as_deref().map_or_else(String::new, |c| format!("container {c}, "));
                line = format!("{line}; the peer is {container}process {pid}");
            }
            lines.push(line);
        }
        crate::print_text(&lines.join("\n"))
    }
}
