//! What clients tell a service that was not there when it happened: listening sockets, and connections that an earlier service
//! has granted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use shmbc::block::Block;
use shmbc::control::message::{Announcement, ConnectionRow, ConnectionState};

use super::{Held, Hub, State, sides};
use crate::identity::Client;
use crate::numa::Home;
use crate::prove::Proof;
use crate::table::connections::{Announced, ConnectionId, End, EndFacts, EndKey, SessionId};

/// Listening sockets that one session can have listed. More work as well, and are not seen.
const MAX_LISTENERS: usize = 1024;

/// A listening socket of a client's.
#[derive(Debug)]
pub(super) struct Listener {
    client: Arc<Client>,
    local: SocketAddr,
    /// The kernel's number for it, by which two handles of it are seen to be one.
    socket: Option<u64>,
    since: Instant,
}

impl Hub {
    /// A proven end of a connection that an earlier service has granted, and the block that its process has mapped.
    pub(crate) fn announce(
        &self,
        session: SessionId,
        client: &Arc<Client>,
        announcement: &Announcement,
        proof: Proof,
        block: Option<Block>,
    ) {
        let Announcement { ref offer, end: side, .. } = *announcement;
        self.tell_if_believed(&proof);
        let end = End {
            announced: Some(Announced { side, block: block.map(Arc::new) }),
            ..end(EndKey { session, offer: offer.id }, client, proof, offer.cpu)
        };
        let mut state = self.state();
        let State { broker, containers, sessions, .. } = &mut *state;
        // Looking took a while; what comes after the session's end would stay for ever.
        if !sessions.contains_key(&session) {
            return;
        }
        let decisions = broker.announce(end, containers, Instant::now());
        self.carry_out(&mut state, decisions);
    }

    /// Takes over the block of a connection whose ends have found each other. Both must have the very same one mapped: either alone
    /// could show anything.
    pub(super) fn adopt(&self, state: &mut State, id: ConnectionId) {
        let blocks = state.broker.table.take_announced(id);
        if let [Some(a), Some(b)] = blocks
            && a.is_same(&b)
        {
            let block = self.pool.adopt(a);
            state.blocks.insert(id, Held { block, sealed: true, homes: [Home::new(None), Home::new(None)] });
        }
    }

    /// A client's listening socket, as the kernel says.
    pub(crate) fn listen(&self, end: EndKey, client: &Arc<Client>, proof: Proof) {
        let mut state = self.state();
        let mine = state.listeners.range(sides(end.session)).count();
        if mine < MAX_LISTENERS && state.sessions.contains_key(&end.session) {
            let Proof { local, socket, .. } = proof;
            let listener = Listener { client: Arc::clone(client), local, socket, since: Instant::now() };
            state.listeners.insert(end, listener);
        }
    }
}

impl State {
    /// Forgets a session's listeners.
    pub(super) fn forget_listeners(&mut self, session: SessionId) {
        let mine: Vec<_> = self.listeners.range(sides(session)).map(|(key, _)| *key).collect();
        for key in mine {
            self.listeners.remove(&key);
        }
    }

    /// Containers and the addresses at which their programs listen.
    pub(super) fn listening(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.listeners.values().filter_map(|listener| Some((listener.client.container.as_deref()?, listener.local)))
    }

    /// A row for each listening socket.
    pub(super) fn listener_rows(&self, now: Instant) -> Vec<ConnectionRow> {
        let mut seen = std::collections::HashSet::new();
        let listeners = self.listeners.values().filter(|listener| listener.socket.is_none_or(|n| seen.insert(n)));
        let rows = listeners.map(|Listener { client, local, since, .. }| {
            let nobody = if local.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let end = EndFacts {
                local: *local,
                peer: nobody.parse().expect("an address"),
                container: client.container.clone(),
                contained: client.contained,
                pid: client.pid,
                process: Arc::clone(&client.process),
                uid: client.uid,
            };
            ConnectionRow {
                id: None,
                filled: [0; 2],
                ring: 0,
                state: ConnectionState::Listening,
                ends: vec![self.end_row(end)],
                bytes: [0; 2],
                block: 0,
                age_ms: now.saturating_duration_since(*since).as_millis() as u64,
                ring_nodes: [const { Vec::new() }; 2],
                refusal: None,
            }
        });
        rows.collect()
    }
}

/// An end as it was proved.
pub(super) fn end(key: EndKey, client: &Arc<Client>, proof: Proof, cpu: u32) -> End {
    let Proof { local, peer, scope, socket, .. } = proof;
    End { key, client: Arc::clone(client), local, peer, scope, socket, cpu, announced: None }
}
