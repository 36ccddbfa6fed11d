//! One run: worker pairs for all contenders and placements are kept alive, and every round goes through all of them.
//!
//! Only one sample runs at any time, and the run itself sleeps meanwhile. The host service that the SHMBC contenders
//! need is embedded here: it is idle but for the moment in which a connection is upgraded.

use std::collections::{BTreeMap, BTreeSet};
use std::future;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use shmbc_host::{Host, HostConfig};
use tokio::signal::unix::{SignalKind, signal};

use crate::burden::Burden;
use crate::cores;
use crate::docker::Docker;
use crate::measure;
use crate::names::{Aspect, Contender, Measure, Placement, Runtime};
use crate::pair::{Bridge, Pair, Worker};
use crate::placement::{self, Cpus};
use crate::plan::{Options, Plan, Site};
use crate::protocol::{Namespace, Outcome, Place, Start, Work};
use crate::report;
use crate::results::Results;
use crate::worker;

/// Runs `compare` and prints what came of it.
pub(crate) fn compare(options: &Options) -> Result<(), String> {
    let plan = Plan::of(options);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|e| format!("cannot start a runtime: {e}"))?;
    let begin = Instant::now();
    let results = runtime.block_on(async {
        tokio::select! {
            results = run(&plan) => results,
            // Dropping the future ends all workers and removes the directory; the kernel removes the namespaces.
            _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
            () = terminated() => Err("terminated".to_owned()),
        }
    })?;
    let took = begin.elapsed();
    let files = report::files::write(&options.out, &plan, &results, took)?;
    let mut out = io::stdout().lock();
    let printed = if options.json {
        report::json::print(&mut out, &results)
    } else {
        report::people::print(&mut out, &plan, &results, took)
    };
    printed.map_err(|e| format!("standard output: {e}"))?;
    eprintln!("written to {}: {}", options.out.display(), files.join(", "));
    match results.failed.as_slice() {
        [] => Ok(()),
        failed => Err(failed.join("\n  ")),
    }
}

/// Waits for SIGTERM; for ever where that cannot be.
async fn terminated() {
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => future::pending().await,
    }
}

/// Which pair of processes takes a sample: one-shot contenders that live in the same namespace share one, to take turns.
type PairKey = (Placement, Option<Runtime>, Option<Contender>);

/// The processes of a run.
struct Stage {
    pairs: BTreeMap<PairKey, Pair>,
    starts: BTreeMap<PairKey, [Start; 2]>,
    /// Ended after the pairs that need them.
    _bridge: Option<Bridge>,
    _docker: Option<Docker>,
    host: Option<Host>,
    dir: PathBuf,
    ring: u64,
    _dir: tempfile::TempDir,
}

async fn run(plan: &Plan) -> Result<Results, String> {
    let mut results = Results::default();
    let plan = &mut plan.clone();
    if plan.measures.contains(&Measure::Loads) {
        plan.loads.retain(|&load| match Burden::possible(load) {
            Ok(()) => true,
            Err(why) => {
                skip(&mut results, &format!("load {load}: {why}"));
                false
            }
        });
    }
    let mut stage = set_up(plan, &mut results).await?;
    let bar = progress(plan);
    let apart = placement::cpus(Placement::TwoCores).ok();
    for round in 0..plan.rounds {
        if let Some(Cpus { server, client }) = &apart {
            results.core_to_core.extend(cores::round_trip(server[0], client[0]));
        }
        for site in plan.sites() {
            for group in groups(plan, &site, round) {
                let Site { measure, placement, size, .. } = site;
                bar.set_message(format!("round {}: {measure} {placement} {size}", round + 1));
                sample(plan, &mut stage, &mut results, round, site, &group).await;
                bar.inc(group.len() as u64);
            }
        }
        if bar.is_hidden() {
            eprintln!("round {} of {} done", round + 1, plan.rounds);
        }
    }
    bar.finish_and_clear();
    drop(stage.pairs);
    if let Some(host) = stage.host {
        match host.counts().without_huge_pages {
            0 => {}
            n => eprintln!("{n} connections were on ordinary pages: the pool of huge pages had too few"),
        }
        host.shutdown().await;
    }
    Ok(results)
}

/// One sample of one group of contenders; a failure ends those contenders in that placement, not the run.
async fn sample(plan: &Plan, stage: &mut Stage, results: &mut Results, round: u32, site: Site, group: &[Contender]) {
    let key = pair_key(site, group);
    let Some(pair) = stage.pairs.get_mut(&key) else { return };
    // Thousands of connections, once: memory is not noisy as time is.
    if site.measure == Measure::Idle && (round > 0 || site.aspect != Some(Aspect::Memory)) {
        return;
    }
    let burdened = pair.pids().and_then(|pids| Burden::on(site.load, site.placement, &pids));
    let _burden = match burdened {
        Ok(burden) => burden,
        Err(why) => return results.failed.push(format!("{} {}: {why}", site.measure, site.placement)),
    };
    let work = plan.work(&site);
    let sampled = if site.aspect == Some(Aspect::Calls) {
        let sampled = pair.sample_calls(group, work, &stage.dir).await;
        sampled.map(|(outcome, calls)| match calls {
            Ok(calls) => Outcome { values: vec![vec![calls / (outcome.bytes as f64 / 1e6)]], ..outcome },
            Err(why) => {
                skip(results, &why);
                Outcome::default()
            }
        })
    } else if let Work::Hold { conns } = work {
        idle(pair, &stage.starts[&key], stage.host.as_ref(), group, conns).await
    } else {
        pair.sample(group, work).await
    };
    match sampled {
        Ok(outcome) if site.measure == Measure::Idle => {
            for (&aspect, values) in site.measure.aspects().iter().zip(outcome.values) {
                let cell = Site { aspect: Some(aspect), ..site }.key(group[0]);
                results.cells.entry(cell).or_default().rounds.push(values);
            }
        }
        Ok(outcome) => {
            let outcome = told(&site, outcome, stage.ring);
            for (&contender, values) in group.iter().zip(outcome.values) {
                let cell = results.cells.entry(site.key(contender)).or_default();
                cell.rounds.push(values);
                cell.p50s.extend(outcome.p50);
                cell.p99s.extend(outcome.p99);
                cell.p999s.extend(outcome.p999);
            }
        }
        Err(why) => {
            let names: Vec<String> = group.iter().map(Contender::to_string).collect();
            let Site { measure, placement, size, .. } = site;
            results.failed.push(format!("{} {measure} {placement} {size}: {why}", names.join("+")));
            stage.pairs.remove(&key);
        }
    }
}

/// One sample of many connections. A process has descriptors for so many only: others hold the rest.
async fn idle(
    pair: &mut Pair,
    starts: &[Start; 2],
    host: Option<&Host>,
    group: &[Contender],
    conns: u32,
) -> Result<Outcome, String> {
    const MOST: u32 = 5000;
    let mut others = Vec::new();
    for _ in 0..(conns - 1) / MOST {
        others.push(Pair::start(starts, host.map(Host::socket)).await?);
    }
    let before = measure::idle::memory().map_err(|e| format!("/proc/meminfo: {e}"))?;
    for other in &mut others {
        other.sample(group, Work::Hold { conns: MOST }).await?;
    }
    let own = conns - MOST * others.len() as u32;
    pair.sample(group, Work::Idle { conns: own, all: conns, before }).await
}

/// The value of a cell that is about what the work took, out of what both processes used for it.
fn told(site: &Site, outcome: Outcome, ring: u64) -> Outcome {
    let (cpu, bytes) = (outcome.cpu as f64 / 1e9, outcome.bytes as f64);
    let value = match site.aspect {
        Some(Aspect::PerByte) => cpu / (bytes / 1e9),
        Some(Aspect::PerRequest) => cpu / (bytes / site.size as f64 / 1e6),
        Some(Aspect::Sleeps) => outcome.sleeps as f64 / (bytes / ring as f64),
        _ => return outcome,
    };
    Outcome { values: vec![vec![value]], p50: None, p99: None, p999: None, ..outcome }
}

/// The contenders of a measure, in groups that are sampled together, each round beginning with another one.
fn groups(plan: &Plan, site: &Site, round: u32) -> Vec<Vec<Contender>> {
    let contenders = plan.contenders(site);
    let mut groups: Vec<Vec<Contender>> = if site.measure == Measure::Oneshot {
        let apart = |contender: &Contender| matches!(contender, Contender::Bridge | Contender::Docker);
        let (alone, together): (Vec<_>, Vec<_>) = contenders.into_iter().partition(apart);
        let groups = [together].into_iter().chain(alone.into_iter().map(|contender| vec![contender]));
        groups.filter(|group| !group.is_empty()).collect()
    } else {
        contenders.into_iter().map(|contender| vec![contender]).collect()
    };
    if !groups.is_empty() {
        let first = round as usize % groups.len();
        groups.rotate_left(first);
    }
    groups
}

fn pair_key(site: Site, group: &[Contender]) -> PairKey {
    match group {
        &[only] => (site.placement, only.has_runtime().then_some(site.runtime), Some(only)),
        _ => (site.placement, Some(site.runtime), None),
    }
}

/// Starts all processes of the run. What this machine does not have is skipped, with the reason on standard error.
async fn set_up(plan: &Plan, results: &mut Results) -> Result<Stage, String> {
    let dir = tempfile::tempdir().map_err(|e| format!("cannot make a temporary directory: {e}"))?;
    let shmbc = [Contender::ShmbcOff, Contender::ShmbcAdaptive, Contender::ShmbcFixed];
    let mut config = HostConfig::at(dir.path().join("host.sock"));
    let ring = config.ring_capacity;
    let host = if plan.contenders.iter().any(|contender| shmbc.contains(contender)) {
        // The two ends are plain processes: which containers there are changes nothing, and asking would cost CPU time.
        config.docker = shmbc_host::Docker::Off;
        // `idle` has more connections than one user should.
        config.policy.limits.connections = u32::MAX;
        config.policy.limits.block_bytes = u64::MAX;
        config.policy.limits.offers_per_second = u32::MAX;
        config.policy.limits.descriptors = Some(u32::MAX);
        worker::raise_descriptors();
        config.huge_pages = plan.huge_pages;
        Some(Host::start(config).await.map_err(|e| format!("cannot start the host service: {e}"))?)
    } else {
        None
    };
    let socket: Option<PathBuf> = host.as_ref().map(|host| host.socket().to_owned());
    let template = Start {
        namespace: Namespace::Inherited,
        cpus: vec![],
        runtime: Runtime::Current,
        root: plan.root,
        place: Place { ip: Ipv4Addr::LOCALHOST, dir: dir.path().to_owned(), fixed: plan.fixed, ring, cpus: vec![] },
    };

    let mut places = BTreeMap::new();
    for &placement in &plan.placements {
        match placement::cpus(placement) {
            Ok(cpus) => drop(places.insert(placement, cpus)),
            Err(why) => skip(results, &format!("{placement}: {why}")),
        }
    }
    let (mut bridge, mut docker) = (None, None);
    let mut missing = BTreeSet::new();
    let (mut pairs, mut starts) = (BTreeMap::new(), BTreeMap::new());
    for key in pair_keys(plan) {
        let (placement, runtime, contender) = key;
        let Some(cpus) = places.get(&placement).filter(|_| !missing.contains(&contender)) else { continue };
        let template = Start { runtime: runtime.unwrap_or(Runtime::Current), ..template.clone() };
        let ends = ends(&template, cpus);
        let pair = match contender {
            Some(Contender::Bridge) => bridged(&mut bridge, &template, &ends).await,
            Some(Contender::Docker) => contained(&mut docker, &ends).await,
            _ => Ok(Pair::start(&ends, socket.as_deref()).await?),
        };
        starts.insert(key, ends);
        match (pair, contender) {
            (Ok(pair), _) => drop(pairs.insert(key, pair)),
            (Err(why), Some(contender)) => {
                missing.insert(Some(contender));
                skip(results, &format!("{contender}: {why}"));
            }
            (Err(why), None) => return Err(why),
        }
    }
    Ok(Stage { pairs, starts, _bridge: bridge, _docker: docker, host, dir: dir.path().to_owned(), ring, _dir: dir })
}

/// A pair attached to the bridge, which is made for the first of them.
async fn bridged(bridge: &mut Option<Bridge>, template: &Start, ends: &[Start; 2]) -> Result<Pair, String> {
    let bridge = match bridge {
        Some(bridge) => bridge,
        None => bridge.insert(Bridge::start(template).await?),
    };
    Ok(Pair { server: bridge.attached(&ends[0]).await?, client: bridge.attached(&ends[1]).await? })
}

/// A pair in two containers, on a network that is made for the first of them.
async fn contained(docker: &mut Option<Docker>, ends: &[Start; 2]) -> Result<Pair, String> {
    let docker = match docker {
        Some(docker) => docker,
        None => docker.insert(Docker::start()?),
    };
    let mut start = async |end: &Start| {
        let (command, ip) = docker.worker()?;
        let start = Start { place: Place { ip, ..end.place.clone() }, ..end.clone() };
        Worker::start_by(command, &start, None).await
    };
    Ok(Pair { server: start(&ends[0]).await?, client: start(&ends[1]).await? })
}

/// Server and client of a placement.
fn ends(template: &Start, cpus: &Cpus) -> [Start; 2] {
    let place = Place { cpus: [cpus.server.clone(), cpus.client.clone()].concat(), ..template.place.clone() };
    [&cpus.server, &cpus.client].map(|cpus| Start { cpus: cpus.clone(), place: place.clone(), ..template.clone() })
}

/// All pairs that the run needs.
fn pair_keys(plan: &Plan) -> BTreeSet<PairKey> {
    let sites = plan.sites().into_iter();
    sites.flat_map(|site| groups(plan, &site, 0).into_iter().map(move |group| pair_key(site, &group))).collect()
}

/// Says once what cannot be measured here.
fn skip(results: &mut Results, what: &str) {
    if results.skipped.iter().any(|said| said == what) {
        return;
    }
    eprintln!("skipped: {what}");
    results.skipped.push(what.to_owned());
}

fn progress(plan: &Plan) -> ProgressBar {
    // Draws only between samples, and nothing at all where standard error is no terminal.
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} of about {duration}  {msg}");
    ProgressBar::new(plan.samples()).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
