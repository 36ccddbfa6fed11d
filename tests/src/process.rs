//! Programs that the tests run: where they are built, and what can be seen of a running one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names a directory that has the programs already, for tests that run where there is no cargo.
const PROGRAMS: &str = "SHMBC_TEST_BIN";

/// The directory of this profile's programs, beside the test's own.
fn beside() -> PathBuf {
    let me = std::env::current_exe().expect("own path");
    let dir = me.parent().expect("a file has a directory");
    if dir.ends_with("deps") { dir.parent().expect("deps is in a directory").to_owned() } else { dir.to_owned() }
}

/// The program `shmbc-peer`, which cargo builds together with these tests.
pub fn peer_program() -> PathBuf {
    std::env::var_os(PROGRAMS).map_or_else(beside, PathBuf::from).join("shmbc-peer")
}

/// The program `name` of the package `shmbc-host`, built now if it is not up to date.
///
/// # Panics
///
/// When it cannot be built.
pub fn host_program(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| std::env::var_os(PROGRAMS).map_or_else(build_host, PathBuf::from)).join(name)
}

/// Builds the host's programs in the profile of this test: an old one from an earlier build would be tested otherwise.
fn build_host() -> PathBuf {
    let dir = beside();
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--package", "shmbc-host", "--bins", "--profile", profile])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("run cargo, or set SHMBC_TEST_BIN to a directory with shmbc-host and shmbc");
    assert!(output.status.success(), "build shmbc-host: {}", String::from_utf8_lossy(&output.stderr));
    let program = output.stdout.split(|&b| b == b'\n').find_map(|line| {
        let message: serde_json::Value = serde_json::from_slice(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    program.expect("cargo names what it built").parent().expect("a file has a directory").to_owned()
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
