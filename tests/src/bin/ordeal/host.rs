//! The host service is killed and started again, or stopped for a while, while a thousand streams move bytes and new ones are made:
//! no stream ends, no connect fails, and what was made meanwhile is upgraded later.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng;
use shmbc_tests::HostProcess;

use super::crowd::{Crowd, Report};
use super::outcome::{Budget, Outcome};

/// Times that a full run does it.
const FULL: u64 = 200;
/// Streams under which it is done.
const STREAMS: usize = 1_000;
/// Longest time that the service is away or stopped.
const AWAY: Duration = Duration::from_millis(300);
/// How long the streams may take to be upgraded at first, and to go on afterwards.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn run(budget: &Budget) -> Outcome {
    let mut outcome = Outcome::of_full(FULL);
    let mut host = HostProcess::start();
    let mut crowd = match Crowd::start(host.socket(), STREAMS) {
        Ok(crowd) => crowd,
        Err(error) => {
            outcome.lose(format!("the crowd cannot be started: {error}"));
            return outcome;
        }
    };
    let mut sum = Report::default();
    match until(&mut crowd, &mut sum, |report| report.upgraded as usize == STREAMS) {
        Ok(()) => {}
        Err(why) => outcome.lose(format!("before the first round: {why}")),
    }
    outcome.rounds(budget, |round| {
        let away = rand::rng().random_range(Duration::ZERO..AWAY);
        let pid = Pid::from_raw(host.pid().cast_signed());
        if round % 2 == 0 {
            host.kill();
            std::thread::sleep(away);
            host.restart();
        } else {
            kill(pid, Signal::SIGSTOP).map_err(|e| e.to_string())?;
            std::thread::sleep(away);
            kill(pid, Signal::SIGCONT).map_err(|e| e.to_string())?;
        }
        // As many messages as there are streams: they go on.
        let before = sum.messages;
        until(&mut crowd, &mut sum, |report| report.messages >= before + STREAMS as u64)
    });
    outcome.figure("messages", sum.messages.to_string());
    outcome.figure("new connections", sum.connects.to_string());
    outcome.figure("streams", STREAMS.to_string());
    outcome
}

/// Asks until it is so. Nothing may be lost meanwhile.
fn until(crowd: &mut Crowd, sum: &mut Report, is_so: impl Fn(&Report) -> bool) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let report = crowd.report()?;
        sum.messages += report.messages;
        sum.connects += report.connects;
        sum.upgraded = report.upgraded;
        if report.broken + report.failed > 0 {
            return Err(format!("{} streams ended, {} connects failed", report.broken, report.failed));
        }
        if is_so(sum) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("after {PATIENCE:?} only {sum:?}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
