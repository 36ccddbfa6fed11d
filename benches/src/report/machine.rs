//! What the figures were taken on. What the system does not tell is said to be unknown.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::placement;
use crate::plan::Plan;
use crate::results::Results;
use crate::stats::median;

/// Cargo.lock of this build: the versions that really run.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// The block that describes machine, versions and run, a line each.
pub(super) fn lines(plan: &Plan, results: &Results, took: Duration) -> Vec<String> {
    let cpus = placement::allowed().map_or_else(|e| e.to_string(), |cpus| format!("{cpus:?}"));
    vec![
        format!("date      {}", utc(SystemTime::now())),
        format!(
            "cpu       {}{}",
            cpu_field("model name"),
            if virtual_machine() { ", in a virtual machine" } else { "" }
        ),
        format!("cores     {} online, {cpus} allowed; caches {}", read("/sys/devices/system/cpu/online"), caches()),
        format!("apart     a cache line from core to core and back: {}", apart(&results.core_to_core)),
        format!("numa      nodes {}", read("/sys/devices/system/node/online")),
        format!("governor  {}", read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        format!("kernel    {} {}", read("/proc/sys/kernel/ostype"), read("/proc/sys/kernel/osrelease")),
        format!(
            "versions  shmbc {}, {}, {}",
            env!("CARGO_PKG_VERSION"),
            ["tokio", "shmipc", "iceoryx2"]
                .map(|name| format!("{name} {}", locked(name).unwrap_or("unknown")))
                .join(", "),
            env!("SHMBC_BENCH_RUSTC")
        ),
        format!(
            "run       rounds {}, runtimes {:?}, work in {}, fixed wait {:?}, {:.0} s",
            plan.rounds,
            plan.runtimes,
            if plan.root { "block_on's future" } else { "a spawned task" },
            plan.fixed,
            took.as_secs_f64()
        ),
    ]
}

/// What a run without a plan was made on.
pub(crate) fn surroundings(took: Duration) -> Vec<String> {
    vec![
        format!("machine  {}, {} CPUs", note(), placement::allowed().map_or(0, |cpus| cpus.len())),
        format!("run      {:.0} s", took.as_secs_f64()),
    ]
}

/// Machine and day, for a picture.
pub(super) fn note() -> String {
    let day = utc(SystemTime::now());
    let day = day.split(' ').next().unwrap_or_default();
    format!("{}, Linux {}, {day}", cpu_field("model name"), read("/proc/sys/kernel/osrelease"))
}

/// Median and spread over the rounds.
fn apart(rounds: &[f64]) -> String {
    let least = rounds.iter().copied().reduce(f64::min);
    let most = rounds.iter().copied().reduce(f64::max);
    match (median(rounds), least, most) {
        (Some(median), Some(least), Some(most)) => format!("{median:.0} ns ({least:.0}..{most:.0})"),
        _ => "not measured".into(),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
}

fn cpu_field(name: &str) -> String {
    let info = read("/proc/cpuinfo");
    let line = info.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':')).map_or_else(|| "unknown".into(), |(_, value)| value.trim().to_owned())
}

fn virtual_machine() -> bool {
    cpu_field("flags").split(' ').any(|flag| flag == "hypervisor")
}

/// CPU 0's data caches, as `L1 32K, L2 1024K, L3 32768K`.
fn caches() -> String {
    let caches: BTreeSet<String> = (0..8)
        .filter_map(|index| {
            let field = |name: &str| read(&format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}"));
            let kind = field("type");
            (kind == "Data" || kind == "Unified").then(|| format!("L{} {}", field("level"), field("size")))
        })
        .collect();
    if caches.is_empty() { "unknown".into() } else { Vec::from_iter(caches).join(", ") }
}

/// The version of a package in the lock file.
fn locked(package: &str) -> Option<&'static str> {
    let entry = LOCK.split_once(&format!("name = \"{package}\"\nversion = \""))?.1;
    entry.split('"').next()
}

/// `2026-01-31 23:59 UTC`, by the usual calendar arithmetic on days counted from 1 March of year 0.
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600 % 24, seconds / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_around_leap_days_are_right() {
        let at = |seconds| utc(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00 UTC");
        assert_eq!(at(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(at(1_709_251_200), "2024-03-01 00:00 UTC");
    }

    #[test]
    fn versions_are_found_in_the_lock_file() {
        assert!(locked("tokio").is_some_and(|version| version.starts_with("1.")));
        assert_eq!(locked("no such package"), None);
    }
}
