//! With a real Docker engine: containers appear in the table with their addresses, labels and ports, and go again.
//!
//! Where no engine answers at /var/run/docker.sock the tests that need one are reported as ignored, with that reason.

mod common;

use std::process::{Command, ExitCode};
use std::time::Duration;

use common::*;
use libtest_mimic::{Arguments, Trial};
use shmbc::control::message::*;
use shmbc_host::Docker;

fn main() -> ExitCode {
    let engine = Command::new("docker").args(["version", "-f", "{{.Server.Version}}"]).output();
    let no_engine = !engine.is_ok_and(|answer| answer.status.success());
    if no_engine {
        eprintln!("skipped: the tests of a container's life need a Docker engine that this user may use");
    }
    libtest_mimic::run(
        &Arguments::from_args(),
        vec![
            trial("container_when_it_starts_and_stops_appears_in_the_table_and_goes", containers_come_and_go)
                .with_ignored_flag(no_engine),
            trial("service_when_docker_is_absent_starts_all_the_same", docker_is_absent),
        ],
    )
    .exit_code()
}

fn trial<F: Future<Output = ()> + 'static>(name: &str, test: fn() -> F) -> Trial {
    Trial::test(name, move || {
        tokio::runtime::Runtime::new().unwrap().block_on(test());
        Ok(())
    })
}

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().expect("the docker command is there");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A container that is removed with the test, and the image made for it.
struct Container {
    id: String,
    image: String,
}

impl Container {
    /// Runs a program that waits: this crate's own tool is no such thing, so the image is the machine's `sleep`.
    fn start(name: &str) -> Self {
        let image = format!("shmbc-test-{name}");
        let import = format!(
            "set -e; d=$(mktemp -d); trap 'rm -rf $d' EXIT; \
             for f in $(which sleep) $(ldd $(which sleep) | grep -o '/[^ ]*'); do \
             mkdir -p $d$(dirname $f); cp -L $f $d$f; done; tar -C $d -c . | docker import - {image}"
        );
        let made = Command::new("sh").args(["-c", &import]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let sleep = Command::new("sh").args(["-c", "which sleep"]).output().unwrap();
        let sleep = String::from_utf8(sleep.stdout).unwrap();
        let label = "io.shmbc.enable=false";
        let id = docker(&["run", "-d", "--name", &image, "--label", label, &image, sleep.trim(), "600"]);
        Self { id, image }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        for arguments in [["rm", "-f", &self.id], ["rmi", "-f", &self.image]] {
            let _ = Command::new("docker").args(arguments).output();
        }
    }
}

async fn rows(client: &Client) -> Vec<ContainerRow> {
    client.say(&ToHost::ListContainers);
    let mut all = Vec::new();
    loop {
        let (ToClient::Containers { rows, last }, _) = client.hear().await else { panic!("no rows") };
        all.extend(rows);
        if last {
            return all;
        }
    }
}

async fn containers_come_and_go() {
    let name = format!("{}-{}", "table", std::process::id());
    let before = Container::start(&format!("{name}-before"));
    let service = start_with(|config| config.docker = Docker::At("/var/run/docker.sock".into())).await;
    let client = service.client().await;
    let row = async |id: &str| rows(&client).await.into_iter().find(|row| row.id == id);
    let until = async |id: &str, there: bool| {
        let change = async {
            loop {
                let found = row(id).await;
                if found.is_some() == there {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(WATCHDOG, change).await.expect("the table never follows")
    };
    // One that ran before the service did, and one that starts after it.
    for container in [&before, &Container::start(&name)] {
        let row = until(&container.id, true).await.unwrap();
        assert_eq!((row.name.as_str(), row.state.as_str()), (container.image.as_str(), "running"));
        assert_eq!(row.networks.len(), 1, "{row:?}");
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address = docker(&["inspect", "-f", format, &container.id]);
        assert_eq!(row.networks[0].1, [address.parse::<std::net::IpAddr>().unwrap()]);
        docker(&["pause", &container.id]);
        let paused = async {
            while self::rows(&client).await.iter().find(|r| r.id == container.id).unwrap().state != "paused" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(WATCHDOG, paused).await.expect("the state never follows");
        docker(&["unpause", &container.id]);
        docker(&["kill", &container.id]);
        until(&container.id, false).await;
    }
}

async fn docker_is_absent() {
    let service = start_with(|config| config.docker = Docker::At("/nowhere/docker.sock".into())).await;
    let client = service.client().await;
    assert!(rows(&client).await.is_empty());
}
