//! What the configuration and labels forbid stays on TCP, and the sentence says what to change.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use nix::sys::signal::{Signal, kill};
use shmbc_tests::peer::{self, connect};
use shmbc_tests::process::program;
use shmbc_tests::script::{Command, Kind};
use shmbc_tests::sockets::wait_until;
use shmbc_tests::{HostProcess, Image, Need, Peer, Setup, docker, suite, test};

fn main() -> ExitCode {
    suite(vec![
        test("configuration_when_read_again_decides_about_new_connections_and_leaves_the_others", read_again),
        test("containers_when_a_label_of_theirs_or_of_a_network_forbids_it_stay_on_tcp", labels)
            .needs(Need::Docker)
            .needs(Need::Root),
    ])
}

/// Two processes side by side, and a service with a configuration file.
struct Scene {
    host: HostProcess,
    file: tempfile::NamedTempFile,
    client: Peer,
    server: Peer,
}

impl Scene {
    fn new(configuration: &str) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), configuration).expect("write it");
        let host = HostProcess::start_with(&["--config", file.path().to_str().expect("a plain path")]);
        let setup = Setup::with_host(host.socket());
        Self { host, file, client: Peer::start(&setup), server: Peer::start(&setup) }
    }

    fn read_again(&self, configuration: &str) {
        std::fs::write(self.file.path(), configuration).expect("write it");
        kill(nix::unistd::Pid::from_raw(self.host.pid().cast_signed()), Signal::SIGHUP).expect("the service runs");
    }

    /// What becomes of a new connection.
    fn upgraded(&mut self) -> String {
        upgraded(&mut self.client, &mut self.server, Ipv4Addr::LOCALHOST.into())
    }
}

/// What becomes of a new connection to this address of the server's.
fn upgraded(client: &mut Peer, server: &mut Peer, ip: std::net::IpAddr) -> String {
    let address = server.listen(Kind::Shm, Ipv4Addr::UNSPECIFIED);
    let (c, s) = connect(client, Kind::Shm, server, SocketAddr::new(ip, address.port()));
    let [of_client, of_server] = peer::upgraded(client, c, server, s);
    assert_eq!(of_client, of_server, "both ends are told the same");
    of_server
}

const UPGRADED: &str = "upgraded";

fn read_again() {
    let mut scene = Scene::new("");
    assert_eq!(scene.upgraded(), UPGRADED);
    let uid = nix::unistd::getuid();
    scene.read_again(&format!("[[rule]]\nuid = {uid}\naccelerate = false"));
    let refused = format!("refused: policy: rule 1 of the host service keeps uid {uid} outside of containers on TCP");
    // Nothing tells when a signal has been handled.
    wait_until("the rule counts", || match scene.upgraded() {
        said if said == UPGRADED => false,
        said => {
            assert_eq!(said, refused);
            true
        }
    });
    scene.read_again("[limits]\nconnections = 100000");
    wait_until("it no longer counts", || scene.upgraded() == UPGRADED);
    for end in [&mut scene.client, &mut scene.server] {
        assert_eq!(end.text(&Command::Path(0)), "shared memory", "the first connection is what it was");
    }
}

/// A network, removed when dropped.
struct Network(String);

impl Network {
    fn new(name: String, labels: &[&str]) -> Self {
        let labels: Vec<_> = labels.iter().flat_map(|label| ["--label", label]).collect();
        docker(&[&["network", "create"], &labels[..], &[&name]].concat());
        Self(name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker").args(["network", "rm", &self.0]).output();
    }
}

fn labels() {
    let host = HostProcess::start_with(&["--docker", "/var/run/docker.sock"]);
    let image = Image::of(&program("shmbc-peer"));
    let quiet = Network::new(image.name("quiet"), &["io.shmbc.enable=false"]);
    let open = Network::new(image.name("open"), &[]);
    let mount = format!("{}:/run/shmbc", host.socket().parent().expect("a directory").display());
    let start = |name: &str, labels: &[&str]| {
        let labels: Vec<_> = labels.iter().flat_map(|label| ["--label", label]).collect();
        let arguments = [&["--network", &open.0, "--volume", &mount][..], &labels].concat();
        Peer::start_by(&mut image.run(name, &arguments))
    };
    let address = |name: &str, network: &Network| {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{}\").IPAddress}}}}", network.0);
        let address = docker(&["inspect", "--format", &format, &image.name(name)]);
        address.parse().unwrap_or_else(|e| panic!("{address:?}: {e}"))
    };
    let mut web = start("web", &[]);
    let mut db = start("db", &["io.shmbc.limit.connections=1"]);
    let mut shy = start("shy", &[&format!("io.shmbc.peers={}", image.name("d*"))]);
    // Who answers runs.
    let _ = [&mut web, &mut db, &mut shy].map(|peer| peer.listen(Kind::Tcp, Ipv4Addr::LOCALHOST));
    for name in ["web", "db"] {
        docker(&["network", "connect", &quiet.0, &image.name(name)]);
    }
    let (name, web_name) = (image.name("shy"), image.name("web"));

    let forbidden = format!("refused: policy: network {} has the label io.shmbc.enable=false", quiet.0);
    assert_eq!(upgraded(&mut web, &mut db, address("db", &quiet)), forbidden);
    assert_eq!(
        upgraded(&mut web, &mut shy, address("shy", &open)),
        format!(
            "refused: policy: its labels let container {name} go over to shared memory with {} only, not with {web_name}",
            image.name("d*")
        )
    );
    assert_eq!(upgraded(&mut shy, &mut db, address("db", &open)), UPGRADED);
    // The server's end is one too many, and the client's waits for it in vain.
    let listens = db.listen(Kind::Shm, Ipv4Addr::UNSPECIFIED);
    let (_, s) = connect(&mut web, Kind::Shm, &mut db, SocketAddr::new(address("db", &open), listens.port()));
    assert_eq!(
        db.text(&Command::Upgraded(s)),
        format!(
            "refused: quota: container {} has 1 of at most 1 connections: raise its label io.shmbc.limit.connections",
            image.name("db")
        )
    );
}
