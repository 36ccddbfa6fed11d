//! `flood`: what one client's flood does to the time that another's upgrades take.
//!
//! The victims are two processes that upgrade connections steadily; the attacker is another user's. Each attack is measured
//! between a quiet time before and a control after, in which a process takes as much CPU time as the attacker took and
//! does not touch the service: on few cores the attacker's own work takes time from everybody, which is no matter of
//! the service's.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::attacker::{Report, Way};
use super::figures::{Figures, goal, percentile};
use super::peers::{Done, Probe, command};
use super::process::cpu_time;
use super::service::{Service, many_users};

/// What `flood` can be told.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Short samples, once.
    #[arg(long)]
    quick: bool,
    /// Print one JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// Only these attacks, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    ways: Vec<Way>,
    /// How often each attack is made.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// What the attacker does a second: offers, sessions, messages.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
}

/// Most that a flood may make of an upgrade's time.
const MOST: f64 = 2.0;

/// Time between two upgrades of the victims'.
const EVERY: Duration = Duration::from_millis(2);

/// How long an attack goes on before it is measured: it begins, and its first burst is still in what is measured.
const BUILDUP: Duration = Duration::from_millis(100);

/// Runs `flood` and prints what came of it.
pub(crate) fn flood(options: &Options) -> Result<(), String> {
    if !many_users() {
        return Err("an attacker and its victims have to be different users: run it as root".into());
    }
    let begin = Instant::now();
    let ways: Vec<Way> = if options.ways.is_empty() {
        Way::value_variants().iter().copied().filter(|way| *way != Way::Burn).collect()
    } else {
        options.ways.clone()
    };
    let times = if options.quick { 400 } else { 1_500 };
    let mut figures = Figures::new("flood");
    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 5 });
    for n in 1..=rounds {
        for &way in &ways {
            attack(&mut figures, way, times, options.rate)?;
        }
        eprintln!("round {n} of {rounds} done");
    }
    let mut goals = Vec::new();
    for way in ways.iter().map(|way| name(*way)) {
        for part in ["p50", "p99"] {
            let found = figures.value(&format!("{part} against quiet"), &way);
            goals.push(goal(&format!("{way}: {part} of the others against quiet"), found, MOST));
        }
    }
    figures.print(options.json, &goals, begin.elapsed())
}

fn name(way: Way) -> String {
    way.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn attack(figures: &mut Figures, way: Way, times: usize, rate: u64) -> Result<(), String> {
    // Each in front of a service that has seen nothing yet.
    let service = Service::start(None)?;
    let mut victims = Probe::start(&service)?;
    victims.run(times / 4, EVERY)?;
    let quiet = victims.run(times, EVERY)?;

    let attacker = Attacker::start(&service, way, rate)?;
    std::thread::sleep(BUILDUP);
    let (before, began) = (cpu_time(service.pid())?, Instant::now());
    let flooded = victims.run(times, EVERY)?;
    let host = (cpu_time(service.pid())? - before).as_secs_f64() / began.elapsed().as_secs_f64();
    let report = attacker.stop()?;

    let burning = Attacker::start(&service, Way::Burn, report.cpu)?;
    let burnt = victims.run(times, EVERY)?;
    burning.stop()?;

    let at = name(way);
    figures.add_times("the others, quiet", &at, &quiet.took);
    figures.add_times("the others, flooded", &at, &flooded.took);
    figures.add_times("the others, beside as much work", &at, &burnt.took);
    for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
        let time = |done: &Done| percentile(&done.took, part);
        figures.add(&format!("{name} against quiet"), &at, "times", time(&flooded) / time(&quiet));
        figures.add(&format!("{name} against as much work"), &at, "times", time(&flooded) / time(&burnt));
    }
    figures.add("the others' connections that stayed on TCP", &at, "", flooded.failed as f64);
    figures.add("the attacker's rate", &at, "1/s", report.rate);
    figures.add("the attacker's CPU time", &at, "cores", report.cpu as f64 / 1e6);
    figures.add("the service's CPU time", &at, "cores", host);
    Ok(())
}

/// The process, as the run sees it. Killed when dropped.
struct Attacker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Attacker {
    fn start(service: &Service, way: Way, rate: u64) -> Result<Self, String> {
        let mut command = command(service, 200_000, "attacker");
        command.arg(name(way)).arg(service.socket()).arg(rate.to_string());
        let mut child = command.spawn().map_err(|e| format!("cannot start an attacker: {e}"))?;
        let Some(output) = child.stdout.take() else { return Err("an attacker has no standard output".into()) };
        let mut attacker = Self { input: child.stdin.take(), child, output: BufReader::new(output) };
        match attacker.line()?.trim() {
            "ready" => Ok(attacker),
            other => Err(format!("an attacker says {other:?} instead of that it is ready")),
        }
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(|e| format!("an attacker cannot be heard: {e}"))?;
        Ok(line)
    }

    fn stop(mut self) -> Result<Report, String> {
        self.input = None;
        let line = self.line()?;
        serde_json::from_str(&line).map_err(|e| format!("an attacker says {line:?}: {e}"))
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
