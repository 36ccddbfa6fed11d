//! Tables, goals and the machine, for people.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{Cell as TableCell, CellAlignment, Table, presets};

use super::tables::tables;
use super::{goals, machine};
use crate::names::{Aspect, Contender, Measure};
use crate::plan::{Plan, Site};
use crate::results::{Key, Results};
use crate::stats::Summary;

/// Writes everything that a run has found.
pub(crate) fn print(out: &mut impl Write, plan: &Plan, results: &Results, took: Duration) -> io::Result<()> {
    for columns in tables(plan) {
        if let (Some(&Site { measure, placement, runtime, .. }), Some(table)) =
            (columns.first(), table(plan, results, &columns))
        {
            let runtime = if plan.runtimes.len() > 1 { format!(", runtime {runtime}") } else { String::new() };
            writeln!(out, "{measure}, {placement}{runtime}: {}; {}\n{table}\n", title(measure), legend(measure))?;
        }
    }
    block(out, "Goals (shmbc-adaptive)", &goals::lines(plan, results))?;
    block(out, "Skipped", &results.skipped)?;
    block(out, "Failed", &results.failed)?;
    block(out, "Machine", &machine::lines(plan, results, took))?;
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
        Measure::Rtt => "median (lowest..highest round), p99, p99.9, times better than",
        Measure::Upgrade => "median (lowest..highest round), p99, p99.9",
        Measure::Idle | Measure::Cpu => "median (lowest..highest round), times better than",
        Measure::Stream => "GB/s, median (lowest..highest round), times better than",
        Measure::Oneshot => "1/s, median (lowest..highest round), times better than",
        Measure::Http1 | Measure::Grpc | Measure::Loads => {
            "1/s, median (lowest..highest round), latency, times better than"
        }
    }
}

/// What a measure is, in words.
pub(super) const fn title(measure: Measure) -> &'static str {
    match measure {
        Measure::Rtt => "Round trip by message size",
        Measure::Stream => "Throughput of one stream by size of each write",
        Measure::Oneshot => "Connect, one request, one answer, close",
        Measure::Http1 => "HTTP/1.1 requests by connections",
        Measure::Grpc => "gRPC unary calls by connections",
        Measure::Idle => "Connections that wait",
        Measure::Cpu => "What work takes of both processes",
        Measure::Loads => "Round trips of 64 B by load",
        Measure::Upgrade => "From an end's offer until both its directions are in shared memory",
    }
}

/// One table: contenders down, sizes and connections across. Nothing if no cell was measured.
fn table(plan: &Plan, results: &Results, columns: &[Site]) -> Option<Table> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL);
    let header = columns.iter().map(|site| TableCell::new(heading(site)).set_alignment(CellAlignment::Right));
    table.set_header([TableCell::new("")].into_iter().chain(header));
    let mut any = false;
    for contender in plan.contenders(columns.first()?) {
        let limit = if contender.is_limit() { "\n(limit)" } else { "" };
        let mut row = vec![TableCell::new(format!("{contender}{limit}"))];
        for site in columns {
            let key = site.key(contender);
            let text = results.cells.get(&key).and_then(|cell| cell.summary()).map(|summary| {
                any = true;
                cell_text(results, site, key, &summary)
            });
            row.push(TableCell::new(text.unwrap_or_else(|| "-".into())).set_alignment(CellAlignment::Right));
        }
        table.add_row(row);
    }
    any.then_some(table)
}

fn heading(site: &Site) -> String {
    if let Some(load) = site.load {
        return load.to_string();
    }
    let size = match site.aspect {
        Some(Aspect::Memory) => "memory of each".to_owned(),
        Some(Aspect::AfterBurst) => "a second after bursts".to_owned(),
        Some(Aspect::Resting) => "CPU time a second, of all".to_owned(),
        Some(Aspect::PerByte) => format!("{} writes: CPU time of a GB", bytes(site.size)),
        Some(Aspect::PerRequest) => format!("{} round trips: of a million", bytes(site.size)),
        Some(Aspect::Calls) => format!("{} writes: system calls of a MB", bytes(site.size)),
        Some(Aspect::Sleeps) => format!("{} writes: sleeps of a ringful", bytes(site.size)),
        None => bytes(site.size),
    };
    match site.conns {
        Some(1) => format!("{size}, 1 connection"),
        Some(conns) => format!("{size}, {conns} connections"),
        None => size,
    }
}

/// Value, spread, percentiles, and how many times better than the bridge and the Unix socket.
fn cell_text(results: &Results, site: &Site, key: Key, summary: &Summary) -> String {
    let show = |value| amount(key.measure, key.aspect, value);
    let mut text = format!("{} ({}..{})", show(summary.value), show(summary.min), show(summary.max));
    let tails = [("p50", summary.p50), ("p99", summary.p99), ("p99.9", summary.p999)];
    let tails: Vec<String> =
        tails.iter().filter_map(|(name, value)| Some(format!("{name} {}", duration((*value)?)))).collect();
    if !tails.is_empty() {
        text += &format!("\n{}", tails.join(", "));
    }
    let against: Vec<String> = [Contender::Bridge, Contender::Uds]
        .into_iter()
        .filter(|&other| other != key.contender)
        .filter_map(|other| {
            let other_value = results.value(site.key(other))?;
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

pub(super) fn amount(measure: Measure, aspect: Option<Aspect>, value: f64) -> String {
    if let Some(aspect) = aspect {
        return match aspect {
            Aspect::Memory | Aspect::AfterBurst => format!("{:.1} KiB", value / 1024.0),
            Aspect::Resting => format!("{value:.2} ms"),
            Aspect::PerByte | Aspect::PerRequest => format!("{value:.3} s"),
            Aspect::Calls | Aspect::Sleeps => format!("{value:.2}"),
        };
    }
    match measure {
        Measure::Idle | Measure::Cpu => value.to_string(),
        Measure::Rtt | Measure::Upgrade => duration(value),
        Measure::Stream if value < 0.1 => format!("{value:.3} GB/s"),
        Measure::Stream => format!("{value:.2} GB/s"),
        Measure::Oneshot | Measure::Http1 | Measure::Grpc | Measure::Loads => format!("{value:.0}/s"),
    }
}

fn duration(ns: f64) -> String {
    match ns {
        _ if ns < 1e3 => format!("{ns:.0} ns"),
        _ if ns < 1e6 => format!("{:.1} us", ns / 1e3),
        _ => format!("{:.1} ms", ns / 1e6),
    }
}

pub(super) fn bytes(size: usize) -> String {
    match size {
        _ if size.is_multiple_of(1 << 20) => format!("{} MiB", size >> 20),
        _ if size.is_multiple_of(1 << 10) => format!("{} KiB", size >> 10),
        _ => format!("{size} B"),
    }
}
