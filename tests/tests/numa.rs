//! On a machine of two NUMA nodes each direction's pages lie on the node of the end that reads them, and follow it.
//!
//! What the kernel says counts: `move_pages` page by page, and `numa_maps` for the whole mapping. `scripts/numa-vm` runs this in a
//! virtual machine; on a real one with two nodes `cargo test --test numa` does.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use nix::fcntl::FallocateFlags;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use serde_json::{Value, json};
use shmbc::block::{Block, Pages};
use shmbc::layout::{Direction, HEADER, Sizes, own_pieces, place};
use shmbc::sys::Node;
use shmbc_tests::peer::{connect, upgraded};
use shmbc_tests::process::program;
use shmbc_tests::raw::{SharedMap, page_nodes};
use shmbc_tests::script::{Command, Kind, Move};
use shmbc_tests::sockets::wait_until;
use shmbc_tests::{HostProcess, Need, Peer, Setup, suite, test};

/// Bytes in a ring: small, because a machine in software is slow.
const CAPACITY: u64 = 256 << 10;

/// `MPOL_MF_MOVE` and `MPOL_MF_MOVE_ALL` of `<linux/mempolicy.h>`.
const MOVE: libc::c_uint = 2;
const MOVE_ALL: libc::c_uint = 4;

fn main() -> ExitCode {
    let two = Need::Other("two NUMA nodes with processors (scripts/numa-vm boots such a machine)", || {
        (0..2).all(|node| first_cpu(node).is_some())
    });
    let mbind = Need::Other("mbind", || {
        Block::create(sizes()).is_ok_and(|block| block.place(Direction::AToB, Node(0), Pages::New).is_ok())
    });
    suite(vec![
        test("block_when_looked_at_and_moved_has_no_page_more", block_has_no_page_more).needs(mbind).needs(Need::Root),
        test("pages_of_two_mappings_when_moved_move_only_for_who_may_move_all", shared_pages_move_for_all_only)
            .needs(two)
            .needs(Need::Root),
        test("rings_when_ends_are_on_two_nodes_lie_with_who_reads_them", rings_lie_with_who_reads_them).needs(two),
        test("ring_when_who_reads_it_moves_for_good_follows", ring_follows).needs(two).needs(Need::Root),
    ])
}

fn sizes() -> Sizes {
    Sizes::new([CAPACITY; 2]).expect("a power of two")
}

/// The first CPU of `node`.
fn first_cpu(node: u16) -> Option<usize> {
    let list = std::fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist")).ok()?;
    list.trim().split(['-', ',']).next()?.parse().ok()
}

/// Has `thread` (0: this one) run on `node` only.
fn run_on(thread: i32, node: u16) {
    let mut cpus = CpuSet::new();
    cpus.set(first_cpu(node).expect("a node with processors")).expect("a small number");
    sched_setaffinity(Pid::from_raw(thread), &cpus).expect("sched_setaffinity");
}

/// Two connected ends in shared memory, the first on node 0, the second on node 1.
struct Ends {
    host: HostProcess,
    peers: [Peer; 2],
    streams: [usize; 2],
}

impl Ends {
    fn connected() -> Self {
        let host = HostProcess::start_with(&[&format!("--ring-capacity={CAPACITY}")]);
        let everywhere = sched_getaffinity(Pid::from_raw(0)).expect("sched_getaffinity");
        let mut peers = [0, 1].map(|node| {
            run_on(0, node);
            Peer::start(&Setup::with_host(host.socket()))
        });
        sched_setaffinity(Pid::from_raw(0), &everywhere).expect("sched_setaffinity");
        let [client, server] = &mut peers;
        let address = server.listen(Kind::Shm, [127, 0, 0, 1]);
        let (c, s) = connect(client, Kind::Shm, server, address);
        assert_eq!(upgraded(client, c, server, s), ["upgraded"; 2]);
        Self { host, peers, streams: [c, s] }
    }

    /// Moves more than a ring both ways.
    fn traffic(&mut self) {
        let step = Move { write: 3 * CAPACITY, read: 3 * CAPACITY, ..Move::default() };
        for side in 0..2 {
            self.peers[side].tell(&Command::Move(self.streams[side], step));
        }
        for side in 0..2 {
            let moved = self.peers[side].moved();
            assert_eq!((moved.wrote, moved.read), (step.write, step.read), "{moved:?}");
        }
    }

    /// The one connection of the table, and which of our peers is its first end.
    fn row(&self) -> (Value, usize) {
        let mut rows = self.host.connections();
        rows.retain(|row| row["state"] != "listening");
        assert_eq!(rows.len(), 1, "{rows:?}");
        let first = self.peers.iter().position(|peer| rows[0]["ends"][0]["pid"] == peer.pid());
        (rows[0].clone(), first.expect("one of ours"))
    }

    /// The nodes of the pages of the ring that `reader` reads, as the kernel says of both processes, and of how many pages.
    fn pages_read_by(&self, reader: usize) -> (Vec<u16>, usize) {
        let (_, first) = self.row();
        let direction = if reader == first { Direction::BToA } else { Direction::AToB };
        let sizes = sizes();
        let mut nodes: Vec<_> = self
            .peers
            .iter()
            .flat_map(|peer| {
                let block = mapping(peer.pid(), sizes.block_len());
                own_pieces(direction, CAPACITY).flat_map(move |piece| {
                    page_nodes(peer.pid(), block + piece.start, piece.len()).expect("move_pages").into_iter().flatten()
                })
            })
            .collect();
        let count = nodes.len();
        nodes.sort_unstable();
        nodes.dedup();
        (nodes, count)
    }
}

/// Where process `pid` has mapped a block of this size.
fn mapping(pid: u32, len: usize) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let found = maps.lines().filter(|line| line.contains("memfd:shmbc")).find_map(|line| {
        let (from, to) = line.split_whitespace().next()?.split_once('-')?;
        let [from, to] = [from, to].map(|at| usize::from_str_radix(at, 16).expect("an address"));
        (to - from == len).then_some(from)
    });
    found.unwrap_or_else(|| panic!("no block is mapped by {pid}:\n{maps}"))
}

/// How many pages of its block process `pid` has mapped on nodes 0 and 1, as its `numa_maps` says.
fn numa_maps(pid: u32) -> [usize; 2] {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/numa_maps")).expect("numa_maps");
    let line = maps.lines().find(|line| line.contains("memfd:shmbc")).expect("a block");
    ["N0=", "N1="].map(|node| {
        let count = line.split_whitespace().find_map(|word| word.strip_prefix(node));
        count.map_or(0, |count| count.parse().expect("a count"))
    })
}

fn rings_lie_with_who_reads_them() {
    let mut ends = Ends::connected();
    ends.traffic();
    let mut pages = [0; 2];
    for node in [0, 1] {
        let (nodes, count) = ends.pages_read_by(node.into());
        assert_eq!(nodes, [node], "the ring that the end on node {node} reads");
        pages[usize::from(node)] = count;
    }
    // Of both processes together. The header and the first pages are on either.
    let found = ends.peers.iter().map(|peer| numa_maps(peer.pid())).fold([0; 2], |[a, b], [c, d]| [a + c, b + d]);
    let headers = found[0] + found[1] - pages[0] - pages[1];
    assert!(
        headers <= 4 && found[0] >= pages[0] && found[1] >= pages[1],
        "{found:?} in numa_maps, {pages:?} in the rings"
    );

    let (row, first) = ends.row();
    let [a, b] = if first == 0 { [0, 1] } else { [1, 0] };
    assert_eq!([&row["ends"][0]["node"], &row["ends"][1]["node"]], [a, b]);
    assert_eq!(row["ring_nodes"], json!([[b], [a]]), "with who reads");
    print_table(ends.host.socket());
}

/// For people who read the output of the virtual machine.
fn print_table(socket: &Path) {
    let table = std::process::Command::new(program("shmbc-under-test")).args(["ss", "--socket"]).arg(socket).output();
    let table = table.expect("run shmbc").stdout;
    print!("\n{}", String::from_utf8_lossy(&table));
}

fn ring_follows() {
    let mut ends = Ends::connected();
    ends.traffic();
    assert_eq!(ends.pages_read_by(1).0, [1]);
    for thread in std::fs::read_dir(format!("/proc/{}/task", ends.peers[1].pid())).expect("its threads") {
        let thread = thread.expect("a thread").file_name();
        run_on(thread.to_str().and_then(|id| id.parse().ok()).expect("a thread's number"), 0);
    }
    wait_until("the ring has followed the end that reads it", || {
        ends.traffic();
        ends.pages_read_by(1).0 == [0]
    });
    assert_eq!(ends.pages_read_by(0).0, [0], "who stayed has kept its ring");
    let (row, _) = ends.row();
    assert_eq!(row["ring_nodes"], json!([[0], [0]]));
    print_table(ends.host.socket());
}

fn block_has_no_page_more() {
    let block = Block::create(sizes()).expect("a block");
    let map = SharedMap::new(block.as_fd(), sizes().block_len()).expect("mmap");
    let resident = || block.resident().expect("fstat") as usize;
    assert_eq!(block.nodes(Direction::AToB).expect("a look"), [].into());
    assert_eq!(resident(), HEADER);
    // Two pages with a hole in between, and the last one.
    let touched = [8192, 4 * 4096, CAPACITY - 1];
    touched.iter().for_each(|&offset| map.set(place(Direction::BToA, offset).0, 7));
    let pages = resident();
    assert_eq!(pages, HEADER + 3 * 4096);
    block.place(Direction::BToA, Node(0), Pages::All).expect("to where they are");
    assert_eq!(block.nodes(Direction::BToA).expect("a look"), [Node(0)].into());
    assert_eq!(block.nodes(Direction::AToB).expect("a look"), [].into());
    assert_eq!(resident(), pages, "the holes are as they were");
    for nowhere in [Node(1000), Node(1024), Node(u16::MAX)] {
        assert!(block.place(Direction::AToB, nowhere, Pages::New).is_err(), "{nowhere:?}");
    }
}

fn shared_pages_move_for_all_only() {
    const LEN: usize = 64 << 10;
    let fd = memfd_create(c"kernel-test", MFdFlags::MFD_CLOEXEC).expect("memfd_create");
    nix::unistd::ftruncate(&fd, LEN as i64).expect("ftruncate");
    let maps = [0, 1].map(|_| SharedMap::new(fd.as_fd(), LEN).expect("mmap"));
    maps[0].bind(0, 0).expect("mbind");
    nix::fcntl::fallocate(&fd, FallocateFlags::empty(), 0, LEN as i64).expect("fallocate");
    let look = |map: &SharedMap| page_nodes(std::process::id(), map.address(), LEN).expect("move_pages");
    let all_on = |node| vec![Some(node); LEN / 4096];
    for map in &maps {
        (0..LEN).step_by(4096).for_each(|at| map.set(at, 1));
        assert_eq!(look(map), all_on(0), "where they were wished to be before they were made");
    }
    maps[0].bind(1, MOVE).expect("mbind");
    assert_eq!(look(&maps[0]), all_on(0), "pages that are mapped twice stay");
    maps[0].bind(1, MOVE_ALL).expect("mbind");
    assert_eq!(look(&maps[1]), all_on(1));
}
