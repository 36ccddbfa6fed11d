//! What people are told: the tables, and how much the service holds.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use nix::sys::resource::{Resource, getrlimit};
use shmbc::block::Block;
use shmbc::control::message::{ConnectionRow, ConnectionState, ContainerRow, EndRow, Status};
use shmbc::layout::Direction;

use super::{Held, Hub, State};
use crate::hugetlb::Maker;
use crate::table::connections::{End, EndFacts, Phase};

/// What people read where a container should be named and is not known.
const UNKNOWN: &str = "(unknown container)";

/// What a service holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Clients that are connected.
    pub sessions: usize,
    /// Containers in the table.
    pub containers: usize,
    /// Offers that wait for their twin.
    pub offers: usize,
    /// Connections whose ends have grants but not both are ready.
    pub granted: usize,
    /// Connections that were told to go and that not both ends have left.
    pub established: usize,
    /// Blocks in use, or not yet given back to the machine; without the stock.
    pub blocks: usize,
    /// Size of those blocks, touched or not.
    pub block_bytes: u64,
    /// Connections that were to be on pages of the hugetlb pool and are on ordinary ones, since the service started.
    pub without_huge_pages: u64,
    /// Descriptors open in the whole process.
    pub fds: usize,
}

impl Hub {
    /// The connection table, oldest first, then the last ones that were refused. With NUMA it asks the kernel where the pages of
    /// each ring are, without the lock.
    pub(crate) fn connection_rows(&self) -> Vec<ConnectionRow> {
        let (mut rows, blocks) = self.rows_and_blocks();
        if !self.topology.is_flat() {
            for (row, block) in rows.iter_mut().zip(blocks) {
                let Some(block) = block else { continue };
                // Fails when the block has just been given back: then there is nothing to tell.
                let nodes = |direction| block.nodes(direction).unwrap_or_default().iter().map(|node| node.0).collect();
                row.ring_nodes = Direction::BOTH.map(nodes);
            }
        }
        rows
    }

    /// The rows without their `ring_nodes`, and the blocks of the first ones.
    fn rows_and_blocks(&self) -> (Vec<ConnectionRow>, Vec<Option<Arc<Block>>>) {
        let state = self.state();
        let now = Instant::now();
        let age = |since: Instant| now.saturating_duration_since(since).as_millis() as u64;
        let mut rows: Vec<_> = state.broker.table.rows().collect();
        rows.sort_by_key(|row| row.id);
        let blocks: Vec<_> = rows.iter().map(|row| Some(Arc::clone(&state.blocks.get(&row.id)?.block))).collect();
        let live = rows.into_iter().zip(&blocks).map(|(row, block)| {
            let held = state.blocks.get(&row.id);
            let stats = Direction::BOTH.map(|direction| held.and_then(|held| held.stats(direction)));
            let node = |side: usize, end: &End| {
                // Where it reads, or else where it writes, or else where it was when it offered.
                let [reads, writes] =
                    [stats[1 - side].and_then(|s| s.consumer_cpu), stats[side].and_then(|s| s.producer_cpu)];
                self.topology.node(reads.or(writes).unwrap_or_else(|| end.cpu.into())).map(|node| node.0)
            };
            let ends = row.ends.iter().enumerate();
            let ring = block.as_ref().map_or(0, |_| self.sizes.capacity(Direction::AToB));
            let filled = stats.map(|s| s.map_or(0, |s| s.produced.saturating_sub(s.consumed).min(ring)));
            ConnectionRow {
                id: Some(row.id.0),
                state: match row.phase {
                    Phase::Waiting => ConnectionState::Offered,
                    Phase::Granted(_) => ConnectionState::Granted,
                    Phase::Announced | Phase::Established([None, None]) => ConnectionState::Established,
                    Phase::Established(_) => ConnectionState::Closing,
                },
                ends: ends.map(|(side, end)| EndRow { node: node(side, end), ..state.end_row(end.into()) }).collect(),
                bytes: stats.map(|stats| stats.map_or(0, |stats| stats.produced)),
                filled,
                ring,
                block: block.as_ref().map_or(0, |b| b.len() as u64),
                age_ms: age(row.since),
                ring_nodes: [const { Vec::new() }; 2],
                refusal: None,
            }
        });
        let refused = state.broker.table.refused().map(|row| ConnectionRow {
            id: None,
            state: ConnectionState::Refused,
            ends: row.ends.iter().map(|end| state.end_row(end.clone())).collect(),
            bytes: [0; 2],
            filled: [0; 2],
            ring: 0,
            block: 0,
            age_ms: age(row.since),
            ring_nodes: [const { Vec::new() }; 2],
            refusal: Some(row.refusal.clone()),
        });
        let rows = live.chain(refused).chain(state.listener_rows(now)).collect();
        (rows, blocks)
    }

    /// The container table.
    pub(crate) fn container_rows(&self) -> Vec<ContainerRow> {
        let state = self.state();
        let mut connections = HashMap::new();
        for row in state.broker.table.rows().filter(|row| row.phase.is_established()) {
            for id in row.ends.iter().filter_map(|end| end.client.container.clone()) {
                *connections.entry(id).or_insert(0) += 1;
            }
        }
        let mut listening: HashMap<_, BTreeSet<_>> = HashMap::new();
        for (container, address) in state.listening() {
            listening.entry(container.to_owned()).or_default().insert(address);
        }
        state.containers.rows(&connections, &listening)
    }

    /// How the service is.
    pub(crate) fn status(&self) -> Status {
        let counts = self.counts();
        let state = self.state();
        let totals = state.broker.totals.clone();
        let refusals = state.broker.table.reasons().iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            up_ms: self.started.elapsed().as_millis() as u64,
            docker: self.docker_up.load(Ordering::Relaxed),
            sessions: counts.sessions as u64,
            containers: counts.containers as u64,
            listeners: state.listeners.len() as u64,
            offered: counts.offers as u64,
            granted: counts.granted as u64,
            established: counts.established as u64,
            blocks: counts.blocks as u64,
            block_bytes: counts.block_bytes,
            fds: counts.fds as u64,
            fd_limit: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
            offers: totals.offers,
            grants: totals.grants,
            upgrades: totals.upgrades,
            moved: state.moved.saturating_add(state.blocks.values().map(Held::moved).fold(0, u64::saturating_add)),
            panics: self.panics.total(),
            refusals,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let state = self.state();
        let mut counts = Counts {
            sessions: state.sessions.len(),
            containers: state.containers.len(),
            blocks: self.pool.out(),
            block_bytes: self.pool.out_bytes(),
            without_huge_pages: self.maker.as_ref().map_or(0, Maker::fallbacks),
            ..Counts::default()
        };
        for row in state.broker.table.rows() {
            match row.phase {
                Phase::Waiting => counts.offers += 1,
                Phase::Granted(_) => counts.granted += 1,
                Phase::Announced | Phase::Established(_) => counts.established += 1,
            }
        }
        drop(state);
        // The directory is itself one of those it lists.
        counts.fds = std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1));
        counts
    }
}

impl State {
    pub(super) fn end_row(&self, end: EndFacts) -> EndRow {
        let container = match end.container.as_deref() {
            Some(id) => self.containers.name(id),
            None => end.contained.then(|| UNKNOWN.to_owned()),
        };
        let EndFacts { local, peer, container: container_id, pid, process, uid, .. } = end;
        EndRow { local, peer, container_id, container, pid, process: process.to_string(), uid, node: None }
    }
}
