//! What is put on the two processes of a sample from outside: other processes on their CPUs, or a CPU quota.
//!
//! The run takes a burden up before a sample of `loads` and drops it after; dropping undoes it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sys::prctl;
use nix::sys::signal::Signal;

use crate::names::{Load, Placement};
use crate::placement;

/// The quota and its period in us: half a CPU. (Docker's period is 100 ms; a sample is to hold many.)
const QUOTA: (u32, u32) = (10_000, 20_000);

/// What is on the processes for as long as this lives.
pub(crate) enum Burden {
    None,
    /// A process that spins.
    Spinning(Child),
    /// Groups of the processes, each with where it came from.
    Limited {
        _groups: Vec<Limited>,
    },
}

impl Burden {
    /// Puts a load on the processes of a placement.
    pub(crate) fn on(load: Option<Load>, placement: Placement, pids: &[u32]) -> Result<Self, String> {
        match load {
            Some(Load::BusyCores) => spin_beside(placement).map(Self::Spinning),
            Some(Load::Quota) => {
                let controller = Controller::find()?;
                let groups: Result<_, String> = pids.iter().map(|&pid| controller.limit(pid)).collect();
                groups.map(|groups| Self::Limited { _groups: groups })
            }
            _ => Ok(Self::None),
        }
    }

    /// Whether this machine has the load; if not, why.
    pub(crate) fn possible(load: Load) -> Result<(), String> {
        match load {
            // Tried with a process that does nothing: who may not make groups learns it here.
            Load::Quota => {
                let mut child = Command::new("sleep").arg("60").spawn().map_err(|e| format!("sleep: {e}"))?;
                let tried = Controller::find().and_then(|controller| controller.limit(child.id()));
                let _ = child.kill();
                let _ = child.wait();
                tried.map(drop)
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Burden {
    fn drop(&mut self) {
        if let Self::Spinning(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a process that keeps the CPUs of a placement busy.
fn spin_beside(of: Placement) -> Result<Child, String> {
    let cpus = placement::cpus(of)?;
    let mut cpus = [cpus.server, cpus.client].concat();
    cpus.dedup();
    let program = std::env::current_exe().map_err(|e| format!("cannot find this program's own file: {e}"))?;
    let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
    let mut command = Command::new(program);
    command.arg("spin").args(cpus).stdin(Stdio::null());
    command.spawn().map_err(|e| format!("cannot start a process that spins: {e}"))
}

/// The whole life of such a process: a thread for each CPU that was named, or for each there is, pinned to none then.
pub(crate) fn spin(cpus: &[usize]) -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| format!("prctl: {e}"))?;
    let threads = match cpus.len() {
        0 => placement::allowed().map_err(|e| format!("cannot ask which CPUs may be used: {e}"))?.len(),
        some => some,
    };
    thread::scope(|scope| {
        for i in 0..threads {
            scope.spawn(move || {
                let _ = placement::pin(cpus.get(i..=i).unwrap_or_default());
                loop {
                    std::hint::spin_loop();
                }
            });
        }
    });
    Ok(())
}

/// Where the kernel lets CPU time be limited.
#[derive(Debug, PartialEq)]
enum Controller {
    /// The root of cgroup v2.
    Two(PathBuf),
    /// The root of the `cpu` hierarchy of cgroup v1, which some machines still use.
    One(PathBuf),
}

impl Controller {
    fn find() -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(|e| format!("/proc/self/mounts: {e}"))?;
        let controls = |root: &Path| fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        Self::among(&mounts, controls).ok_or_else(|| "no cgroup mount here has the controller `cpu`".to_owned())
    }

    /// Reads the kernel's table of mounts: device, directory, kind, options, two numbers.
    fn among(mounts: &str, controls: impl Fn(&Path) -> String) -> Option<Self> {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (root, kind, options) = (PathBuf::from(fields.next()?), fields.next()?, fields.next()?);
            match kind {
                "cgroup2" => controls(&root).split_whitespace().any(|name| name == "cpu").then_some(Self::Two(root)),
                "cgroup" => options.split(',').any(|name| name == "cpu").then_some(Self::One(root)),
                _ => None,
            }
        })
    }

    /// Moves a process into a new group with the quota.
    fn limit(&self, pid: u32) -> Result<Limited, String> {
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|e| format!("/proc/self/cgroup: {e}"))?;
        let path = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next()?, fields.next()?);
            let ours = match self {
                Self::Two(_) => names.is_empty(),
                Self::One(_) => names.split(',').any(|name| name == "cpu"),
            };
            ours.then_some(path)
        });
        let (Self::Two(root) | Self::One(root)) = self;
        let home = root.join(path.unwrap_or_default().trim_start_matches('/'));
        let home = if home.is_dir() { home } else { root.clone() };
        let group = root.join(format!("shmbc-bench-{}-{pid}", std::process::id()));
        let refused = |e: io::Error| format!("{}: {e}", group.display());
        if let Self::Two(root) = self {
            // Where it is on already, this changes nothing.
            fs::write(root.join("cgroup.subtree_control"), "+cpu").map_err(refused)?;
        }
        fs::create_dir(&group).map_err(refused)?;
        let limited = Limited { pid, home, group: group.clone() };
        let (quota, period) = QUOTA;
        let set = match self {
            Self::Two(_) => fs::write(group.join("cpu.max"), format!("{quota} {period}")),
            Self::One(_) => fs::write(group.join("cpu.cfs_period_us"), period.to_string())
                .and_then(|()| fs::write(group.join("cpu.cfs_quota_us"), quota.to_string())),
        };
        set.and_then(|()| fs::write(group.join("cgroup.procs"), pid.to_string())).map_err(refused)?;
        Ok(limited)
    }
}

/// A process in a group of its own.
pub(crate) struct Limited {
    pid: u32,
    home: PathBuf,
    group: PathBuf,
}

impl Drop for Limited {
    fn drop(&mut self) {
        // Fails where the process has ended; then the group is empty as well.
        let _ = fs::write(self.home.join("cgroup.procs"), self.pid.to_string());
        let _ = fs::remove_dir(&self.group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controller_when_both_kinds_are_mounted_is_the_one_that_has_cpu() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\n";
        let found = |names: &str| Controller::among(mounts, |_| names.to_owned());
        assert_eq!(found("hugetlb cpuset"), Some(Controller::One("/sys/fs/cgroup/cpu".into())));
        assert_eq!(found("memory cpu io"), Some(Controller::Two("/sys/fs/cgroup/unified".into())));
        assert_eq!(Controller::among("", |_| String::new()), None);
    }
}
