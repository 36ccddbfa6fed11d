//! What a run has found: cells, each a contender at one measure in one place, and what could not be measured.

use std::collections::BTreeMap;

use crate::names::{Aspect, Contender, Load, Measure, Placement, Runtime};
use crate::stats::Cell;

/// Which cell a value belongs to; sorted as it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) measure: Measure,
    pub(crate) placement: Placement,
    /// Nothing where the contender runs without one.
    pub(crate) runtime: Option<Runtime>,
    /// Connections at once, where the measure varies them.
    pub(crate) conns: Option<u32>,
    /// What else wanted the CPUs, where the measure varies it.
    pub(crate) load: Option<Load>,
    pub(crate) size: usize,
    /// Of a measure that has several values, which.
    pub(crate) aspect: Option<Aspect>,
    pub(crate) contender: Contender,
}

impl Key {
    /// A cell of a measure with one connection, in the current-thread runtime if in any.
    pub(crate) const fn new(measure: Measure, placement: Placement, size: usize, contender: Contender) -> Self {
        let runtime = if contender.has_runtime() { Some(Runtime::Current) } else { None };
        Self { measure, placement, runtime, conns: None, load: None, size, aspect: None, contender }
    }
}

impl Key {
    /// The unit of its values.
    pub(crate) fn unit(&self) -> &'static str {
        self.aspect.map_or_else(|| self.measure.unit(), Aspect::unit)
    }
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
    pub(crate) fn value(&self, key: Key) -> Option<f64> {
        Some(self.cells.get(&key)?.summary()?.value)
    }
}
