//! What is shipped: manifests that mean what they say, and a Debian package whose programs run.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Namespace, Service, ServiceAccount};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shmbc_tests::host::connections;
use shmbc_tests::peer::{connect, upgraded};
use shmbc_tests::process::program;
use shmbc_tests::script::Kind;
use shmbc_tests::sockets::wait_until;
use shmbc_tests::{Image, Need, Peer, Setup, docker, suite, test};

fn main() -> ExitCode {
    suite(vec![
        test("kubernetes_manifests_when_read_as_the_published_types_lose_nothing", kubernetes),
        test("manifest_when_a_key_is_mistyped_is_noticed", mistyped),
        test("host_service_when_run_by_kubernetes_has_what_it_needs_and_no_more", daemon_set),
        test("compose_files_when_read_by_compose_are_right", compose)
            .needs(Need::Other("docker-compose", || there("docker-compose"))),
        test("host_service_when_brought_up_by_compose_serves_this_machine", composed)
            .needs(Need::Docker)
            .needs(Need::Root)
            .needs(Need::Other("docker-compose", || there("docker-compose"))),
        test("package_when_unpacked_has_programs_that_run_and_what_they_need", package)
            .needs(Need::Other("dpkg-deb", || there("dpkg-deb"))),
    ])
}

fn there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|answer| answer.status.success())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The documents of a file, as plain data.
fn documents(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join("packaging/kubernetes").join(name)).expect("a manifest");
    serde_norway::Deserializer::from_str(&text).map(|document| Value::deserialize(document).expect("YAML")).collect()
}

/// Reads it as `T`, writes it again, and says where something was lost: a key that the type does not know.
fn lost<T: DeserializeOwned + Serialize>(document: &Value) -> Option<String> {
    let typed: T = match serde_json::from_value(document.clone()) {
        Ok(typed) => typed,
        Err(error) => return Some(error.to_string()),
    };
    missing(document, &serde_json::to_value(typed).expect("plain data"), "")
}

fn missing(written: &Value, read: &Value, at: &str) -> Option<String> {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => written.iter().find_map(|(key, value)| {
            let at = format!("{at}/{key}");
            read.get(key).map_or_else(|| Some(at.clone()), |read| missing(value, read, &at))
        }),
        (Value::Array(written), Value::Array(read)) if written.len() == read.len() => {
            let mut both = written.iter().zip(read).enumerate();
            both.find_map(|(n, (written, read))| missing(written, read, &format!("{at}/{n}")))
        }
        (written, read) => (written != read).then(|| format!("{at}: {written} was read as {read}")),
    }
}

fn check(document: &Value) -> Option<String> {
    match document["kind"].as_str() {
        Some("Namespace") => lost::<Namespace>(document),
        Some("ServiceAccount") => lost::<ServiceAccount>(document),
        Some("DaemonSet") => lost::<DaemonSet>(document),
        Some("Deployment") => lost::<Deployment>(document),
        Some("Service") => lost::<Service>(document),
        other => Some(format!("no type for {other:?}")),
    }
}

fn kubernetes() {
    for (name, kinds) in [
        ("shmbc.yaml", &["Namespace", "ServiceAccount", "DaemonSet"][..]),
        ("example.yaml", &["Deployment", "Service"]),
    ] {
        let documents = documents(name);
        assert_eq!(
            documents.iter().map(|document| document["kind"].as_str().expect("a kind")).collect::<Vec<_>>(),
            kinds
        );
        for document in documents {
            assert_eq!(check(&document), None, "{name}");
        }
    }
}

fn mistyped() {
    let mut daemon_set = documents("shmbc.yaml").pop().expect("a DaemonSet");
    daemon_set["spec"]["template"]["spec"]["hostPid"] = true.into();
    assert_eq!(check(&daemon_set).as_deref(), Some("/spec/template/spec/hostPid"));
}

fn daemon_set() {
    let daemon_set = documents("shmbc.yaml").pop().expect("a DaemonSet");
    let pod = &daemon_set["spec"]["template"]["spec"];
    assert_eq!(pod["hostPID"], true);
    let container = &pod["containers"][0];
    let capabilities = &container["securityContext"]["capabilities"];
    assert_eq!(capabilities["drop"], serde_json::json!(["ALL"]));
    let added = serde_json::json!(["SYS_PTRACE", "CHECKPOINT_RESTORE", "DAC_READ_SEARCH", "SYS_NICE"]);
    assert_eq!(capabilities["add"], added);
    assert_eq!(pod["volumes"][0]["hostPath"]["path"], "/run/shmbc");
    assert_eq!(container["volumeMounts"][0]["mountPath"], "/run/shmbc");
    // What it is started with is understood.
    let arguments: Vec<_> = container["args"].as_array().expect("arguments").iter().skip(1).collect();
    let arguments = arguments.iter().map(|argument| argument.as_str().expect("text"));
    let checked = Command::new(program("shmbc-host-under-test")).arg("check").args(arguments).output().expect("run it");
    assert!(checked.status.success(), "{checked:?}");
}

fn compose() {
    for name in ["compose.yml", "swarm.yml"] {
        let file = root().join("packaging").join(name);
        let read = Command::new("docker-compose").arg("--file").arg(file).args(["config", "--quiet"]).output();
        let read = read.expect("docker-compose");
        assert!(read.status.success(), "{name}: {}", String::from_utf8_lossy(&read.stderr));
    }
}

/// What `docker-compose up` has started; taken down when dropped.
struct Project {
    name: String,
    file: PathBuf,
}

impl Project {
    fn compose(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new("docker-compose");
        command.args(["--project-name", &self.name, "--file"]).arg(&self.file).args(arguments);
        command.output().expect("docker-compose")
    }

    fn done(&self, arguments: &[&str]) {
        let output = self.compose(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = self.compose(&["down", "--timeout", "5"]);
    }
}

fn composed() {
    let dockerfile = std::fs::read_to_string(root().join("shmbc-host/Dockerfile")).expect("the Dockerfile");
    let runs: Vec<_> =
        dockerfile.lines().filter(|line| line.starts_with("ENTRYPOINT") || line.starts_with("CMD")).collect();
    let programs = [("shmbc-host", program("shmbc-host-under-test")), ("shmbc", program("shmbc-under-test"))];
    let image = Image::with(&programs.each_ref().map(|(name, path)| (*name, path.as_path())), &runs);

    // The file as it is shipped, but for the image, the directory of the machine, and a limit that not every engine may raise.
    let directory = tempfile::tempdir().expect("a directory");
    let mut text = std::fs::read_to_string(root().join("packaging/compose.yml")).expect("the file");
    let shipped = format!("image: shmbc-host:{}", env!("CARGO_PKG_VERSION"));
    for (from, to) in [
        (&*shipped, format!("image: {}", image.tag())),
        ("- /run/shmbc:/run/shmbc", format!("- {}:/run/shmbc", directory.path().display())),
        ("nofile: 1048576", "nofile: 1024".into()),
    ] {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text = text.replace(from, &to);
    }
    let project = Project { name: image.name("compose"), file: directory.path().join("compose.yml") };
    std::fs::write(&project.file, text).expect("write it");
    project.done(&["up", "--detach"]);
    let id = String::from_utf8(project.compose(&["ps", "--quiet"]).stdout).expect("text").trim().to_owned();
    let inspect = |what: &str| docker(&["inspect", "--format", what, &id]);
    wait_until("it is healthy", || inspect("{{.State.Health.Status}}") == "healthy");

    let socket = directory.path().join("host.sock");
    let [mut client, mut server] = [0, 1].map(|_| Peer::start(&Setup::with_host(&socket)));
    let address = server.listen(Kind::Shm, [127, 0, 0, 1]);
    let (c, s) = connect(&mut client, Kind::Shm, &mut server, address);
    assert_eq!(upgraded(&mut client, c, &mut server, s), ["upgraded"; 2]);
    let listed = || connections(&socket).iter().any(|row| row["state"] == "established");
    assert!(listed());
    // The command that the documentation gives; by Docker's socket it knows its own name.
    let doctor = project.compose(&["exec", "-T", "shmbc-host", "/shmbc", "doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.status.success() && said.contains(&project.name), "{doctor:?}");
    project.done(&["restart", "--timeout", "5"]);
    wait_until("the next one knows the connection", listed);
}

fn package() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    std::fs::create_dir(at("bin")).expect("a directory");
    for (name, built) in [("shmbc", "shmbc-under-test"), ("shmbc-host", "shmbc-host-under-test")] {
        std::fs::copy(program(built), at("bin").join(name)).expect("copy a program");
    }
    let made = Command::new(root().join("scripts/deb")).arg(directory.path()).arg("--bin-dir").arg(at("bin")).output();
    let made = made.expect("scripts/deb");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let package = String::from_utf8(made.stdout).expect("a path").trim().to_owned();

    let says = |arguments: &[&str]| {
        let answer = Command::new("dpkg-deb").args(arguments).arg(&package).output().expect("dpkg-deb");
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8(answer.stdout).expect("text")
    };
    assert_eq!(says(&["--show", "--showformat=${Package} ${Version}"]), format!("shmbc {}", env!("CARGO_PKG_VERSION")));
    assert!(says(&["--info"]).contains("conffiles"), "an operator's settings survive an upgrade");
    let unpacked = at("unpacked");
    let unpack = Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&unpacked).status().expect("dpkg-deb");
    assert!(unpack.success());
    for file in [
        "etc/shmbc/host.toml",
        "lib/systemd/system/shmbc-host.socket",
        "lib/systemd/system/shmbc-host.service",
        "usr/share/man/man1/shmbc-ss.1.gz",
        "usr/share/man/man1/shmbc-host-run.1.gz",
        "usr/share/bash-completion/completions/shmbc",
        "usr/share/zsh/vendor-completions/_shmbc",
        "usr/share/fish/vendor_completions.d/shmbc.fish",
        "usr/share/doc/shmbc/copyright",
        "usr/share/doc/shmbc/changelog.gz",
        "usr/share/doc/shmbc/docs/configuration.md",
    ] {
        assert!(unpacked.join(file).is_file(), "{file} is missing");
    }
    for (name, arguments) in
        [("shmbc", &["--version"][..]), ("shmbc-host", &["check", "--config", "etc/shmbc/host.toml"])]
    {
        let ran = Command::new(unpacked.join("usr/bin").join(name)).args(arguments).current_dir(&unpacked).output();
        let ran = ran.expect("an installed program");
        assert!(ran.status.success(), "{name}: {ran:?}");
    }
}
