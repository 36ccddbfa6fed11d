//! What one client may use, so that one container's flood never takes what others need. Pure: time is an argument.
//!
//! A client is a container, or a user outside of containers. Asked by the broker and at the door by the server.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource::RLIMIT_NOFILE as NOFILE, getrlimit};
use serde::Deserialize;

use crate::config::size;
use crate::identity::stranger::Stranger;

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

/// Proofs under way. A process can make the one who looks at its descriptor hang (`prove/pullers.rs`), for this many times before that
/// is seen.
const PROOFS: u32 = 8;

/// Clients that have left whose offers are remembered.
const MAX_SPENT: usize = 1_024;

/// How long a client does not offer to have all its offers again.
const REFILLED: Duration = Duration::from_secs(1);

/// Descriptors of the service that a session takes: its socket, and the process's pidfd.
const SESSION_FDS: u64 = 2;

/// Descriptors that an end takes while its grant is on the way: a copy of the block and two doorbells.
const GRANT_FDS: u64 = 3;

/// Descriptors that a connection takes as long as it is: its block.
const BLOCK_FDS: u64 = 1;

/// Limits for each container, and for each user outside of containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Ends of connections that are offered, granted or established. Default 16,384.
    pub connections: u32,
    /// Bytes of block memory; each end is charged the whole block. Default 64 GiB.
    #[serde(deserialize_with = "size::deserialize")]
    pub block_bytes: u64,
    /// Offers a second; as many may come at once. Default 5,000.
    pub offers_per_second: u32,
    /// Sessions. Default 1,024.
    pub sessions: u32,
    /// Descriptors of the service: two for a session, one for each connection's block, three more for each end while it is
    /// granted. Default three quarters of what the service may have open when it starts.
    pub descriptors: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS,
            block_bytes: BLOCK_BYTES,
            offers_per_second: OFFERS_PER_SECOND,
            sessions: SESSIONS,
            descriptors: None,
        }
    }
}

impl Limits {
    /// In the order of [`Resource`].
    pub(crate) fn bounds(&self) -> Bounds {
        let descriptors = self.descriptors.map_or_else(descriptors_by_default, u64::from);
        let most = [
            self.connections.into(),
            self.block_bytes,
            self.offers_per_second.into(),
            self.sessions.into(),
            descriptors,
        ];
        most.map(|most| Bound { most, by: By::Limits })
    }
}

/// One client leaves the others a quarter.
fn descriptors_by_default() -> u64 {
    static LIMIT: OnceLock<u64> = OnceLock::new();
    *LIMIT.get_or_init(|| getrlimit(NOFILE).map_or(u64::MAX, |(soft, _)| soft / 4 * 3))
}

/// Limits of which only some are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SomeLimits {
    /// As [`Limits::connections`].
    pub connections: Option<u32>,
    /// As [`Limits::block_bytes`].
    #[serde(deserialize_with = "size::deserialize_some")]
    pub block_bytes: Option<u64>,
    /// As [`Limits::offers_per_second`].
    pub offers_per_second: Option<u32>,
    /// As [`Limits::sessions`].
    pub sessions: Option<u32>,
    /// As [`Limits::descriptors`].
    pub descriptors: Option<u32>,
}

impl SomeLimits {
    /// In the order of [`Resource`].
    pub(crate) fn each(&self) -> [Option<u64>; 5] {
        let wide = |n: Option<u32>| n.map(u64::from);
        [
            wide(self.connections),
            self.block_bytes,
            wide(self.offers_per_second),
            wide(self.sessions),
            wide(self.descriptors),
        ]
    }

    /// Sets one by its name.
    ///
    /// # Errors
    ///
    /// What would be right.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let place = match name {
            "connections" => &mut self.connections,
            "offers_per_second" => &mut self.offers_per_second,
            "sessions" => &mut self.sessions,
            "descriptors" => &mut self.descriptors,
            "block_bytes" => {
                self.block_bytes = Some(size::parse(value)?);
                return Ok(());
            }
            _ => return Err("it limits connections, block-bytes, offers-per-second, sessions or descriptors".into()),
        };
        *place = Some(value.parse().map_err(|_| "it is a whole number".to_owned())?);
        Ok(())
    }
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Connections,
    BlockBytes,
    Offers,
    Sessions,
    Descriptors,
}

impl Resource {
    /// Its name in the configuration.
    pub(crate) const fn setting(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::BlockBytes => "block_bytes",
            Self::Offers => "offers_per_second",
            Self::Sessions => "sessions",
            Self::Descriptors => "descriptors",
        }
    }

    /// What is counted.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::BlockBytes => "bytes of blocks",
            Self::Offers => "connections a second",
            Self::Sessions => "sessions",
            Self::Descriptors => "descriptors of the host service",
        }
    }
}

/// How much one client may use of something, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) most: u64,
    pub(crate) by: By,
}

/// Who sets a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The limits for everybody.
    Limits,
    /// The rule of this number, from 1.
    Rule(usize),
    /// A label of the container.
    Label,
}

/// How much one client may use, in the order of [`Resource`].
pub(crate) type Bounds = [Bound; 5];

/// A bound that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exceeded {
    pub(crate) resource: Resource,
    /// What the client has; nothing for a rate.
    pub(crate) used: Option<u64>,
    pub(crate) bound: Bound,
}

/// Why a block is not charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotCharged {
    /// A bound of this one of both clients is reached.
    Client(usize, Exceeded),
    /// All blocks together have these bytes already.
    Budget(u64),
}

/// Why nothing of a client's can be looked at now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// As many looks as may be are under way.
    Busy,
    /// One of them hangs.
    Stuck,
}

/// Who is charged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClientKey {
    /// A container, by id.
    Container(Arc<str>),
    /// A user outside of containers.
    Uid(u32),
    /// Who is in something that is no container which the service recognises, and not proven to be outside of one.
    Unknown(Stranger),
}

#[derive(Debug)]
struct Usage {
    connections: u64,
    block_bytes: u64,
    sessions: u64,
    descriptors: u64,
    proofs: u32,
    /// Of those, the ones that hang.
    stuck: u32,
    /// Full until the first offer.
    offers: Option<Bucket>,
}

/// The offers that a client may make at once, refilled within a second.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    counted_at: Instant,
}

impl Usage {
    /// Whether `more` of a resource fits.
    fn fits(used: u64, more: u64, resource: Resource, bounds: &Bounds) -> Result<(), Exceeded> {
        let bound = bounds[resource as usize];
        match used.saturating_add(more) > bound.most {
            true => Err(Exceeded { resource, used: Some(used), bound }),
            false => Ok(()),
        }
    }
}

/// What all clients use.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    usage: HashMap<ClientKey, Usage>,
    /// Of clients that have left: who comes back at once has no more offers than before.
    spent: HashMap<ClientKey, Bucket>,
    /// All blocks, each once.
    block_bytes: u64,
}

impl Quota {
    /// Counts a session in, or says which bound is reached.
    pub(crate) fn open_session(&mut self, client: &ClientKey, bounds: &Bounds) -> Result<(), Exceeded> {
        let usage = self.usage.entry(client.clone()).or_insert_with(|| Usage {
            connections: 0,
            block_bytes: 0,
            sessions: 0,
            descriptors: 0,
            proofs: 0,
            stuck: 0,
            offers: self.spent.remove(client),
        });
        let fits = Usage::fits(usage.sessions, 1, Resource::Sessions, bounds)
            .and_then(|()| Usage::fits(usage.descriptors, SESSION_FDS, Resource::Descriptors, bounds));
        if fits.is_ok() {
            usage.sessions += 1;
            usage.descriptors += SESSION_FDS;
        }
        // Forgets who is new and may not come in.
        self.change(client, |_| {});
        fits
    }

    /// Counts a session out. What its client has used is forgotten with the last one.
    pub(crate) fn close_session(&mut self, client: &ClientKey) {
        self.change(client, |usage| {
            usage.sessions = usage.sessions.saturating_sub(1);
            usage.descriptors = usage.descriptors.saturating_sub(SESSION_FDS);
        });
    }

    /// Takes one of the client's offers of this second.
    pub(crate) fn offer(&mut self, client: &ClientKey, bounds: &Bounds, now: Instant) -> Result<(), Exceeded> {
        let bound = bounds[Resource::Offers as usize];
        let rate = bound.most as f64;
        let Some(usage) = self.usage.get_mut(client) else { return Ok(()) };
        let bucket = usage.offers.get_or_insert(Bucket { left: rate, counted_at: now });
        let passed = now.saturating_duration_since(bucket.counted_at).as_secs_f64();
        bucket.left = (bucket.left + passed * rate).min(rate);
        bucket.counted_at = now;
        if bucket.left < 1.0 {
            return Err(Exceeded { resource: Resource::Offers, used: None, bound });
        }
        bucket.left -= 1.0;
        Ok(())
    }

    /// Counts a proof in, or says why there can be none now.
    pub(crate) fn begin_proof(&mut self, client: &ClientKey) -> Result<(), NoRoom> {
        match self.usage.get_mut(client) {
            Some(usage) if usage.stuck > 0 => Err(NoRoom::Stuck),
            Some(usage) if usage.proofs < PROOFS => {
                usage.proofs += 1;
                Ok(())
            }
            _ => Err(NoRoom::Busy),
        }
    }

    /// A proof hangs.
    pub(crate) fn proof_is_stuck(&mut self, client: &ClientKey) {
        self.change(client, |usage| usage.stuck += 1);
    }

    /// Counts a proof out, and whether it hung.
    pub(crate) fn end_proof(&mut self, client: &ClientKey, stuck: bool) {
        self.change(client, |usage| {
            usage.proofs = usage.proofs.saturating_sub(1);
            usage.stuck = usage.stuck.saturating_sub(stuck.into());
        });
    }

    /// Counts one end of a connection in.
    pub(crate) fn enter(&mut self, client: &ClientKey, bounds: &Bounds) -> Result<(), Exceeded> {
        let Some(usage) = self.usage.get_mut(client) else { return Ok(()) };
        Usage::fits(usage.connections, 1, Resource::Connections, bounds)?;
        usage.connections += 1;
        Ok(())
    }

    /// Counts one end out.
    pub(crate) fn leave(&mut self, client: &ClientKey) {
        self.change(client, |usage| usage.connections = usage.connections.saturating_sub(1));
    }

    /// Charges both ends of a connection that is granted for its block, or neither. `budget` is for all blocks.
    pub(crate) fn charge(
        &mut self,
        clients: [&ClientKey; 2],
        bounds: [&Bounds; 2],
        bytes: u64,
        budget: Option<u64>,
    ) -> Result<(), NotCharged> {
        if budget.is_some_and(|budget| self.block_bytes.saturating_add(bytes) > budget) {
            return Err(NotCharged::Budget(self.block_bytes));
        }
        // Who has both ends pays the descriptors of both, and for the block once.
        let (ends, blocks) = if clients[0] == clients[1] { (2, 2 * bytes) } else { (1, bytes) };
        for (n, (client, bounds)) in clients.into_iter().zip(bounds).enumerate() {
            let used = self.usage.get(client).map_or((0, 0), |usage| (usage.block_bytes, usage.descriptors));
            Usage::fits(used.0, blocks, Resource::BlockBytes, bounds)
                .and_then(|()| Usage::fits(used.1, BLOCK_FDS + ends * GRANT_FDS, Resource::Descriptors, bounds))
                .map_err(|exceeded| NotCharged::Client(n, exceeded))?;
        }
        self.charge_anyway(clients, bytes);
        for client in clients {
            self.change(client, |usage| usage.descriptors += GRANT_FDS);
        }
        Ok(())
    }

    /// Both ends have their grants, or never will.
    pub(crate) fn end_grant(&mut self, clients: [&ClientKey; 2]) {
        for client in clients {
            self.change(client, |usage| usage.descriptors = usage.descriptors.saturating_sub(GRANT_FDS));
        }
    }

    /// Charges both ends for a block that they have already.
    pub(crate) fn charge_anyway(&mut self, clients: [&ClientKey; 2], bytes: u64) {
        self.block_bytes = self.block_bytes.saturating_add(bytes);
        for client in clients {
            self.change(client, |usage| usage.block_bytes = usage.block_bytes.saturating_add(bytes));
        }
        for client in once(clients) {
            self.change(client, |usage| usage.descriptors = usage.descriptors.saturating_add(BLOCK_FDS));
        }
    }

    /// Gives the charge for a block back.
    pub(crate) fn refund(&mut self, clients: [&ClientKey; 2], bytes: u64) {
        self.block_bytes = self.block_bytes.saturating_sub(bytes);
        for client in clients {
            self.change(client, |usage| usage.block_bytes = usage.block_bytes.saturating_sub(bytes));
        }
        for client in once(clients) {
            self.change(client, |usage| usage.descriptors = usage.descriptors.saturating_sub(BLOCK_FDS));
        }
    }

    fn change(&mut self, client: &ClientKey, change: impl FnOnce(&mut Usage)) {
        if let Some(usage) = self.usage.get_mut(client) {
            change(usage);
            let idle = usage.sessions == 0 && usage.connections == 0 && usage.block_bytes == 0 && usage.proofs == 0;
            if idle && let Some(Usage { offers: Some(bucket), .. }) = self.usage.remove(client) {
                self.keep_spent(client, bucket);
            }
        }
    }

    /// Those that have not offered for a second before this one are full again. When there are too many, the last to leave is
    /// forgotten.
    fn keep_spent(&mut self, client: &ClientKey, bucket: Bucket) {
        if self.spent.len() >= MAX_SPENT {
            let since = |other: &Bucket| bucket.counted_at.saturating_duration_since(other.counted_at);
            self.spent.retain(|_, other| since(other) < REFILLED);
        }
        if self.spent.len() < MAX_SPENT {
            self.spent.insert(client.clone(), bucket);
        }
    }

    /// Whether nobody uses anything.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.usage.is_empty() && self.block_bytes == 0
    }
}

/// Both clients, or the one that is both.
fn once([a, b]: [&ClientKey; 2]) -> impl Iterator<Item = &ClientKey> {
    std::iter::once(a).chain((a != b).then_some(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { connections: 2, block_bytes: 100, offers_per_second: 3, sessions: 1, descriptors: Some(10) };

    fn two() -> (Quota, Bounds, ClientKey, ClientKey, Instant) {
        let (a, b, now) = (ClientKey::Uid(1), ClientKey::Container("b".into()), Instant::now());
        let (mut quota, bounds) = (Quota::default(), LIMITS.bounds());
        quota.open_session(&a, &bounds).unwrap();
        quota.open_session(&b, &bounds).unwrap();
        (quota, bounds, a, b, now)
    }

    fn reached(resource: Resource, used: Option<u64>) -> Exceeded {
        Exceeded { resource, used, bound: LIMITS.bounds()[resource as usize] }
    }

    #[test]
    fn client_when_at_a_limit_is_told_so_and_others_are_not_touched() {
        let (mut quota, bounds, a, b, now) = two();
        assert_eq!(quota.open_session(&a, &bounds), Err(reached(Resource::Sessions, Some(1))));
        quota.enter(&a, &bounds).unwrap();
        quota.enter(&a, &bounds).unwrap();
        assert_eq!(quota.enter(&a, &bounds), Err(reached(Resource::Connections, Some(2))));
        quota.enter(&b, &bounds).unwrap();
        for _ in 0..3 {
            quota.offer(&a, &bounds, now).unwrap();
        }
        assert_eq!(quota.offer(&a, &bounds, now), Err(reached(Resource::Offers, None)));
        quota.offer(&b, &bounds, now).unwrap();
        quota.offer(&a, &bounds, now + Duration::from_millis(400)).unwrap();
        assert!(quota.offer(&a, &bounds, now + Duration::from_millis(400)).is_err(), "one in a third of a second");
    }

    #[test]
    fn client_when_it_leaves_and_comes_back_has_no_more_offers_than_before() {
        let (mut quota, bounds, a, b, now) = two();
        for _ in 0..3 {
            quota.offer(&a, &bounds, now).unwrap();
        }
        for client in [&a, &b] {
            quota.close_session(client);
            quota.open_session(client, &bounds).unwrap();
        }
        assert_eq!(quota.offer(&a, &bounds, now), Err(reached(Resource::Offers, None)));
        quota.offer(&b, &bounds, now).unwrap();
        quota.offer(&a, &bounds, now + REFILLED).unwrap();
    }

    #[test]
    fn clients_when_many_leave_are_forgotten_after_a_second() {
        let (mut quota, bounds, _, _, now) = two();
        let mut come_and_go = |uid: usize, now: Instant| {
            let client = ClientKey::Uid(uid as u32);
            quota.open_session(&client, &bounds).unwrap();
            quota.offer(&client, &bounds, now).unwrap();
            quota.close_session(&client);
            quota.spent.len()
        };
        for uid in 100..100 + 2 * MAX_SPENT {
            assert!(come_and_go(uid, now) <= MAX_SPENT);
        }
        assert_eq!(come_and_go(7, now + REFILLED), 1);
    }

    #[test]
    fn block_when_one_end_cannot_be_charged_is_charged_to_neither() {
        let (mut quota, bounds, a, b, _) = two();
        let charge = |quota: &mut Quota, clients, bytes| quota.charge(clients, [&bounds; 2], bytes, None);
        charge(&mut quota, [&a, &b], 60).unwrap();
        quota.end_grant([&a, &b]);
        assert!(charge(&mut quota, [&a, &a], 30).is_err(), "60 + 2 * 30");
        let bytes = reached(Resource::BlockBytes, Some(60));
        assert_eq!(charge(&mut quota, [&b, &a], 50), Err(NotCharged::Client(0, bytes)));
        quota.refund([&a, &b], 60);
        charge(&mut quota, [&a, &a], 50).unwrap();
        quota.end_grant([&a, &a]);
        quota.refund([&a, &a], 50);
        quota.close_session(&a);
        quota.close_session(&b);
        assert!(quota.is_empty(), "{quota:?}");
    }

    #[test]
    fn descriptors_when_grants_are_answered_come_back_but_for_the_block() {
        let (mut quota, bounds, a, b, _) = two();
        let charge = |quota: &mut Quota, clients| quota.charge(clients, [&bounds; 2], 1, None);
        charge(&mut quota, [&a, &b]).unwrap();
        charge(&mut quota, [&a, &b]).unwrap();
        // A session and two grants.
        assert_eq!(charge(&mut quota, [&a, &b]), Err(NotCharged::Client(0, reached(Resource::Descriptors, Some(10)))));
        quota.end_grant([&a, &b]);
        assert!(charge(&mut quota, [&a, &a]).is_err(), "seven for the two ends of one");
        quota.end_grant([&a, &b]);
        charge(&mut quota, [&a, &b]).unwrap();
    }

    #[test]
    fn block_when_all_together_have_the_budget_is_refused_to_everybody() {
        let (mut quota, bounds, a, b, _) = two();
        quota.charge([&a, &a], [&bounds; 2], 40, Some(60)).unwrap();
        quota.end_grant([&a, &a]);
        assert_eq!(quota.charge([&b, &b], [&bounds; 2], 40, Some(60)), Err(NotCharged::Budget(40)), "counted once");
        quota.charge([&b, &b], [&bounds; 2], 20, Some(60)).unwrap();
        quota.end_grant([&b, &b]);
        quota.refund([&a, &a], 40);
        assert!(quota.charge([&b, &a], [&bounds; 2], 40, Some(60)).is_ok());
    }

    #[test]
    fn client_when_turned_away_at_its_first_session_leaves_nothing_behind() {
        let mut quota = Quota::default();
        let bounds = Limits { sessions: 0, ..LIMITS }.bounds();
        quota.open_session(&ClientKey::Uid(1), &bounds).unwrap_err();
        assert!(quota.is_empty(), "{quota:?}");
    }

    #[test]
    fn proofs_when_too_many_are_under_way_or_one_hangs_wait_for_their_client_only() {
        let (mut quota, _, a, b, _) = two();
        for _ in 0..PROOFS {
            quota.begin_proof(&a).unwrap();
        }
        assert_eq!(quota.begin_proof(&a), Err(NoRoom::Busy));
        quota.begin_proof(&b).unwrap();
        quota.end_proof(&a, false);
        quota.begin_proof(&a).unwrap();
        quota.proof_is_stuck(&a);
        quota.end_proof(&a, false);
        assert_eq!(quota.begin_proof(&a), Err(NoRoom::Stuck));
        quota.begin_proof(&b).unwrap();
        quota.end_proof(&a, true);
        quota.begin_proof(&a).unwrap();
    }
}
