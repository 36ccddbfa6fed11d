//! The result for people: a table with a line for each contender, and how it compares with shared memory.

use comfy_table::{CellAlignment, Table, presets};

use crate::client::{Figures, Report};

/// The whole result.
pub(crate) fn render(report: &Report) -> String {
    let moved = size(report.volume.unwrap_or(report.bytes));
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        String::new(),
        "round trip, median".into(),
        "99 of 100 within".into(),
        "throughput".into(),
        format!("CPU time for {moved}"),
    ]);
    for (name, figures) in [(&*report.path, &report.shm), ("TCP loopback", &report.tcp), ("Unix socket", &report.uds)] {
        table.add_row(row(name, figures, &report.shm));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let digests = if report.digests_ok { "every digest is right" } else { "DIGESTS DIFFER" };
    format!(
        "{}, {}, moved until each stream had carried {moved}: {digests}\n{table}\n\
         64 bytes there and back; throughput is the median of rounds taken in turn; CPU time is user and system time of \
         both processes.\nDigests are computed from what arrived, after the clock has stopped. `x`: times better shared memory is.",
        files(report.files),
        size(report.bytes),
    )
}

fn row(name: &str, figures: &Figures, shm: &Figures) -> [String; 5] {
    // How many times better shared memory is; nothing to say of itself.
    let ratio = |worse: f64| if std::ptr::eq(figures, shm) { String::new() } else { format!("  {worse:.1}x") };
    let times = |own: u64, of: u64| own as f64 / of.max(1) as f64;
    [
        name.into(),
        format!("{}{}", micros(figures.rtt_ns_p50), ratio(times(figures.rtt_ns_p50, shm.rtt_ns_p50))),
        format!("{}{}", micros(figures.rtt_ns_p99), ratio(times(figures.rtt_ns_p99, shm.rtt_ns_p99))),
        format!("{:.1} Gbit/s{}", figures.gbit_s, ratio(shm.gbit_s / figures.gbit_s)),
        format!("{:.3} s{}", figures.cpu_s, ratio(figures.cpu_s / shm.cpu_s.max(0.001))),
    ]
}

fn micros(ns: u64) -> String {
    format!("{:.2} us", ns as f64 / 1000.0)
}

/// A number of files, in words.
pub(crate) fn files(count: u64) -> String {
    format!("{count} file{}", if count == 1 { "" } else { "s" })
}

/// Bytes in the unit that fits.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}
