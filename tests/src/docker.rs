//! Real containers, of an image made of one program: no image can be counted on to be there.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

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

/// An image of programs and the libraries that they are linked to; removed when dropped, with what was run of it.
#[derive(Debug)]
pub struct Image(String);

impl Image {
    /// Makes one of a program, as `/program`.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn of(program: &Path) -> Self {
        Self::with(&[("program", program)], &[])
    }

    /// Makes one of programs, each at the top under this name, with lines of a Dockerfile that say what is run.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn with(programs: &[(&str, &Path)], dockerfile: &[&str]) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("shmbc-test-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::tempdir().expect("a directory");
        let (root, archive) = (directory.path().join("root"), directory.path().join("image.tar"));
        std::fs::create_dir(&root).expect("a directory");
        for (file, program) in programs {
            let copy = "set -e; cp -L \"$0\" \"$1/$2\"; \
                        for f in $(ldd \"$0\" | grep -o '/[^ ]*'); do mkdir -p $1$(dirname $f); cp -L $f $1$f; done";
            let copied = Command::new("sh").args(["-c", copy]).arg(program).arg(&root).arg(file).output();
            let copied = copied.expect("sh");
            assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        }
        let tar = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status();
        assert!(tar.expect("tar").success());
        let changes = dockerfile.iter().flat_map(|line| ["--change", line]);
        let archived = archive.to_str().expect("a plain path");
        docker(&["import"].into_iter().chain(changes).chain([archived, &name]).collect::<Vec<_>>());
        Self(name)
    }

    /// What it is called.
    pub fn tag(&self) -> &str {
        &self.0
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
