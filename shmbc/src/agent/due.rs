//! What the agent does later, in the order in which it is due.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Instant;

use crate::control::message::OfferId;
use crate::upgrade::Upgrade;

/// Something to be done.
#[derive(Debug)]
pub(super) enum Task {
    /// An address that is not known by now is taken for one elsewhere.
    Decide(OfferId),
    /// Somebody wants to look again.
    Wake(Weak<Upgrade>),
}

/// Tasks by the time at which they are due; of two at the same time, the one that came first.
#[derive(Debug, Default)]
pub(super) struct Due {
    tasks: BTreeMap<(Instant, u64), Task>,
    count: u64,
}

impl Due {
    pub(super) fn at(&mut self, time: Instant, task: Task) {
        self.count += 1;
        self.tasks.insert((time, self.count), task);
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.tasks.first_key_value().map(|((time, _), _)| *time)
    }

    /// Takes the next one if it is due.
    pub(super) fn take(&mut self, now: Instant) -> Option<Task> {
        let first = self.tasks.first_entry().filter(|first| first.key().0 <= now);
        first.map(|first| first.remove())
    }

    /// Takes all who want to look again, due or not.
    pub(super) fn take_wakes(&mut self) -> impl Iterator<Item = Weak<Upgrade>> {
        std::mem::take(&mut self.tasks).into_values().filter_map(|task| match task {
            Task::Wake(upgrade) => Some(upgrade),
            Task::Decide(_) => None,
        })
    }

    /// Forgets the decisions: everything is decided anew.
    pub(super) fn forget_decisions(&mut self) {
        self.tasks.retain(|_, task| !matches!(task, Task::Decide(_)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn tasks_when_ordered_in_any_order_come_when_they_are_due_and_not_before() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut due = Due::default();
        for seconds in [3, 1, 2, 1] {
            due.at(after(seconds), Task::Decide(OfferId(seconds)));
        }
        due.at(after(2), Task::Wake(Weak::new()));
        assert_eq!(due.next(), Some(after(1)));
        assert!(due.take(start).is_none());
        let ids: Vec<_> = std::iter::from_fn(|| due.take(after(2)))
            .map(|task| match task {
                Task::Decide(OfferId(id)) => id,
                Task::Wake(_) => 0,
            })
            .collect();
        assert_eq!(ids, [1, 1, 2, 0]);
        due.forget_decisions();
        assert_eq!(due.next(), None);
    }
}
