//! Runs each small example as somebody would, over shared memory and with acceleration off, and reads what it prints.
//!
//! `tower-identity` also runs in containers, where a Docker engine answers that this user may use and this process may run
//! the host service for it; elsewhere that test is reported as ignored. Without libtest, since that cannot say so.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use shmbc_host::{Docker, Host, HostConfig};

const EXAMPLES: [&str; 10] =
    ["axum", "blocking", "codec", "echo", "hyper", "mio", "tls", "tonic", "tower-identity", "websocket"];

/// A hang is a failure, not a test that never ends.
const WATCHDOG: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut trials: Vec<_> = EXAMPLES
        .into_iter()
        .flat_map(|name| {
            [
                Trial::test(format!("{name}_when_started_alone_comes_to_shared_memory"), move || alone(name)),
                Trial::test(format!("{name}_when_acceleration_is_off_goes_by_tcp_and_says_so"), move || off(name)),
            ]
        })
        .collect();
    let engine = Command::new("docker").args(["version", "-f", "{{.Server.Version}}"]).output();
    let missing = if !engine.is_ok_and(|answer| answer.status.success()) {
        Some("a Docker engine that this user may use")
    } else if !nix::unistd::geteuid().is_root() {
        Some("root, for a host service that serves containers")
    } else {
        None
    };
    if let Some(missing) = missing {
        eprintln!("skipped: the test of tower-identity in containers needs {missing}");
    }
    let name = "tower_identity_when_the_callers_are_containers_lets_only_the_labelled_one_pass";
    trials.push(Trial::test(name, containers).with_ignored_flag(missing.is_some()));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Where cargo has put the example.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program has a path");
    let target = test.parent().and_then(Path::parent).expect("it lies in target/PROFILE/deps");
    let program = target.join("examples").join(name);
    assert!(program.exists(), "{} is not built: run cargo build -p shmbc-examples --examples", program.display());
    program
}

fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    command.env_remove("SHMBC_HOST").env_remove("SHMBC_WAIT").stdin(Stdio::null());
    command
}

/// Runs it to its end; kills it when that does not come.
fn run(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    let (ended, end) = mpsc::channel();
    let watchdog = std::thread::spawn(move || {
        if end.recv_timeout(WATCHDOG).is_err() {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    });
    let output = child.wait_with_output().expect("it ends");
    let _ = ended.send(());
    watchdog.join().expect("the watchdog does not panic");
    output
}

/// What it printed, if it went well.
fn printed(output: &Output) -> Result<String, Failed> {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Err(format!("{}\n{out}{err}", output.status).into());
    }
    Ok(out.into_owned())
}

fn expect(text: &str, part: &str) -> Result<(), Failed> {
    if text.contains(part) { Ok(()) } else { Err(format!("it does not say {part:?}:\n{text}").into()) }
}

fn alone(name: &str) -> Result<(), Failed> {
    let text = printed(&run(&mut command(name)))?;
    let last = text.lines().rfind(|line| line.starts_with("client: ")).unwrap_or_default();
    expect(last, "by shared memory")
}

fn off(name: &str) -> Result<(), Failed> {
    let text = printed(&run(command(name).env("SHMBC_HOST", "off")))?;
    expect(&text, "by TCP (disabled)")?;
    if text.contains("shared memory") { Err(format!("how so?\n{text}").into()) } else { Ok(()) }
}

/// An image with the example in it, removed with the test.
struct Image(String);

impl Image {
    /// The program and the libraries it is linked to, nothing else.
    fn of(program: &Path) -> Self {
        let name = format!("shmbc-example-{}", std::process::id());
        let import = "set -e; d=$(mktemp -d); trap 'rm -rf $d' EXIT; cp -L \"$0\" $d/example; \
                      for f in $(ldd \"$0\" | grep -o '/[^ ]*'); do mkdir -p $d$(dirname $f); cp -L $f $d$f; done; \
                      tar -C $d -c . | docker import - \"$1\"";
        let made = Command::new("sh").args(["-c", import]).arg(program).arg(&name).output().expect("sh");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(name)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", "-f", &self.0]).output();
    }
}

/// The server's process, ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The IPv4 address of a network interface.
fn address_of(interface: &str) -> Option<Ipv4Addr> {
    let mut all = nix::ifaddrs::getifaddrs().ok()?.filter(|found| found.interface_name == interface);
    all.find_map(|found| found.address?.as_sockaddr_in().map(|address| address.ip()))
}

fn containers() -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("host.sock");
    let mut config = HostConfig::at(&socket);
    config.docker = Docker::At("/var/run/docker.sock".into());
    let host = runtime.block_on(Host::start(config))?;

    // Containers call by the bridge's own address, processes beside it by loopback.
    let bridge = ["network", "inspect", "bridge", "-f", "{{index .Options \"com.docker.network.bridge.name\"}}"];
    let bridge = printed(&Command::new("docker").args(bridge).output()?)?;
    let gateway = address_of(bridge.trim()).ok_or_else(|| format!("no address of {bridge}"))?;
    let mut server = command("tower-identity");
    server.args(["server", "0.0.0.0:0"]).env("SHMBC_HOST", &socket).stdout(Stdio::piped());
    let mut server = Server(server.spawn()?);
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().ok_or("it was asked for")?).read_line(&mut line)?;
    let port = line.trim().strip_prefix("server: listening on 0.0.0.0:").ok_or_else(|| line.clone())?;
    let (address, beside) = (format!("{gateway}:{port}"), format!("127.0.0.1:{port}"));

    let image = Image::of(&program("tower-identity"));
    let mount = format!("{}:/run/shmbc", directory.path().display());
    let caller = |role: &str| {
        let name = format!("{}-{role}", image.0);
        let label = format!("role={role}");
        let mut docker = Command::new("docker");
        docker.args(["run", "--rm", "--name", &name, "--label", &label, "-v", &mount, &image.0]);
        docker.args(["/example", "client", &address]);
        (name, printed(&run(&mut docker)))
    };
    let (name, text) = caller("billing");
    let text = text?;
    expect(&text, &format!("/ is 200 OK: you are container {name} with role=Some(\"billing\")"))?;
    expect(&text, &format!("/invoices is 200 OK: invoices for container {name} with role=Some(\"billing\")"))?;
    let (name, text) = caller("web");
    let text = text?;
    expect(&text, &format!("/ is 200 OK: you are container {name} with role=Some(\"web\")"))?;
    expect(&text, "/invoices is 403 Forbidden: required of the caller: the label \"role\"=\"billing\"")?;
    expect(&text, &format!("proven: it is the container {name:?} ("))?;
    // A caller outside of containers, without a label to show.
    let bare = run(command("tower-identity").args(["client", &beside]).env("SHMBC_HOST", &socket));
    expect(&printed(&bare)?, "outside of any known container")?;
    // One that the host service cannot prove, since it has never heard of it.
    let unknown = run(command("tower-identity").args(["client", &beside]).env("SHMBC_HOST", "off"));
    let text = printed(&unknown)?;
    expect(&text, "/invoices is 403 Forbidden")?;
    expect(&text, "not proven: ")?;
    runtime.block_on(host.shutdown());
    Ok(())
}
