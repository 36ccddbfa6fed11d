//! The ordeal: does to running connections and to the host service what can go wrong, again and again, and counts what was lost.
//!
//! `cargo run --release -p shmbc-tests --bin ordeal -- [NAME...] [--minutes N] [--json]`. Each fault has a file here: `kill` (an
//! end is killed), `host` (the service is killed or stopped under a `crowd` of streams), `descriptors` (there are too few) and
//! `attacks` (the hostile tests in a loop). `outcome` counts and prints. Everything is real: processes, sockets, the service.
//!
//! Exits with 1 when anything was lost. Times are reported and never a reason to fail.

mod attacks;
mod crowd;
mod descriptors;
mod host;
mod kill;
mod outcome;

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

use self::outcome::{Budget, Outcome};

/// Runs the programme of faults against real processes and prints what was tried, how often, and what was lost.
#[derive(Parser)]
#[command(name = "ordeal", version)]
struct Arguments {
    /// Which faults; all of them if none is named.
    #[arg(value_enum, value_name = "NAME")]
    faults: Vec<Fault>,
    /// How long all of them together may take. Each ends earlier when it was tried as often as a full run asks for.
    #[arg(long, default_value_t = 60.0, value_parser = minutes)]
    minutes: f64,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// What a child of this program does.
    #[arg(long, hide = true, value_enum)]
    child: Option<Child>,
    /// The address that a child connects to.
    #[arg(long, hide = true)]
    to: Option<std::net::SocketAddr>,
    /// How many streams a child makes.
    #[arg(long, hide = true, default_value_t = 0)]
    streams: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// One end is killed at a random byte: the other has an exact prefix, then what TCP says.
    Kill,
    /// The host service is killed and started again, or stopped for a while, under a crowd of streams.
    Host,
    /// A program may have 8 to 64 descriptors.
    Descriptors,
    /// The tests in which somebody means harm, in a loop.
    Attacks,
}

/// The processes of a crowd, and one of few descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Child {
    Serve,
    Load,
    Starve,
}

fn minutes(text: &str) -> Result<f64, String> {
    let n = text.parse().map_err(|_| "expected minutes, such as 5 or 0.5".to_owned())?;
    if (0.1..=10_000.0).contains(&n) { Ok(n) } else { Err("expected between 0.1 and 10000 minutes".into()) }
}

impl Fault {
    fn try_it(self, budget: &Budget) -> Outcome {
        match self {
            Self::Kill => kill::run(budget),
            Self::Host => host::run(budget),
            Self::Descriptors => descriptors::run(budget),
            Self::Attacks => attacks::run(budget),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match (arguments.child, arguments.to) {
        (Some(Child::Serve), _) => return crowd::serve(),
        (Some(Child::Load), Some(to)) => return crowd::load(to, arguments.streams),
        (Some(Child::Starve), Some(to)) => return descriptors::starve(to),
        _ => {}
    }
    if let Err(why) = build() {
        eprintln!("ordeal: {why}");
        return ExitCode::FAILURE;
    }
    let faults = if arguments.faults.is_empty() { Fault::value_variants() } else { &arguments.faults };
    let begun = Instant::now();
    let all = Duration::from_secs_f64(arguments.minutes * 60.0);
    let mut outcomes = Vec::new();
    for (done, fault) in faults.iter().enumerate() {
        // What one did not need is the others'.
        let left = all.saturating_sub(begun.elapsed()) / (faults.len() - done) as u32;
        let name = fault.to_possible_value().expect("none is skipped").get_name().to_owned();
        eprintln!("{name}: up to {:.0} s", left.as_secs_f64());
        outcomes.push((name, fault.try_it(&Budget::of(left))));
    }
    outcome::print(&outcomes, arguments.json);
    if outcomes.iter().all(|(_, outcome)| outcome.lost == 0 && outcome.tried > 0) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The programs that stand beside this one: `cargo run` builds only the one it runs.
fn build() -> Result<(), String> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "shmbc-tests", "--bins"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the programs that it starts could not be built: {status}")),
        Err(error) => Err(format!("cargo could not be started: {error}")),
    }
}
