//! Which cells stand beside each other: a table, and a picture, is a measure in one placement and runtime.

use crate::plan::{Plan, Site};

/// The columns of each table: sites that differ in size, connections and load only.
pub(super) fn tables(plan: &Plan) -> Vec<Vec<Site>> {
    let mut tables: Vec<Vec<Site>> = Vec::new();
    for site in plan.sites() {
        let beside = |table: &&mut Vec<Site>| {
            table.first().is_some_and(|first| {
                Site { size: first.size, conns: first.conns, load: first.load, aspect: first.aspect, ..site } == *first
            })
        };
        match tables.iter_mut().find(beside) {
            Some(table) => table.push(site),
            None => tables.push(vec![site]),
        }
    }
    tables
}
