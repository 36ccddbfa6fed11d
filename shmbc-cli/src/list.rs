//! What people ask the service: `shmbc ss` lists connections, `shmbc ps` containers.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use comfy_table::{Table, presets};
use serde::Serialize;
use shmbc::control::client::{Client, socket_path};
use shmbc::control::message::{ConnectionRow, ConnectionState, ContainerRow, EndRow};
use shmbc::control::socket::DEFAULT_PATH;
use shmbc::link::{Path, Reason};

#[derive(Debug, Args)]
pub(crate) struct List {
    /// The control socket of the service.
    // Not the parser for paths, which refuses an empty variable: that counts as unset.
    #[arg(long, env = "SHMBC_HOST", default_value = DEFAULT_PATH, value_parser = OsStringValueParser::new().map(PathBuf::from))]
    socket: PathBuf,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

impl List {
    fn client(&self) -> Result<Client, String> {
        let path = socket_path(&self.socket).map_err(|e| e.to_string())?;
        Client::connect(&path).map_err(|e| e.to_string())
    }
}

pub(crate) fn connections(list: &List) -> Result<(), String> {
    let rows = list.client()?.connections().map_err(|e| e.to_string())?;
    if list.json {
        return print_json(&rows.iter().map(ConnectionJson::of).collect::<Vec<_>>());
    }
    let mut header = vec!["STATE", "PATH", "A", "B", "A TO B", "B TO A", "AGE"];
    let numa = rows.iter().flat_map(|row| &row.ends).any(|end| end.node.is_some());
    if numa {
        header.extend(["NODE A", "NODE B", "A TO B ON", "B TO A ON"]);
    }
    print_table(
        header,
        rows.iter().map(|row| {
            let mut cells = vec![
                row.state.to_string(),
                path(row).map_or_else(|| "-".into(), |path| path.to_string()),
                row.ends.first().map_or_else(|| "-".into(), end),
                row.ends.get(1).map_or_else(|| "-".into(), end),
                bytes(row.bytes[0]),
                bytes(row.bytes[1]),
                age(row.age_ms),
            ];
            if numa {
                let node = |side: usize| row.ends.get(side).and_then(|end| end.node);
                cells.extend([0, 1].map(|side| nodes(node(side).as_slice())));
                cells.extend(row.ring_nodes.iter().map(|ring| nodes(ring)));
            }
            cells
        }),
    )
}

fn nodes(nodes: &[u16]) -> String {
    let nodes: Vec<_> = nodes.iter().map(u16::to_string).collect();
    if nodes.is_empty() { "-".into() } else { nodes.join(",") }
}

pub(crate) fn containers(list: &List) -> Result<(), String> {
    let rows = list.client()?.containers().map_err(|e| e.to_string())?;
    if list.json {
        return print_json(&rows.iter().map(ContainerJson::of).collect::<Vec<_>>());
    }
    let header = vec!["CONTAINER", "NAME", "STATE", "ADDRESSES", "CONNECTIONS"];
    print_table(
        header,
        rows.iter().map(|row| {
            let networks = row.networks.iter().map(|(name, addresses)| {
                let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
                format!("{name}: {}", addresses.join(" "))
            });
            vec![
                row.id.get(..12).unwrap_or(&row.id).to_owned(),
                row.name.clone(),
                row.state.clone(),
                networks.collect::<Vec<_>>().join(", "),
                row.connections.to_string(),
            ]
        }),
    )
}

/// The way a connection's bytes go, as far as the host knows; streams say the same. Nothing for a listener.
fn path(row: &ConnectionRow) -> Option<Path> {
    Some(match (&row.state, &row.refusal) {
        (ConnectionState::Listening, _) => return None,
        (_, Some(refusal)) => Path::Tcp(Reason::Refused(refusal.clone())),
        (ConnectionState::Established | ConnectionState::Closing, None) => Path::SharedMemory,
        (ConnectionState::Offered | ConnectionState::Granted | ConnectionState::Refused, None) => {
            Path::Tcp(Reason::NotYet)
        }
    })
}

fn end(end: &EndRow) -> String {
    let unnamed = || end.container_id.as_ref().map(|id| id.chars().take(12).collect());
    match end.container.clone().or_else(unnamed) {
        Some(container) => format!("container:{container} {} ({})", end.local, end.pid),
        None => format!("{} ({})", end.local, end.pid),
    }
}

fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = n as f64;
    let mut unit = None;
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = Some(next);
    }
    unit.map_or_else(|| format!("{n} B"), |unit| format!("{value:.1} {unit}"))
}

fn age(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        s => format!("{}h{:02}m", s / 3600, s / 60 % 60),
    }
}

fn print_table(header: Vec<&str>, rows: impl Iterator<Item = Vec<String>>) -> Result<(), String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    print(&table.trim_fmt())
}

fn print_json<T: Serialize>(rows: &[T]) -> Result<(), String> {
    print(&serde_json::to_string(rows).map_err(|e| e.to_string())?)
}

fn print(text: &str) -> Result<(), String> {
    match writeln!(std::io::stdout(), "{text}") {
        // Whoever reads has seen enough (`shmbc ss | head`).
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| format!("cannot write: {e}")),
    }
}

/// One connection in `shmbc ss --json`.
#[derive(Serialize)]
struct ConnectionJson<'a> {
    state: ConnectionState,
    /// `shared-memory` or `tcp`; null for a listener.
    path: Option<&'static str>,
    /// Why it is on TCP.
    reason: Option<String>,
    ends: Vec<EndJson<'a>>,
    /// Bytes from the first end to the second and back, since the switch.
    bytes: [u64; 2],
    /// Size of its block.
    block_bytes: u64,
    age_ms: u64,
    /// NUMA nodes on which pages of each ring are; none on a machine of one node.
    ring_nodes: &'a [Vec<u16>; 2],
}

#[derive(Serialize)]
struct EndJson<'a> {
    local: SocketAddr,
    peer: SocketAddr,
    container: Option<&'a str>,
    container_id: Option<&'a str>,
    pid: i32,
    uid: u32,
    /// NUMA node of the CPU it runs on; null on a machine of one node.
    node: Option<u16>,
}

impl<'a> ConnectionJson<'a> {
    fn of(row: &'a ConnectionRow) -> Self {
        let (path, reason) = match path(row) {
            Some(Path::SharedMemory) => (Some("shared-memory"), None),
            Some(Path::Tcp(reason)) => (Some("tcp"), Some(reason.to_string())),
            None => (None, None),
        };
        let end = |end: &'a EndRow| EndJson {
            local: end.local,
            peer: end.peer,
            container: end.container.as_deref(),
            container_id: end.container_id.as_deref(),
            pid: end.pid,
            uid: end.uid,
            node: end.node,
        };
        let ends = row.ends.iter().map(end).collect();
        Self {
            state: row.state,
            path,
            reason,
            ends,
            bytes: row.bytes,
            block_bytes: row.block,
            age_ms: row.age_ms,
            ring_nodes: &row.ring_nodes,
        }
    }
}

/// One container in `shmbc ps --json`.
#[derive(Serialize)]
struct ContainerJson<'a> {
    id: &'a str,
    name: &'a str,
    state: &'a str,
    networks: Vec<NetworkJson<'a>>,
    connections: u32,
}

#[derive(Serialize)]
struct NetworkJson<'a> {
    name: &'a str,
    addresses: &'a [IpAddr],
}

impl<'a> ContainerJson<'a> {
    fn of(row: &'a ContainerRow) -> Self {
        let networks = row.networks.iter().map(|(name, addresses)| NetworkJson { name, addresses }).collect();
        Self { id: &row.id, name: &row.name, state: &row.state, networks, connections: row.connections }
    }
}
