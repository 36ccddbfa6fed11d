//! Says in the log why connections stay on TCP, in one sentence that says what to change: once a minute for each client and
//! kind of reason, so that a flood fills no disk. `shmbc ss` has each single one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use shmbc::control::message::Refusal;
use tracing::info;

use crate::identity::Client;
use crate::quota::ClientKey;
use crate::table::containers::Containers;

/// How long the same is not said again.
const QUIET: Duration = Duration::from_secs(60);

/// Clients and reasons that are kept in mind. When there are more, all but the latest minute's are forgotten; then all.
const MAX_KEPT: usize = 1_024;

/// What was said, and when.
#[derive(Debug, Default)]
pub(super) struct Grumble {
    said: HashMap<(ClientKey, &'static str), Said>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    /// As often as it was not said since.
    swallowed: u64,
}

impl Grumble {
    /// A client is refused.
    pub(super) fn refused(&mut self, client: &Client, refusal: &Refusal, containers: &Containers, now: Instant) {
        // The connection or the service was about to end: nobody can change anything.
        if matches!(refusal, Refusal::PeerClosed | Refusal::Draining) {
            return;
        }
        let Some(swallowed) = self.speaks(&client.key, refusal.name(), now) else { return };
        let container = client.container.as_deref().and_then(|id| containers.name(id));
        let (pid, uid, process, reason) = (client.pid, client.uid, &*client.process, refusal.name());
        let advice = refusal.advice().map(|advice| format!("; {advice}")).unwrap_or_default();
        info!(container, process, pid, uid, reason, swallowed, "a connection stays on TCP: {refusal}{advice}");
    }

    /// Whether it is to be said now, and how often it was not since the last time.
    fn speaks(&mut self, client: &ClientKey, reason: &'static str, now: Instant) -> Option<u64> {
        if self.said.len() >= MAX_KEPT {
            self.said.retain(|_, said| now.saturating_duration_since(said.at) < QUIET);
            if self.said.len() >= MAX_KEPT {
                self.said.clear();
            }
        }
        let key = (client.clone(), reason);
        match self.said.get_mut(&key) {
            Some(said) if now.saturating_duration_since(said.at) < QUIET => {
                said.swallowed += 1;
                None
            }
            Some(said) => Some(std::mem::replace(said, Said { at: now, swallowed: 0 }).swallowed),
            None => {
                self.said.insert(key, Said { at: now, swallowed: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_when_it_comes_often_is_said_once_a_minute_with_its_count() {
        let (mut grumble, now, uid) = (Grumble::default(), Instant::now(), ClientKey::Uid);
        assert_eq!(grumble.speaks(&uid(1), "quota", now), Some(0));
        for _ in 0..10_000 {
            assert_eq!(grumble.speaks(&uid(1), "quota", now + QUIET / 2), None);
        }
        assert_eq!(grumble.speaks(&uid(1), "policy", now), Some(0), "another reason");
        assert_eq!(grumble.speaks(&uid(2), "quota", now), Some(0), "another client");
        assert_eq!(grumble.speaks(&uid(1), "quota", now + QUIET), Some(10_000));
        assert_eq!(grumble.speaks(&uid(1), "quota", now + QUIET), None);
    }

    #[test]
    fn memory_when_many_clients_are_refused_has_a_limit() {
        let (mut grumble, now) = (Grumble::default(), Instant::now());
        for uid in 0..10_000 {
            grumble.speaks(&ClientKey::Uid(uid), "quota", now);
        }
        assert!(grumble.said.len() <= MAX_KEPT);
    }
}
