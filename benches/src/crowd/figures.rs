//! What a crowd's measures have found: a table for people, a line of JSON each for programs.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use crate::report::machine;
use crate::stats::median;

/// One figure. Names and order of the fields are the interface.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// `scale`, `tables` or `flood`.
    pub(crate) measure: &'static str,
    /// What it is a figure of.
    pub(crate) what: String,
    /// In which circumstances.
    pub(crate) at: String,
    pub(crate) unit: &'static str,
    /// Median over the rounds, the smallest and the largest.
    pub(crate) value: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// Figures in the order in which they were first found, each with what every round found.
#[derive(Debug)]
pub(crate) struct Figures {
    measure: &'static str,
    found: Vec<(String, String, &'static str, Vec<f64>)>,
}

impl Figures {
    pub(crate) const fn new(measure: &'static str) -> Self {
        Self { measure, found: Vec::new() }
    }

    /// One round's.
    pub(crate) fn add(&mut self, what: &str, at: &str, unit: &'static str, value: f64) {
        match self.found.iter_mut().find(|(w, a, ..)| w == what && a == at) {
            Some((.., rounds)) => rounds.push(value),
            None => self.found.push((what.to_owned(), at.to_owned(), unit, vec![value])),
        }
    }

    /// Median and 99th percentile of times in ns, as us.
    pub(crate) fn add_times(&mut self, what: &str, at: &str, took: &[u64]) {
        for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
            self.add(&format!("{what}, {name}"), at, "us", percentile(took, part) / 1e3);
        }
    }

    /// The median over the rounds.
    pub(crate) fn value(&self, what: &str, at: &str) -> Option<f64> {
        self.found.iter().find(|(w, a, ..)| w == what && a == at).and_then(|(.., rounds)| median(rounds))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Figure> {
        self.found.iter().map(|(what, at, unit, rounds)| Figure {
            measure: self.measure,
            what: what.clone(),
            at: at.clone(),
            unit,
            value: median(rounds).unwrap_or(f64::NAN),
            min: rounds.iter().copied().fold(f64::INFINITY, f64::min),
            max: rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }

    /// Prints them all, and the goals for people.
    pub(crate) fn print(&self, json: bool, goals: &[String], took: Duration) -> Result<(), String> {
        let mut out = io::stdout().lock();
        let printed = if json { self.print_json(&mut out) } else { self.print_table(&mut out, goals, took) };
        printed.map_err(|e| format!("standard output: {e}"))
    }

    fn print_json(&self, out: &mut impl Write) -> io::Result<()> {
        for figure in self.all() {
            serde_json::to_writer(&mut *out, &figure)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    fn print_table(&self, out: &mut impl Write, goals: &[String], took: Duration) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["", "at", "median", "lowest..highest round", ""]);
        for Figure { what, at, unit, value, min, max, .. } in self.all() {
            let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
            let spread = if min == max { String::new() } else { format!("{}..{}", short(min), short(max)) };
            table.add_row([Cell::new(what), Cell::new(at), right(short(value)), right(spread), Cell::new(unit)]);
        }
        writeln!(out, "{table}")?;
        for goal in goals {
            writeln!(out, "{goal}")?;
        }
        writeln!(out)?;
        for line in machine::surroundings(took) {
            writeln!(out, "{line}")?;
        }
        out.flush()
    }
}

/// A goal, met or missed, by the largest of what it is judged by.
pub(crate) fn goal(what: &str, found: Option<f64>, most: f64) -> String {
    match found {
        Some(found) if found <= most => format!("met     {what}: {} (at most {most})", short(found)),
        Some(found) => format!("MISSED  {what}: {} (at most {most})", short(found)),
        None => format!("not measured: {what}"),
    }
}

/// The value that this part of all are not above; 0 of nothing.
pub(crate) fn percentile(values: &[u64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let index = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(index.saturating_sub(1)).map_or(0.0, |&value| value as f64)
}

/// Three digits, or the whole number.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.01 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_and_no_values() {
        assert_eq!(percentile(&[3, 1, 2], 0.5).to_bits(), 2.0_f64.to_bits());
        assert_eq!(percentile(&[3, 1, 2], 0.99).to_bits(), 3.0_f64.to_bits());
        assert_eq!(percentile(&[], 0.5).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn figures_when_found_in_several_rounds_are_one_with_its_spread() {
        let mut figures = Figures::new("scale");
        for value in [2.0, 8.0, 4.0] {
            figures.add("a", "b", "us", value);
        }
        figures.add("a", "c", "us", 1.0);
        let lines: Vec<String> = figures.all().map(|figure| serde_json::to_string(&figure).expect("plain")).collect();
        assert_eq!(lines[0], r#"{"measure":"scale","what":"a","at":"b","unit":"us","value":4.0,"min":2.0,"max":8.0}"#);
        assert_eq!((lines.len(), figures.value("a", "c")), (2, Some(1.0)));
    }

    #[test]
    fn goal_when_above_what_it_may_be_is_missed() {
        assert!(goal("x", Some(1.5), 1.5).starts_with("met"));
        assert!(goal("x", Some(1.6), 1.5).starts_with("MISSED"));
    }
}
