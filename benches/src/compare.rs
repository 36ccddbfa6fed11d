//! One run: worker pairs for all contenders and placements are kept alive, and every round goes through all of them.
//!
//! Only one sample runs at any time, and the run itself sleeps meanwhile. The host service that the SHMBC contenders
//! need is embedded here: it is idle but for the moment in which a connection is upgraded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use shmbc_host::{Docker, Host, HostConfig};

use crate::cores;
use crate::names::{Contender, Measure, Placement};
use crate::pair::{Bridge, Pair, Worker};
use crate::placement::{self, Cpus};
use crate::plan::{Options, Plan};
use crate::protocol::{Namespace, Place, Start};
use crate::report;
use crate::stats::Cell;

/// Which cell a value belongs to; sorted as it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) measure: Measure,
    pub(crate) placement: Placement,
    pub(crate) size: usize,
    pub(crate) contender: Contender,
}

/// What a run has found.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) cells: BTreeMap<Key, Cell>,
    /// What could not be measured here, and why; no error.
    pub(crate) skipped: Vec<String>,
    /// Before each round, the round trip of a cache line between the cores of `two-cores`, ns.
    pub(crate) core_to_core: Vec<f64>,
    /// What failed.
    pub(crate) failed: Vec<String>,
}

impl Results {
    /// The median of one cell, if it was measured.
    pub(crate) fn value(&self, measure: Measure, placement: Placement, size: usize, by: Contender) -> Option<f64> {
        let cell = self.cells.get(&Key { measure, placement, size, contender: by })?;
        Some(cell.summary()?.value)
    }
}

/// Runs `compare` and prints what came of it.
pub(crate) fn compare(options: &Options) -> Result<(), String> {
    let plan = Plan::of(options);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|e| format!("cannot start a runtime: {e}"))?;
    let begin = Instant::now();
    let results = runtime.block_on(async {
        tokio::select! {
            results = measure(&plan) => results,
            // Dropping the future ends all workers and removes the directory; the kernel removes the namespaces.
            _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
        }
    })?;
    if options.json {
        report::json::print(&results).map_err(|e| format!("standard output: {e}"))?;
    } else {
        report::people::print(&plan, &results, begin.elapsed()).map_err(|e| format!("standard output: {e}"))?;
    }
    match results.failed.as_slice() {
        [] => Ok(()),
        failed => Err(failed.join("\n  ")),
    }
}

/// Which pair of processes takes a sample: one-shot contenders that live in the same namespace share one, to take turns.
type PairKey = (Placement, Option<Contender>);

/// The processes of a run.
struct Stage {
    pairs: BTreeMap<PairKey, Pair>,
    /// Ended after the pairs that need them.
    _bridge: Option<Bridge>,
    host: Option<Host>,
    _dir: tempfile::TempDir,
}

async fn measure(plan: &Plan) -> Result<Results, String> {
    let mut results = Results::default();
    let mut stage = set_up(plan, &mut results).await?;
    let bar = progress(plan);
    let apart = placement::cpus(Placement::TwoCores).ok();
    for round in 0..plan.rounds {
        if let Some(Cpus { server, client }) = &apart {
            results.core_to_core.extend(cores::round_trip(server[0], client[0]));
        }
        for &measure in &plan.measures {
            for &placement in &plan.placements {
                for size in plan.sizes(measure) {
                    for group in groups(plan, measure, round) {
                        bar.set_message(format!("round {}: {measure} {placement} {size}", round + 1));
                        sample(plan, &mut stage, &mut results, (measure, placement, size), &group).await;
                        bar.inc(group.len() as u64);
                    }
                }
            }
        }
        if bar.is_hidden() {
            eprintln!("round {} of {} done", round + 1, plan.rounds);
        }
    }
    bar.finish_and_clear();
    drop(stage.pairs);
    if let Some(host) = stage.host {
        host.shutdown().await;
    }
    Ok(results)
}

/// One sample of one group of contenders; a failure ends those contenders in that placement, not the run.
async fn sample(
    plan: &Plan,
    stage: &mut Stage,
    results: &mut Results,
    (measure, placement, size): (Measure, Placement, usize),
    group: &[Contender],
) {
    let key = pair_key(placement, group);
    let Some(pair) = stage.pairs.get_mut(&key) else { return };
    match pair.sample(group, plan.work(measure, size)).await {
        Ok(outcome) => {
            for (&contender, values) in group.iter().zip(outcome.values) {
                let cell = results.cells.entry(Key { measure, placement, size, contender }).or_default();
                cell.rounds.push(values);
                cell.p99s.extend(outcome.p99);
            }
        }
        Err(why) => {
            let names: Vec<String> = group.iter().map(Contender::to_string).collect();
            results.failed.push(format!("{} {measure} {placement} {size}: {why}", names.join("+")));
            stage.pairs.remove(&key);
        }
    }
}

/// The contenders of a measure, in groups that are sampled together, each round beginning with another one.
fn groups(plan: &Plan, measure: Measure, round: u32) -> Vec<Vec<Contender>> {
    let contenders = plan.contenders(measure);
    let mut groups: Vec<Vec<Contender>> = if measure == Measure::Oneshot {
        let (bridged, others) = contenders.into_iter().partition(|&contender| contender == Contender::Bridge);
        [others, bridged].into_iter().filter(|group: &Vec<Contender>| !group.is_empty()).collect()
    } else {
        contenders.into_iter().map(|contender| vec![contender]).collect()
    };
    if !groups.is_empty() {
        let first = round as usize % groups.len();
        groups.rotate_left(first);
    }
    groups
}

fn pair_key(placement: Placement, group: &[Contender]) -> PairKey {
    match group {
        [only] => (placement, Some(*only)),
        _ => (placement, None),
    }
}

/// Starts all processes of the run. What this machine does not have is skipped, with the reason on standard error.
async fn set_up(plan: &Plan, results: &mut Results) -> Result<Stage, String> {
    let dir = tempfile::tempdir().map_err(|e| format!("cannot make a temporary directory: {e}"))?;
    let shmbc = [Contender::ShmbcOff, Contender::ShmbcAdaptive, Contender::ShmbcFixed];
    let host = if plan.contenders.iter().any(|contender| shmbc.contains(contender)) {
        let mut config = HostConfig::at(dir.path().join("host.sock"));
        // The two ends are plain processes: which containers there are changes nothing, and asking would cost CPU time.
        config.docker = Docker::Off;
        Some(Host::start(config).await.map_err(|e| format!("cannot start the host service: {e}"))?)
    } else {
        None
    };
    let socket: Option<PathBuf> = host.as_ref().map(|host| host.socket().to_owned());
    let template = Start {
        namespace: Namespace::Inherited,
        cpus: vec![],
        runtime: plan.runtime,
        root: plan.root,
        place: Place { ip: Ipv4Addr::LOCALHOST, dir: dir.path().to_owned(), fixed: plan.fixed },
    };

    let mut bridge = None;
    let mut skip_bridge = false;
    let mut pairs = BTreeMap::new();
    for &placement in &plan.placements {
        let cpus = match placement::cpus(placement) {
            Ok(cpus) => cpus,
            Err(why) => {
                skip(results, &format!("{placement}: {why}"));
                continue;
            }
        };
        let ends = ends(&template, &cpus);
        for key in pair_keys(plan, placement) {
            if key.1 != Some(Contender::Bridge) {
                let start = async |end| Worker::start(end, socket.as_deref()).await;
                pairs.insert(key, Pair { server: start(&ends[0]).await?, client: start(&ends[1]).await? });
            } else if !skip_bridge {
                match bridged(&mut bridge, &template, &ends).await {
                    Ok(pair) => drop(pairs.insert(key, pair)),
                    Err(why) => {
                        skip_bridge = true;
                        skip(results, &format!("bridge: {why}"));
                    }
                }
            }
        }
    }
    Ok(Stage { pairs, _bridge: bridge, host, _dir: dir })
}

/// A pair attached to the bridge, which is made for the first of them.
async fn bridged(bridge: &mut Option<Bridge>, template: &Start, ends: &[Start; 2]) -> Result<Pair, String> {
    let bridge = match bridge {
        Some(bridge) => bridge,
        None => bridge.insert(Bridge::start(template).await?),
    };
    Ok(Pair { server: bridge.attached(&ends[0]).await?, client: bridge.attached(&ends[1]).await? })
}

/// Server and client of a placement.
fn ends(template: &Start, cpus: &Cpus) -> [Start; 2] {
    [&cpus.server, &cpus.client].map(|cpus| Start { cpus: cpus.clone(), ..template.clone() })
}

/// All pairs that a placement needs.
fn pair_keys(plan: &Plan, placement: Placement) -> BTreeSet<PairKey> {
    let groups = plan.measures.iter().flat_map(|&measure| groups(plan, measure, 0));
    groups.map(|group| pair_key(placement, &group)).collect()
}

fn skip(results: &mut Results, what: &str) {
    eprintln!("skipped: {what}");
    results.skipped.push(what.to_owned());
}

fn progress(plan: &Plan) -> ProgressBar {
    // Draws only between samples, and nothing at all where standard error is no terminal.
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} of about {duration}  {msg}");
    ProgressBar::new(plan.samples()).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
