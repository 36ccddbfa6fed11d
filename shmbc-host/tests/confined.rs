//! What the running program has given up, as the kernel says.

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use common::WATCHDOG;

struct Running(Child);

impl Running {
    fn start(socket: &Path, sandbox: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmbc-host"));
        command.args(["run", "--docker", "off", "--log", "error", "--sandbox", sandbox, "--socket"]).arg(socket);
        let mut running = Self(command.env_remove("SHMBC_HOST").stdout(Stdio::null()).spawn().unwrap());
        let begun = Instant::now();
        while shmbc::control::client::Client::connect(socket).is_err() {
            assert!(running.0.try_wait().unwrap().is_none() && begun.elapsed() < WATCHDOG, "it never answers");
        }
        running
    }

    /// A field of each of its threads.
    fn status(&self, field: &str) -> Vec<String> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        threads
            .map(|thread| {
                let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
                let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
                line.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
            })
            .collect()
    }

    fn all(&self, field: &str, wanted: &str) {
        let threads = self.status(field);
        assert!(threads.len() > 1 && threads.iter().all(|value| value == wanted), "{field}: {threads:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn service_when_it_runs_has_no_more_rights_than_it_needs_in_any_thread() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(&directory.path().join("host.sock"), "auto");
    running.all("NoNewPrivs", "1");
    running.all("Seccomp", "2");
    running.all("CapInh", "0000000000000000");
    running.all("CapAmb", "0000000000000000");
    let mine = std::fs::read_to_string("/proc/self/status").unwrap();
    let mine = |field: &str| {
        let line = mine.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim();
        u64::from_str_radix(line, 16).unwrap()
    };
    // CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_SYS_NICE and CAP_CHECKPOINT_RESTORE, as far as this test itself has them.
    const KEPT: u64 = 1 << 2 | 1 << 19 | 1 << 23 | 1 << 40;
    let kept = KEPT & mine("CapPrm:");
    running.all("CapEff", &format!("{kept:016x}"));
    running.all("CapPrm", &format!("{kept:016x}"));
    const SETPCAP: u64 = 1 << 8;
    if mine("CapEff:") & SETPCAP != 0 {
        running.all("CapBnd", &format!("{:016x}", KEPT & mine("CapBnd:")));
    }
}

#[test]
fn service_when_told_not_to_confine_itself_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(&directory.path().join("host.sock"), "off");
    let mine = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| mine.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    running.all("Seccomp", &field("Seccomp:"));
    running.all("NoNewPrivs", &field("NoNewPrivs:"));
}
