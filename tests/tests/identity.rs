//! Who the service takes a client for, with real containers and cgroups: what it cannot recognise has least rights, and no name
//! that somebody gives his own cgroup makes him another.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use shmbc_tests::host::{connections, hello};
use shmbc_tests::peer::{self, connect};
use shmbc_tests::process::program;
use shmbc_tests::raw::dies_with_us;
use shmbc_tests::script::Kind;
use shmbc_tests::sockets::wait_until;
use shmbc_tests::{HostProcess, Image, Need, Peer, Setup, docker, suite, test};

/// An ordinary user, and the first of the numbers that he has in a namespace of his own.
const USER: u32 = 1000;
const SUBORDINATE: u32 = 200_000;

/// Where a hierarchy of cgroups is mounted: version 1's with a name and no controller, or the one of version 2.
const CGROUPS: [&str; 2] = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup"];

fn main() -> ExitCode {
    suite(vec![
        test("container_when_its_cgroup_has_another_parent_is_recognised_by_dockers_word", other_parent)
            .needs(Need::Docker)
            .needs(Need::Root),
        test("container_when_nobody_recognises_it_sees_no_tables", unrecognised).needs(Need::Docker).needs(Need::Root),
        test("cgroup_when_named_like_a_container_is_not_that_container", same_name)
            .needs(Need::Docker)
            .needs(Need::Root),
        test("users_when_they_are_one_owners_subordinates_have_one_quota", subordinates).needs(Need::Root),
        test("rule_when_its_user_goes_into_a_user_namespace_still_limits_him", limited_by_rule).needs(Need::Root),
        test("rule_when_it_raises_a_limit_is_not_for_what_may_be_a_container", raised_by_rule).needs(Need::Root),
        test("users_when_they_are_in_one_unknown_container_have_one_quota", many_users)
            .needs(Need::Docker)
            .needs(Need::Root),
        test("cgroup_when_the_service_has_a_cgroup_namespace_is_still_seen_to_be_somebodys", from_cgroup_namespace)
            .needs(Need::Root),
    ])
}

/// Lets everybody reach the service's socket.
fn open(host: &HostProcess) -> PathBuf {
    let directory = host.socket().parent().expect("a directory");
    fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).expect("it is ours");
    directory.to_owned()
}

/// What becomes of a connection over loopback between a container in the host's network, started with these arguments, and a
/// process outside of containers.
fn with_container(host: &HostProcess, image: &Image, name: &str, arguments: &[&str]) -> String {
    let mount = format!("{}:/run/shmbc", open(host).display());
    let arguments = [&["--network", "host", "--volume", &mount][..], arguments].concat();
    let mut inside = Peer::start_by(&mut image.run(name, &arguments));
    let mut outside = Peer::start(&Setup::with_host(host.socket()));
    let address = inside.listen(Kind::Shm, Ipv4Addr::LOCALHOST);
    let (c, s) = connect(&mut outside, Kind::Shm, &mut inside, address);
    let [said, also] = peer::upgraded(&mut outside, c, &mut inside, s);
    assert_eq!(said, also, "both ends are told the same");
    said
}

fn other_parent() {
    let host = HostProcess::start_with(&["--docker", "/var/run/docker.sock"]);
    let image = Image::of(&program("shmbc-peer"));
    let parent = ["--cgroup-parent", "/customers"];
    let label = ["--label", "io.shmbc.enable=false"];
    let refused = format!("refused: policy: container {} has the label io.shmbc.enable=false", image.name("shy"));
    assert_eq!(with_container(&host, &image, "shy", &[&parent[..], &label].concat()), refused);
    assert_eq!(with_container(&host, &image, "open", &parent), "upgraded");
}

fn unrecognised() {
    // A service without Docker's word.
    let host = HostProcess::start();
    let image = Image::with(&[("program", &program("shmbc-under-test"))], &[]);
    let mount = format!("{}:/run/shmbc", open(&host).display());
    let list = |arguments: &[&str]| {
        let arguments =
            [&["run", "--rm", "--volume", &mount][..], arguments, &[image.tag(), "/program", "ss"]].concat();
        let output = Process::new("docker").args(arguments).output().expect("docker");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for arguments in [&["--cgroup-parent", "/customers"][..], &["--cgroup-parent", "/customers", "--pid", "host"], &[]]
    {
        let (listed, said) = list(arguments);
        assert!(!listed && said.contains("outside of containers"), "{arguments:?}: {listed}, {said}");
    }
}

/// Makes a cgroup of root's.
fn cgroup(name: &str) -> PathBuf {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let top = CGROUPS.iter().map(Path::new).find(|path| path.join("cgroup.procs").exists()).expect("cgroups");
    let made = MADE.fetch_add(1, Ordering::Relaxed);
    let path = top.join(format!("shmbc-{name}-{}-{made}", std::process::id()));
    fs::create_dir(&path).expect("a cgroup");
    path
}

/// A command that goes into a cgroup, its `$1`, and does the rest of the line.
fn in_cgroup(path: &Path, line: &str) -> Process {
    let mut command = Process::new("sh");
    command.args(["-c", &format!("echo $$ > \"$1\"/cgroup.procs && {line}"), "sh"]).arg(path);
    command
}

/// A cgroup that an ordinary user keeps, with one below it that has any name; removed when dropped.
struct Kept(PathBuf);

impl Kept {
    fn new(name: &str) -> Self {
        let kept = cgroup("kept");
        chown(&kept, Some(USER), None).expect("it is ours");
        let path = kept.join(name);
        let made = Process::new("mkdir").arg("-p").arg(&path).uid(USER).status().expect("mkdir");
        assert!(made.success());
        Self(path)
    }

    /// A peer of the one who keeps it, in there. Its program is beside the socket, where an ordinary user may go.
    fn start(&self, socket: &Path) -> Peer {
        let peer = socket.with_file_name("peer");
        fs::copy(program("shmbc-peer"), &peer).expect("copy");
        let mut command = in_cgroup(&self.0, "exec setpriv --reuid \"$2\" --clear-groups \"$3\"");
        Peer::start_by(command.arg(USER.to_string()).arg(&peer).env("SHMBC_HOST", socket))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut path = self.0.as_path();
        while fs::remove_dir(path).is_ok() {
            path = path.parent().expect("not the root");
        }
    }
}

/// What the table of the service at `socket` says of the one end of a peer's.
fn row(socket: &Path, of: &Peer) -> Value {
    let rows = connections(socket).into_iter();
    let mut ends = rows.flat_map(|row| row["ends"].as_array().cloned().unwrap_or_default());
    ends.find(|end| end["pid"] == of.pid()).expect("a row of its")
}

fn same_name() {
    let host = HostProcess::start_with(&["--docker", "/var/run/docker.sock"]);
    let image = Image::of(&program("shmbc-peer"));
    let directory = open(&host);
    let mount = format!("{}:/run/shmbc", directory.display());
    // Its label says that only it may be reached: whoever has its name is not it.
    let arguments = ["--network", "host", "--volume", &mount, "--label", "io.shmbc.enable=false"];
    let mut victim = Peer::start_by(&mut image.run("victim", &arguments));
    let _ = victim.listen(Kind::Tcp, Ipv4Addr::LOCALHOST);
    let id = docker(&["inspect", "--format", "{{.Id}}", &image.name("victim")]);
    for name in [format!("docker-{id}.scope"), format!("docker/{id}"), id.clone()] {
        let kept = Kept::new(&name);
        let mut impostor = kept.start(host.socket());
        let mut honest = Peer::start(&Setup::with_host(host.socket()));
        let address = impostor.listen(Kind::Shm, Ipv4Addr::LOCALHOST);
        let (c, s) = connect(&mut honest, Kind::Shm, &mut impostor, address);
        assert_eq!(peer::upgraded(&mut honest, c, &mut impostor, s), ["upgraded"; 2], "the victim's label is not its");
        let its = row(host.socket(), &impostor);
        assert_eq!(
            (&its["container_id"], its["container"].as_str()),
            (&Value::Null, Some("(unknown container)")),
            "{its}"
        );
        drop((impostor, honest));
    }
}

fn from_cgroup_namespace() {
    let (cgroup, directory) = (cgroup("service"), tempfile::tempdir().expect("a directory"));
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
    let socket = directory.path().join("host.sock");
    let mut command = in_cgroup(&cgroup, "exec unshare --cgroup \"$2\" run --docker off --socket \"$3\"");
    command.arg(program("shmbc-host-under-test")).arg(&socket).env("SHMBC_LOG", "warn").stdin(Stdio::null());
    let mut service = dies_with_us(&mut command).spawn().expect("start shmbc-host");
    wait_until("the host service answers", || hello(&socket).is_some());
    let kept = Kept::new(&format!("docker-{}.scope", "a".repeat(64)));
    let (mut impostor, mut honest) = (kept.start(&socket), Peer::start(&Setup::with_host(&socket)));
    let address = impostor.listen(Kind::Shm, Ipv4Addr::LOCALHOST);
    let (c, s) = connect(&mut honest, Kind::Shm, &mut impostor, address);
    assert_eq!(peer::upgraded(&mut honest, c, &mut impostor, s), ["upgraded"; 2]);
    let its = row(&socket, &impostor);
    service.kill().expect("it runs");
    service.wait().expect("it was killed");
    // Its own children end with it, a moment later.
    wait_until("nobody is in its cgroup", || fs::remove_dir(&cgroup).is_ok());
    assert_eq!((&its["container_id"], its["container"].as_str()), (&Value::Null, Some("(unknown container)")), "{its}");
}

/// A connection from a process outside of containers to `other`, which lasts as long as that process; and what `other`
/// says of it.
fn one_more(host: &HostProcess, other: &mut Peer) -> (String, Peer) {
    let address = other.listen(Kind::Shm, Ipv4Addr::LOCALHOST);
    let mut root = Peer::start(&Setup::with_host(host.socket()));
    let (c, s) = connect(&mut root, Kind::Shm, other, address);
    let [_, said] = peer::upgraded(&mut root, c, other, s);
    (said, root)
}

/// A service with these lines of configuration, which everybody reaches.
fn configured(lines: &str) -> (HostProcess, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), lines).expect("write it");
    let host = HostProcess::start_with(&["--config", file.path().to_str().expect("a plain path")]);
    fs::copy(program("shmbc-peer"), open(&host).join("peer")).expect("copy");
    (host, file)
}

/// Two users of one namespace, which belongs to an ordinary one, with a limit of one connection for each client but root.
fn subordinates() {
    let (host, _file) = configured("[limits]\nconnections = 1\n[[rule]]\nuid = 0\nlimits.connections = 9");
    let namespace = UserNamespace::new();
    let (mut one, mut other) = (namespace.start(&host, 1), namespace.start(&host, 2));
    let (first, _root) = one_more(&host, &mut one);
    assert_eq!(first, "upgraded");
    let (said, _another) = one_more(&host, &mut other);
    assert!(said.contains("quota: ") && said.contains(&format!("uid {USER}")), "{said}");
}

/// Of an ordinary user's two connections from his own user namespace the second is one too many by these lines.
fn one_only(lines: &str) {
    let (host, _file) = configured(lines);
    let namespace = UserNamespace::new();
    let mut peer = namespace.start(&host, 1);
    let (first, _root) = one_more(&host, &mut peer);
    assert_eq!(first, "upgraded");
    let (said, _another) = one_more(&host, &mut peer);
    assert!(said.contains("quota: "), "{said}");
}

fn limited_by_rule() {
    one_only(&format!("[[rule]]\nuid = {USER}\naccelerate = true\nlimits.connections = 1"));
}

fn raised_by_rule() {
    let others = "[[rule]]\nuid = 0\nlimits.connections = 9";
    one_only(&format!("[limits]\nconnections = 1\n[[rule]]\nuid = {USER}\nlimits.connections = 9\n{others}"));
}

fn many_users() {
    // A service without Docker's word.
    let (host, _file) = configured("[limits]\nconnections = 1\n[[rule]]\nuid = 0\nlimits.connections = 9");
    let image = Image::of(&program("shmbc-peer"));
    let mount = format!("{}:/run/shmbc", open(&host).display());
    let arguments = ["--network", "host", "--volume", &mount, "--cgroup-parent", "/customers"];
    let start = |container: &str| {
        let mut first = Peer::start_by(&mut image.run(container, &arguments));
        // It runs.
        let _ = first.listen(Kind::Tcp, Ipv4Addr::LOCALHOST);
        first
    };
    let enter = |container: &str, user: &str| {
        let mut command = Process::new("docker");
        command.args(["exec", "--interactive", "--user", user, &image.name(container), "/program"]);
        Peer::start_by(&mut command)
    };
    let _containers = ["many", "another"].map(start);
    let (mut one, mut other) = (enter("many", "5001"), enter("many", "5002"));
    let (first, _root) = one_more(&host, &mut one);
    assert_eq!(first, "upgraded");
    let (said, _second) = one_more(&host, &mut other);
    assert!(said.contains("quota: "), "{said}");
    let mut neighbour = enter("another", "5001");
    let (said, _third) = one_more(&host, &mut neighbour);
    assert_eq!(said, "upgraded", "its quota is its own");
}

/// A user namespace of an ordinary user, with more users in it; as long as its first process lives.
struct UserNamespace(std::process::Child);

impl UserNamespace {
    fn new() -> Self {
        let mut command = Process::new("unshare");
        command.args(["--user", "sleep", "600"]).uid(USER).gid(USER).stdin(Stdio::null());
        let child = dies_with_us(&mut command).spawn().expect("unshare");
        let own = fs::read_link("/proc/self/ns/user").expect("a namespace");
        wait_until("it is in a namespace of its own", || {
            fs::read_link(format!("/proc/{}/ns/user", child.id())).is_ok_and(|ns| ns != own)
        });
        for map in ["uid_map", "gid_map"] {
            let lines = format!("0 {USER} 1\n1 {SUBORDINATE} 100\n");
            fs::write(format!("/proc/{}/{map}", child.id()), lines).expect("root may");
        }
        Self(child)
    }

    /// A peer in it, as the user of this number there, of the program in the service's directory.
    fn start(&self, host: &HostProcess, number: u32) -> Peer {
        let mut command = Process::new("nsenter");
        command.arg(format!("--user=/proc/{}/ns/user", self.0.id()));
        command.args(["--setuid", &number.to_string(), "--setgid", &number.to_string()]);
        command.arg(host.socket().with_file_name("peer")).env("SHMBC_HOST", host.socket());
        Peer::start_by(&mut command)
    }
}

impl Drop for UserNamespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
