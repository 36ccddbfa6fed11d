//! Programs that the tests run: where they are built, and what can be seen of a running one.

use std::path::{Path, PathBuf};

/// Names a directory that has the programs already, for tests that run where there is no cargo.
const PROGRAMS: &str = "SHMBC_TEST_BIN";

/// The directory of this profile's programs, beside the test's own.
fn beside() -> PathBuf {
    let me = std::env::current_exe().expect("own path");
    let dir = me.parent().expect("a file has a directory");
    if dir.ends_with("deps") { dir.parent().expect("deps is in a directory").to_owned() } else { dir.to_owned() }
}

/// The program `name` of this package, which cargo builds together with its tests.
pub fn program(name: &str) -> PathBuf {
    std::env::var_os(PROGRAMS).map_or_else(beside, PathBuf::from).join(name)
}

/// How many descriptors process `pid` has open; nothing when it is gone.
pub fn open_fds(pid: u32) -> Option<usize> {
    Some(std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// What the descriptors of process `pid` refer to, sorted: to say what was left behind.
pub fn fd_targets(pid: u32) -> Vec<String> {
    let dir = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let target = |path: &Path| std::fs::read_link(path).map(|to| to.to_string_lossy().into_owned());
    let mut targets: Vec<_> = dir.filter_map(|entry| target(&entry.path()).ok()).collect();
    targets.sort();
    targets
}
