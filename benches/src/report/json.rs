//! One JSON object a line and cell, for programs.

use std::io::{self, Write};

use serde::Serialize;

use crate::names::{Aspect, Contender, Load, Measure, Placement, Runtime};
use crate::results::{Key, Results};
use crate::stats::{Cell, Summary};

/// One line. Names and order of the fields are the interface.
#[derive(Debug, Serialize)]
struct Line {
    measure: Measure,
    contender: Contender,
    placement: Placement,
    size: usize,
    value: f64,
    unit: &'static str,
    p99: Option<f64>,
    min: f64,
    max: f64,
    p999: Option<f64>,
    runtime: Option<Runtime>,
    conns: Option<u32>,
    p50: Option<f64>,
    aspect: Option<Aspect>,
    load: Option<Load>,
}

impl Line {
    fn new(key: &Key, summary: &Summary) -> Self {
        Self {
            measure: key.measure,
            contender: key.contender,
            placement: key.placement,
            size: key.size,
            value: short(summary.value),
            unit: key.unit(),
            p99: summary.p99.map(short),
            min: short(summary.min),
            max: short(summary.max),
            p999: summary.p999.map(short),
            runtime: key.runtime,
            conns: key.conns,
            p50: summary.p50.map(short),
            aspect: key.aspect,
            load: key.load,
        }
    }
}

/// Writes all cells.
pub(crate) fn print(out: &mut impl Write, results: &Results) -> io::Result<()> {
    for (key, cell) in &results.cells {
        if let Some(summary) = cell.summary() {
            serde_json::to_writer(&mut *out, &Line::new(key, &summary))?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()
}

/// A cell round by round.
#[derive(Debug, Serialize)]
struct Rounds<'a> {
    #[serde(flatten)]
    line: Line,
    rounds: &'a [Vec<f64>],
    p50s: &'a [f64],
    p99s: &'a [f64],
    p999s: &'a [f64],
}

/// Writes all cells with what each round found.
pub(crate) fn print_rounds(out: &mut impl Write, results: &Results) -> io::Result<()> {
    for (key, cell) in &results.cells {
        if let Some(summary) = cell.summary() {
            let line = Line::new(key, &summary);
            let Cell { rounds, p50s, p99s, p999s } = cell;
            serde_json::to_writer(&mut *out, &Rounds { line, rounds, p50s, p99s, p999s })?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()
}

/// Five significant digits: what is behind them is noise.
fn short(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10_f64.powi(4 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_exactly_the_promised_fields_in_their_order() {
        let key = Key::new(Measure::Rtt, Placement::TwoCores, 64, Contender::ShmbcAdaptive);
        let summary =
            Summary { value: 412.0, p50: None, p99: Some(1023.456), p999: Some(9000.0), min: 400.5, max: 430.0 };
        let line = serde_json::to_string(&Line::new(&key, &summary)).expect("plain data");
        assert_eq!(
            line,
            r#"{"measure":"rtt","contender":"shmbc-adaptive","placement":"two-cores","size":64,"value":412.0,"unit":"ns","p99":1023.5,"min":400.5,"max":430.0,"p999":9000.0,"runtime":"current","conns":null,"p50":null,"aspect":null,"load":null}"#
        );
    }

    #[test]
    fn line_when_there_is_no_p99_says_null() {
        let key = Key::new(Measure::Stream, Placement::OneCore, 16384, Contender::Uds);
        let key = Key { runtime: Some(Runtime::Multi), conns: Some(8), load: Some(Load::SlowPeer30), ..key };
        let summary = Summary { value: 0.012_345_678, p50: Some(7.0), p99: None, p999: None, min: 0.01, max: 0.02 };
        let line = serde_json::to_string(&Line::new(&key, &summary)).expect("plain data");
        assert_eq!(
            line,
            r#"{"measure":"stream","contender":"uds","placement":"one-core","size":16384,"value":0.012346,"unit":"GB/s","p99":null,"min":0.01,"max":0.02,"p999":null,"runtime":"multi","conns":8,"p50":7.0,"aspect":null,"load":"slow-peer-30us"}"#
        );
    }
}
