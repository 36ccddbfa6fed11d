//! Runs the tests of one file: skips those whose needs this machine does not meet, and says so; fails those that hang.
//!
//! libtest knows passed and failed only, so a test that cannot run would have to count as passed. Files whose tests need
//! something (root, namespaces, Docker, a new kernel) have `harness = false` and a `main` that calls [`suite`].

use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// How long a test may take before it counts as hung. Generous: it is there to end a hang, not to measure.
const PATIENCE: Duration = Duration::from_secs(180);

/// Something a test cannot do without.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// User id 0.
    Root,
    /// A Docker engine that answers.
    Docker,
    /// Two network namespaces and a way between them may be made.
    NetNs,
    /// This version of Linux or a later one, for what came with it.
    Linux(u32, u32, &'static str),
    /// Anything else: what it is, and whether it is there.
    Other(&'static str, fn() -> bool),
}

impl Need {
    /// What stands after "needs".
    fn name(self) -> String {
        match self {
            Self::Root => "root".into(),
            Self::Docker => "a Docker engine that answers".into(),
            Self::NetNs => "the right to make network namespaces".into(),
            Self::Linux(major, minor, what) => format!("Linux {major}.{minor} for {what}"),
            Self::Other(name, _) => name.into(),
        }
    }

    fn met(self) -> bool {
        static DOCKER: OnceLock<bool> = OnceLock::new();
        static NETNS: OnceLock<bool> = OnceLock::new();
        match self {
            Self::Root => nix::unistd::geteuid().is_root(),
            Self::Docker => *DOCKER.get_or_init(|| succeeds("docker", &["version", "--format", "{{.Server.Version}}"])),
            // One that ends with its process: nothing to clean up.
            Self::NetNs => *NETNS.get_or_init(|| succeeds("unshare", &["--net", "ip", "link", "set", "lo", "up"])),
            Self::Linux(major, minor, _) => linux_version() >= (major, minor),
            Self::Other(_, there) => there(),
        }
    }
}

fn linux_version() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// One test.
#[derive(Debug)]
pub struct Test {
    name: &'static str,
    body: fn(),
    needs: Vec<Need>,
    patience: Duration,
}

/// A test that panics when it fails.
pub const fn test(name: &'static str, body: fn()) -> Test {
    Test { name, body, needs: Vec::new(), patience: PATIENCE }
}

impl Test {
    /// Skip it, and say why, where `need` is not met.
    #[must_use]
    pub fn needs(mut self, need: Need) -> Self {
        self.needs.push(need);
        self
    }

    /// Gives it another time after which it counts as hung.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn into_trial(self) -> Trial {
        Trial::ignorable_test(self.name, move || {
            let missing: Vec<_> = self.needs.iter().filter(|need| !need.met()).map(|need| need.name()).collect();
            if !missing.is_empty() {
                return Ok(Completion::ignored_with(format!("needs {}", missing.join(" and "))));
            }
            self.run().map(|()| Completion::Completed)
        })
    }

    /// Runs it in a thread of its own, which a hang leaves behind.
    fn run(&self) -> Result<(), Failed> {
        let (done, wait) = mpsc::channel::<()>();
        let body = self.body;
        let thread = std::thread::Builder::new().name(self.name.to_owned()).spawn(move || {
            let _done = done;
            body();
        });
        let thread = thread.map_err(|e| format!("no thread for the test: {e}"))?;
        if wait.recv_timeout(self.patience) == Err(RecvTimeoutError::Timeout) {
            return Err(format!("still not done after {} s", self.patience.as_secs()).into());
        }
        thread.join().map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the test panicked").into()
        })
    }
}

const ROLE: &str = "SHMBC_TEST_ROLE";

/// This test program again, to play `role`: for what needs a process of its own.
///
/// # Panics
///
/// When this program's own path is not known.
pub fn player(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    crate::raw::dies_with_us(command.env(ROLE, role));
    command
}

/// The role this process is to play instead of running tests.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Runs `tests` with the usual arguments of a test program.
pub fn suite(tests: Vec<Test>) -> ExitCode {
    let args = Arguments::from_args();
    libtest_mimic::run(&args, tests.into_iter().map(Test::into_trial).collect()).exit_code()
}
