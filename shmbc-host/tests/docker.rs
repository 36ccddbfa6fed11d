//! With a real Docker engine: containers appear in the table with their addresses, labels and ports, and go again.
//!
//! Where no engine answers at /var/run/docker.sock the tests that need one are reported as ignored, with that reason.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
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
    let has_dockerd = Command::new("dockerd").arg("--version").output().is_ok_and(|answer| answer.status.success());
    let no_engine_of_its_own = no_engine || !has_dockerd || !nix::unistd::geteuid().is_root();
    if no_engine_of_its_own {
        eprintln!("skipped: the test of a Docker engine that restarts needs dockerd, and root to run it");
    }
    libtest_mimic::run(
        &Arguments::from_args(),
        vec![
            trial("container_when_it_starts_and_stops_appears_in_the_table_and_goes", containers_come_and_go)
                .with_ignored_flag(no_engine),
            trial("table_when_docker_restarts_keeps_what_it_knew_and_then_follows_again", docker_restarts)
                .with_ignored_flag(no_engine_of_its_own),
            trial("docker_when_followed_is_asked_by_get_only", only_gets).with_ignored_flag(no_engine),
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
        let id = docker(&[
            "run",
            "-d",
            "--name",
            &image,
            "--label",
            label,
            "--expose",
            "7000",
            "--publish",
            "127.0.0.1:0:7001",
            "--volume",
            "/tmp:/mounted:ro",
            &image,
            sleep.trim(),
            "600",
        ]);
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

/// A network, removed when dropped.
struct Network(String);

impl Network {
    fn new(name: &str) -> Self {
        docker(&["network", "create", name]);
        Self(name.to_owned())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["network", "rm", &self.0]).output();
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
    let find = async |id: &str| rows(&client).await.into_iter().find(|row| row.id == id);
    let until = async |id: &str, there: bool| {
        let change = async {
            loop {
                let found = find(id).await;
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
        assert_eq!(row.networks[0].addresses, [address.parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!((&row.image, row.exposed.as_slice()), (&container.image, &[7000, 7001][..]));
        assert_eq!(row.labels["io.shmbc.enable"], "false");
        let mount = MountRow { kind: "bind".into(), source: "/tmp".into(), target: "/mounted".into(), writable: false };
        assert_eq!(row.mounts, [mount]);
        let published = docker(&["port", &container.id, "7001/tcp"]);
        assert_eq!(row.published, [(published.parse().unwrap(), 7001)]);
        let becomes = async |what: &str, wanted: &dyn Fn(&ContainerRow) -> bool| {
            let change = async {
                while !find(&container.id).await.is_some_and(|row| wanted(&row)) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(WATCHDOG, change).await.unwrap_or_else(|_| panic!("never {what}"));
        };
        docker(&["pause", &container.id]);
        becomes("paused", &|row| row.state == "paused").await;
        docker(&["unpause", &container.id]);
        let other = format!("{}-other", container.image);
        docker(&["rename", &container.id, &other]);
        becomes("renamed", &|row| row.name == other).await;
        let network = Network::new(&other);
        docker(&["network", "connect", "--alias", "also", &network.0, &container.id]);
        let in_it = |row: &ContainerRow| row.networks.iter().any(|n| n.name == other && n.aliases == ["also"]);
        becomes("in the second network", &in_it).await;
        docker(&["network", "disconnect", &network.0, &container.id]);
        becomes("out of the second network", &|row| row.networks.len() == 1).await;
        docker(&["kill", &container.id]);
        until(&container.id, false).await;
    }
}

/// An engine of this test's own, beside the machine's: it can be stopped and started.
struct Engine {
    directory: tempfile::TempDir,
    process: Option<std::process::Child>,
}

impl Engine {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("shmbc-dockerd-").tempdir_in("/tmp").unwrap();
        let mut engine = Self { directory, process: None };
        engine.start();
        engine
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn start(&mut self) {
        let log = std::fs::File::create(self.path("log")).unwrap();
        // Not the machine's settings.
        std::fs::write(self.path("daemon.json"), "{}").unwrap();
        // In a network namespace of its own: it would take the machine's bridge for one that it has left.
        let mut command = Command::new("unshare");
        command.args(["--net", "dockerd"]);
        command.args(["--config-file", &self.path("daemon.json")]);
        command.args(["--data-root", &self.path("data"), "--exec-root", &self.path("exec")]);
        command.args(["--pidfile", &self.path("pid"), "--host", &format!("unix://{}", self.path("docker.sock"))]);
        // Its containers need no network.
        command.args([
            "--bridge",
            "none",
            "--iptables=false",
            "--ip6tables=false",
            "--storage-driver",
            "vfs",
            "--live-restore",
        ]);
        self.process = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        let begun = std::time::Instant::now();
        while !self.docker(&["version"]).status.success() {
            let log = || std::fs::read_to_string(self.path("log")).unwrap();
            assert!(begun.elapsed() < WATCHDOG, "dockerd never answers: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(process.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        process.wait().unwrap();
    }

    fn docker(&self, arguments: &[&str]) -> std::process::Output {
        let host = format!("unix://{}", self.path("docker.sock"));
        Command::new("docker").args(["--host", &host]).args(arguments).output().unwrap()
    }

    /// Starts a container that waits.
    fn run(&self, name: &str) -> String {
        let sleep = Command::new("sh").args(["-c", "which sleep"]).output().unwrap();
        let sleep = String::from_utf8(sleep.stdout).unwrap();
        let run = self.docker(&["run", "-d", "--name", name, "--network", "none", "wait", sleep.trim(), "600"]);
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.stop();
        }
        // What it has left mounted would keep its directory.
        for mount in ["data", "exec/netns/default"] {
            let _ = Command::new("umount").args(["--quiet", "--lazy", "--recursive", &self.path(mount)]).output();
        }
    }
}

async fn docker_restarts() {
    let mut engine = Engine::new();
    let import = format!(
        "set -e; d=$(mktemp -d); trap 'rm -rf $d' EXIT; for f in $(which sleep) $(ldd $(which sleep) | grep -o '/[^ ]*'); do \
         mkdir -p $d$(dirname $f); cp -L $f $d$f; done; tar -C $d -c . | docker --host unix://{} import - wait",
        engine.path("docker.sock")
    );
    let made = Command::new("sh").args(["-c", &import]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let before = engine.run("before");
    let socket = engine.path("docker.sock");
    let service = start_with(|config| config.docker = Docker::At(socket)).await;
    let client = service.client().await;
    let becomes = async |what: &str, wanted: &[&str]| {
        let change = async {
            loop {
                let mut there: Vec<_> = rows(&client).await.into_iter().map(|row| row.id).collect();
                there.sort();
                if there == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(2 * WATCHDOG, change).await.unwrap_or_else(|_| panic!("never: {what}"));
    };
    becomes("the container is there", &[&before]).await;
    // Its containers outlive it: it is told to let them.
    let engine = tokio::task::spawn_blocking(move || {
        engine.stop();
        engine
    });
    let mut engine = engine.await.unwrap();
    let known = rows(&client).await;
    assert!(known.iter().any(|row| row.id == before), "what was known stays: {known:?}");
    let started = tokio::task::spawn_blocking(move || {
        engine.start();
        let after = engine.run("after");
        (engine, after)
    });
    let (engine, after) = started.await.unwrap();
    let mut both = [before.as_str(), after.as_str()];
    both.sort_unstable();
    becomes("the table follows again", &both).await;
    let removed = tokio::task::spawn_blocking(move || {
        assert!(engine.docker(&["rm", "--force", "before"]).status.success());
        engine
    });
    let engine = removed.await.unwrap();
    becomes("one has gone", &[&after]).await;
    tokio::task::spawn_blocking(move || engine.docker(&["rm", "--force", "after"]).status).await.unwrap();
}

/// Passes everything on between a socket of its own and Docker's, and keeps what was asked.
fn listen_in(path: &std::path::Path) -> Arc<Mutex<Vec<u8>>> {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (listener, kept) = (UnixListener::bind(path).unwrap(), Arc::clone(&asked));
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let docker = UnixStream::connect("/var/run/docker.sock").unwrap();
            let (mut answers, mut to_client) = (docker.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut answers, &mut to_client));
            let (mut client, mut docker, kept) = (client, docker, Arc::clone(&kept));
            std::thread::spawn(move || {
                let mut piece = [0; 4096];
                while let Ok(n @ 1..) = client.read(&mut piece) {
                    kept.lock().unwrap().extend(&piece[..n]);
                    docker.write_all(&piece[..n]).unwrap();
                }
                let _ = docker.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    asked
}

async fn only_gets() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("docker.sock");
    let asked = listen_in(&path);
    let service = start_with(|config| config.docker = Docker::At(path.to_str().unwrap().to_owned())).await;
    let client = service.client().await;
    let container = Container::start(&format!("gets-{}", std::process::id()));
    let seen = async {
        while !rows(&client).await.iter().any(|row| row.id == container.id) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WATCHDOG, seen).await.expect("the container is never seen");
    let asked = String::from_utf8(asked.lock().unwrap().clone()).unwrap();
    let requests: Vec<_> = asked.lines().filter(|line| line.ends_with(" HTTP/1.1")).collect();
    for part in ["/events", "/containers/json", "/networks", &format!("/containers/{}/json", container.id)] {
        assert!(requests.iter().any(|request| request.contains(part)), "{part} is missing in {requests:?}");
    }
    assert!(requests.iter().all(|request| request.starts_with("GET ")), "{requests:?}");
}

async fn docker_is_absent() {
    let service = start_with(|config| config.docker = Docker::At("/nowhere/docker.sock".into())).await;
    let client = service.client().await;
    assert!(rows(&client).await.is_empty());
}
