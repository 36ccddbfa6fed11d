//! `shmbc query`, completions and manual pages, by the real programs: where an address is said to be, and by which exit code.

use std::process::{Command, Output};

use shmbc_host::{Docker, Host, HostConfig};

fn tool(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmbc"));
    for variable in ["SHMBC_HOST", "SHMBC_WAIT", "SHMBC_UPGRADE", "SHMBC_LOG"] {
        command.env_remove(variable);
    }
    command.args(arguments).output().unwrap()
}

/// What was printed, and the exit code.
fn says(arguments: &[&str]) -> (String, i32) {
    let Output { status, stdout, stderr } = tool(arguments);
    let text = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (text, status.code().unwrap())
}

async fn with_host(test: impl FnOnce(&str) + Send + 'static) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = HostConfig::at(directory.path().join("host.sock"));
    config.docker = Docker::Off;
    let host = Host::start(config).await.unwrap();
    let socket = host.socket().to_str().unwrap().to_owned();
    tokio::task::spawn_blocking(move || test(&socket)).await.unwrap();
    host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn query_when_a_host_answers_says_where_an_address_is() {
    with_host(|socket| {
        let (text, code) = says(&["query", "--socket", socket, "127.0.0.1:80"]);
        assert!(
            code == 0 && text.contains("this host") && text.contains("goes over to shared memory"),
            "{code} {text}"
        );
        let (text, code) = says(&["query", "--socket", socket, "192.0.2.7:80"]);
        assert!(code == 3 && text.contains("another machine"), "{code} {text}");
        let (text, code) = says(&["query", "--json", "--socket", socket, "192.0.2.7:80"]);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, json["addresses"][0]["place"].as_str()), (3, Some("remote")), "{text}");
    })
    .await;
}

#[test]
fn query_when_no_host_answers_says_so_and_what_to_do() {
    let (text, code) = says(&["query", "--socket", "/nowhere/host.sock", "192.0.2.7:80"]);
    assert!(code == 4 && text.contains("no host service at /nowhere/host.sock"), "{code} {text}");
    let (text, code) = says(&["query", "no.such.name.invalid:80"]);
    assert!(code == 1 && text.contains("cannot be looked up"), "{code} {text}");
    for wrong in ["80", ":80", "host:port", "a/b:80"] {
        assert_eq!(says(&["query", wrong]).1, 2, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn query_when_told_to_connect_sees_the_path_and_writes_nothing_to_plain_peers() {
    with_host(|socket| {
        let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = plain.local_addr().unwrap().to_string();
        let peer = std::thread::spawn(move || {
            let mut got = Vec::new();
            std::io::Read::read_to_end(&mut plain.accept().unwrap().0, &mut got).unwrap();
            got
        });
        let (text, code) = says(&["query", "--connect", "--socket", socket, &address]);
        assert!(code == 4 && text.contains("does not speak SHMBC") && text.contains("swap the type"), "{code} {text}");
        assert_eq!(peer.join().unwrap(), b"");
        let (text, code) = says(&["query", "--connect", "--socket", socket, &address]);
        assert!(code == 1 && text.contains("cannot connect"), "{code} {text}");
    })
    .await;
}

#[test]
fn completions_when_printed_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let (text, code) = says(&["completions", shell]);
        assert_eq!(code, 0);
        for command in ["ss", "ps", "proxy", "query", "completions"] {
            assert!(text.contains(command), "{shell} does not know {command}");
        }
    }
    assert_eq!(says(&["completions", "tcsh"]).1, 2);
}

#[test]
fn pages_when_written_are_one_for_each_command() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("man");
    assert_eq!(says(&["man", "--out", out.to_str().unwrap()]).1, 0);
    for page in ["shmbc.1", "shmbc-ss.1", "shmbc-ps.1", "shmbc-proxy.1", "shmbc-query.1"] {
        let text = std::fs::read_to_string(out.join(page)).expect(page);
        assert!(text.contains(".SH NAME") && text.contains(".SH OPTIONS"), "{page}: {text}");
    }
    let (text, code) = says(&["man", "--out", "/proc/nowhere"]);
    assert!(code == 1 && text.contains("cannot write"), "{text}");
}
