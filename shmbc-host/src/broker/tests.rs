//! Whatever comes in whatever order, these hold.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;
use shmbc::control::message::{End as EndName, OfferId};

use super::*;
use crate::Limits;
use crate::identity::Client;
use crate::table::connections::Announced;
use crate::table::containers::Container;

const TWIN: Duration = Duration::from_secs(2);
const READY: Duration = Duration::from_secs(5);

fn broker_with(limits: Limits) -> Broker {
    let own = Scope::Netns(1);
    let policy = Policy { limits, ..Policy::default() };
    Broker::new(Rules { twin_timeout: TWIN, ready_timeout: READY, block_bytes: 1000, memory: None, policy, own })
}

fn key(session: u64, offer: u64) -> EndKey {
    EndKey { session: SessionId(session), offer: OfferId(offer) }
}

/// The end of connection `n` that listens, or the one that dialled.
fn end_of(client: &Arc<Client>, key: EndKey, n: u16, listens: bool) -> End {
    let (mut local, mut peer) = (([127, 0, 0, 1], 10_000 + n).into(), ([127, 0, 0, 1], 80).into());
    if listens {
        std::mem::swap(&mut local, &mut peer);
    }
    End { key, client: Arc::clone(client), local, peer, scope: Scope::Netns(1), socket: None, cpu: 0, announced: None }
}

struct World {
    broker: Broker,
    containers: Containers,
    client: Arc<Client>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let client = Client::pretended(1000, None);
        let mut broker = broker_with(Limits::default());
        let now = Instant::now();
        broker.open_session(&client.key, &Containers::default()).unwrap();
        Self { broker, containers: Containers::default(), client, now }
    }

    fn offer(&mut self, key: EndKey, n: u16, listens: bool) -> Vec<Decision> {
        self.broker.offer(end_of(&self.client, key, n, listens), &self.containers, self.now)
    }

    fn granted(&mut self) -> (EndKey, EndKey, ConnectionId) {
        let (a, b) = (key(1, 1), key(2, 1));
        assert_eq!(self.offer(a, 1, false), []);
        match self.offer(b, 1, true).as_slice() {
            [Decision::Grant(id, ends)] if *ends == [a, b] => (a, b, *id),
            other => panic!("{other:?}"),
        }
    }

    fn is_empty(&self) -> bool {
        self.broker.table.rows().count() == 0 && self.broker.next_deadline().is_none()
    }
}

#[test]
fn lone_offer_when_nobody_comes_is_refused_after_its_time_and_not_before() {
    let mut world = World::new();
    assert_eq!(world.offer(key(1, 1), 1, false), []);
    assert_eq!(world.broker.next_deadline(), Some(world.now + TWIN));
    assert_eq!(world.broker.expire(world.now + TWIN - Duration::from_nanos(1)), []);
    assert_eq!(world.broker.expire(world.now + TWIN), [Decision::Refuse(key(1, 1), Refusal::NoTwin)]);
    assert!(world.is_empty());
    assert_eq!(world.broker.table.refused().count(), 1);
}

#[test]
fn grant_when_one_end_is_not_ready_in_time_is_refused_to_both_and_released() {
    let mut world = World::new();
    let (a, b, id) = world.granted();
    assert_eq!(world.broker.ready(a), []);
    assert_eq!(world.broker.ready(a), [], "said twice");
    let decisions = world.broker.expire(world.now + READY);
    let refuse = |end| Decision::Refuse(end, Refusal::NotReady);
    assert_eq!(decisions, [refuse(a), refuse(b), Decision::Release(id, Release::Reclaim)]);
    assert_eq!(world.broker.ready(b), [], "too late");
    assert!(world.is_empty());
}

#[test]
fn grant_when_both_ends_have_mapped_is_sealed_once_and_goes_when_both_are_ready() {
    let mut world = World::new();
    let (a, b, id) = world.granted();
    assert_eq!(world.broker.mapped(a), []);
    assert_eq!(world.broker.mapped(a), [], "said twice");
    assert_eq!(world.broker.mapped(b), [Decision::Seal(id, [a, b])]);
    assert_eq!(world.broker.mapped(b), []);
    assert_eq!(world.broker.ready(b), []);
    assert_eq!(world.broker.mapped(b), [], "late");
    assert_eq!(world.broker.ready(a), [Decision::Go(a), Decision::Go(b)]);
    assert_eq!(world.broker.mapped(a), []);
}

#[test]
fn grant_when_its_block_was_tampered_with_is_refused_to_both_and_released() {
    let mut world = World::new();
    let (a, b, id) = world.granted();
    world.broker.mapped(a);
    world.broker.mapped(b);
    let refuse = |end| Decision::Refuse(end, Refusal::Tampered);
    assert_eq!(world.broker.tampered(id), [refuse(a), refuse(b), Decision::Release(id, Release::Reclaim)]);
    assert!(world.is_empty());
}

#[test]
fn grant_when_one_end_declines_closes_or_dies_is_refused_to_the_other_with_the_reason() {
    type Leave = fn(&mut Broker, EndKey) -> Vec<Decision>;
    let ways: [(Leave, Refusal); 3] = [
        (|broker, end| broker.decline(end, Decline::Unsound), Refusal::Declined(Decline::Unsound)),
        (Broker::close, Refusal::PeerClosed),
        (|broker, end| broker.session_gone(end.session, Gone::Lost), Refusal::PeerClosed),
    ];
    for (leave, expected) in ways {
        for ready in [false, true] {
            for first in [true, false] {
                let mut world = World::new();
                let (a, b, id) = world.granted();
                let (leaves, stays) = if first { (a, b) } else { (b, a) };
                if ready {
                    world.broker.ready(leaves);
                }
                let decisions = leave(&mut world.broker, leaves);
                let refuse = Decision::Refuse(stays, expected.clone());
                assert_eq!(decisions, [refuse, Decision::Release(id, Release::Reclaim)]);
                assert!(world.is_empty());
            }
        }
    }
}

#[test]
fn block_when_an_end_may_still_read_from_it_is_let_go_and_not_punched() {
    for (a_goes, b_goes, expected) in [
        (Gone::Closed, Gone::Closed, Release::Reclaim),
        (Gone::Lost, Gone::Closed, Release::LetGo),
        (Gone::Closed, Gone::Lost, Release::LetGo),
    ] {
        let mut world = World::new();
        let (a, b, id) = world.granted();
        world.broker.ready(b);
        assert_eq!(world.broker.ready(a), [Decision::Go(a), Decision::Go(b)]);
        assert_eq!(world.broker.session_gone(a.session, a_goes), [], "the other may still be reading");
        assert_eq!(world.broker.close(a), [], "it has gone already");
        assert_eq!(world.broker.session_gone(b.session, b_goes), [Decision::Release(id, expected)]);
        assert!(world.is_empty());
    }
}

#[test]
fn offer_when_more_than_one_could_be_its_twin_is_refused_and_they_wait_on() {
    let mut world = World::new();
    assert_eq!(world.offer(key(1, 1), 1, false), []);
    assert_eq!(world.offer(key(2, 1), 1, false), []);
    assert_eq!(world.offer(key(3, 1), 1, true), [Decision::Refuse(key(3, 1), Refusal::Ambiguous)]);
    assert_eq!(world.broker.table.rows().count(), 2);
}

#[test]
fn offer_when_its_session_offers_the_same_addresses_anew_replaces_the_old_one() {
    let mut world = World::new();
    assert_eq!(world.offer(key(1, 1), 1, false), []);
    assert_eq!(world.offer(key(1, 1), 2, false), [], "a number in use is not offered again");
    assert_eq!(world.offer(key(1, 2), 1, false), [Decision::Refuse(key(1, 1), Refusal::NotProven)]);
    let found = world.offer(key(1, 3), 1, true);
    assert!(matches!(found.as_slice(), [Decision::Grant(_, ends)] if *ends == [key(1, 2), key(1, 3)]), "{found:?}");
}

#[test]
fn connection_when_a_label_forbids_it_is_refused_to_both_with_the_sentence() {
    for (value, forbidden) in
        [("false", true), ("False", true), ("0", true), ("off", true), ("true", false), ("1", false)]
    {
        let mut world = World::new();
        let labels = [("io.shmbc.enable".to_owned(), value.to_owned())].into();
        world.containers.insert(Container { id: "c".into(), name: "web".into(), labels, ..Container::default() });
        let web = Client::pretended(0, Some("c"));
        world.broker.open_session(&web.key, &world.containers).unwrap();
        let (a, b) = (key(1, 1), key(2, 1));
        assert_eq!(world.offer(a, 1, false), []);
        let decisions = world.broker.offer(end_of(&web, b, 1, true), &world.containers, world.now);
        if forbidden {
            let why = Refusal::Policy("container web has the label io.shmbc.enable=false".into());
            assert_eq!(decisions, [Decision::Refuse(a, why.clone()), Decision::Refuse(b, why)]);
            assert!(world.is_empty());
        } else {
            assert!(matches!(decisions.as_slice(), [Decision::Grant(..)]), "{value:?}");
        }
    }
}

#[test]
fn service_when_draining_refuses_what_is_not_established_and_takes_nothing_new() {
    let mut world = World::new();
    let (a, b, _) = world.granted();
    world.broker.ready(a);
    world.broker.ready(b);
    assert_eq!(world.offer(key(1, 2), 2, false), []);
    assert_eq!(world.broker.drain(), [Decision::Refuse(key(1, 2), Refusal::Draining)]);
    assert_eq!(world.offer(key(1, 3), 3, false), [Decision::Refuse(key(1, 3), Refusal::Draining)]);
    assert_eq!(world.broker.may_offer(&world.client.key, &world.containers, world.now), Err(Refusal::Draining));
    assert_eq!(world.broker.table.rows().count(), 1, "the established one goes on");
}

#[derive(Clone, Debug)]
enum Event {
    Offer { key: EndKey, n: u16, listens: bool },
    Mapped(EndKey),
    Ready(EndKey),
    Decline(EndKey),
    Close(EndKey),
    SessionGone(SessionId, bool),
    GrantFails(usize),
    Time(u64),
    Drain,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let end = (0u64..4, 0u64..4).prop_map(|(session, offer)| key(session, offer));
    let one = prop_oneof![
        8 => (end.clone(), 0u16..3, any::<bool>()).prop_map(|(key, n, listens)| Event::Offer { key, n, listens }),
        4 => end.clone().prop_map(Event::Mapped),
        8 => end.clone().prop_map(Event::Ready),
        2 => end.clone().prop_map(Event::Decline),
        3 => end.prop_map(Event::Close),
        1 => (0u64..4, any::<bool>()).prop_map(|(s, lost)| Event::SessionGone(SessionId(s), lost)),
        1 => (0usize..8).prop_map(Event::GrantFails),
        1 => (0u64..6).prop_map(Event::Time),
        1 => prop_oneof![9 => Just(Event::Time(0)), 1 => Just(Event::Drain)],
    ];
    proptest::collection::vec(one, 0..80)
}

/// What the ends and the pool have seen, by which the broker is judged.
#[derive(Default)]
struct Witness {
    granted: HashMap<ConnectionId, [EndKey; 2]>,
    released: HashSet<ConnectionId>,
    /// Ends that have a grant and were told neither to go nor that they stay on TCP; and whether they said ready.
    pending: HashMap<EndKey, (ConnectionId, bool)>,
    gone: HashMap<ConnectionId, usize>,
    /// Ends that have said that they mapped the block.
    mapped: HashSet<EndKey>,
    sealed: HashSet<ConnectionId>,
}

impl Witness {
    fn see(&mut self, decisions: Vec<Decision>) -> Result<(), TestCaseError> {
        for decision in decisions {
            match decision {
                Decision::Grant(id, ends) => {
                    prop_assert!(ends[0] != ends[1]);
                    prop_assert!(self.granted.insert(id, ends).is_none(), "granted twice");
                    for end in ends {
                        prop_assert!(self.pending.insert(end, (id, false)).is_none(), "{end:?} has a grant already");
                    }
                }
                Decision::Seal(id, ends) => {
                    prop_assert!(self.sealed.insert(id), "sealed twice");
                    for end in ends {
                        prop_assert!(self.mapped.contains(&end), "sealed before it was mapped");
                        prop_assert_eq!(self.pending.get(&end).copied(), Some((id, false)), "sealed when it was ready");
                    }
                }
                Decision::Adopt(_) => return Err(TestCaseError::fail("nobody has announced anything")),
                Decision::Go(end) => {
                    let Some((id, ready)) = self.pending.remove(&end) else {
                        return Err(TestCaseError::fail("go without a grant"));
                    };
                    prop_assert!(ready, "go before it was ready");
                    *self.gone.entry(id).or_default() += 1;
                }
                Decision::Refuse(end, _) => {
                    self.pending.remove(&end);
                }
                Decision::Release(id, _) => {
                    prop_assert!(self.granted.contains_key(&id), "released without a grant");
                    prop_assert!(self.released.insert(id), "released twice");
                    self.pending.retain(|_, (of, _)| *of != id);
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_when_played_keeps_the_promises(events in events()) {
        let mut world = World::new();
        // Some limits are met in some runs.
        world.broker = broker_with(Limits { connections: 6, block_bytes: 5000, ..Limits::default() });
        world.broker.open_session(&world.client.key, &world.containers).unwrap();
        let mut witness = Witness::default();
        for event in events {
            let decisions = match event {
                Event::Offer { key, n, listens } => world.offer(key, n, listens),
                Event::Mapped(end) => {
                    if witness.pending.contains_key(&end) {
                        witness.mapped.insert(end);
                    }
                    world.broker.mapped(end)
                }
                Event::Ready(end) => {
                    if let Some((_, ready)) = witness.pending.get_mut(&end) {
                        *ready = true;
                    }
                    world.broker.ready(end)
                }
                Event::Decline(end) => {
                    witness.pending.remove(&end);
                    world.broker.decline(end, Decline::Closed)
                }
                Event::Close(end) => {
                    witness.pending.remove(&end);
                    world.broker.close(end)
                }
                Event::SessionGone(session, lost) => {
                    witness.pending.retain(|end, _| end.session != session);
                    world.broker.session_gone(session, if lost { Gone::Lost } else { Gone::Closed })
                }
                Event::GrantFails(n) => {
                    let granted = world.broker.table.rows().filter(|row| matches!(row.phase, Phase::Granted(_)));
                    let id = granted.map(|row| row.id).nth(n);
                    id.map_or_else(Vec::new, |id| world.broker.grant_failed(id))
                }
                Event::Time(seconds) => {
                    world.now += Duration::from_secs(seconds);
                    world.broker.expire(world.now)
                }
                Event::Drain => world.broker.drain(),
            };
            witness.see(decisions)?;
            for (id, ends) in &witness.gone {
                prop_assert_eq!(*ends, 2, "both or neither is told to go: {:?}", id);
            }
            let live: HashSet<_> = world.broker.table.rows().filter(|r| r.phase != Phase::Waiting).map(|r| r.id).collect();
            let out: HashSet<_> = witness.granted.keys().filter(|id| !witness.released.contains(id)).copied().collect();
            prop_assert_eq!(live, out, "a block for each granted row and for no other");
            prop_assert!(world.broker.next_deadline().is_none_or(|at| at > world.now));
        }
        for session in 0..4 {
            witness.see(world.broker.session_gone(SessionId(session), Gone::Closed))?;
        }
        prop_assert!(world.is_empty());
        prop_assert_eq!(witness.granted.len(), witness.released.len());
        world.broker.quota.close_session(&world.client.key);
        prop_assert!(world.broker.quota.is_empty(), "{:?}", world.broker.quota);
    }
}

fn announced(client: &Arc<Client>, key: EndKey, listens: bool, side: EndName) -> End {
    End { announced: Some(Announced { side, block: None }), ..end_of(client, key, 1, listens) }
}

#[test]
fn connection_of_an_earlier_host_when_both_ends_announce_it_is_established_and_leaves_like_any_other() {
    let mut world = World::new();
    let World { broker, containers, client, now } = &mut world;
    let (a, b) = (announced(client, key(1, 1), false, EndName::A), announced(client, key(2, 1), true, EndName::B));
    assert_eq!(broker.announce(b.clone(), containers, *now), []);
    assert_eq!(broker.next_deadline(), None, "its twin may be stopped for as long as it likes");
    let decisions = broker.announce(a.clone(), containers, *now);
    let [Decision::Adopt(id), go @ ..] = decisions.as_slice() else { panic!("{decisions:?}") };
    assert_eq!(go, [Decision::Go(b.key), Decision::Go(a.key)], "one that was ready may not know of the other");
    let ends: Vec<_> = broker.table.get(*id).unwrap().ends.iter().map(|end| end.key).collect();
    assert_eq!(ends, [a.key, b.key], "A first, whoever came first");
    assert_eq!(broker.close(a.key), []);
    assert_eq!(broker.close(b.key), [Decision::Release(*id, Release::Reclaim)]);
    broker.quota.close_session(&client.key);
    assert!(broker.quota.is_empty(), "{:?}", broker.quota);
    assert!(world.is_empty());
}

#[test]
fn announced_end_when_the_other_one_is_the_same_side_or_only_offers_stays_alone() {
    let mut world = World::new();
    let World { broker, containers, client, now } = &mut world;
    assert_eq!(broker.announce(announced(client, key(1, 1), false, EndName::A), containers, *now), []);
    assert_eq!(broker.announce(announced(client, key(2, 1), true, EndName::A), containers, *now), []);
    assert_eq!(broker.offer(end_of(client, key(2, 2), 1, true), containers, *now), []);
    assert_eq!(broker.table.rows().filter(|row| row.ends.len() == 2).count(), 0);
    assert_eq!(broker.session_gone(SessionId(1), Gone::Lost), []);
    assert_eq!(broker.close(key(2, 1)), []);
    assert_eq!(broker.close(key(2, 2)), []);
    assert!(world.is_empty());
}

#[test]
fn drain_when_a_grant_is_under_way_lets_it_come_through_and_refuses_who_waits() {
    let mut world = World::new();
    let (a, b, _) = world.granted();
    assert_eq!(world.offer(key(3, 1), 2, false), []);
    assert_eq!(world.broker.drain(), [Decision::Refuse(key(3, 1), Refusal::Draining)]);
    assert!(!world.broker.is_drained());
    assert_eq!(world.broker.ready(a), []);
    assert_eq!(world.broker.ready(b), [Decision::Go(a), Decision::Go(b)]);
    assert!(world.broker.is_drained());
    assert_eq!(world.broker.end_grants(), []);
}
