//! What one client may use, so that one container's flood never takes what others need. Pure: time is an argument.
//!
//! A client is a container, or a user outside of containers. Asked by the broker and at the door by the server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Ends of connections that wait, are granted or established. Each costs the host about one kilobyte of table and half a
/// descriptor; the largest load a benchmark of ten thousand idle connections makes fits.
const CONNECTIONS: u32 = 16_384;

/// Block memory a client can be given, counted by size and not by what has been touched: 8192 blocks of the default
/// size. Touched pages are charged by the kernel to the container that touches them, so this bounds address space.
const BLOCK_BYTES: u64 = 64 << 30;

/// Offers a second, and at once. A proof costs about 30 us of the host, so a client at this rate keeps a seventh of one
/// core busy; short connections never offer.
const OFFERS_PER_SECOND: u32 = 5_000;

/// Sessions: one a process.
const SESSIONS: u32 = 1_024;

/// Proofs under way. A process can make the host's copy of a descriptor slow to close (a lingering socket, a file of a
/// stuck file system); it can hold up this many of the host's threads and no more.
const PROOFS: u32 = 16;

/// Limits for each container, and for each user outside of containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ends of connections that are offered, granted or established.
    pub connections: u32,
    /// Bytes of block memory; each end is charged the whole block.
    pub block_bytes: u64,
    /// Offers a second; as many may come at once.
    pub offers_per_second: u32,
    /// Sessions.
    pub sessions: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS,
            block_bytes: BLOCK_BYTES,
            offers_per_second: OFFERS_PER_SECOND,
            sessions: SESSIONS,
        }
    }
}

/// Who is charged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClientKey {
    /// A container, by id.
    Container(Arc<str>),
    /// A user outside of containers.
    Uid(u32),
}

#[derive(Debug)]
struct Usage {
    connections: u32,
    block_bytes: u64,
    sessions: u32,
    proofs: u32,
    tokens: f64,
    counted_at: Instant,
}

/// What all clients use.
#[derive(Debug)]
pub(crate) struct Quota {
    limits: Limits,
    usage: HashMap<ClientKey, Usage>,
}

impl Quota {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, usage: HashMap::new() }
    }

    /// Counts a session in, or says which limit is reached.
    pub(crate) fn open_session(&mut self, client: &ClientKey, now: Instant) -> Result<(), String> {
        let limits = self.limits;
        let usage = self.usage.entry(client.clone()).or_insert_with(|| Usage {
            connections: 0,
            block_bytes: 0,
            sessions: 0,
            proofs: 0,
            tokens: f64::from(limits.offers_per_second),
            counted_at: now,
        });
        if usage.sessions >= limits.sessions {
            return Err(format!("this client already has {} sessions", limits.sessions));
        }
        usage.sessions += 1;
        Ok(())
    }

    /// Counts a session out. What its client has used is forgotten with the last one.
    pub(crate) fn close_session(&mut self, client: &ClientKey) {
        self.change(client, |usage| usage.sessions = usage.sessions.saturating_sub(1));
    }

    /// Takes one of the client's offers of this second.
    pub(crate) fn offer(&mut self, client: &ClientKey, now: Instant) -> Result<(), String> {
        let rate = f64::from(self.limits.offers_per_second);
        let Some(usage) = self.usage.get_mut(client) else { return Ok(()) };
        let passed = now.saturating_duration_since(usage.counted_at).as_secs_f64();
        usage.tokens = (usage.tokens + passed * rate).min(rate);
        usage.counted_at = now;
        if usage.tokens < 1.0 {
            return Err(format!("this client offers more than {} connections a second", self.limits.offers_per_second));
        }
        usage.tokens -= 1.0;
        Ok(())
    }

    /// Counts a proof in. False when too many of the client's are under way.
    pub(crate) fn begin_proof(&mut self, client: &ClientKey) -> bool {
        match self.usage.get_mut(client) {
            Some(usage) if usage.proofs < PROOFS => {
                usage.proofs += 1;
                true
            }
            _ => false,
        }
    }

    /// Counts a proof out.
    pub(crate) fn end_proof(&mut self, client: &ClientKey) {
        self.change(client, |usage| usage.proofs = usage.proofs.saturating_sub(1));
    }

    /// Counts one end of a connection in.
    pub(crate) fn enter(&mut self, client: &ClientKey) -> Result<(), String> {
        let limit = self.limits.connections;
        let Some(usage) = self.usage.get_mut(client) else { return Ok(()) };
        if usage.connections >= limit {
            return Err(format!("this client already has {limit} connections"));
        }
        usage.connections += 1;
        Ok(())
    }

    /// Counts one end out.
    pub(crate) fn leave(&mut self, client: &ClientKey) {
        self.change(client, |usage| usage.connections = usage.connections.saturating_sub(1));
    }

    /// Charges both ends for a block, or neither.
    pub(crate) fn charge(&mut self, clients: [&ClientKey; 2], bytes: u64) -> Result<(), String> {
        let both = if clients[0] == clients[1] { 2 * bytes } else { bytes };
        for client in clients {
            let used = self.usage.get(client).map_or(0, |usage| usage.block_bytes);
            if used.saturating_add(both) > self.limits.block_bytes {
                return Err(format!("one of the ends already has {used} of {} bytes", self.limits.block_bytes));
            }
        }
        for client in clients {
            self.change(client, |usage| usage.block_bytes += bytes);
        }
        Ok(())
    }

    /// Charges both ends for a block that they have already.
    pub(crate) fn charge_anyway(&mut self, clients: [&ClientKey; 2], bytes: u64) {
        for client in clients {
            self.change(client, |usage| usage.block_bytes = usage.block_bytes.saturating_add(bytes));
        }
    }

    /// Gives the charge for a block back.
    pub(crate) fn refund(&mut self, clients: [&ClientKey; 2], bytes: u64) {
        for client in clients {
            self.change(client, |usage| usage.block_bytes = usage.block_bytes.saturating_sub(bytes));
        }
    }

    fn change(&mut self, client: &ClientKey, change: impl FnOnce(&mut Usage)) {
        if let Some(usage) = self.usage.get_mut(client) {
            change(usage);
            let idle = usage.sessions == 0 && usage.connections == 0 && usage.block_bytes == 0 && usage.proofs == 0;
            if idle {
                self.usage.remove(client);
            }
        }
    }

    /// Whether nobody uses anything.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.usage.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIMITS: Limits = Limits { connections: 2, block_bytes: 100, offers_per_second: 3, sessions: 1 };

    fn two() -> (Quota, ClientKey, ClientKey, Instant) {
        let (a, b, now) = (ClientKey::Uid(1), ClientKey::Container("b".into()), Instant::now());
        let mut quota = Quota::new(LIMITS);
        quota.open_session(&a, now).unwrap();
        quota.open_session(&b, now).unwrap();
        (quota, a, b, now)
    }

    #[test]
    fn client_when_at_a_limit_is_told_so_and_others_are_not_touched() {
        let (mut quota, a, b, now) = two();
        assert!(quota.open_session(&a, now).unwrap_err().contains("1 sessions"));
        quota.enter(&a).unwrap();
        quota.enter(&a).unwrap();
        assert!(quota.enter(&a).unwrap_err().contains("2 connections"));
        quota.enter(&b).unwrap();
        for _ in 0..3 {
            quota.offer(&a, now).unwrap();
        }
        assert!(quota.offer(&a, now).unwrap_err().contains("more than 3 connections a second"));
        quota.offer(&b, now).unwrap();
        quota.offer(&a, now + Duration::from_millis(400)).unwrap();
        assert!(quota.offer(&a, now + Duration::from_millis(400)).is_err(), "one in a third of a second");
    }

    #[test]
    fn block_when_one_end_cannot_be_charged_is_charged_to_neither() {
        let (mut quota, a, b, _) = two();
        quota.charge([&a, &b], 60).unwrap();
        assert!(quota.charge([&a, &a], 30).is_err(), "60 + 2 * 30");
        assert!(quota.charge([&b, &a], 50).unwrap_err().contains("60 of 100 bytes"));
        quota.refund([&a, &b], 60);
        quota.charge([&a, &a], 50).unwrap();
        quota.refund([&a, &a], 50);
        quota.close_session(&a);
        quota.close_session(&b);
        assert!(quota.is_empty(), "{quota:?}");
    }

    #[test]
    fn proofs_when_too_many_are_under_way_wait_for_their_client_only() {
        let (mut quota, a, b, _) = two();
        for _ in 0..PROOFS {
            assert!(quota.begin_proof(&a));
        }
        assert!(!quota.begin_proof(&a));
        assert!(quota.begin_proof(&b));
        quota.end_proof(&a);
        assert!(quota.begin_proof(&a));
    }
}
