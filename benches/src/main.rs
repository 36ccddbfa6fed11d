//! The benchmark program: SHMBC against what it replaces, side by side in one run.
//!
//! Read in this order: `names` (what can be measured), `plan` (what one run measures), `compare` (the run: worker
//! pairs, rounds), `pair` and `protocol` (how the run talks to its worker processes), `worker` (the other side of
//! that), `contender` and `measure` (what a worker does), `results`, `stats` and `report` (what becomes of the figures); `placement`, `cores`, `burden`,
//! `netns` and `docker` are what they stand on. `crowd` is apart: many processes at one host service.
//!
//! Speed is reported and never asserted: a missed goal is printed as missed and the exit code stays 0.

mod burden;
mod calls;
mod compare;
mod contender;
mod cores;
mod crowd;
mod docker;
mod measure;
mod names;
mod netns;
mod pair;
mod placement;
mod plan;
mod protocol;
mod report;
mod results;
mod stats;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crowd::{attacker, flood, peer, scale, service, tables};

#[derive(Parser)]
#[command(name = "shmbc-bench", version, about = "Measures SHMBC against what it replaces, side by side in one run")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure all contenders on the same work, interleaved round by round, each as two real processes.
    Compare(plan::Options),
    /// Measure many connections between many processes: memory, upgrades a second, time to switch, what is left.
    Scale(scale::Options),
    /// Measure what an upgrade and a session cost the host service, by how much is in its tables.
    Tables(tables::Options),
    /// Measure what one client's flood does to others' upgrades. Needs root.
    Flood(flood::Options),
    /// One end of a contender; started by `compare`, speaks JSON lines on its standard input and output.
    #[command(hide = true)]
    Worker,
    /// Keeps CPUs busy, one thread on each of those named; started by `compare`.
    #[command(hide = true)]
    Spin { cpus: Vec<usize> },
    /// A host service; started by `scale`, `tables` and `flood`, as the next two.
    #[command(hide = true)]
    Service(service::Options),
    /// A process that makes and accepts connections.
    #[command(hide = true)]
    Peer,
    /// A process that floods the service.
    #[command(hide = true)]
    Attacker(attacker::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Compare(options) => compare::compare(&options),
        Command::Scale(options) => scale::scale(&options),
        Command::Tables(options) => tables::tables(&options),
        Command::Flood(options) => flood::flood(&options),
        Command::Service(options) => service::run(&options),
        Command::Peer => peer::run(),
        Command::Attacker(options) => attacker::run(&options),
        Command::Worker => worker::run(),
        Command::Spin { cpus } => burden::spin(&cpus),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("shmbc-bench: {why}");
            ExitCode::FAILURE
        }
    }
}
