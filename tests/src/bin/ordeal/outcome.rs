//! How often a fault was tried, what was lost, and the table of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use comfy_table::{Table, presets};

/// Losses that are told one by one.
const TOLD: usize = 5;

/// How long a fault may be tried.
pub(super) struct Budget {
    end: Instant,
}

impl Budget {
    pub(super) fn of(time: Duration) -> Self {
        Self { end: Instant::now() + time }
    }

    /// Whether there is time for more.
    pub(super) fn lasts(&self) -> bool {
        Instant::now() < self.end
    }
}

/// What came of one fault.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) tried: u64,
    /// As often as a full run tries it.
    pub(super) full: u64,
    pub(super) lost: u64,
    /// The first losses, in words.
    pub(super) losses: Vec<String>,
    /// What was measured, and what it should be.
    pub(super) figures: Vec<(String, String)>,
}

impl Outcome {
    pub(super) fn of_full(full: u64) -> Self {
        Self { full, ..Self::default() }
    }

    /// Tries it until it was tried often enough, or time is up. A round that panics, or says why it failed, is lost.
    pub(super) fn rounds(&mut self, budget: &Budget, mut round: impl FnMut(u64) -> Result<(), String>) {
        while self.tried < self.full && budget.lasts() {
            let number = self.tried;
            self.tried += 1;
            match catch_unwind(AssertUnwindSafe(|| round(number))) {
                Ok(Ok(())) => {}
                Ok(Err(why)) => self.lose(format!("round {number}: {why}")),
                Err(panic) => {
                    let words = panic.downcast_ref::<String>().map(String::as_str);
                    let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
                    self.lose(format!("round {number}: {words}"));
                }
            }
        }
    }

    pub(super) fn lose(&mut self, what: String) {
        self.lost += 1;
        if self.losses.len() < TOLD {
            self.losses.push(what);
        }
    }

    pub(super) fn figure(&mut self, name: &str, value: String) {
        self.figures.push((name.to_owned(), value));
    }
}

pub(super) fn print(outcomes: &[(String, Outcome)], json: bool) {
    if json {
        let rows = outcomes.iter().map(|(name, outcome)| {
            let Outcome { tried, full, lost, losses, figures } = outcome;
            let figures: serde_json::Map<_, _> = figures.iter().map(|(n, v)| (n.clone(), v.clone().into())).collect();
            let row = serde_json::json!({
                "tried": tried, "full": full, "lost": lost, "losses": losses, "figures": figures,
            });
            (name.clone(), row)
        });
        println!("{}", serde_json::Value::Object(rows.collect()));
        return;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["FAULT", "TRIED", "OF", "LOST", "FIGURES"]);
    for (name, outcome) in outcomes {
        let figures: Vec<_> = outcome.figures.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let [tried, full, lost] = [outcome.tried, outcome.full, outcome.lost].map(|n| n.to_string());
        table.add_row([name, &tried, &full, &lost, &figures.join("\n")]);
    }
    println!("{table}");
    for (name, outcome) in outcomes {
        for loss in &outcome.losses {
            println!("{name}, {loss}");
        }
    }
}
