//! Tables, goals and the machine, for people.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{Cell as TableCell, CellAlignment, Table, presets};

use super::{goals, machine};
use crate::compare::{Key, Results};
use crate::names::{Contender, Measure, Placement};
use crate::plan::Plan;
use crate::stats::Summary;

/// Prints everything that a run has found.
pub(crate) fn print(plan: &Plan, results: &Results, took: Duration) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for &measure in &plan.measures {
        for &placement in &plan.placements {
            if let Some(table) = table(plan, results, measure, placement) {
                writeln!(out, "{measure}, {placement}: {}\n{table}\n", legend(measure))?;
            }
        }
    }
    block(&mut out, "Goals (shmbc-adaptive)", &goals::lines(results))?;
    block(&mut out, "Skipped", &results.skipped)?;
    block(&mut out, "Failed", &results.failed)?;
    block(&mut out, "Machine", &machine::lines(plan, results, took))?;
    out.flush()
}

fn block(out: &mut impl Write, title: &str, lines: &[String]) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, "{title}")?;
    for line in lines {
        writeln!(out, "  {line}")?;
    }
    writeln!(out)
}

const fn legend(measure: Measure) -> &'static str {
    match measure {
        Measure::Rtt => "round trip by message size: median (lowest..highest round), p99, times better than",
        Measure::Stream => "GB/s by size of each write: median (lowest..highest round), times better than",
        Measure::Oneshot => "connections per second: median (lowest..highest round), times better than",
    }
}

/// One table: contenders down, sizes across. Nothing if no cell was measured.
fn table(plan: &Plan, results: &Results, measure: Measure, placement: Placement) -> Option<Table> {
    let sizes = plan.sizes(measure);
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL);
    let header = sizes.iter().map(|&size| TableCell::new(bytes(size)).set_alignment(CellAlignment::Right));
    table.set_header([TableCell::new("")].into_iter().chain(header));
    let mut any = false;
    for contender in plan.contenders(measure) {
        let mut row = vec![TableCell::new(contender)];
        for &size in &sizes {
            let key = Key { measure, placement, size, contender };
            let text = results.cells.get(&key).and_then(|cell| cell.summary()).map(|summary| {
                any = true;
                cell_text(results, key, &summary)
            });
            row.push(TableCell::new(text.unwrap_or_else(|| "-".into())).set_alignment(CellAlignment::Right));
        }
        table.add_row(row);
    }
    any.then_some(table)
}

/// Value, spread, p99, and how many times better than the bridge and the Unix socket.
fn cell_text(results: &Results, key: Key, summary: &Summary) -> String {
    let show = |value| amount(key.measure, value);
    let mut text = format!("{} ({}..{})", show(summary.value), show(summary.min), show(summary.max));
    if let Some(p99) = summary.p99 {
        text += &format!("\np99 {}", show(p99));
    }
    let against: Vec<String> = [Contender::Bridge, Contender::Uds]
        .into_iter()
        .filter(|&other| other != key.contender)
        .filter_map(|other| {
            let other_value = results.value(key.measure, key.placement, key.size, other)?;
            let (better, worse) = if key.measure.smaller_is_better() {
                (other_value, summary.value)
            } else {
                (summary.value, other_value)
            };
            Some(format!("{} {other}", ratio(better / worse)))
        })
        .collect();
    if !against.is_empty() {
        text += &format!("\n{}", against.join(", "));
    }
    text
}

fn ratio(times: f64) -> String {
    if times < 10.0 { format!("{times:.2}x") } else { format!("{times:.0}x") }
}

fn amount(measure: Measure, value: f64) -> String {
    match measure {
        Measure::Rtt if value < 1000.0 => format!("{value:.0} ns"),
        Measure::Rtt => format!("{:.1} us", value / 1000.0),
        Measure::Stream => format!("{value:.2}"),
        Measure::Oneshot => format!("{value:.0}"),
    }
}

fn bytes(size: usize) -> String {
    match size {
        _ if size.is_multiple_of(1 << 20) => format!("{} MiB", size >> 20),
        _ if size.is_multiple_of(1 << 10) => format!("{} KiB", size >> 10),
        _ => format!("{size} B"),
    }
}
