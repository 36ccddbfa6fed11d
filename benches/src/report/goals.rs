//! What the project wants to reach, and whether this run did. Each goal is a line; none of them is an assertion.

use crate::names::{Aspect, Contender, Measure, Placement, Runtime};
use crate::plan::Plan;
use crate::results::{Key, Results};
use crate::stats::paired_ratio;
use Contender::{Bridge, Iceoryx2Busy, Memcpy, Ring, ShmbcAdaptive, ShmbcFixed, ShmbcOff, Tcp, Uds};
use Measure::{Cpu, Grpc, Http1, Idle, Oneshot, Rtt, Stream, Upgrade};
use Placement::{OneCore, TwoCores};

/// All placements, runtimes and sizes of a run, for goals that hold everywhere.
struct Judge<'a> {
    plan: &'a Plan,
    results: &'a Results,
}

/// Prints a line per goal that this run measured both sides of, and says of the others that it did not.
pub(super) fn lines(plan: &Plan, results: &Results) -> Vec<String> {
    let judge = Judge { plan, results };
    let rtt = |placement, size, contender| judge.value(Rtt, placement, size, contender);
    let stream = |size, contender| judge.value(Stream, TwoCores, size, contender);
    let quick = rtt(TwoCores, 64, ShmbcAdaptive);
    let best = judge.most(ShmbcAdaptive);
    let writes = stream(64, ShmbcAdaptive).map(|gb| gb * 1e3 / 64.0);
    let mut lines = vec![
        line("64 B round trip, two cores: at most 0.5 us", quick.map(|ns| (ns <= 500.0, micros(ns)))),
        line(
            "64 B round trip, two cores: below iceoryx2-busy",
            quick.zip(rtt(TwoCores, 64, Iceoryx2Busy)).map(|(ours, other)| (ours < other, against(ours, other))),
        ),
        at_least("64 B round trip, two cores: 100x the bridge", ratio(rtt(TwoCores, 64, Bridge), quick), 100.0),
        at_least("64 B round trip, two cores: 60x the Unix socket", ratio(rtt(TwoCores, 64, Uds), quick), 60.0),
        at_most(
            "64 B round trip, one core: the Unix socket's",
            ratio(rtt(OneCore, 64, ShmbcAdaptive), rtt(OneCore, 64, Uds)),
            0.35,
        ),
        judge.everywhere("wait off, two cores: never slower than the Unix socket", Rtt, ShmbcOff, |c| c == Uds),
        judge.everywhere("wait off, two cores: never less than the Unix socket", Stream, ShmbcOff, |c| c == Uds),
        at_least("maximum throughput, two cores: 10x the bridge's", ratio(best, judge.most(Bridge)), 10.0),
        at_least("maximum throughput, two cores: 5x the Unix socket's", ratio(best, judge.most(Uds)), 5.0),
        at_least("maximum throughput, two cores: 0.8x one memcpy", ratio(best, judge.most(Memcpy)), 0.8),
        line("64 B writes, two cores: at least 15 M/s", writes.map(|m| (m >= 15.0, format!("{m:.1} M/s")))),
        judge.everywhere("each write size, two cores: above every contender", Stream, ShmbcAdaptive, |c| {
            !c.is_limit() && ![ShmbcOff, ShmbcAdaptive, ShmbcFixed].contains(&c)
        }),
        line(
            "1 KiB writes, two cores: at least 20 GB/s",
            stream(1024, ShmbcAdaptive).map(|gb| (gb >= 20.0, format!("{gb:.1} GB/s"))),
        ),
        at_least(
            "16 KiB writes, two cores: 12x the bridge",
            ratio(stream(16384, ShmbcAdaptive), stream(16384, Bridge)),
            12.0,
        ),
        judge.spread(),
        judge.adapter(),
        judge.adaptive(),
    ];
    for (conns, wanted) in [(1, 25.0), (8, 6.0), (64, 4.0)] {
        let rate = |by| results.value(Key { conns: Some(conns), ..Key::new(Http1, TwoCores, 64, by) });
        for (wanted, over) in [(wanted, Bridge), (2.0, Uds)] {
            let goal = format!("HTTP/1.1, two cores, conns {conns}: {wanted}x {over}");
            lines.push(at_least(&goal, ratio(rate(ShmbcAdaptive), rate(over)), wanted));
        }
    }
    for conns in [1, 8, 64] {
        let rate = |by| results.value(Key { conns: Some(conns), ..Key::new(Grpc, TwoCores, 1024, by) });
        for (wanted, over) in [(3.0, Bridge), (2.0, Uds)] {
            let goal = format!("gRPC, two cores, conns {conns}: {wanted}x {over}");
            lines.push(at_least(&goal, ratio(rate(ShmbcAdaptive), rate(over)), wanted));
        }
    }
    let upgrade = judge.value(Upgrade, TwoCores, 1, ShmbcAdaptive);
    let goal = "offer to switch, two cores: at most 300 us";
    lines.push(line(goal, upgrade.map(|ns| (ns <= 300_000.0, micros(ns)))));
    let cpu = |aspect, size, by| results.value(Key { aspect: Some(aspect), ..Key::new(Cpu, TwoCores, size, by) });
    let byte = |by| cpu(Aspect::PerByte, 64 << 10, by);
    lines.push(at_most(
        "CPU time of a byte, two cores, 64 KiB writes: the bridge's",
        ratio(byte(ShmbcAdaptive), byte(Bridge)),
        0.4,
    ));
    let sleeps = cpu(Aspect::Sleeps, 16 << 10, ShmbcAdaptive);
    let goal = "sleeps of a ringful, two cores, 16 KiB writes: at most 2.5";
    lines.push(line(goal, sleeps.map(|n| (n <= 2.5, format!("{n:.2}")))));
    for conns in plan.conns(Idle).into_iter().flatten() {
        let idle = |aspect, by| {
            results.value(Key { aspect: Some(aspect), conns: Some(conns), ..Key::new(Idle, TwoCores, 64, by) })
        };
        let over = |aspect| Some(idle(aspect, ShmbcAdaptive)? - idle(aspect, Tcp)?);
        let kib = |bytes: f64| format!("{:.1} KiB", bytes / 1024.0);
        let (memory, after) = (over(Aspect::Memory), over(Aspect::AfterBurst));
        let goal = format!("{conns} idle connections, memory of each besides TCP's: at most 24 KiB");
        lines.push(line(&goal, memory.map(|bytes| (bytes <= 24.0 * 1024.0, kib(bytes)))));
        let goal = format!("{conns} idle connections, a second after bursts: as before, or 10 % more");
        lines.push(line(&goal, memory.zip(after).map(|(before, after)| (after <= before * 1.1, kib(after)))));
        let goal = format!("{conns} idle connections: no CPU time (less than 1 ms a second)");
        let cpu = idle(Aspect::Resting, ShmbcAdaptive);
        lines.push(line(&goal, cpu.map(|ms| (ms < 1.0, format!("{ms:.2} ms")))));
    }
    for &placement in &plan.placements {
        // How much longer one connection takes, from batches taken side by side.
        let cell = |contender| results.cells.get(&Key::new(Oneshot, placement, 64, contender));
        let cost = cell(Tcp).zip(cell(ShmbcAdaptive)).and_then(|(tcp, ours)| paired_ratio(tcp, ours));
        let verdict = cost.map(|cost| (cost <= 1.03, format!("{:+.1} %", (cost - 1.0) * 100.0)));
        lines.push(line(&format!("connect, one request, close, {placement}: within 3 % of tcp"), verdict));
    }
    lines
}

impl Judge<'_> {
    fn value(&self, measure: Measure, placement: Placement, size: usize, contender: Contender) -> Option<f64> {
        self.results.value(Key::new(measure, placement, size, contender))
    }

    /// The most that a contender streams on two cores, over all sizes.
    fn most(&self, contender: Contender) -> Option<f64> {
        let sizes = self.plan.sizes(Stream).into_iter();
        sizes.filter_map(|size| self.value(Stream, TwoCores, size, contender)).reduce(f64::max)
    }

    /// Whether one contender is at least as good as some others at every size on two cores; where it is not, there.
    fn everywhere(&self, goal: &str, measure: Measure, ours: Contender, others: impl Fn(Contender) -> bool) -> String {
        let (mut compared, mut behind) = (0, Vec::new());
        for size in self.plan.sizes(measure) {
            let Some(own) = self.value(measure, TwoCores, size, ours) else { continue };
            for &other in self.plan.contenders.iter().filter(|&&other| others(other)) {
                let Some(theirs) = self.value(measure, TwoCores, size, other) else { continue };
                let times = if measure.smaller_is_better() { theirs / own } else { own / theirs };
                compared += 1;
                if times < 1.0 {
                    behind.push(format!("{times:.2}x {other} at {size} B"));
                }
            }
        }
        let verdict = if behind.is_empty() { format!("in all of {compared}") } else { behind.join(", ") };
        line(goal, (compared > 0).then_some((behind.is_empty(), verdict)))
    }

    /// Of SHMBC's streams, the one whose worst round is furthest below its median.
    fn spread(&self) -> String {
        let cells = self.results.cells.iter().filter(|(key, _)| {
            (key.measure, key.placement) == (Stream, TwoCores)
                && [ShmbcOff, ShmbcAdaptive, ShmbcFixed].contains(&key.contender)
        });
        let worst = cells
            .filter_map(|(key, cell)| cell.summary().map(|summary| (summary.min / summary.value, key)))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        line(
            "streams, two cores: the worst round at least half of the median",
            worst.map(|(part, key)| (part >= 0.5, format!("{part:.2}x, {} at {} B", key.contender, key.size))),
        )
    }

    /// What tokio's traits leave of the bare ring, at the size where that is least.
    fn adapter(&self) -> String {
        let sizes = self.plan.sizes(Stream).into_iter();
        let parts = sizes.filter_map(|size| {
            let ring = self.value(Stream, TwoCores, size, Ring);
            Some((ratio(self.value(Stream, TwoCores, size, ShmbcAdaptive), ring)?, size))
        });
        let least = parts.min_by(|a, b| a.0.total_cmp(&b.0));
        line(
            "AsyncRead and AsyncWrite, two cores: at least 0.85x the bare ring at every size",
            least.map(|(part, size)| (part >= 0.85, format!("{part:.2}x at {size} B"))),
        )
    }

    /// The cell where the adaptive wait is furthest behind the better one of off and fixed, in all that was measured.
    fn adaptive(&self) -> String {
        let value = |key: Key| self.results.value(key);
        let keys = self
            .results
            .cells
            .keys()
            .filter(|key| key.contender == ShmbcAdaptive && ![Oneshot, Cpu].contains(&key.measure));
        let behind = keys.filter_map(|&key| {
            let smaller = key.measure.smaller_is_better();
            let (off, fixed) =
                (value(Key { contender: ShmbcOff, ..key })?, value(Key { contender: ShmbcFixed, ..key })?);
            let best = if smaller { off.min(fixed) } else { off.max(fixed) };
            let own = value(key)?;
            Some((if smaller { best / own } else { own / best }, key))
        });
        let worst = behind.min_by(|a, b| a.0.total_cmp(&b.0));
        line(
            "adaptive wait: within 10 % of the better one of off and fixed everywhere",
            worst.map(|(part, key)| {
                let runtime = key.runtime.as_ref().map_or_else(String::new, Runtime::to_string);
                let conns = key.conns.map_or_else(String::new, |conns| format!(", conns {conns}"));
                let load = key.load.map_or_else(String::new, |load| format!(", {load}"));
                let place = format!("{} {} {runtime} {} B{conns}{load}", key.measure, key.placement, key.size);
                (part >= 0.9, format!("at least {part:.2}x, {place}"))
            }),
        )
    }
}

fn ratio(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    Some(a? / b?)
}

fn micros(ns: f64) -> String {
    format!("{:.2} us", ns / 1000.0)
}

fn against(ours: f64, other: f64) -> String {
    format!("{} against {}", micros(ours), micros(other))
}

fn at_least(goal: &str, times: Option<f64>, wanted: f64) -> String {
    line(&format!("{goal} or more"), times.map(|times| (times >= wanted, format!("{times:.2}x"))))
}

fn at_most(goal: &str, times: Option<f64>, wanted: f64) -> String {
    line(&format!("{goal} times {wanted} or less"), times.map(|times| (times <= wanted, format!("{times:.2}x"))))
}

fn line(goal: &str, verdict: Option<(bool, String)>) -> String {
    match verdict {
        Some((true, figure)) => format!("met           {goal}: {figure}"),
        Some((false, figure)) => format!("MISSED        {goal}: {figure}"),
        None => format!("not measured  {goal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Cell;

    fn results(cells: &[(Measure, usize, Contender, &[f64])]) -> Results {
        let mut results = Results::default();
        for &(measure, size, contender, rounds) in cells {
            let rounds = rounds.iter().map(|&value| vec![value]).collect();
            results.cells.insert(Key::new(measure, TwoCores, size, contender), Cell { rounds, ..Cell::default() });
        }
        results
    }

    fn judged(results: &Results, goal: &str) -> String {
        let lines = lines(&Plan::parsed(&["--sizes", "64,1K"]), results);
        lines.into_iter().find(|line| line.contains(goal)).expect("the goal is there")
    }

    #[test]
    fn goals_when_missed_met_and_not_measured_say_so_with_the_figure() {
        let results = results(&[(Rtt, 64, ShmbcAdaptive, &[600.0]), (Rtt, 64, Bridge, &[66_000.0])]);
        assert_eq!(
            judged(&results, "at most 0.5 us"),
            "MISSED        64 B round trip, two cores: at most 0.5 us: 0.60 us"
        );
        let met = judged(&results, "100x the bridge");
        assert!(met.starts_with("met ") && met.ends_with(": 110.00x"), "{met}");
        assert!(judged(&results, "60x the Unix").starts_with("not measured"));
    }

    #[test]
    fn goals_that_hold_everywhere_when_missed_somewhere_name_the_place() {
        let results = results(&[
            (Stream, 64, ShmbcAdaptive, &[1.0, 1.0, 0.4]),
            (Stream, 64, Uds, &[0.1]),
            (Stream, 1024, ShmbcAdaptive, &[3.0]),
            (Stream, 1024, Iceoryx2Busy, &[6.0]),
            (Stream, 1024, Ring, &[4.0]),
        ]);
        let above = judged(&results, "above every contender");
        assert!(above.starts_with("MISSED") && above.ends_with(": 0.50x iceoryx2-busy at 1024 B"), "{above}");
        assert!(judged(&results, "worst round").ends_with(": 0.40x, shmbc-adaptive at 64 B"));
        assert!(judged(&results, "bare ring").ends_with(": 0.75x at 1024 B"));
    }
}
