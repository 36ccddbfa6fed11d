//! How many system calls two processes make: counted by the kernel's tracepoint, through the program `perf`.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// `perf` answers within milliseconds, if it can do this at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// Counts from its start to its end.
pub(crate) struct Calls {
    perf: Child,
    control: Sender,
    answers: Receiver,
}

impl Calls {
    /// Begins to count the calls of these processes, and of no thread that they do not have or start.
    pub(crate) async fn begin(processes: [u32; 2], dir: &Path) -> Result<Self, String> {
        let told = |what: &str, e: &dyn std::fmt::Display| format!("system calls are not counted: {what}: {e}");
        let [control, answers] = ["control", "answers"].map(|name| dir.join(name));
        for path in [&control, &answers] {
            let _ = std::fs::remove_file(path);
            nix::unistd::mkfifo(path, Mode::S_IRWXU).map_err(|e| told("mkfifo", &e))?;
        }
        let mut open = OpenOptions::new();
        open.read_write(true);
        let sender = open.open_sender(&control).map_err(|e| told("pipe", &e))?;
        let receiver = open.open_receiver(&answers).map_err(|e| told("pipe", &e))?;
        let perf = Command::new("perf")
            .args(["stat", "--field-separator=,", "--delay=-1", "--event=raw_syscalls:sys_enter"])
            .arg(format!("--pid={},{}", processes[0], processes[1]))
            .arg(format!("--control=fifo:{},{}", control.display(), answers.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| told("perf", &e))?;
        let mut calls = Self { perf, control: sender, answers: receiver };
        calls.say("enable").await.map_err(|e| told("perf", &e))?;
        Ok(calls)
    }

    /// How many there were.
    pub(crate) async fn end(mut self) -> Result<f64, String> {
        let failed = |e: io::Error| format!("system calls are not counted: perf: {e}");
        self.say("disable").await.map_err(failed)?;
        // It prints its table when it is told to stop.
        if let Some(pid) = self.perf.id() {
            kill(Pid::from_raw(pid as i32), Signal::SIGINT).map_err(|e| failed(e.into()))?;
        }
        let done = timeout(PATIENCE, self.perf.wait_with_output()).await.map_err(|e| failed(e.into()))?;
        let table = String::from_utf8_lossy(&done.map_err(failed)?.stderr).into_owned();
        let count = table.lines().find(|line| line.contains("sys_enter")).and_then(|line| line.split(',').next());
        count.and_then(|count| count.parse().ok()).ok_or_else(|| failed(io::Error::other(table.trim().to_owned())))
    }

    async fn say(&mut self, word: &str) -> io::Result<()> {
        self.control.write_all(format!("{word}\n").as_bytes()).await?;
        // "ack", and an end of line and of string.
        let mut answer = [0; 5];
        tokio::select! {
            heard = timeout(PATIENCE, self.answers.read_exact(&mut answer)) => { heard??; }
            // It says why on its standard error.
            _ = self.perf.wait() => {
                let mut why = String::new();
                if let Some(errors) = &mut self.perf.stderr {
                    errors.read_to_string(&mut why).await?;
                }
                return Err(io::Error::other(why.lines().next().unwrap_or("it ended").to_owned()));
            }
        }
        Ok(())
    }
}
