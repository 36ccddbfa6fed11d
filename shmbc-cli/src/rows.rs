//! Rows of the connection table in words and numbers, for `ss` and `top`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use shmbc::control::message::{ConnectionRow, ConnectionState, EndRow};
use shmbc::link::{Path, Reason};

/// The way a connection's bytes go, as far as the host knows; streams say the same. Nothing for a listener.
pub(crate) fn path(row: &ConnectionRow) -> Option<Path> {
    Some(match (&row.state, &row.refusal) {
        (ConnectionState::Listening, _) => return None,
        (_, Some(refusal)) => Path::Tcp(Reason::Refused(refusal.clone())),
        (ConnectionState::Established | ConnectionState::Closing, None) => Path::SharedMemory,
        (ConnectionState::Offered | ConnectionState::Granted | ConnectionState::Refused, None) => {
            Path::Tcp(Reason::NotYet)
        }
    })
}

/// The path in one word or two, and why it is TCP.
pub(crate) fn path_words(row: &ConnectionRow) -> (&'static str, Option<String>) {
    match path(row) {
        None => ("-", None),
        Some(Path::SharedMemory) => ("shared memory", None),
        Some(Path::Tcp(reason)) => ("TCP", Some(reason.to_string())),
    }
}

/// As much of a container's id as people read.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Whether a person who says `wanted` means the container of this id: its name, or the beginning of the id.
pub(crate) fn is_meant(wanted: &str, id: Option<&str>, name: Option<&str>) -> bool {
    name == Some(wanted) || (!wanted.is_empty() && id.is_some_and(|id| id.starts_with(wanted)))
}

/// The container of an end, or where it is else.
pub(crate) fn place(end: &EndRow) -> String {
    let unnamed = || end.container_id.as_deref().map(|id| short(id).to_owned());
    end.container.clone().filter(|name| !name.is_empty()).or_else(unnamed).unwrap_or_else(|| "(host)".into())
}

/// The process of an end.
pub(crate) fn process(end: &EndRow) -> String {
    match end.process.as_str() {
        "" => format!("{}", end.pid),
        name => format!("{name}/{}", end.pid),
    }
}

/// Bytes with a unit.
pub(crate) fn bytes(n: u64) -> String {
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

/// Bytes a second with a unit.
pub(crate) fn rate(n: u64) -> String {
    format!("{}/s", bytes(n))
}

/// A time in its two largest units.
pub(crate) fn age(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        s @ 3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        s => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

/// How full a ring is, in whole percents.
pub(crate) fn percent(filled: u64, ring: u64) -> Option<u64> {
    (ring > 0).then(|| (u128::from(filled) * 100).div_ceil(u128::from(ring)).min(100) as u64)
}

/// An interval, as arguments have it.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "expected seconds between 0.01 and 3600, such as 0.5".to_owned();
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    if (0.01..=3600.0).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err(wrong()) }
}

/// How fast connections move bytes, from two looks at the table.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    before: HashMap<u64, [u64; 2]>,
    looked: Option<Instant>,
    now: HashMap<u64, [u64; 2]>,
}

impl Rates {
    /// Another look.
    pub(crate) fn look(&mut self, rows: &[ConnectionRow], at: Instant) {
        let passed = self.looked.map(|before| at.saturating_duration_since(before));
        let counted: HashMap<_, _> = rows.iter().filter_map(|row| Some((row.id?, row.bytes))).collect();
        let rates = counted.iter().filter_map(|(id, bytes)| {
            let (before, passed) = (self.before.get(id)?, passed?);
            Some((*id, [0, 1].map(|ring| per_second(bytes[ring].saturating_sub(before[ring]), passed))))
        });
        self.now = rates.collect();
        self.before = counted;
        self.looked = Some(at);
    }

    /// Bytes a second from the first end to the second and back; nothing before the second look.
    pub(crate) fn of(&self, row: &ConnectionRow) -> Option<[u64; 2]> {
        self.now.get(&row.id?).copied()
    }
}

/// So many in this time, as a rate.
pub(crate) fn per_second(n: u64, passed: Duration) -> u64 {
    match passed.as_secs_f64() {
        0.0 => 0,
        seconds => (n as f64 / seconds) as u64,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An established connection between `web` and `db`.
    pub(crate) fn row(id: u64, bytes: [u64; 2]) -> ConnectionRow {
        let end = |container: &str, port: u16, other: u16, pid| EndRow {
            local: ([10, 0, 0, 1], port).into(),
            peer: ([10, 0, 0, 2], other).into(),
            container_id: Some("c".repeat(64)),
            container: Some(container.to_owned()),
            pid,
            process: format!("{container}d"),
            uid: 0,
            node: None,
        };
        ConnectionRow {
            id: Some(id),
            state: ConnectionState::Established,
            ends: vec![end("web", 40_000, 5432, 7), end("db", 5432, 40_000, 8)],
            bytes,
            filled: [0; 2],
            ring: 4 << 20,
            block: 8 << 20,
            age_ms: 61_000,
            ring_nodes: [const { Vec::new() }; 2],
            refusal: None,
        }
    }

    #[test]
    fn rate_when_looked_at_twice_is_what_came_between() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        rates.look(&[row(1, [100, 0])], now);
        assert_eq!(rates.of(&row(1, [0; 2])), None, "one look tells no rate");
        rates.look(&[row(1, [600, 50]), row(2, [9, 9])], now + Duration::from_millis(500));
        assert_eq!(rates.of(&row(1, [0; 2])), Some([1000, 100]));
        assert_eq!(rates.of(&row(2, [0; 2])), None, "it has just come");
        // What lies in shared memory may go back.
        rates.look(&[row(1, [0, 50])], now + Duration::from_secs(1));
        assert_eq!(rates.of(&row(1, [0; 2])), Some([0, 0]));
    }

    #[test]
    fn numbers_when_printed_have_units_that_people_read() {
        assert_eq!([bytes(0), bytes(1023), bytes(1024), bytes(5 << 30)], ["0 B", "1023 B", "1.0 KiB", "5.0 GiB"]);
        assert_eq!([age(59_999), age(61_000), age(3_660_000), age(90_000_000)], ["59s", "1m01s", "1h01m", "1d01h"]);
        assert_eq!(
            [percent(1, 4096), percent(4096, 4096), percent(9, 4), percent(0, 0)],
            [Some(1), Some(100), Some(100), None]
        );
    }
}
