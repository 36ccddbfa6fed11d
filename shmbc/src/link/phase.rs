//! How far one end has come with its upgrade: pure transitions on what the host and the peer say.

use super::path::Reason;
use crate::control::message::Refusal;

/// How far one end has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// On TCP; no offer is out.
    Tcp(Reason),
    /// The host has the offer.
    Offered,
    /// The block is mapped and the host knows. From here on this end reads what a peer that has been told to go sends, until
    /// the connection ends.
    Ready,
    /// Both ends are ready: this end may switch.
    Go,
}

/// What happens to an upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The offer went to the host.
    Offer,
    /// The grant came and its block is mapped.
    Mapped,
    /// The host says that both ends are ready.
    Go,
    /// The peer has published its switch, so it has been told to go, so both ends are ready.
    PeerSwitched,
    /// The host refused, or cancelled a grant before it told anybody to go.
    Refused(Refusal),
    /// This end cannot use the grant.
    Declined(crate::control::message::Decline),
    /// The session with the host ended.
    HostLost,
}

impl Phase {
    /// The phase after `event`. An event that makes no sense in this phase changes nothing: messages from a host that
    /// restarted, or that crossed ours, arrive late.
    #[must_use]
    pub fn on(self, event: Event) -> Self {
        match (self, event) {
            (Self::Tcp(_), Event::Offer) => Self::Offered,
            (Self::Offered, Event::Mapped) => Self::Ready,
            (Self::Offered, Event::HostLost) => Self::Tcp(Reason::NoHost),
            (Self::Offered | Self::Ready, Event::Refused(Refusal::NoTwin)) => Self::Tcp(Reason::PeerNotAware),
            (Self::Offered | Self::Ready, Event::Refused(refusal)) => Self::Tcp(Reason::Refused(refusal)),
            (Self::Offered, Event::Declined(why)) => Self::Tcp(Reason::Declined(why)),
            // `PeerSwitched` also after a host was lost or spoke too late: the peer has what it needs and so have we.
            (Self::Ready, Event::Go | Event::PeerSwitched) => Self::Go,
            // A lost host may have told the peer to go before it died: stay ready.
            (unchanged, _) => unchanged,
        }
    }

    /// Whether this end may begin to switch.
    pub const fn may_switch(&self) -> bool {
        matches!(self, Self::Go)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::Decline;
    use proptest::prelude::*;

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Offer),
            Just(Event::Mapped),
            Just(Event::Go),
            Just(Event::PeerSwitched),
            Just(Event::Refused(Refusal::NoTwin)),
            Just(Event::Refused(Refusal::Draining)),
            Just(Event::Declined(Decline::Unsound)),
            Just(Event::HostLost),
        ]
    }

    proptest! {
        /// Whatever the host says in whatever order: nobody switches who has not mapped, and nobody who may switch is stopped.
        #[test]
        fn events_when_in_any_order_never_go_unmapped_and_never_leave_go(events in proptest::collection::vec(event(), 0..12)) {
            let mut phase = Phase::Tcp(Reason::NotYet);
            let mut mapped = false;
            for event in events {
                mapped |= phase == Phase::Offered && event == Event::Mapped;
                let before = phase.clone();
                phase = phase.on(event);
                prop_assert!(!phase.may_switch() || mapped);
                prop_assert!(!before.may_switch() || phase.may_switch());
            }
        }
    }

    #[test]
    fn host_when_lost_between_ready_and_go_leaves_the_end_ready_for_a_peer_that_goes() {
        let phase = Phase::Ready.on(Event::HostLost);
        assert_eq!(phase, Phase::Ready);
        assert_eq!(phase.on(Event::PeerSwitched), Phase::Go);
    }
}
