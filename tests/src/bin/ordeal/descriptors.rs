//! A program may have as few descriptors as 8, and up to 64: connects fail as TCP's do, or the connection stays on TCP; nothing
//! panics, no byte is wrong, and all descriptors come back.

use std::net::SocketAddr;
use std::process::{Command, ExitCode, Stdio};

use shmbc_tests::raw::dies_with_us;
use shmbc_tests::{HostProcess, Pattern};
use shmbc_tokio::ShmStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::crowd;
use super::outcome::{Budget, Outcome};

/// The limits that are tried.
const LIMITS: std::ops::RangeInclusive<u64> = 8..=64;

/// Descriptors of the agent: its bell's two ends and the control socket.
const OF_THE_AGENT: usize = 3;

/// How often all connections are made and closed: a leak of one descriptor each time shows, beside those of the agent.
const TURNS: usize = 8;

/// Too many open files, of the process or of all.
const NO_DESCRIPTOR: [Option<i32>; 2] = [Some(libc::EMFILE), Some(libc::ENFILE)];

pub(super) fn run(budget: &Budget) -> Outcome {
    let mut outcome = Outcome::of_full(LIMITS.count() as u64);
    let host = HostProcess::start();
    let (mut server, address) = match crowd::server(host.socket()) {
        Ok(started) => started,
        Err(error) => {
            outcome.lose(format!("no server: {error}"));
            return outcome;
        }
    };
    outcome.rounds(budget, |round| {
        let limit = LIMITS.start() + round;
        let me = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n $1; shift; exec \"$@\"", "sh", &limit.to_string()]).arg(me);
        command.args(["--child", "starve", "--to", &address.to_string()]).env("SHMBC_HOST", host.socket());
        let output = dies_with_us(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped())).output();
        let output = output.map_err(|e| e.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("with {limit} descriptors: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
    });
    let _ = server.kill();
    let _ = server.wait();
    outcome
}

/// The child: makes connections until it cannot, uses them all, and closes them.
pub(super) fn starve(to: SocketAddr) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) if NO_DESCRIPTOR.contains(&error.raw_os_error()) => return ExitCode::SUCCESS,
        Err(error) => return failed(&format!("the runtime: {error}")),
    };
    match runtime.block_on(starving(to)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(&why),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}

async fn starving(to: SocketAddr) -> Result<(), String> {
    // What a first connection makes for all that follow stays: the agent, and what it talks by. It is tried again where there was no
    // room for it, so it may come late.
    let mut first = None;
    for _ in 0..TURNS {
        let mut streams = Vec::new();
        let error = loop {
            match ShmStream::connect(to).await {
                Ok(stream) => streams.push(stream),
                Err(error) => break error,
            }
            if streams.len() >= 80 {
                return Err("eighty connections with so few descriptors".into());
            }
        };
        if !NO_DESCRIPTOR.contains(&error.raw_os_error()) {
            return Err(format!("connecting: {error}"));
        }
        for (seed, stream) in streams.iter_mut().enumerate() {
            // Turns enough for an upgrade, with descriptors for it or without.
            for round in 0..8 {
                let mut bytes = [0; 100];
                Pattern::new(seed as u64).fill(round * 100, &mut bytes);
                let sent = bytes;
                let done = async {
                    stream.write_all(&sent).await?;
                    stream.read_exact(&mut bytes).await
                };
                done.await.map_err(|error| format!("stream {seed}, round {round}: {error}"))?;
                if bytes != sent {
                    return Err(format!("stream {seed}, round {round}: wrong bytes"));
                }
            }
        }
        let made = streams.len();
        drop(streams);
        // As many fit again, but for what stays.
        let before = *first.get_or_insert(made);
        if made + OF_THE_AGENT < before {
            return Err(format!("{made} connections where {before} were at first"));
        }
    }
    Ok(())
}
