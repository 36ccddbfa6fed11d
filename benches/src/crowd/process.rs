//! What other processes cost, as the kernel counts it: CPU time and memory.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// CPU time that a process has had, with that of its threads that have ended.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration, String> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid as i32)).and_then(clock_gettime);
    clock.map(Duration::from).map_err(|e| format!("the CPU time of process {pid} cannot be read: {e}"))
}

/// Bytes of memory that a process has for itself.
pub(crate) fn own_memory(pid: u32) -> Result<i64, String> {
    Ok(numbers(&format!("/proc/{pid}/status"))?.get("RssAnon").copied().unwrap_or(0))
}

/// What the memory of the whole machine is used for, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Of programs: what they have for themselves.
    pub(crate) programs: i64,
    /// Shared: the blocks of connections.
    pub(crate) shared: i64,
    /// Objects of the kernel: sockets, files, watches.
    pub(crate) kernel: i64,
    /// Tables of pages.
    pub(crate) page_tables: i64,
}

impl Memory {
    pub(crate) fn of_this_machine() -> Result<Self, String> {
        let numbers = numbers("/proc/meminfo")?;
        let sum = |names: &[&str]| names.iter().filter_map(|name| numbers.get(*name)).sum();
        Ok(Self {
            programs: sum(&["AnonPages"]),
            shared: sum(&["Shmem"]),
            kernel: sum(&["Slab", "KernelStack", "Percpu"]),
            page_tables: sum(&["PageTables"]),
        })
    }

    /// What has come since.
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            programs: self.programs - before.programs,
            shared: self.shared - before.shared,
            kernel: self.kernel - before.kernel,
            page_tables: self.page_tables - before.page_tables,
        }
    }

    pub(crate) const fn sum(self) -> i64 {
        self.programs + self.shared + self.kernel + self.page_tables
    }
}

/// The lines `name: number kB` of a file of the kernel's, in bytes.
fn numbers(path: &str) -> Result<BTreeMap<String, i64>, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    Ok(parse(&text))
}

fn parse(text: &str) -> BTreeMap<String, i64> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let number: i64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some((name.to_owned(), number << 10))
    };
    text.lines().filter_map(line).collect()
}

/// Not left behind, even if the run is killed.
pub(crate) fn die_with_the_run() -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| format!("prctl: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_a_unit_are_bytes_and_others_are_left_out() {
        let found = parse("Name:\tx\nRssAnon:\t    12 kB\nThreads:\t3\n");
        assert_eq!(found, BTreeMap::from([("RssAnon".to_owned(), 12 << 10)]));
    }

    #[test]
    fn cpu_time_of_a_process_that_works_grows() {
        let me = std::process::id();
        let before = cpu_time(me).expect("this process");
        while cpu_time(me).expect("this process") == before {}
        assert!(own_memory(me).expect("this process") > 0);
    }
}
