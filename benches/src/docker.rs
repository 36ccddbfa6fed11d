//! Two containers on a Docker network for the `docker` contender: real ones, with the engine's bridge, namespaces and
//! limits, as `docker run` makes them. The worker in them is this same program.
//!
//! Everything made here has a name of its own and is removed at the end. Talks to the engine by the `docker` program.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{self, Command};

/// This program and the libraries it is linked to, nothing else, as an image.
const IMPORT: &str = "set -e; d=$(mktemp -d); trap 'rm -rf $d' EXIT; cp -L \"$0\" $d/bench; \
                      for f in $(ldd \"$0\" | grep -o '/[^ ]*'); do mkdir -p $d$(dirname $f); cp -L $f $d$f; done; \
                      tar -C $d -c . | docker import - \"$1\"";

/// A network and an image, and the containers made of them so far.
#[derive(Debug)]
pub(crate) struct Docker {
    /// Of network and image; containers have it with a number.
    name: String,
    containers: u8,
}

impl Docker {
    /// Makes network and image.
    pub(crate) fn start() -> Result<Self, String> {
        docker(&["version", "--format", "{{.Server.Version}}"])?;
        let name = format!("shmbc-bench-{}", process::id());
        let program = std::env::current_exe().map_err(|e| format!("cannot find this program's own file: {e}"))?;
        import(&program, &name)?;
        if let Err(why) = docker(&["network", "create", "--subnet", "10.213.78.0/24", &name]) {
            docker(&["image", "rm", &name])?;
            return Err(why);
        }
        Ok(Self { name, containers: 0 })
    }

    /// The command that runs a worker in a new container, and the address of that.
    pub(crate) fn worker(&mut self) -> Result<(tokio::process::Command, Ipv4Addr), String> {
        self.containers += 1;
        // The first address of the network is the engine's own.
        let last = self.containers.checked_add(1).filter(|&last| last < 255).ok_or("no address is left")?;
        let ip = Ipv4Addr::new(10, 213, 78, last);
        let mut command = tokio::process::Command::new("docker");
        command.args(["run", "--rm", "--interactive", "--network", &self.name, "--ip", &ip.to_string()]);
        command.args(["--name", &self.container(self.containers), &self.name, "/bench", "worker"]);
        Ok((command, ip))
    }

    fn container(&self, number: u8) -> String {
        format!("{}-{number}", self.name)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let containers: Vec<String> = (1..=self.containers).map(|number| self.container(number)).collect();
        // Those that have ended are gone already, and say so.
        for container in &containers {
            let _ = docker(&["rm", "--force", container]);
        }
        for removal in [["network", "rm"], ["image", "rm"]] {
            if let Err(why) = docker(&[&removal[..], &[self.name.as_str()]].concat()) {
                eprintln!("left behind: {why}");
            }
        }
    }
}

fn import(program: &Path, image: &str) -> Result<(), String> {
    let mut command = Command::new("sh");
    finish(command.args(["-c", IMPORT]).arg(program).arg(image), "making an image")
}

fn docker(arguments: &[&str]) -> Result<(), String> {
    finish(Command::new("docker").args(arguments), &format!("`docker {}`", arguments.join(" ")))
}

fn finish(command: &mut Command, what: &str) -> Result<(), String> {
    let done = command.output().map_err(|e| match e.kind() {
        ErrorKind::NotFound => "the program `docker` is not installed".to_owned(),
        _ => format!("{what}: {e}"),
    })?;
    let errors = String::from_utf8_lossy(&done.stderr);
    if done.status.success() { Ok(()) } else { Err(format!("{what}: {}", errors.trim())) }
}
