//! What `shmbc top` knows and shows: looks at the tables go in, lines in an order come out. Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use shmbc::control::message::{ConnectionRow, ConnectionState, Status};
use shmbc::link::Path;

use crate::rows::{Rates, path, path_words, per_second, percent, place, process};

/// Looks of which rates are remembered, for the small curves.
pub(super) const HISTORY: usize = 24;

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Rate,
    Connections,
    Bytes,
    Name,
    Age,
}

/// Whom a line is about: both ends, the path and why, and for single connections which one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) ends: [String; 2],
    pub(super) path: &'static str,
    pub(super) why: Option<String>,
    details: Vec<String>,
}

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) connections: u64,
    /// Bytes a second from the first end to the second and back.
    pub(super) rate: [u64; 2],
    pub(super) bytes: [u64; 2],
    /// The fullest ring, in percent.
    pub(super) fill: Option<u64>,
    /// The oldest, in milliseconds.
    pub(super) age_ms: u64,
    /// Both rates together at the last looks, the newest last.
    pub(super) history: VecDeque<u64>,
}

/// All that is shown.
#[derive(Debug, Default)]
pub(super) struct Model {
    status: Option<Status>,
    /// Upgrades and refusals a second.
    pub(super) upgrades: u64,
    pub(super) refusals: u64,
    /// All bytes a second at the last looks, the newest last.
    pub(super) total: VecDeque<u64>,
    pub(super) listeners: usize,
    pub(super) paths: [u64; 2],
    rows: Vec<ConnectionRow>,
    rates: Rates,
    looked: Option<Instant>,
    histories: HashMap<Key, VecDeque<u64>>,
    /// Why the service says nothing.
    pub(super) lost: Option<String>,
    pub(super) sort: Sort,
    pub(super) single: bool,
    pub(super) paused: bool,
    typing: bool,
    filter: String,
    scrolled: usize,
}

impl Model {
    /// What the service says now.
    pub(super) fn take(&mut self, (status, rows): (Status, Vec<ConnectionRow>), at: Instant) {
        self.lost = None;
        if self.paused {
            return;
        }
        self.rates.look(&rows, at);
        let since = |old: u64, new: u64| {
            self.looked.map_or(0, |looked| per_second(new.saturating_sub(old), at.saturating_duration_since(looked)))
        };
        let refused = |status: &Status| status.refusals.iter().map(|(_, n)| n).sum::<u64>();
        if let Some(before) = &self.status {
            self.upgrades = since(before.upgrades, status.upgrades);
            self.refusals = since(refused(before), refused(&status));
        }
        self.looked = Some(at);
        let total = rows.iter().filter_map(|row| self.rates.of(row)).flatten().fold(0, u64::saturating_add);
        remember(&mut self.total, total);
        self.listeners = rows.iter().filter(|row| row.state == ConnectionState::Listening).count();
        let paths: Vec<_> = rows.iter().filter_map(path).collect();
        let shared = paths.iter().filter(|path| **path == Path::SharedMemory).count();
        self.paths = [shared, paths.len() - shared].map(|n| n as u64);
        self.status = Some(status);
        self.rows = rows;
        let mut histories = HashMap::new();
        for (key, line) in self.all_lines() {
            let mut history = self.histories.remove(&key).unwrap_or_default();
            remember(&mut history, line.rate[0].saturating_add(line.rate[1]));
            histories.insert(key, history);
        }
        self.histories = histories;
    }

    /// The service says nothing.
    pub(super) fn lost(&mut self, why: String) {
        self.lost = Some(why);
    }

    pub(super) const fn status(&self) -> Option<&Status> {
        self.status.as_ref()
    }

    /// Lines in their order, those that the filter lets through.
    pub(super) fn lines(&self) -> Vec<(Key, Line)> {
        let wanted = self.filter.to_lowercase();
        let mut lines: Vec<_> = self
            .all_lines()
            .into_iter()
            .filter(|(key, _)| {
                let words = key.ends.iter().chain(&key.details).chain(&key.why).map(String::as_str);
                words.chain([key.path]).any(|word| word.to_lowercase().contains(&wanted))
            })
            .map(|(key, mut line)| {
                line.history = self.histories.get(&key).cloned().unwrap_or_default();
                (key, line)
            })
            .collect();
        let sum = |of: [u64; 2]| of[0].saturating_add(of[1]);
        // They are in the order of their names, which decides between equal ones.
        lines.sort_by_key(|(_, line)| {
            std::cmp::Reverse(match self.sort {
                Sort::Rate => sum(line.rate),
                Sort::Connections => line.connections,
                Sort::Bytes => sum(line.bytes),
                Sort::Name => 0,
                Sort::Age => line.age_ms,
            })
        });
        lines
    }

    /// In the order of their names.
    fn all_lines(&self) -> BTreeMap<Key, Line> {
        let mut lines: BTreeMap<Key, Line> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.state != ConnectionState::Listening) {
            let (key, swapped) = self.key(row);
            let line = lines.entry(key).or_default();
            let turned = |mut both: [u64; 2]| {
                if swapped {
                    both.reverse();
                }
                both
            };
            line.connections += 1;
            let (rate, bytes) = (turned(self.rates.of(row).unwrap_or_default()), turned(row.bytes));
            for side in 0..2 {
                line.rate[side] = line.rate[side].saturating_add(rate[side]);
                line.bytes[side] = line.bytes[side].saturating_add(bytes[side]);
            }
            let fill = row.filled.iter().filter_map(|filled| percent(*filled, row.ring)).max();
            line.fill = line.fill.max(fill);
            line.age_ms = line.age_ms.max(row.age_ms);
        }
        lines
    }

    /// Which line a connection belongs to, and whether its second end stands first there.
    fn key(&self, row: &ConnectionRow) -> (Key, bool) {
        let end = |side: usize| match (row.ends.get(side), row.ends.first()) {
            (Some(end), _) if self.single => format!("{} {} {}", place(end), end.local, process(end)),
            (Some(end), _) => match end.container_id {
                Some(_) => place(end),
                None => format!("{} {}", place(end), end.process),
            },
            // Who has not offered is known by its address.
            (None, Some(first)) if self.single => first.peer.to_string(),
            (None, Some(first)) => first.peer.ip().to_string(),
            (None, None) => "-".into(),
        };
        let mut ends = [end(0), end(1)];
        let swapped = ends[1] < ends[0];
        if swapped {
            ends.reverse();
        }
        let (path, why) = path_words(row);
        let mut details = Vec::new();
        if self.single {
            details.push(row.id.map_or_else(String::new, |id| id.to_string()));
        }
        (Key { ends, path, why, details }, swapped)
    }

    pub(super) const fn sort_by(&mut self, sort: Sort) {
        self.sort = sort;
        self.scrolled = 0;
    }

    pub(super) fn toggle_grouped(&mut self) {
        self.single = !self.single;
        self.scrolled = 0;
        self.histories.clear();
    }

    pub(super) const fn toggle_paused(&mut self) {
        self.paused = !self.paused;
    }

    pub(super) const fn is_typing(&self) -> bool {
        self.typing
    }

    pub(super) fn filter(&self) -> &str {
        &self.filter
    }

    pub(super) fn begin_filter(&mut self) {
        self.typing = true;
        self.filter.clear();
    }

    pub(super) fn type_letter(&mut self, letter: char) {
        self.filter.push(letter);
        self.scrolled = 0;
    }

    pub(super) fn erase(&mut self) {
        self.filter.pop();
    }

    pub(super) fn end_filter(&mut self, keep: bool) {
        self.typing = false;
        if !keep {
            self.filter.clear();
        }
    }

    pub(super) fn scroll(&mut self, by: isize) {
        self.scrolled = self.scrolled.saturating_add_signed(by);
    }

    /// The first line that is shown, where `fit` of `all` fit.
    pub(super) fn first(&self, all: usize, fit: usize) -> usize {
        self.scrolled.min(all.saturating_sub(fit))
    }
}

fn remember(history: &mut VecDeque<u64>, value: u64) {
    if history.len() >= HISTORY {
        history.pop_front();
    }
    history.push_back(value);
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use shmbc::control::message::Refusal;

    use super::*;
    use crate::rows::tests::row;

    /// Two connections of `web` and `db`, the second from the other side, and one of `web` with a stranger; looked at twice.
    pub(crate) fn looked_at_twice() -> Model {
        let turned = |bytes: [u64; 2]| {
            let mut row = row(2, bytes);
            row.ends.reverse();
            row.filled = [0, 1 << 20];
            row
        };
        let refused = || {
            let mut refused = row(0, [0; 2]);
            refused.ends.truncate(1);
            ConnectionRow {
                id: None,
                state: ConnectionState::Refused,
                ring: 0,
                refusal: Some(Refusal::NoTwin),
                ..refused
            }
        };
        let status = |upgrades| Status { upgrades, refusals: vec![("no-twin".into(), 1)], ..Status::default() };
        let (mut model, now) = (Model::default(), Instant::now());
        model.take((status(5), vec![row(1, [0, 0]), turned([0, 0])]), now);
        let rows = vec![row(1, [4096, 100]), turned([7, 1024]), refused()];
        model.take((status(7), rows), now + Duration::from_secs(1));
        model
    }

    #[test]
    fn pairs_when_grouped_add_up_whichever_end_is_first() {
        let model = looked_at_twice();
        let lines = model.lines();
        let (key, line) = &lines[0];
        assert_eq!((key.ends.each_ref().map(String::as_str), key.path), (["db", "web"], "shared memory"));
        assert_eq!((line.connections, line.rate, line.bytes), (2, [107, 5120], [107, 5120]));
        assert_eq!((line.fill, line.age_ms), (Some(25), 61_000));
        assert_eq!(line.history, [0, 5227]);
        assert_eq!(lines[1].0.ends, ["10.0.0.2", "web"], "by its address");
        assert_eq!(lines[1].0.why.as_deref(), Some("refused: the other end did not offer this connection"));
        assert_eq!((model.upgrades, model.refusals, model.paths), (2, 0, [2, 1]));
    }

    #[test]
    fn connections_when_single_are_a_line_each() {
        let mut model = looked_at_twice();
        model.toggle_grouped();
        let lines = model.lines();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].0.ends, ["db 10.0.0.1:5432 dbd/8", "web 10.0.0.1:40000 webd/7"]);
    }

    #[test]
    fn filter_when_typed_looks_at_names_addresses_and_reasons() {
        let mut model = looked_at_twice();
        for (text, found) in [("", 2), ("DB", 1), ("tcp", 1), ("did not offer", 1), ("10.0.0.2", 1), ("nobody", 0)] {
            model.begin_filter();
            text.chars().for_each(|letter| model.type_letter(letter));
            assert_eq!(model.lines().len(), found, "{text}");
        }
    }

    #[test]
    fn model_when_held_still_takes_nothing_and_forgets_that_the_service_was_lost() {
        let mut model = looked_at_twice();
        model.toggle_paused();
        model.lost("gone".into());
        model.take((Status::default(), Vec::new()), Instant::now());
        assert_eq!((model.lines().len(), model.lost.as_deref()), (2, None));
    }
}
