//! What the project wants to reach, and whether this run did. Each goal is a line; none of them is an assertion.

use crate::names::{Contender, Measure, Placement};
use crate::results::{Key, Results};
use crate::stats::paired_ratio;

/// Prints a line per goal that this run measured both sides of, and says of the others that it did not.
pub(super) fn lines(results: &Results) -> Vec<String> {
    use Contender::{Bridge, ShmbcAdaptive, Tcp, Uds};
    use Measure::{Http1, Oneshot, Rtt, Stream};
    use Placement::{OneCore, TwoCores};

    let adaptive = |measure, placement, size| results.value(Key::new(measure, placement, size, ShmbcAdaptive));
    let rtt = adaptive(Rtt, TwoCores, 64);
    let speedup = |against: Option<f64>| Some(against? / rtt?);
    let gain = |contender| {
        Some(adaptive(Stream, TwoCores, 16384)? / results.value(Key::new(Stream, TwoCores, 16384, contender))?)
    };

    let mut lines = vec![
        line(
            "64 B round trip, two cores, at most 1 us",
            rtt.map(|ns| (ns <= 1000.0, format!("{:.2} us", ns / 1000.0))),
        ),
        times(
            "64 B round trip, two cores, at least 50x faster than bridge",
            speedup(results.value(Key::new(Rtt, TwoCores, 64, Bridge))),
            50.0,
        ),
        times("16 KiB writes, two cores, at least 6x bridge", gain(Bridge), 6.0),
        times("16 KiB writes, two cores, at least 2x uds", gain(Uds), 2.0),
        line(
            "64 B round trip, one core, below uds",
            adaptive(Rtt, OneCore, 64).zip(results.value(Key::new(Rtt, OneCore, 64, Uds))).map(|(ours, uds)| {
                (ours < uds, format!("{:.2} us against {:.2} us, {:.2}x", ours / 1000.0, uds / 1000.0, uds / ours))
            }),
        ),
    ];
    for (conns, wanted) in [(1, 25.0), (8, 6.0), (64, 4.0)] {
        let rate = |by| results.value(Key { conns: Some(conns), ..Key::new(Http1, TwoCores, 64, by) });
        for (wanted, over) in [(wanted, Bridge), (2.0, Uds)] {
            let goal = format!("HTTP/1.1, two cores, conns {conns}, at least {wanted}x {over}");
            lines.push(times(&goal, rate(ShmbcAdaptive).zip(rate(over)).map(|(ours, theirs)| ours / theirs), wanted));
        }
    }
    for placement in [TwoCores, OneCore, Placement::Unpinned] {
        // How much longer one connection takes, from batches taken side by side.
        let cell = |contender| results.cells.get(&Key::new(Oneshot, placement, 64, contender));
        let cost = cell(Tcp).zip(cell(ShmbcAdaptive)).and_then(|(tcp, ours)| paired_ratio(tcp, ours));
        let verdict = cost.map(|cost| (cost <= 1.05, format!("{:+.1} %", (cost - 1.0) * 100.0)));
        lines.push(line(&format!("one-shot connection, {placement}, at most 5 % over tcp"), verdict));
    }
    lines
}

fn times(goal: &str, figure: Option<f64>, wanted: f64) -> String {
    line(goal, figure.map(|figure| (figure >= wanted, format!("{figure:.1}x"))))
}

fn line(goal: &str, verdict: Option<(bool, String)>) -> String {
    match verdict {
        Some((true, figure)) => format!("reached       {goal}: {figure}"),
        Some((false, figure)) => format!("MISSED        {goal}: {figure}"),
        None => format!("not measured  {goal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Cell;

    #[test]
    fn goals_when_missed_reached_and_not_measured_say_so_with_the_figure() {
        let mut results = Results::default();
        for (contender, ns) in [(Contender::ShmbcAdaptive, 2000.0), (Contender::Bridge, 120_000.0)] {
            let key = Key::new(Measure::Rtt, Placement::TwoCores, 64, contender);
            results.cells.insert(key, Cell { rounds: vec![vec![ns]], ..Cell::default() });
        }
        let lines = lines(&results);
        assert_eq!(lines[0], "MISSED        64 B round trip, two cores, at most 1 us: 2.00 us");
        assert!(lines[1].starts_with("reached ") && lines[1].ends_with(": 60.0x"), "{}", lines[1]);
        assert!(lines[2].starts_with("not measured"), "{}", lines[2]);
    }
}
