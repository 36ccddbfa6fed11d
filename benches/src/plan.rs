//! The command line of `compare`, and the plan of a run that follows from it. Decides nothing while the run goes on.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use shmbc_host::HugePages;

use crate::names::{Aspect, Contender, Load, Measure, Placement, Runtime};
use crate::protocol::{Times, Work};
use crate::results::Key;

/// The largest message: what is above is no message but a memory test, and a typing error more likely.
const MAX_SIZE: usize = 64 << 20;

/// The most connections that a measure is asked for: each is a descriptor and a ring at both ends.
const MAX_CONNS: u32 = 20_000;

/// What `compare` can be told.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Fewer sizes and placements, shorter samples: the whole run stays within two minutes.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print one JSON object a line instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
    /// Where tables, figures and plots of the run are written, over those of an earlier one.
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub(crate) out: PathBuf,
    /// Only these measures, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    measures: Vec<Measure>,
    /// Only these contenders, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    contenders: Vec<Contender>,
    /// Only these placements, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    placements: Vec<Placement>,
    /// Message sizes of `rtt` and `stream` in bytes, separated by commas; K and M stand for KiB and MiB.
    #[arg(long, value_delimiter = ',', value_parser = parse_size)]
    sizes: Vec<usize>,
    /// Numbers of connections of `http1`, `grpc` and `idle`, separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = parse_conns)]
    conns: Vec<u32>,
    /// Only these loads of `loads`, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    loads: Vec<Load>,
    /// How often each cell is measured; every round goes through all contenders.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// The runtimes of the two processes, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "current")]
    runtime: Vec<Runtime>,
    /// Measure in the future given to `block_on` instead of in a spawned task.
    #[arg(long)]
    root: bool,
    /// How long shmbc-fixed polls before it sleeps, in microseconds.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    fixed_us: u64,
    /// Pages that shmbc's connections are on: transparent, hugetlb or off.
    #[arg(long, value_name = "PAGES", default_value = "off")]
    huge_pages: HugePages,
}

/// Everything one run does, in the order in which it does it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) measures: Vec<Measure>,
    pub(crate) contenders: Vec<Contender>,
    pub(crate) placements: Vec<Placement>,
    pub(crate) rounds: u32,
    pub(crate) runtimes: Vec<Runtime>,
    pub(crate) root: bool,
    pub(crate) fixed: Duration,
    pub(crate) huge_pages: HugePages,
    sizes: Vec<usize>,
    conns: Vec<u32>,
    pub(crate) loads: Vec<Load>,
    quick: bool,
}

/// One place of the run: what is measured and where, but for who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) measure: Measure,
    pub(crate) placement: Placement,
    pub(crate) runtime: Runtime,
    /// Connections at once, where the measure varies them.
    pub(crate) conns: Option<u32>,
    /// What else wants the CPUs, where the measure varies it.
    pub(crate) load: Option<Load>,
    pub(crate) size: usize,
    /// What is told, where a measure has several values.
    pub(crate) aspect: Option<Aspect>,
}

impl Site {
    /// The cell of a contender.
    pub(crate) fn key(self, contender: Contender) -> Key {
        let Self { measure, placement, runtime, conns, load, size, aspect } = self;
        Key {
            measure,
            placement,
            runtime: contender.has_runtime().then_some(runtime),
            conns,
            load,
            size,
            aspect,
            contender,
        }
    }
}

impl Plan {
    /// What the options ask for.
    pub(crate) fn of(options: &Options) -> Self {
        let placements = match options.placements.as_slice() {
            // What most goals are about; a process that is not pinned is on one of the two.
            [] if options.quick => vec![Placement::TwoCores, Placement::OneCore],
            given => or_all(given),
        };
        let mut measures = or_all(&options.measures);
        if options.quick && options.measures.is_empty() {
            // Six loads take as long as everything else.
            measures.retain(|&measure| measure != Measure::Loads);
        }
        Self {
            measures,
            contenders: or_all(&options.contenders),
            placements,
            rounds: options.rounds,
            runtimes: or_all(&options.runtime),
            root: options.root,
            fixed: Duration::from_micros(options.fixed_us),
            huge_pages: options.huge_pages,
            sizes: options.sizes.clone(),
            conns: options.conns.clone(),
            loads: or_all(&options.loads),
            quick: options.quick,
        }
    }

    /// What one round does in this order: measures in their places, each with all its contenders.
    pub(crate) fn sites(&self) -> Vec<Site> {
        let mut sites = Vec::new();
        for &measure in &self.measures {
            for &placement in &self.placements {
                // Longest of all, and their goals are about two cores.
                if self.quick && matches!(measure, Measure::Cpu | Measure::Idle) && placement == Placement::OneCore {
                    continue;
                }
                for &runtime in &self.runtimes {
                    sites.extend(self.values(measure).into_iter().flat_map(|(aspect, size)| {
                        let site = Site { measure, placement, runtime, conns: None, load: None, size, aspect };
                        if measure == Measure::Loads {
                            self.loads.iter().map(|&load| Site { load: Some(load), ..site }).collect::<Vec<_>>()
                        } else {
                            self.conns(measure).into_iter().map(|conns| Site { conns, ..site }).collect()
                        }
                    }));
                }
            }
        }
        sites
    }

    /// What is taken of a measure, and at which sizes.
    fn values(&self, measure: Measure) -> Vec<(Option<Aspect>, usize)> {
        match measure.aspects() {
            [] => self.sizes(measure).into_iter().map(|size| (None, size)).collect(),
            aspects => aspects.iter().flat_map(|&a| a.sizes().iter().map(move |&size| (Some(a), size))).collect(),
        }
    }

    /// The sizes at which a measure is taken.
    pub(crate) fn sizes(&self, measure: Measure) -> Vec<usize> {
        match measure {
            Measure::Rtt | Measure::Stream if !self.sizes.is_empty() => self.sizes.clone(),
            _ => measure.sizes(self.quick).to_vec(),
        }
    }

    /// How many connections at once a measure is taken with; nothing where it has just the one.
    pub(crate) fn conns(&self, measure: Measure) -> Vec<Option<u32>> {
        match measure.conns(self.quick) {
            [] => vec![None],
            _ if !self.conns.is_empty() => self.conns.iter().copied().map(Some).collect(),
            own => own.iter().copied().map(Some).collect(),
        }
    }

    /// The contenders of this run at a site. Those that need no runtime are measured beside the first one.
    pub(crate) fn contenders(&self, site: &Site) -> Vec<Contender> {
        let first = self.runtimes.first() == Some(&site.runtime);
        let here = |contender: &Contender| {
            // Two ends that spin by intent say nothing of one core.
            // Counters of a ring; the processes in containers are out of sight.
            let counted = match site.aspect {
                Some(Aspect::Sleeps) => contender.is_shmbc(),
                Some(Aspect::Calls) => *contender != Contender::Docker,
                _ => true,
            };
            let cores = site.placement != Placement::OneCore || !contender.is_limit();
            site.measure.suits(*contender) && counted && cores && (first || contender.has_runtime())
        };
        self.contenders.iter().copied().filter(here).collect()
    }

    /// One sample of a measure.
    pub(crate) fn work(&self, &Site { measure, size, conns, load, aspect, .. }: &Site) -> Work {
        let times = if self.quick {
            Times { warm: Duration::from_millis(20), run: Duration::from_millis(60) }
        } else {
            Times { warm: Duration::from_millis(100), run: Duration::from_millis(400) }
        };
        match measure {
            Measure::Cpu if aspect == Some(Aspect::PerRequest) => Work::Rtt { size, times },
            Measure::Cpu => Work::Stream { size, times },
            Measure::Idle => Work::Hold { conns: conns.unwrap_or(1) },
            Measure::Rtt => Work::Rtt { size, times },
            Measure::Stream => Work::Stream { size, times },
            // Thousands of connections in TIME_WAIT slow `connect` itself down, so they are few, in both kinds of run.
            Measure::Oneshot => Work::Oneshot { size, batch: 50, batches: 6 },
            Measure::Http1 => Work::Http1 { size, conns: conns.unwrap_or(1), times },
            Measure::Grpc => Work::Grpc { size, conns: conns.unwrap_or(1), times },
            Measure::Upgrade => Work::Upgrade { connections: if self.quick { 50 } else { 500 } },
            Measure::Loads => Work::Loads { size, load: load.unwrap_or(Load::Connections), times },
        }
    }

    /// How many samples the run takes.
    pub(crate) fn samples(&self) -> u64 {
        let cells: usize = self.sites().iter().map(|site| self.contenders(site).len()).sum();
        cells as u64 * u64::from(self.rounds)
    }
}

/// The names given, each once and in their own order, or all there are.
fn or_all<T: clap::ValueEnum + Copy + Ord>(given: &[T]) -> Vec<T> {
    let mut names = if given.is_empty() { T::value_variants().to_vec() } else { given.to_vec() };
    names.sort();
    names.dedup();
    names
}

fn parse_size(text: &str) -> Result<usize, String> {
    let wrong = || format!("a size is a number of bytes from 1 to {MAX_SIZE}, like 64, 16K or 1M");
    let short = text.strip_suffix("iB").unwrap_or(text);
    let (digits, unit) = if let Some(digits) = short.strip_suffix(['K', 'k']) {
        (digits, 1 << 10)
    } else if let Some(digits) = short.strip_suffix(['M', 'm']) {
        (digits, 1 << 20)
    } else {
        (text, 1)
    };
    let size = digits.parse::<usize>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(wrong)?;
    if (1..=MAX_SIZE).contains(&size) { Ok(size) } else { Err(wrong()) }
}

fn parse_conns(text: &str) -> Result<u32, String> {
    let conns = text.parse().ok().filter(|conns| (1..=MAX_CONNS).contains(conns));
    conns.ok_or_else(|| format!("a number of connections is from 1 to {MAX_CONNS}"))
}

#[cfg(test)]
impl Plan {
    /// The plan of a command line.
    pub(crate) fn parsed(arguments: &[&str]) -> Self {
        use clap::FromArgMatches;
        let command = Options::augment_args(clap::Command::new("compare").no_binary_name(true));
        let matches = command.try_get_matches_from(arguments).expect("the command line is right");
        Self::of(&Options::from_arg_matches(&matches).expect("all options are known"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_when_given_with_and_without_a_unit() {
        assert_eq!(parse_size("64"), Ok(64));
        assert_eq!(parse_size("16K"), Ok(16384));
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
    }

    #[test]
    fn sizes_when_wrong_are_named_and_not_a_panic() {
        for wrong in ["", "K", "iB", "0", "-1", "65M", "18446744073709551615M", "ü", "64 bytes"] {
            let why = parse_size(wrong).expect_err(wrong);
            assert!(why.contains("from 1 to"), "{why}");
        }
    }
}
