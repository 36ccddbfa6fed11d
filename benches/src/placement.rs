//! Which CPUs the two processes run on: chosen by the run, applied by each worker before it has a second thread.

use std::fs;
use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::names::Placement;

/// The CPUs of the two ends of one placement; empty: not pinned.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cpus {
    pub(crate) server: Vec<usize>,
    pub(crate) client: Vec<usize>,
}

/// The CPUs for a placement, or why this machine does not have it.
pub(crate) fn cpus(placement: Placement) -> Result<Cpus, String> {
    choose(placement, &allowed().map_err(|e| format!("cannot ask which CPUs may be used: {e}"))?, siblings)
}

fn choose(placement: Placement, allowed: &[usize], siblings: impl Fn(usize) -> Vec<usize>) -> Result<Cpus, String> {
    let (Some(&first), last) = (allowed.first(), allowed.get(1..).unwrap_or_default()) else {
        return Err("no CPU may be used".into());
    };
    match placement {
        Placement::Unpinned => Ok(Cpus { server: vec![], client: vec![] }),
        Placement::OneCore => Ok(Cpus { server: vec![first], client: vec![first] }),
        Placement::TwoCores => {
            // Two hardware threads of one core share its caches and its arithmetic: they are the second choice.
            let own = siblings(first);
            let other = last.iter().find(|cpu| !own.contains(cpu)).or_else(|| last.first());
            let other = *other.ok_or("it needs two CPUs, and only one may be used here")?;
            Ok(Cpus { server: vec![first], client: vec![other] })
        }
    }
}

/// The CPUs this process may run on.
pub(crate) fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect())
}

/// Pins this process, which must have only one thread yet: threads inherit what their creator has.
pub(crate) fn pin(cpus: &[usize]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The hardware threads of the core that this CPU is one of; only itself where the kernel does not say.
fn siblings(cpu: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    fs::read_to_string(path).map_or_else(|_| vec![cpu], |list| parse_cpu_list(&list))
}

/// Reads the kernel's list format, `0-3,8`. What it does not understand it leaves out.
fn parse_cpu_list(list: &str) -> Vec<usize> {
    list.trim()
        .split(',')
        .filter_map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            Some(from.parse::<usize>().ok()?..=to.parse::<usize>().ok()?)
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cores_when_cpus_are_threads_of_one_core_takes_another_core() {
        let pairs = |cpu: usize| vec![cpu & !1, cpu | 1];
        let cpus = choose(Placement::TwoCores, &[0, 1, 2, 3], pairs).expect("four CPUs are enough");
        assert_eq!(cpus, Cpus { server: vec![0], client: vec![2] });
        let cpus = choose(Placement::TwoCores, &[4, 5], pairs).expect("two threads are better than nothing");
        assert_eq!(cpus, Cpus { server: vec![4], client: vec![5] });
    }

    #[test]
    fn two_cores_when_there_is_one_cpu_says_why_not() {
        assert!(choose(Placement::TwoCores, &[3], |cpu| vec![cpu]).expect_err("one CPU").contains("two CPUs"));
        assert_eq!(choose(Placement::OneCore, &[3], |cpu| vec![cpu]).expect("one CPU").client, vec![3]);
    }

    #[test]
    fn cpu_lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_cpu_list("0-2,8\n"), vec![0, 1, 2, 8]);
        assert_eq!(parse_cpu_list(""), Vec::<usize>::new());
    }
}
