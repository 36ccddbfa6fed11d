//! `shmbc doctor` in each place: ready, and with something missing.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use shmbc_host::{Docker, Host, HostConfig};

fn doctor(socket: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmbc"));
    command.args(["doctor", "--socket"]).arg(socket).args(more);
    for variable in ["SHMBC_HOST", "SHMBC_WAIT", "SHMBC_UPGRADE"] {
        command.env_remove(variable);
    }
    command
}

/// What it says, and its exit code.
fn says(command: &mut Command) -> (String, Option<i32>) {
    let Output { status, stdout, .. } = command.output().unwrap();
    (String::from_utf8(stdout).unwrap(), status.code())
}

async fn service(directory: &Path, change: impl FnOnce(&mut HostConfig)) -> Host {
    let mut config = HostConfig::at(directory.join("host.sock"));
    config.docker = Docker::Off;
    change(&mut config);
    Host::start(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_when_all_is_there_sees_a_connection_of_its_own_upgraded() {
    let directory = tempfile::tempdir().unwrap();
    let host = service(directory.path(), |_| {}).await;
    let socket = host.socket().to_owned();
    let (text, code) = tokio::task::spawn_blocking(move || says(&mut doctor(&socket, &[]))).await.unwrap();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("a connection of its own went over to shared memory"), "{text}");
    assert!(text.trim_end().lines().last().unwrap().starts_with("ready"), "{text}");
    host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_when_the_service_refuses_says_why_and_what_to_change() {
    let directory = tempfile::tempdir().unwrap();
    let host = service(directory.path(), |config| config.memory = Some(1)).await;
    let socket = host.socket().to_owned();
    let asked = move || says(&mut doctor(&socket, &["--json"]));
    let (text, code) = tokio::task::spawn_blocking(asked).await.unwrap();
    assert_eq!(code, Some(1), "{text}");
    let findings: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let upgrade = findings.iter().find(|finding| finding["check"] == "upgrade").unwrap();
    assert_eq!(upgrade["verdict"], "problem");
    assert!(upgrade["found"].as_str().unwrap().contains("raise blocks.memory of the host service"), "{upgrade}");
    host.shutdown().await;
}

#[test]
fn doctor_when_the_service_is_not_there_says_what_stands_in_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("file"), "").unwrap();
    drop(std::os::unix::net::UnixListener::bind(at("stale")).unwrap());
    for (path, words) in [
        (at("none/host.sock"), ["there is no", "-v /run/shmbc:/run/shmbc"]),
        (at("host.sock"), ["and no socket in it", "shmbc-host run"]),
        (at("file"), ["is no socket", "mount /run/shmbc itself"]),
        (at("stale"), ["nobody listens at", "not the socket in it"]),
    ] {
        let (text, code) = says(&mut doctor(&path, &[]));
        assert_eq!(code, Some(1), "{text}");
        assert!(words.iter().all(|words| text.contains(words)), "{text} does not say {words:?}");
        assert!(text.contains("not ready: 1 problem"), "{text}");
    }
}

#[test]
fn doctor_when_a_variable_is_wrong_or_mistyped_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("host.sock");
    let (text, _) = says(doctor(&path, &[]).env("SHMBC_WAIT", "sometimes").env("SHMBC_WIAT", "off"));
    assert!(text.contains("SHMBC_WAIT=\"sometimes\": expected"), "{text}");
    assert!(text.contains("nothing reads SHMBC_WIAT"), "{text}");
}

#[test]
fn doctor_when_it_may_open_few_descriptors_says_how_to_have_more() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let tool = env!("CARGO_BIN_EXE_shmbc");
    let script = format!("ulimit -Sn 64; exec {tool} doctor --socket {}/host.sock", directory.path().display());
    let (text, _) = says(Command::new("sh").args(["-c", &script]));
    assert!(text.contains("64 may be open") && text.contains("ulimit -n"), "{text}");
}
