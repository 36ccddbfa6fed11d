//! Medians, spread and paired ratios. Pure.

/// One cell of the result: a measure of one contender in one placement at one size, over all rounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cell {
    /// Per round the values of its batches (one value where the measure has no batches).
    pub(crate) rounds: Vec<Vec<f64>>,
    /// Per round its median latency, where that is not the value.
    pub(crate) p50s: Vec<f64>,
    /// Per round its 99th percentile, where there is one.
    pub(crate) p99s: Vec<f64>,
    /// Per round its 99.9th percentile, where there is one.
    pub(crate) p999s: Vec<f64>,
}

/// What is told of a cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    /// Median over the rounds of each round's median.
    pub(crate) value: f64,
    /// Median over the rounds of each round's median latency, where that is not the value.
    pub(crate) p50: Option<f64>,
    /// Median over the rounds of each round's 99th percentile.
    pub(crate) p99: Option<f64>,
    /// Median over the rounds of each round's 99.9th percentile.
    pub(crate) p999: Option<f64>,
    /// The smallest round.
    pub(crate) min: f64,
    /// The largest round.
    pub(crate) max: f64,
}

impl Cell {
    /// Median and spread over the rounds; nothing if there was none.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let rounds: Vec<f64> = self.rounds.iter().filter_map(|batches| median(batches)).collect();
        Some(Summary {
            value: median(&rounds)?,
            p50: median(&self.p50s),
            p99: median(&self.p99s),
            p999: median(&self.p999s),
            min: rounds.iter().copied().reduce(f64::min)?,
            max: rounds.iter().copied().reduce(f64::max)?,
        })
    }
}

/// The middle value, or the mean of the two in the middle; nothing of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The median of `a / b` over values taken side by side: what drifts slowly hits both and drops out.
pub(crate) fn paired_ratio(a: &Cell, b: &Cell) -> Option<f64> {
    let pairs = a.rounds.iter().zip(&b.rounds).flat_map(|(a, b)| a.iter().zip(b));
    median(&pairs.map(|(a, b)| a / b).collect::<Vec<f64>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_and_no_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn summary_takes_spread_over_rounds_and_not_over_batches() {
        let rounds = vec![vec![1.0, 5.0, 100.0], vec![7.0], vec![6.0]];
        let cell = Cell { rounds, p99s: vec![9.0, 11.0, 10.0], ..Cell::default() };
        assert_eq!(
            cell.summary(),
            Some(Summary { value: 6.0, p50: None, p99: Some(10.0), p999: None, min: 5.0, max: 7.0 })
        );
        assert_eq!(Cell::default().summary(), None);
    }

    #[test]
    fn paired_ratio_when_both_drift_together_sees_only_the_difference() {
        let a = Cell { rounds: vec![vec![100.0, 50.0], vec![10.0]], ..Cell::default() };
        let b = Cell { rounds: vec![vec![50.0, 25.0], vec![5.0]], ..Cell::default() };
        assert_eq!(paired_ratio(&a, &b), Some(2.0));
        assert_eq!(paired_ratio(&a, &Cell::default()), None);
    }
}
