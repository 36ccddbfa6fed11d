//! Addresses of clients' network namespaces, each for as long as a session from there lasts.
//!
//! Most sessions come from where others have come from. They change nothing here, and so the table of local addresses, which may
//! be long, is neither made nor told again for them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::table::connections::SessionId;

/// Who has brought which address.
#[derive(Debug, Default)]
pub(super) struct Learned {
    of_session: HashMap<SessionId, Vec<IpAddr>>,
    /// How many sessions have each.
    sessions: BTreeMap<IpAddr, usize>,
}

impl Learned {
    /// A session brings addresses. Whether nobody else has brought one of them.
    pub(super) fn enter(&mut self, session: SessionId, addresses: Vec<IpAddr>) -> bool {
        let left = self.leave(session);
        let mut new = left;
        for address in &addresses {
            let sessions = self.sessions.entry(*address).or_default();
            *sessions += 1;
            new |= *sessions == 1;
        }
        if !addresses.is_empty() {
            self.of_session.insert(session, addresses);
        }
        new
    }

    /// A session has ended. Whether an address has gone with it.
    pub(super) fn leave(&mut self, session: SessionId) -> bool {
        let mut gone = false;
        for address in self.of_session.remove(&session).into_iter().flatten() {
            if let Some(sessions) = self.sessions.get_mut(&address) {
                *sessions -= 1;
                if *sessions == 0 {
                    self.sessions.remove(&address);
                    gone = true;
                }
            }
        }
        gone
    }

    /// All of them, each once.
    pub(super) fn all(&self) -> Vec<IpAddr> {
        self.sessions.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_when_several_sessions_bring_it_is_new_once_and_gone_with_the_last() {
        let [a, b]: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let mut learned = Learned::default();
        assert!(learned.enter(SessionId(1), vec![a]));
        assert!(!learned.enter(SessionId(2), vec![a]));
        assert!(!learned.enter(SessionId(3), vec![]));
        assert!(learned.enter(SessionId(4), vec![a, b]));
        assert_eq!(learned.all(), [a, b]);
        assert!(!learned.leave(SessionId(1)));
        assert!(learned.leave(SessionId(4)), "the second address");
        assert!(!learned.leave(SessionId(3)));
        assert!(!learned.leave(SessionId(3)), "twice");
        assert!(learned.leave(SessionId(2)));
        assert!(learned.all().is_empty() && learned.of_session.is_empty());
    }
}
