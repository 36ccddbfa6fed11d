//! The program as people use it: start, stop, ask, and what it says when something is wrong.

mod common;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use common::WATCHDOG;

fn host(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmbc-host"));
    command
        .args(arguments)
        .env_remove("SHMBC_HOST")
        .env_remove("SHMBC_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs to the end; one line on stderr.
fn fails(mut command: Command, code: i32) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{stderr}");
    stderr
}

struct Running(Child);

impl Running {
    fn start(socket: &Path) -> Self {
        let path = socket.to_str().unwrap();
        let child = host(&["run", "--socket", path, "--docker", "off"]).stderr(Stdio::null()).spawn().unwrap();
        let running = Self(child);
        let begun = Instant::now();
        while !host(&["healthcheck", "--socket", path]).output().unwrap().status.success() {
            assert!(begun.elapsed() < WATCHDOG, "the service never answers");
        }
        running
    }

    fn stop(mut self, signal: nix::sys::signal::Signal) -> Option<i32> {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0.id() as i32), signal).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn service_when_told_to_stop_ends_cleanly_and_removes_its_socket() {
    use nix::sys::signal::Signal;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("made/host.sock");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let running = Running::start(&socket);
        assert_eq!(running.stop(signal), Some(0));
        assert!(!socket.exists());
    }
    // A service that was killed leaves its file; the next one replaces it.
    let running = Running::start(&socket);
    running.stop(Signal::SIGKILL);
    assert!(socket.exists());
    let path = socket.to_str().unwrap();
    assert!(!host(&["healthcheck", "--socket", path]).output().unwrap().status.success());
    let running = Running::start(&socket);

    let second = fails(host(&["run", "--socket", path, "--docker", "off", "--log", "error"]), 1);
    assert!(second.contains("already running") && second.lines().count() == 1, "{second}");
    assert!(host(&["healthcheck", "--socket", path]).output().unwrap().status.success(), "the first is not disturbed");
    drop(running);
}

#[test]
fn program_when_something_is_wrong_says_what_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("file"), "").unwrap();
    let quiet = ["--docker", "off", "--log", "error"];
    let run = |socket: &str, more: &[&str]| host(&[&["run", "--socket", socket], &quiet[..], more].concat());
    for (command, words) in [
        (run(&at("file"), &[]), "is not a socket"),
        (run(&at("file/host.sock"), &[]), "does not exist"),
        (run("/proc/nowhere/host.sock", &[]), "does not exist"),
        (run(&at(&"x".repeat(120)), &[]), "longer than the 107 bytes"),
        (run(&at("s"), &["--ring-capacity", "5000"]), "not a power of two"),
        (run("off", &[]), "turns acceleration off"),
        (run("host.sock", &[]), "absolute path"),
        (host(&["healthcheck", "--socket", "off"]), "turns acceleration off"),
        (host(&["run", "--socket", &at("s"), "--log", "[[["]), "not understood"),
        (host(&["run", "--socket", &at("s"), "--log", "shouting"]), "no such level"),
        (host(&["healthcheck", "--socket", &at("nobody")]), "no host service at"),
    ] {
        let said = fails(command, 1);
        assert!(said.contains(words), "{said:?} does not say {words:?}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    for command in [host(&[]), host(&["walk"]), host(&["run", "--docker", "maybe"])] {
        fails(command, 2);
    }
}
