//! The victim under `strace`: no system call on a descriptor of the connection lasts, whatever the hostile process does with its own.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shmbc_tests::raw::dies_with_us;
use shmbc_tests::sockets::{eventually, wait_until};

use crate::descriptors::{HARMFUL, HARMLESS};
use crate::orders::Assault;
use crate::scene::Scene;

const BYTES: u64 = 1 << 20;

/// Longest that a call may last, in seconds.
const LONGEST: f64 = 0.010;

/// A sample is taken again so often. Time passes between the two looks of `strace` also when another program has the processor; a call
/// that blocks because of what the hostile process does blocks in every sample. (Where this process may do so it has both `strace` and
/// the victim run before all others, since on a busy machine ten milliseconds are soon gone.)
const SAMPLES: usize = 10;

/// Calls that are there to wait, on what the process itself chose, or that start or end threads.
const WAITING: [&str; 12] = [
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "futex",
    "poll",
    "ppoll",
    "select",
    "nanosleep",
    "clock_nanosleep",
    "wait4",
    "clone",
    "clone3",
];

/// What `strace -y` calls the descriptors of a connection: doorbells, socket, block.
const OURS: [&str; 5] = ["[eventfd", "[eventpoll", "<socket:", "<TCP", "memfd:"];

/// One system call: its text, and how long it lasted.
#[derive(Debug)]
struct Call {
    text: String,
    seconds: f64,
}

pub(crate) fn can_trace() -> bool {
    let mut sleeper = Command::new("sleep");
    let Ok(mut child) = dies_with_us(sleeper.arg("60")).spawn() else { return false };
    let traces = Trace::attach(child.id()).is_some();
    // Both fail only when it is gone already.
    let _ = child.kill();
    let _ = child.wait();
    traces
}

pub(crate) fn never_block() {
    let mut scene = Scene::new();
    if may_go_first() {
        let status = Command::new("chrt")
            .args(["--all-tasks", "--fifo", "--pid", "1", &scene.victim.pid().to_string()])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "chrt could do so before");
    }
    for wreck in HARMLESS.into_iter().chain(HARMFUL) {
        let mut rings = 0;
        let clean = (0..SAMPLES).find_map(|sample| {
            let trace = Trace::attach(scene.victim.pid()).expect("it could be traced before");
            scene.suffer(Assault::Wreck(wreck), BYTES);
            let calls = trace.end();
            rings =
                calls.iter().filter(|call| call.text.starts_with("write(") && call.text.contains("[eventfd")).count();
            let slow: Vec<_> = calls.into_iter().filter(Call::lasts).collect();
            if sample + 1 == SAMPLES {
                assert!(slow.is_empty(), "{wreck:?}, in each of {SAMPLES} samples: {slow:#?}");
            }
            slow.is_empty().then_some(())
        });
        assert!(clean.is_some() && rings > 0, "{wreck:?}: the victim rang {rings} times");
    }
    scene.over();
}

impl Call {
    fn lasts(&self) -> bool {
        let name = self.text.split('(').next().unwrap_or_default();
        self.seconds > LONGEST && !WAITING.contains(&name) && OURS.iter().any(|ours| self.text.contains(ours))
    }
}

/// Whether processes can be given a real-time priority.
fn may_go_first() -> bool {
    static MAY: LazyLock<bool> = LazyLock::new(|| {
        let mut chrt = Command::new("chrt");
        let quiet = chrt.args(["--fifo", "1", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    });
    *MAY
}

/// A `strace` at work.
struct Trace {
    strace: Child,
    file: tempfile::NamedTempFile,
}

impl Trace {
    /// Traces all threads of process `pid`; nothing when that cannot be.
    fn attach(pid: u32) -> Option<Self> {
        let file = tempfile::NamedTempFile::new().ok()?;
        let mut command = if may_go_first() { Command::new("chrt") } else { Command::new("strace") };
        if may_go_first() {
            command.args(["--fifo", "2", "strace"]);
        }
        command.args(["-f", "-y", "-T", "-q", "-p", &pid.to_string(), "-o"]).arg(file.path());
        let strace = dies_with_us(command.stdin(Stdio::null()).stderr(Stdio::null())).spawn().ok()?;
        let mut trace = Self { strace, file };
        let attached = eventually(|| trace.is_over() || traced(pid));
        (attached && !trace.is_over()).then_some(trace)
    }

    fn is_over(&mut self) -> bool {
        self.strace.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Detaches; what was called.
    fn end(mut self) -> Vec<Call> {
        kill(Pid::from_raw(self.strace.id() as i32), Signal::SIGINT).expect("a process of ours");
        wait_until("strace has detached", || self.is_over());
        parse(BufReader::new(File::open(self.file.path()).expect("what strace wrote")))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// Whether every thread of process `pid` is traced.
fn traced(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let statuses: Vec<_> = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok()).collect();
    !statuses.is_empty() && statuses.iter().all(|status| !status.contains("TracerPid:\t0\n"))
}

/// Calls that other threads' calls interrupt in the text are put together again.
fn parse(lines: impl BufRead) -> Vec<Call> {
    let mut unfinished: HashMap<String, String> = HashMap::new();
    let mut calls = Vec::new();
    for line in lines.lines().map_while(Result::ok) {
        let Some((thread, text)) = line.split_once(' ') else { continue };
        let text = text.trim_start();
        if let Some(beginning) = text.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread.to_owned(), beginning.to_owned());
            continue;
        }
        let beginning =
            if text.starts_with("<...") { unfinished.remove(thread).unwrap_or_default() } else { String::new() };
        let seconds = text.rsplit_once('<').and_then(|(_, last)| last.strip_suffix('>')?.parse().ok());
        if let Some(seconds) = seconds {
            calls.push(Call { text: beginning + text, seconds });
        }
    }
    calls
}
