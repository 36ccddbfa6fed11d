//! Which NUMA node a CPU is on, and on which one the pages of each ring belong: with the end that reads them.
//!
//! The host service places them, and not the ends, because a container's seccomp filter usually forbids them the call, and
//! because moving pages that two processes have mapped takes a right (`CAP_SYS_NICE`) that only a service should have. At
//! the grant a ring goes to the node from which its consumer offered; afterwards the host looks every second where consumers that
//! move bytes say they run. Does nothing on a machine of one node.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shmbc::block::{Block, Pages};
use shmbc::layout::Direction;
use shmbc::sys::Node;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use crate::hub::Hub;

/// Where Linux says which CPU is on which node.
const NODES: &str = "/sys/devices/system/node";

/// Highest CPU number that is believed; Linux can be built for 8192.
const MAX_CPUS: usize = 8192;

/// Time between two looks at where consumers run.
const LOOK: Duration = Duration::from_secs(1);

/// Looks in a row at which a consumer must be on the same other node before its ring follows: moving 4 MiB costs about as much
/// as copying them a few times, so an end that only visits a node must not take its ring along.
const LOOKS: u32 = 3;

/// Most looks that are asked for. They double with each move, so that an end that goes to and fro, or lies, costs the host less and
/// less.
const MOST_LOOKS: u32 = 256;

/// Most rings moved at one look.
const MOVES: usize = 16;

/// The nodes of this machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    /// By CPU. Empty where there is only one node: then nothing is to be placed.
    nodes: Vec<Option<Node>>,
}

impl Topology {
    pub(crate) fn of_this_machine() -> Self {
        Self::read(Path::new(NODES))
    }

    fn read(dir: &Path) -> Self {
        let mut topology = Self::default();
        let mut count = 0;
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("node")?.parse().ok());
            let (Some(number), Ok(list)) = (number, std::fs::read_to_string(entry.path().join("cpulist"))) else {
                continue;
            };
            count += 1;
            for cpu in cpus(&list) {
                if topology.nodes.len() <= cpu {
                    topology.nodes.resize(cpu + 1, None);
                }
                topology.nodes[cpu] = Some(Node(number));
            }
        }
        if count > 1 { topology } else { Self::default() }
    }

    /// Whether there is anything to choose.
    pub(crate) fn is_flat(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The node of a CPU, which is a claim: nothing for one that is not there, and where there is only one node.
    pub(crate) fn node(&self, cpu: u64) -> Option<Node> {
        *self.nodes.get(usize::try_from(cpu).ok()?)?
    }
}

/// The CPUs of a list as the kernel writes it: `0-3,8`.
fn cpus(list: &str) -> impl Iterator<Item = usize> {
    list.trim()
        .split(',')
        .filter_map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            Some(from.parse().ok()?..=to.parse::<usize>().ok()?.min(MAX_CPUS))
        })
        .flatten()
}

/// Where one ring is, and whether it is time to move it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home {
    node: Option<Node>,
    /// Where the consumer was at the last looks, and at how many.
    visited: Option<Node>,
    looks: u32,
    patience: u32,
    consumed: u64,
}

impl Home {
    pub(crate) const fn new(node: Option<Node>) -> Self {
        Self { node, visited: None, looks: 0, patience: LOOKS, consumed: 0 }
    }

    /// A look at the consumer: on which node it says it is, and how many bytes it has taken. Returns where the ring is to go.
    pub(crate) fn look(&mut self, node: Option<Node>, consumed: u64) -> Option<Node> {
        let moves_bytes = std::mem::replace(&mut self.consumed, consumed) != consumed;
        if !moves_bytes || node.is_none() {
            return None;
        }
        self.looks = if node == self.visited { self.looks + 1 } else { 1 };
        self.visited = node;
        if node == self.node || self.looks < self.patience {
            return None;
        }
        self.node = node;
        self.patience = (self.patience * 2).min(MOST_LOOKS);
        node
    }
}

/// A ring that is to follow its consumer.
#[derive(Debug)]
pub(crate) struct Move {
    pub(crate) block: Arc<Block>,
    pub(crate) direction: Direction,
    pub(crate) to: Node,
}

/// Places a fresh ring.
pub(crate) fn settle(block: &Block, direction: Direction, node: Node) {
    if let Err(error) = block.place(direction, node, Pages::New) {
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !TOLD.swap(true, Ordering::Relaxed) {
            warn!(%error, "memory cannot be placed on NUMA nodes (in a container that takes CAP_SYS_NICE): it is where it is first used");
        }
    }
}

/// Lets rings follow their consumers. Never returns, but on a machine where there is nothing to choose.
pub(crate) async fn keep(hub: Arc<Hub>) {
    if hub.topology.is_flat() {
        return;
    }
    let mut clock = tokio::time::interval(LOOK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let moves = hub.moves(MOVES);
        if !moves.is_empty() {
            // Copies megabytes.
            let _ = tokio::task::spawn_blocking(move || moves.iter().for_each(follow)).await;
        }
    }
}

fn follow(Move { block, direction, to }: &Move) {
    match block.place(*direction, *to, Pages::All) {
        Ok(()) => debug!(?direction, node = to.0, "ring moved"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            static TOLD: AtomicBool = AtomicBool::new(false);
            if !TOLD.swap(true, Ordering::Relaxed) {
                info!("rings in use cannot follow an end to another NUMA node (CAP_SYS_NICE): only their new pages do");
            }
            settle(block, *direction, *to);
        }
        Err(error) => warn!(%error, node = to.0, "a ring does not follow its consumer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Option<Node> = Some(Node(0));
    const THERE: Option<Node> = Some(Node(1));

    fn machine(nodes: &[(&str, &str)]) -> Topology {
        let dir = tempfile::tempdir().unwrap();
        for (name, list) in nodes {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("cpulist"), list).unwrap();
        }
        Topology::read(dir.path())
    }

    #[test]
    fn topology_when_read_knows_the_node_of_each_cpu_and_of_no_other() {
        let two = machine(&[("node0", "0-1,4\n"), ("node1", "2-3\n"), ("node2", "\n"), ("power", "")]);
        let nodes: Vec<_> = (0..6).map(|cpu| two.node(cpu).map(|node| node.0)).collect();
        assert_eq!(nodes, [Some(0), Some(0), Some(1), Some(1), Some(0), None]);
        assert_eq!(two.node(u64::MAX), None, "a lie");
        assert!(machine(&[("node0", "0-3\n")]).is_flat());
        assert!(machine(&[]).is_flat());
        assert!(Topology::read(Path::new("/nowhere")).is_flat());
        let wild = machine(&[("node0", "0-18446744073709551615,x,-,7-3\n"), ("nodes", "0"), ("node1", "")]);
        assert_eq!(wild.nodes.len(), MAX_CPUS + 1);
    }

    /// Looks until it moves, at most this often.
    fn looks_until_moved(home: &mut Home, node: Option<Node>, consumed: &mut u64, most: u32) -> Option<u32> {
        (1..=most).find(|_| {
            *consumed += 1;
            home.look(node, *consumed) == node
        })
    }

    #[test]
    fn ring_when_its_consumer_stays_elsewhere_and_reads_follows_later_each_time() {
        let (mut home, mut consumed) = (Home::new(HERE), 0);
        assert_eq!(looks_until_moved(&mut home, HERE, &mut consumed, 100), None, "at home");
        assert_eq!(looks_until_moved(&mut home, THERE, &mut consumed, 100), Some(LOOKS));
        assert_eq!(looks_until_moved(&mut home, HERE, &mut consumed, 100), Some(LOOKS * 2));
        for _ in 0..20 {
            looks_until_moved(&mut home, THERE, &mut consumed, 1000);
            looks_until_moved(&mut home, HERE, &mut consumed, 1000);
        }
        assert_eq!(looks_until_moved(&mut home, THERE, &mut consumed, 1000), Some(MOST_LOOKS));
    }

    #[test]
    fn ring_when_its_consumer_rests_visits_or_lies_stays() {
        let mut home = Home::new(HERE);
        for _ in 0..100 {
            assert_eq!(home.look(THERE, 0), None, "it reads nothing");
        }
        for consumed in 1..100 {
            let node = [THERE, HERE][consumed as usize % 2];
            assert_eq!(home.look(node, consumed), None, "to and fro");
        }
        for consumed in 100..200 {
            assert_eq!(home.look(None, consumed), None, "no such CPU");
        }
        let mut unknown = Home::new(None);
        let mut consumed = 0;
        assert_eq!(looks_until_moved(&mut unknown, HERE, &mut consumed, 100), Some(LOOKS), "it was nowhere");
    }
}
