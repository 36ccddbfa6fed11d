//! The program as people use it: start, stop, ask, and what it says when something is wrong.

mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::Running;

fn host(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmbc-host"));
    command
        .args(arguments)
        .env_remove("SHMBC_HOST")
        .env_remove("SHMBC_LOG")
        .env_remove("SHMBC_HOST_CONFIG")
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

/// The service, once it answers at this socket.
fn start(socket: &Path) -> Running {
    let arguments = ["run", "--socket", socket.to_str().unwrap(), "--docker", "off"];
    Running::answers(host(&arguments).stderr(Stdio::null()).spawn().unwrap(), socket)
}

#[test]
fn service_when_told_to_stop_ends_cleanly_and_removes_its_socket() {
    use nix::sys::signal::Signal;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("made/host.sock");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let running = start(&socket);
        assert_eq!(running.stop(signal), Some(0));
        assert!(!socket.exists());
    }
    // A service that was killed leaves its file; the next one replaces it.
    let running = start(&socket);
    running.stop(Signal::SIGKILL);
    assert!(socket.exists());
    let path = socket.to_str().unwrap();
    assert!(!host(&["healthcheck", "--socket", path]).output().unwrap().status.success());
    let running = start(&socket);

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
    let usage = [host(&[]), host(&["walk"]), host(&["run", "--docker", "maybe"]), host(&["run", "--memory", "much"])];
    for command in usage {
        fails(command, 2);
    }
}

/// A configuration file.
fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn configuration_when_wrong_is_told_with_its_line_and_starts_nothing() {
    let wrong = file("docker = \"off\"\n[limits]\nconections = 5\n");
    let path = wrong.path().to_str().unwrap();
    for command in ["check", "run"] {
        let said = fails(host(&[command, "--config", path]), 1);
        let expected = format!("shmbc-host: {path}:3:1: unknown field `conections`, expected one of `connections`");
        assert!(said.starts_with(&expected) && said.lines().count() == 1, "{said}");
    }
    let said = fails(host(&["check", "--config", "/nowhere/host.toml"]), 1);
    assert!(said.contains("/nowhere/host.toml: No such file"), "{said}");
    let right = file("log = \"loud\"");
    let said = fails(host(&["check", "--config", right.path().to_str().unwrap()]), 1);
    assert!(said.contains("no such level"), "{said}");
}

#[test]
fn setting_when_given_in_several_places_counts_from_the_command_line_then_the_variable_then_the_file() {
    let file = file("socket = \"/of/the/file.sock\"");
    let checked = |variable: &str, more: &[&str]| {
        let path = file.path().to_str().unwrap();
        let output = host(&[&["check", "--config", path], more].concat()).env("SHMBC_HOST", variable).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(checked("", &[]).contains("listen at /of/the/file.sock"), "an empty variable counts as unset");
    assert!(checked("/of/a/variable.sock", &[]).contains("listen at /of/a/variable.sock"));
    assert!(checked("/of/a/variable.sock", &["--socket", "/of/the/line.sock"]).contains("listen at /of/the/line.sock"));
}

#[test]
fn configuration_when_read_again_and_wrong_is_told_with_its_line_and_the_service_goes_on() {
    use nix::sys::signal::{Signal, kill};
    use std::io::BufRead;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("host.sock");
    let (file, path) = (file(""), socket.to_str().unwrap());
    let arguments = ["run", "--config", file.path().to_str().unwrap(), "--socket", path, "--docker", "off"];
    let mut child = host(&arguments).spawn().unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut running = Running(child);
    let mut until = |words: &str| log.find(|line| line.contains(words)).expect(words);
    until("host service ready");
    for (text, words) in [
        ("[limits]\nsessions = -1", "host.toml:2:12: "),
        ("[blocks]\nstock = 1", "this setting has changed, and is taken over by a restart only"),
    ] {
        std::fs::write(file.path(), text).unwrap();
        kill(nix::unistd::Pid::from_raw(running.0.id().cast_signed()), Signal::SIGHUP).unwrap();
        let words = words.replace("host.toml", file.path().to_str().unwrap());
        until(&words);
    }
    assert!(host(&["healthcheck", "--socket", path]).output().unwrap().status.success());
    assert!(running.0.try_wait().unwrap().is_none());
}

#[test]
fn service_when_it_may_open_few_descriptors_starts_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("host.sock");
    let path = socket.to_str().unwrap();
    let script = format!("ulimit -n 30; exec {} run --docker off --socket {path}", env!("CARGO_BIN_EXE_shmbc-host"));
    let child = Command::new("sh").args(["-c", &script]).env("SHMBC_LOG", "error").spawn().unwrap();
    drop(Running::answers(child, &socket));
}

#[test]
fn log_when_json_is_asked_for_is_one_object_a_line() {
    use std::io::BufRead;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("host.sock");
    let path = socket.to_str().unwrap();
    let mut child = host(&["run", "--docker", "off", "--log-format", "json", "--socket", path]).spawn().unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let _running = Running(child);
    let ready = log.find(|line| line.contains("host service ready")).expect("it says so");
    let line: serde_json::Value = serde_json::from_str(&ready).unwrap();
    assert_eq!((&line["level"], &line["socket"]), (&"INFO".into(), &path.into()), "{line}");
}

#[tokio::test]
async fn refusal_when_a_flood_of_them_comes_is_explained_in_few_lines() {
    use std::io::Read;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("host.sock");
    let path = socket.to_str().unwrap();
    let mut child = host(&["run", "--docker", "off", "--socket", path]).spawn().unwrap();
    let mut log = child.stderr.take().unwrap();
    let running = Running::answers(child, &socket);
    let client = common::Client::greeted(&socket).await;
    for id in 1..200 {
        client.offer_as(id, -1, "127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        client.refused(id).await;
    }
    assert_eq!(running.stop(nix::sys::signal::Signal::SIGTERM), Some(0));
    let mut said = String::new();
    log.read_to_string(&mut said).unwrap();
    let lines: Vec<_> = said.lines().filter(|line| line.contains("a connection stays on TCP: ")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains("could not see this socket") && lines[0].contains("--cap-add SYS_PTRACE"), "{said}");
}
