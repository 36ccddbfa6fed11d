//! Real containers, of an image made of one program: no image can be counted on to be there.

use std::path::Path;
use std::process::Command;

/// Runs the docker command and gives what it printed.
///
/// # Panics
///
/// When it fails.
pub fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().expect("the docker command is there");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// An image of a program and the libraries that it is linked to, as `/program`; removed when dropped, with what was run of it.
#[derive(Debug)]
pub struct Image(String);

impl Image {
    /// Makes one, named after this process.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn of(program: &Path) -> Self {
        let name = format!("shmbc-test-{}", std::process::id());
        let import = "set -e; d=$(mktemp -d); trap 'rm -rf $d' EXIT; cp -L \"$0\" $d/program; \
                      for f in $(ldd \"$0\" | grep -o '/[^ ]*'); do mkdir -p $d$(dirname $f); cp -L $f $d$f; done; \
                      tar -C $d -c . | docker import - \"$1\"";
        let made = Command::new("sh").args(["-c", import]).arg(program).arg(&name).output().expect("sh");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(name)
    }

    /// What a container or network of this test is called.
    pub fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.0)
    }

    /// Runs `/program` in a container called `name(what)`, with its input and output passed on. `arguments` are those of `docker
    /// run`.
    pub fn run(&self, what: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["run", "--interactive", "--rm", "--name", &self.name(what)]);
        command.args(arguments).args([&self.0, "/program"]);
        command
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let left = ["ps", "--all", "--quiet", "--filter", &format!("ancestor={}", self.0)];
        let left = Command::new("docker").args(left).output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        for container in left.unwrap_or_default().lines() {
            let _ = Command::new("docker").args(["rm", "--force", container]).output();
        }
        let _ = Command::new("docker").args(["rmi", "--force", &self.0]).output();
    }
}
