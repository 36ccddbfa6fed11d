//! `shmbc ss`: connections and listeners.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::Serialize;
use shmbc::control::message::{ConnectionRow, ConnectionState, EndRow, Status};
use shmbc::link::Path;

use crate::list::{List, print_json, print_table};
use crate::rows::{Rates, age, bytes, is_meant, path, path_words, percent, place, process, rate, seconds};

pub(crate) const HELP: &str = "\
Each connection takes two lines, one for each end: what it has sent since the switch, how fast (--rate), and how full the
ring is that it sends through. Why one is on TCP stands below it.

Examples:
  shmbc ss --rate
  shmbc ss --container web --path tcp
  shmbc ss --state established --sort bytes
  shmbc ss --summary
  shmbc ss --json | jq '.[] | select(.path == \"tcp\") | .reason'";

/// Arguments of `shmbc ss`.
#[derive(Debug, Args)]
pub(crate) struct Ss {
    #[command(flatten)]
    list: List,
    /// Only connections in this state; may be given several times.
    #[arg(long, value_enum, value_name = "STATE")]
    state: Vec<State>,
    /// Only connections on this path.
    #[arg(long, value_enum, value_name = "PATH")]
    path: Option<OnPath>,
    /// Only connections of this container: its name, or the beginning of its id.
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// Only connections of this process.
    #[arg(long)]
    pid: Option<i32>,
    /// Only connections with this port at one end.
    #[arg(long)]
    port: Option<u16>,
    /// Also how fast they are: looks twice, this many seconds apart (1).
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
    rate: Option<Duration>,
    /// What comes first.
    #[arg(long, value_enum, default_value_t = Sort::Age)]
    sort: Sort,
    /// Counts instead of connections: by state, by path, and by the reasons for TCP.
    #[arg(long, conflicts_with_all = ["rate", "sort"])]
    summary: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum State {
    Listening,
    Offered,
    Granted,
    Established,
    Closing,
    Refused,
}

impl State {
    const fn of(state: ConnectionState) -> Self {
        match state {
            ConnectionState::Listening => Self::Listening,
            ConnectionState::Offered => Self::Offered,
            ConnectionState::Granted => Self::Granted,
            ConnectionState::Established => Self::Established,
            ConnectionState::Closing => Self::Closing,
            ConnectionState::Refused => Self::Refused,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnPath {
    SharedMemory,
    Tcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// The oldest; listeners and refused ones last.
    Age,
    /// Who has moved most.
    Bytes,
    /// Who moves most; with --rate.
    Rate,
    /// Whose rings are fullest.
    Fill,
    /// By the names of their containers.
    Container,
}

pub(crate) fn run(ss: &Ss) -> Result<(), String> {
    if ss.sort == Sort::Rate && ss.rate.is_none() {
        return Err("--sort rate needs --rate".into());
    }
    let client = ss.list.client()?;
    let look = || client.connections().map_err(|e| e.to_string());
    let mut rates = Rates::default();
    let mut rows = look()?;
    if let Some(apart) = ss.rate {
        rates.look(&rows, Instant::now());
        std::thread::sleep(apart);
        rows = look()?;
        rates.look(&rows, Instant::now());
    }
    rows.retain(|row| ss.wants(row));
    ss.sort(&mut rows, &rates);
    if ss.summary {
        let status = client.status().map_err(|e| e.to_string())?;
        return Summary::of(&rows, &status).print(ss.list.json);
    }
    if ss.list.json {
        return print_json(&rows.iter().map(|row| ConnectionJson::of(row, rates.of(row))).collect::<Vec<_>>());
    }
    print(&rows, ss.rate.map(|_| &rates))
}

impl Ss {
    fn wants(&self, row: &ConnectionRow) -> bool {
        let any = |wanted: &dyn Fn(&EndRow) -> bool| row.ends.iter().any(wanted);
        let state = self.state.is_empty() || self.state.contains(&State::of(row.state));
        let path = self.path.is_none_or(|wanted| match path(row) {
            Some(Path::SharedMemory) => wanted == OnPath::SharedMemory,
            Some(Path::Tcp(_)) => wanted == OnPath::Tcp,
            None => false,
        });
        let container = self
            .container
            .as_ref()
            .is_none_or(|wanted| any(&|end| is_meant(wanted, end.container_id.as_deref(), end.container.as_deref())));
        let pid = self.pid.is_none_or(|pid| any(&|end| end.pid == pid));
        let port = self.port.is_none_or(|port| any(&|end| end.local.port() == port || end.peer.port() == port));
        state && path && container && pid && port
    }

    fn sort(&self, rows: &mut [ConnectionRow], rates: &Rates) {
        let most = |of: [u64; 2]| std::cmp::Reverse(of[0].saturating_add(of[1]));
        match self.sort {
            // As the host gives them.
            Sort::Age => {}
            Sort::Bytes => rows.sort_by_key(|row| most(row.bytes)),
            Sort::Rate => rows.sort_by_key(|row| most(rates.of(row).unwrap_or_default())),
            Sort::Fill => rows.sort_by_key(|row| std::cmp::Reverse(row.filled.into_iter().max())),
            Sort::Container => rows.sort_by_key(|row| row.ends.iter().map(place).collect::<Vec<_>>()),
        }
    }
}

/// Two lines a connection, and a third for the reason.
fn print(rows: &[ConnectionRow], rates: Option<&Rates>) -> Result<(), String> {
    let numa = rows.iter().flat_map(|row| &row.ends).any(|end| end.node.is_some());
    let mut header = vec!["STATE", "PATH", "CONTAINER", "ADDRESS", "PROCESS", "SENT"];
    header.extend(rates.map(|_| "RATE"));
    header.extend(["RING", "AGE"]);
    if numa {
        header.extend(["NODE", "RING ON"]);
    }
    let mut reasons = Vec::new();
    let mut lines = Vec::new();
    for row in rows {
        let (path, why) = path_words(row);
        for (side, end) in row.ends.iter().enumerate() {
            let first = |text: String| if side == 0 { text } else { String::new() };
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
            let moves = row.ring > 0;
            let mut cells = vec![
                first(row.state.to_string()),
                first(path.into()),
                place(end),
                end.local.to_string(),
                process(end),
                or_dash(moves.then(|| bytes(row.bytes[side]))),
            ];
            cells.extend(rates.map(|rates| or_dash(rates.of(row).map(|now| rate(now[side])))));
            cells.push(or_dash(percent(row.filled[side], row.ring).map(|percent| format!("{percent}%"))));
            cells.push(first(age(row.age_ms)));
            if numa {
                cells.push(nodes(end.node.as_slice()));
                cells.push(nodes(&row.ring_nodes[side]));
            }
            lines.push(cells);
            // A lone end still has somebody whom it talks to.
            let lone = row.ends.len() == 1 && row.state != ConnectionState::Listening;
            let whom = lone.then(|| format!("with {}", end.peer));
            let last = side + 1 == row.ends.len();
            let below = [whom, why.clone().filter(|_| last)].into_iter().flatten().collect::<Vec<_>>().join(": ");
            reasons.push(Some(below).filter(|text| !text.is_empty()));
        }
    }
    print_table(header, lines.into_iter(), &reasons)
}

fn nodes(nodes: &[u16]) -> String {
    let nodes: Vec<_> = nodes.iter().map(u16::to_string).collect();
    if nodes.is_empty() { "-".into() } else { nodes.join(",") }
}

/// What `--summary` counts.
#[derive(Debug, Serialize)]
struct Summary {
    connections: u64,
    /// By state, listeners too.
    states: Vec<(String, u64)>,
    paths: Vec<(String, u64)>,
    /// Bytes moved through shared memory by the connections that are there, both ways.
    bytes: u64,
    /// Why those that are listed are on TCP.
    reasons: Vec<(String, u64)>,
    /// All that were refused since the service started, by kind.
    refused_since_start: Vec<(String, u64)>,
}

impl Summary {
    fn of(rows: &[ConnectionRow], status: &Status) -> Self {
        let count = |words: &dyn Fn(&ConnectionRow) -> Option<String>| {
            let mut counts = std::collections::BTreeMap::new();
            for word in rows.iter().filter_map(words) {
                *counts.entry(word).or_insert(0) += 1;
            }
            let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
            counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
            counts
        };
        let connection = |row: &ConnectionRow| row.state != ConnectionState::Listening;
        Self {
            connections: rows.iter().filter(|row| connection(row)).count() as u64,
            states: count(&|row| Some(row.state.to_string())),
            paths: count(&|row| Some(path_words(row).0.to_owned()).filter(|_| connection(row))),
            bytes: rows.iter().flat_map(|row| row.bytes).fold(0, u64::saturating_add),
            reasons: count(&|row| path_words(row).1),
            refused_since_start: status.refusals.clone(),
        }
    }

    fn print(&self, json: bool) -> Result<(), String> {
        if json {
            return print_json(self);
        }
        let mut lines = vec![format!("{} connections, {} through shared memory", self.connections, bytes(self.bytes))];
        for (title, counts) in [
            ("states", &self.states),
            ("paths", &self.paths),
            ("why TCP", &self.reasons),
            ("refused since the service started", &self.refused_since_start),
        ] {
            if !counts.is_empty() {
                lines.push(format!("\n{title}"));
                lines.extend(counts.iter().map(|(word, n)| format!("{n:>8}  {word}")));
            }
        }
        crate::print_text(&lines.join("\n"))
    }
}

/// One connection in `shmbc ss --json`.
#[derive(Serialize)]
struct ConnectionJson<'a> {
    /// Never used twice while the service runs; null for listeners and refused ones.
    id: Option<u64>,
    state: ConnectionState,
    /// `shared-memory` or `tcp`; null for a listener.
    path: Option<&'static str>,
    /// Why it is on TCP.
    reason: Option<String>,
    ends: Vec<EndJson<'a>>,
    /// Bytes from the first end to the second and back, since the switch.
    bytes: [u64; 2],
    /// Bytes a second, likewise; null without --rate.
    rate: Option<[u64; 2]>,
    /// Bytes that lie in each ring, and how many fit.
    ring_filled: [u64; 2],
    ring_capacity: u64,
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
    process: &'a str,
    uid: u32,
    /// NUMA node of the CPU it runs on; null on a machine of one node.
    node: Option<u16>,
}

impl<'a> ConnectionJson<'a> {
    fn of(row: &'a ConnectionRow, rate: Option<[u64; 2]>) -> Self {
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
            process: &end.process,
            uid: end.uid,
            node: end.node,
        };
        let ends = row.ends.iter().map(end).collect();
        Self {
            id: row.id,
            state: row.state,
            path,
            reason,
            ends,
            bytes: row.bytes,
            rate,
            ring_filled: row.filled,
            ring_capacity: row.ring,
            block_bytes: row.block,
            age_ms: row.age_ms,
            ring_nodes: &row.ring_nodes,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use shmbc::control::message::Refusal;

    use super::*;
    use crate::rows::tests::row;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        ss: Ss,
    }

    fn ss(line: &str) -> Ss {
        Line::parse_from(std::iter::once("ss").chain(line.split_whitespace())).ss
    }

    fn refused() -> ConnectionRow {
        let mut refused = ConnectionRow { id: None, state: ConnectionState::Refused, ring: 0, ..row(0, [0; 2]) };
        refused.refusal = Some(Refusal::NoTwin);
        refused
    }

    #[test]
    fn filters_when_several_are_given_all_have_to_fit() {
        let rows = [row(1, [1, 2]), refused()];
        let wanted = |line: &str| rows.iter().map(|row| ss(line).wants(row)).collect::<Vec<_>>();
        for (line, expected) in [
            ("", [true, true]),
            ("--state established", [true, false]),
            ("--state refused --state closing", [false, true]),
            ("--path tcp", [false, true]),
            ("--path shared-memory --container db", [true, false]),
            ("--container cccc", [true, true]),
            ("--container d", [false, false]),
            ("--pid 7 --port 5432", [true, true]),
            ("--port 1", [false, false]),
        ] {
            assert_eq!(wanted(line), expected, "{line}");
        }
    }

    #[test]
    fn rows_when_sorted_begin_with_the_most() {
        let mut rows = [row(1, [1, 2]), row(2, [9, 0]), row(3, [0, 5])];
        rows[2].filled = [0, 7];
        let mut rates = Rates::default();
        let ids = |rows: &[ConnectionRow]| rows.iter().filter_map(|row| row.id).collect::<Vec<_>>();
        ss("--sort bytes").sort(&mut rows, &rates);
        assert_eq!(ids(&rows), [2, 3, 1]);
        ss("--sort fill").sort(&mut rows, &rates);
        assert_eq!(ids(&rows)[0], 3);
        let now = Instant::now();
        rates.look(&[row(1, [0; 2]), row(2, [0; 2]), row(3, [0; 2])], now);
        rates.look(&[row(1, [9, 9]), row(2, [1, 0]), row(3, [0; 2])], now + Duration::from_secs(1));
        ss("--sort rate --rate").sort(&mut rows, &rates);
        assert_eq!(ids(&rows), [1, 2, 3]);
    }

    #[test]
    fn summary_when_printed_counts_states_paths_and_reasons() {
        let listening = ConnectionRow { state: ConnectionState::Listening, id: None, ring: 0, ..row(0, [0; 2]) };
        let summary = Summary::of(&[row(1, [1, 2]), refused(), refused(), listening], &Status::default());
        assert_eq!((summary.connections, summary.bytes), (3, 3));
        assert_eq!(summary.paths, [("TCP".into(), 2), ("shared memory".into(), 1)]);
        assert_eq!(summary.states[0], ("refused".into(), 2));
        assert_eq!(summary.reasons, [("refused: the other end did not offer this connection".into(), 2)]);
    }
}
