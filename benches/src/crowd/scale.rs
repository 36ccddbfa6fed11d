//! `scale`: many connections between many processes. What each costs, how fast they come, and how fast they are gone.

use std::time::{Duration, Instant};

use clap::Args;

use super::figures::{Figures, goal};
use super::peers::{Crowd, Probe};
use super::process::{Memory, cpu_time, own_memory};
use super::service::Service;

/// What `scale` can be told.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// A tenth of the connections between a fifth of the processes, once.
    #[arg(long)]
    quick: bool,
    /// Print one JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// Connections at the end.
    #[arg(long, value_parser = clap::value_parser!(u32).range(100..=15_000))]
    connections: Option<u32>,
    /// Processes that they are between.
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=1000))]
    processes: Option<u32>,
    /// How often all of it is done, each time with new processes and a new service.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
}

/// How long memory has to come to rest.
const REST: Duration = Duration::from_secs(1);

/// How long a runtime keeps threads for work that may wait, and a little more. The service has some hundreds after the crowd has come.
const SETTLED: Duration = Duration::from_secs(12);

/// Runs `scale` and prints what came of it.
pub(crate) fn scale(options: &Options) -> Result<(), String> {
    let begin = Instant::now();
    let quick = options.quick;
    let most = options.connections.unwrap_or(if quick { 1_000 } else { 10_000 }) as usize;
    let processes = options.processes.unwrap_or(if quick { 20 } else { 100 }) as usize;
    let mut figures = Figures::new("scale");
    let rounds = options.rounds.unwrap_or(if quick { 1 } else { 3 });
    for n in 1..=rounds {
        round(&mut figures, most, processes, quick)?;
        eprintln!("round {n} of {rounds} done");
    }
    let idle = figures.value("CPU time while nothing happens", &at(most));
    let goals = [goal("CPU time while nothing happens, ms in a second", idle, NONE)];
    figures.print(options.json, &goals, begin.elapsed())
}

/// "None", with the kernel's own bookkeeping of a process that sleeps, ms in a second.
const NONE: f64 = 1.0;

fn at(connections: usize) -> String {
    format!("{connections} connections")
}

fn round(figures: &mut Figures, most: usize, processes: usize, quick: bool) -> Result<(), String> {
    let service = Service::start(None)?;
    let mut probe = Probe::start(&service)?;
    let mut crowd = Crowd::start(&service, processes)?;
    let times = if quick { 200 } else { 2_000 };
    // Caches, and the stock of blocks.
    probe.run(times / 4, Duration::ZERO)?;

    let (mut there, mut failed) = (0, 0);
    for until in [100, 1_000, 10_000].into_iter().filter(|&n| n < most).chain([most]) {
        let now = at(until);
        let programs = |crowd: &Crowd| crowd.pids().map(own_memory).sum::<Result<i64, String>>();
        let all = || Ok::<_, String>((Memory::of_this_machine()?, own_memory(service.pid())?, programs(&crowd)?));
        std::thread::sleep(REST);
        let before = all()?;
        crowd.connect(until)?;
        std::thread::sleep(REST);
        let on_tcp = Memory::of_this_machine()?;
        let cpu = cpu_time(service.pid())?;
        let (took, done) = crowd.upgrade()?;
        let cpu = cpu_time(service.pid())? - cpu;
        std::thread::sleep(REST);
        if until == most {
            let made = (until - there) as f64;
            let programs = |crowd: &Crowd| crowd.pids().map(own_memory).sum::<Result<i64, String>>();
            let (after, host, ends) = (Memory::of_this_machine()?, own_memory(service.pid())?, programs(&crowd)?);
            let kib = |bytes: i64| bytes as f64 / made / 1024.0;
            let tcp = on_tcp.since(before.0);
            let shm = after.since(on_tcp);
            figures.add("memory of a connection: on TCP, both ends and kernel", &now, "KiB", kib(tcp.sum()));
            figures.add("  and more in shared memory, all", &now, "KiB", kib(shm.sum()));
            figures.add("    its block, as far as touched", &now, "KiB", kib(shm.shared));
            figures.add("    kernel: files, doorbells, watches", &now, "KiB", kib(shm.kernel));
            figures.add("    kernel: page tables", &now, "KiB", kib(shm.page_tables));
            figures.add("    programs", &now, "KiB", kib(shm.programs));
            figures.add("  host service, since before TCP", &now, "KiB", kib(host - before.1));
            figures.add("  both ends' programs, since before TCP", &now, "KiB", kib(ends - before.2));
            figures.add("upgrades, all processes at once", &now, "1/s", made / took.as_secs_f64());
            figures.add_times("  time of each in that crowd", &now, &done.took);
            figures.add("  CPU time of the service for each", &now, "us", cpu.as_secs_f64() * 1e6 / made);
        }
        there = until;
        let probed = probe.run(times, Duration::ZERO)?;
        figures.add_times("from offer to switch, quiet", &now, &probed.took);
        failed += done.failed;
        figures.add("connections that stayed on TCP", &now, "", (done.failed + probed.failed) as f64);
    }

    let now = at(most);
    idle(figures, &now, &service, &crowd, quick)?;
    service.wait_until("the connections established", |status| status.established == (most - failed) as u64)?;
    drop(probe);
    let begin = Instant::now();
    crowd.kill();
    service.wait_until("all of it gone", |status| status.established == 0 && status.blocks == 0)?;
    figures.add("all processes killed until all is gone", &now, "ms", begin.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// CPU time of everybody while nothing happens.
fn idle(figures: &mut Figures, now: &str, service: &Service, crowd: &Crowd, quick: bool) -> Result<(), String> {
    let seconds = if quick { 2 } else { 10 };
    let cpu = || {
        let ends = crowd.pids().map(cpu_time).sum::<Result<Duration, String>>()?;
        Ok::<_, String>((cpu_time(service.pid())?, ends))
    };
    // Threads that nobody needs any more end first.
    std::thread::sleep(if quick { REST } else { SETTLED });
    let before = cpu()?;
    std::thread::sleep(Duration::from_secs(seconds));
    let after = cpu()?;
    let each = |time: Duration| time.as_secs_f64() * 1e3 / seconds as f64;
    let (host, ends) = (each(after.0 - before.0), each(after.1 - before.1));
    figures.add("CPU time while nothing happens", now, "ms/s", host + ends);
    figures.add("  of the host service", now, "ms/s", host);
    figures.add("  of all the processes", now, "ms/s", ends);
    Ok(())
}
