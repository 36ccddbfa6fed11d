//! What the running program has given up, as the kernel says.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::Running;

/// The service, once it answers at this socket.
fn start(socket: &Path, sandbox: &str) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmbc-host"));
    command.args(["run", "--docker", "off", "--log", "error", "--sandbox", sandbox, "--socket"]).arg(socket);
    Running::answers(command.env_remove("SHMBC_HOST").stdout(Stdio::null()).spawn().unwrap(), socket)
}

/// A field of each of its threads is this.
fn all(running: &Running, field: &str, wanted: &str) {
    let threads = std::fs::read_dir(format!("/proc/{}/task", running.0.id())).unwrap();
    let values = threads.map(|thread| {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
    });
    let values: Vec<_> = values.collect();
    assert!(values.len() > 1 && values.iter().all(|value| value == wanted), "{field}: {values:?}");
}

#[test]
fn service_when_it_runs_has_no_more_rights_than_it_needs_in_any_thread() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(&directory.path().join("host.sock"), "auto");
    all(&running, "NoNewPrivs", "1");
    all(&running, "Seccomp", "2");
    all(&running, "CapInh", "0000000000000000");
    all(&running, "CapAmb", "0000000000000000");
    let mine = std::fs::read_to_string("/proc/self/status").unwrap();
    let mine = |field: &str| {
        let line = mine.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim();
        u64::from_str_radix(line, 16).unwrap()
    };
    // CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_SYS_NICE and CAP_CHECKPOINT_RESTORE, as far as this test itself has them.
    const KEPT: u64 = 1 << 2 | 1 << 19 | 1 << 23 | 1 << 40;
    let kept = KEPT & mine("CapPrm:");
    all(&running, "CapEff", &format!("{kept:016x}"));
    all(&running, "CapPrm", &format!("{kept:016x}"));
    const SETPCAP: u64 = 1 << 8;
    if mine("CapEff:") & SETPCAP != 0 {
        all(&running, "CapBnd", &format!("{:016x}", KEPT & mine("CapBnd:")));
    }
}

#[test]
fn service_when_told_not_to_confine_itself_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(&directory.path().join("host.sock"), "off");
    let mine = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| mine.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    all(&running, "Seccomp", &field("Seccomp:"));
    all(&running, "NoNewPrivs", &field("NoNewPrivs:"));
}
