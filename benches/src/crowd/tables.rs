//! `tables`: what an upgrade and a session cost the host service, by how much is in its tables.
//!
//! Measured from outside, over the real socket: CPU time of the service, and the time that an end waits. An upgrade is two
//! offers, a grant, two answers and two closes; a session is a client that comes, says hello and goes.

use std::time::{Duration, Instant};

use clap::Args;

use super::engine::Engine;
use super::figures::{Figures, goal};
use super::peers::{Crowd, Probe};
use super::process::cpu_time;
use super::service::Service;

/// What `tables` can be told.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Tables of 100 and 1,000 rows only, once.
    #[arg(long)]
    quick: bool,
    /// Print one JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// How often all of it is done, each time with new processes and a new service.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
}

/// Most that the largest table may cost, against the smallest.
const MOST: f64 = 1.5;

/// What is done, in words.
const UPGRADE: &str = "an upgrade";
const SESSION: &str = "a session";

/// Processes between which the connections are.
const PROCESSES: usize = 50;

/// Runs `tables` and prints what came of it.
pub(crate) fn tables(options: &Options) -> Result<(), String> {
    let begin = Instant::now();
    let sizes: &[usize] = if options.quick { &[100, 1_000] } else { &[100, 1_000, 10_000] };
    let times = if options.quick { 500 } else { 3_000 };
    let mut figures = Figures::new("tables");
    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 3 });
    for n in 1..=rounds {
        connections(&mut figures, sizes, times)?;
        for &size in sizes {
            containers(&mut figures, size, times)?;
        }
        eprintln!("round {n} of {rounds} done");
    }
    let mut goals = Vec::new();
    let (small, large) = (sizes[0], sizes[sizes.len() - 1]);
    for kind in ["connections", "containers"] {
        for what in [UPGRADE, SESSION] {
            let what = format!("{what}, CPU time of the service");
            let value = |size: usize| figures.value(&what, &format!("{size} {kind}"));
            let ratio = value(large).zip(value(small)).map(|(large, small)| large / small);
            goals.push(goal(&format!("{what}, {large} {kind} against {small}"), ratio, MOST));
        }
    }
    figures.print(options.json, &goals, begin.elapsed())
}

fn connections(figures: &mut Figures, sizes: &[usize], times: usize) -> Result<(), String> {
    let service = Service::start(None)?;
    let mut probe = Probe::start(&service)?;
    let mut crowd = Crowd::start(&service, PROCESSES)?;
    for &size in sizes {
        crowd.connect(size)?;
        let (_, done) = crowd.upgrade()?;
        figures.add("connections that stayed on TCP", &format!("{size} connections"), "", done.failed as f64);
        measure(figures, &service, &mut probe, &format!("{size} connections"), times)?;
    }
    Ok(())
}

fn containers(figures: &mut Figures, size: usize, times: usize) -> Result<(), String> {
    let engine = Engine::start(size)?;
    let service = Service::start(Some(engine.socket()))?;
    service.wait_until("the containers", |status| status.containers == size as u64)?;
    let mut probe = Probe::start(&service)?;
    measure(figures, &service, &mut probe, &format!("{size} containers"), times)
}

fn measure(figures: &mut Figures, service: &Service, probe: &mut Probe, at: &str, times: usize) -> Result<(), String> {
    let cpu = |before: Duration, times: usize| {
        Ok::<_, String>((cpu_time(service.pid())? - before).as_secs_f64() * 1e6 / times as f64)
    };
    probe.run(times / 4, Duration::ZERO)?;
    service.wait_until_quiet()?;
    let before = cpu_time(service.pid())?;
    let done = probe.run(times, Duration::ZERO)?;
    service.wait_until_quiet()?;
    figures.add(&format!("{UPGRADE}, CPU time of the service"), at, "us", cpu(before, times)?);
    figures.add_times(&format!("{UPGRADE}, offer to switch"), at, &done.took);

    // One after the other, and none of them left behind.
    let sessions = times / 10;
    service.wait_until_quiet()?;
    let before = cpu_time(service.pid())?;
    for _ in 0..sessions {
        drop(service.client()?);
    }
    service.wait_until_quiet()?;
    figures.add(&format!("{SESSION}, CPU time of the service"), at, "us", cpu(before, sessions)?);
    Ok(())
}
