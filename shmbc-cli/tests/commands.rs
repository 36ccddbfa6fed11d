//! The tool as people use it: what it prints, and what it says when something is wrong.

use std::path::Path;
use std::process::{Command, Output};

use shmbc_host::{Docker, Host, HostConfig};

fn tool(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmbc"));
    command.args(arguments).env_remove("SHMBC_HOST").env_remove("SHMBC_LOG");
    command.output().unwrap()
}

/// Runs to the end, which must be this exit code; what was on stderr.
fn fails(arguments: &[&str], code: i32) -> String {
    let Output { status, stderr, .. } = tool(arguments);
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{arguments:?}: {stderr}");
    stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_when_nothing_is_there_are_empty_and_well_formed() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = HostConfig::at(directory.path().join("host.sock"));
    config.docker = Docker::Off;
    let host = Host::start(config).await.unwrap();
    let socket = host.socket().to_str().unwrap().to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        for command in ["ss", "ps"] {
            let json = tool(&[command, "--json", "--socket", &socket]);
            assert_eq!(String::from_utf8(json.stdout).unwrap().trim(), "[]");
            let table = tool(&[command, "--socket", &socket]);
            assert!(table.status.success());
            assert_eq!(String::from_utf8(table.stdout).unwrap().lines().count(), 1, "the header");
        }
        let top = ["top", "--once", "--interval", "0.01", "--size", "100x12", "--socket", &socket];
        let picture = String::from_utf8(tool(&top).stdout).unwrap();
        assert_eq!(picture.lines().count(), 12);
        assert!(picture.contains("no connection yet") && !picture.contains('\u{1b}'), "{picture}");
        let live = tool(&["top", "--socket", &socket]);
        assert!(String::from_utf8(live.stderr).unwrap().contains("top needs a terminal"));
        let summary = tool(&["ss", "--summary", "--json", "--socket", &socket]);
        assert!(String::from_utf8(summary.stdout).unwrap().starts_with("{\"connections\":0"));
    });
    asked.await.unwrap();
    host.shutdown().await;
}

#[test]
fn tool_when_something_is_wrong_says_what_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let unix = |name: &str| format!("unix:{}", at(name));
    std::fs::write(at("file"), "").unwrap();
    for (arguments, words) in [
        (&["ss", "--socket", &at("nobody")][..], "no host service at"),
        (&["ps", "--json", "--socket", &at("nobody")], "no host service at"),
        (&["ss", "--socket", &at("file")], "no host service at"),
        (&["ss", "--sort", "rate"], "--sort rate needs --rate"),
        (&["top", "--socket", &at("nobody")], "no host service at"),
        (&["proxy", &unix("file"), "db:1"], "not a socket"),
        (&["proxy", &unix("no/such/socket"), "db:1"], "cannot listen at unix:"),
        (&["proxy", "--mode", "0660", "127.0.0.1:0", "db:1"], "--mode is for a Unix socket"),
        (&["proxy", "--log", "[[[", "127.0.0.1:0", "db:1"], "not understood"),
        (&["proxy", "--log", "error", "no.such.name.invalid:1", "db:1"], "cannot listen at no.such.name.invalid:1"),
    ] {
        let said = fails(arguments, 1);
        assert!(said.contains(words), "{said:?} does not say {words:?}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert!(Path::new(&at("file")).exists(), "a file that is no socket is left alone");
    for arguments in [
        &[][..],
        &["walk"],
        &["ss", "--yaml"],
        &["ss", "--rate", "0"],
        &["ss", "--state", "good"],
        &["top", "--once", "--size", "wide"],
        &["proxy"],
        &["proxy", "127.0.0.1:0"],
        &["proxy", "1234", "db:1"],
        &["proxy", "127.0.0.1:0", ":1"],
        &["proxy", "--mode", "0888", &unix("s"), "db:1"],
    ] {
        fails(arguments, 2);
    }
}

#[test]
fn proxy_when_its_port_is_taken_says_so() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = fails(&["proxy", &address, "db:1"], 1);
    assert!(said.contains(&format!("cannot listen at {address}")) && said.contains("in use"), "{said}");
}
