//! Connections on pages of the hugetlb pool: bytes move, pages come back, and no end can take a page from under the other.
//!
//! Needs a pool, which is a setting of the whole machine: `.ci/huge-pages` makes one for as long as these tests take.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use rustix::event::PollFlags;
use shmbc::block::{Block, BlockError, HUGE_PAGE, Unsealed, huge_len, verify};
use shmbc::control::message::{Offer, OfferId, Pages, Refusal, ToClient, ToHost};
use shmbc::control::socket;
use shmbc::layout::{Direction, Sizes};
use shmbc::sys::Node;
use shmbc_tests::host::hello;
use shmbc_tests::peer::{connect, upgraded};
use shmbc_tests::raw::{self, SharedMap};
use shmbc_tests::script::{Command, Kind, Move};
use shmbc_tests::sockets::{wait_for, wait_until};
use shmbc_tests::{HostProcess, Need, Pattern, Peer, Setup, suite, test};

const PUNCH: FallocateFlags = FallocateFlags::FALLOC_FL_PUNCH_HOLE.union(FallocateFlags::FALLOC_FL_KEEP_SIZE);

/// Bytes in a ring: a block takes two pages.
const CAPACITY: u64 = 1 << 20;

/// More than both rings together.
const MUCH: u64 = 5 << 20;

fn main() -> ExitCode {
    let pool = Need::Other("eight free huge pages of 2 MiB (.ci/huge-pages makes a pool)", || {
        let _alone = alone();
        free() >= 8
    });
    let tests = [
        test(
            "block_when_sealed_can_be_touched_by_both_ends_and_punched_by_none",
            sealed_block_is_touched_and_not_punched,
        ),
        test("block_when_not_sealed_or_changed_before_it_is_opened_by_nobody", changed_block_is_opened_by_nobody),
        test("descriptor_when_anything_but_a_block_on_huge_pages_is_not_mapped", others_are_not_mapped),
        test("block_when_let_go_gives_its_pages_back_to_the_pool", block_gives_its_pages_back),
        test("connection_when_the_pool_has_pages_is_on_them_and_gives_them_back", connection_is_on_huge_pages),
        test("connection_when_the_pool_has_too_few_pages_is_on_ordinary_ones", connection_is_on_ordinary_pages),
        test("end_when_its_peer_punches_before_the_seal_stays_on_tcp_and_lives", peer_punches),
        test("end_when_its_peer_seals_first_stays_on_tcp", peer_seals),
        test("end_when_its_peer_takes_the_pages_and_is_silent_goes_on_by_tcp_and_lives", peer_is_silent),
        test("end_when_its_peer_tries_to_take_the_pages_after_the_seal_keeps_them", peer_is_late),
    ];
    let two = Need::Other("two NUMA nodes (scripts/numa-vm boots such a machine)", || {
        std::path::Path::new("/sys/devices/system/node/node1").exists()
    });
    let numa = test("rings_when_on_huge_pages_lie_on_the_nodes_that_they_were_made_for", rings_lie_where_they_should);
    suite(tests.into_iter().chain([numa.needs(two)]).map(|test| test.needs(pool)).collect())
}

/// The pool is everybody's, and some tests empty it.
fn alone() -> MutexGuard<'static, ()> {
    static POOL: Mutex<()> = Mutex::new(());
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pages of the pool that nobody has or has in reserve.
fn free() -> usize {
    let read = |name| {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}_hugepages");
        std::fs::read_to_string(path).map_or(0, |text| text.trim().parse::<usize>().expect("a number"))
    };
    read("free") - read("resv")
}

/// Takes all of them.
fn empty_the_pool() -> SharedMap {
    let (fd, pages) = (raw::huge_memfd().expect("memfd_create"), free());
    ftruncate(&fd, (pages * HUGE_PAGE) as i64).expect("ftruncate");
    let map = SharedMap::new(fd.as_fd(), pages * HUGE_PAGE).expect("all free huge pages");
    (0..pages).for_each(|page| map.set(page * HUGE_PAGE, 1));
    assert_eq!(free(), 0);
    map
}

fn sizes() -> Sizes {
    Sizes::new([CAPACITY; 2]).expect("a power of two")
}

fn block() -> Block {
    Block::create_huge(sizes(), [None; 2]).expect("two huge pages")
}

fn copy_of(block: &Block) -> OwnedFd {
    block.as_fd().try_clone_to_owned().expect("a descriptor")
}

fn map(block: &Block) -> Result<Unsealed, BlockError> {
    Unsealed::map(copy_of(block), sizes())
}

fn add(fd: impl AsFd, seals: SealFlag) -> Result<i32, Errno> {
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals))
}

fn sealed_block_is_touched_and_not_punched() {
    let _alone = alone();
    let block = block();
    assert_eq!((block.len(), block.resident().unwrap()), (2 * HUGE_PAGE, 2 * HUGE_PAGE as u64));
    let (a, b) = (map(&block).unwrap(), map(&block).unwrap());
    block.seal().unwrap();
    let (a, b) = (a.open().unwrap(), b.open().unwrap());
    assert_eq!(fallocate(&block, PUNCH, 0, HUGE_PAGE as i64), Err(Errno::EPERM));
    assert_eq!(block.reclaim().unwrap_err().raw_os_error(), Some(libc::EPERM), "not even the host");
    assert!(map(&block).is_err(), "nobody else can map it");
    assert_eq!((a.len(), b.len()), (2 * HUGE_PAGE, 2 * HUGE_PAGE));
    assert_eq!(block.stats(Direction::AToB).produced, 0);
}

fn changed_block_is_opened_by_nobody() {
    let _alone = alone();
    let unsealed = block();
    assert!(matches!(map(&unsealed).unwrap().open(), Err(BlockError::NotSealed { .. })));

    let punched = block();
    let (a, b) = (map(&punched).unwrap(), map(&punched).unwrap());
    fallocate(copy_of(&punched), PUNCH, 0, HUGE_PAGE as i64).unwrap();
    assert!(matches!(punched.seal(), Err(BlockError::Holes { .. })));
    for end in [a, b] {
        assert!(matches!(end.open(), Err(BlockError::Holes { .. })), "whatever the host says");
    }

    let kept_open = block();
    let end = map(&kept_open).unwrap();
    add(copy_of(&kept_open), SealFlag::F_SEAL_SEAL).unwrap();
    assert!(matches!(kept_open.seal(), Err(BlockError::NotSealed { .. })));
    assert!(matches!(end.open(), Err(BlockError::NotSealed { .. })));

    let early = block();
    add(copy_of(&early), SealFlag::F_SEAL_FUTURE_WRITE).unwrap();
    assert!(matches!(map(&early), Err(BlockError::Io(_))), "who comes later cannot map it");

    let scribbled = block();
    let end = map(&scribbled).unwrap();
    SharedMap::new(scribbled.as_fd(), HUGE_PAGE).unwrap().set(0, 0);
    scribbled.seal().unwrap();
    assert!(matches!(end.open(), Err(BlockError::Header)));
}

fn others_are_not_mapped() {
    let _alone = alone();
    let resize = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    let file = |flags, len: usize, seals| {
        let fd = memfd_create(c"other", flags | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&fd, len as i64).unwrap();
        add(&fd, seals).unwrap();
        fd
    };
    let (len, huge) = (huge_len(sizes()), MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB);
    let cases = [
        ("unsealed", file(huge, len, SealFlag::empty())),
        ("half sealed", file(huge, len, SealFlag::F_SEAL_GROW)),
        ("too small", file(huge, len - HUGE_PAGE, resize)),
        ("too large", file(huge, len + HUGE_PAGE, resize)),
        ("on ordinary pages", file(MFdFlags::empty(), len, resize)),
        ("a pipe", nix::unistd::pipe().unwrap().0),
    ];
    for (what, fd) in cases {
        assert!(Unsealed::map(fd, sizes()).is_err(), "{what}");
    }
    assert!(matches!(verify(copy_of(&block()), sizes()), Err(BlockError::NotSharedMemory)), "as one on ordinary pages");
}

fn block_gives_its_pages_back() {
    let _alone = alone();
    let before = free();
    let block = block();
    assert_eq!(free(), before - 2);
    let end = map(&block).unwrap();
    block.seal().unwrap();
    let mapping = end.open().unwrap();
    drop(block);
    assert_eq!(free(), before - 2, "an end still has it mapped");
    drop(mapping);
    assert_eq!(free(), before);
    let too_large = Sizes::new([((before + 1) * HUGE_PAGE).next_power_of_two() as u64; 2]).unwrap();
    assert_eq!(Block::create_huge(too_large, [None; 2]).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
    assert_eq!(free(), before, "nothing is left of one that could not be made");
}

fn rings_lie_where_they_should() {
    let _alone = alone();
    // Two whole pages each, and a bit.
    let sizes = Sizes::new([2 * HUGE_PAGE as u64; 2]).unwrap();
    for nodes in [[Node(0), Node(1)], [Node(1), Node(0)]] {
        let block = Block::create_huge(sizes, nodes.map(Some)).unwrap();
        block.seal().unwrap();
        for (direction, node) in Direction::BOTH.into_iter().zip(nodes) {
            assert_eq!(block.nodes(direction).unwrap(), BTreeSet::from([node]), "{direction:?} of {nodes:?}");
        }
    }
}

/// A service on huge pages and a process that listens.
struct Scene {
    host: HostProcess,
    server: Peer,
    address: std::net::SocketAddr,
}

impl Scene {
    fn new(capacity: u64) -> Self {
        let host = HostProcess::start_with(&["--huge-pages", "hugetlb", &format!("--ring-capacity={capacity}")]);
        let mut server = Peer::start(&Setup::with_host(host.socket()));
        let address = server.listen(Kind::Shm, [127, 0, 0, 1]);
        Self { host, server, address }
    }

    /// An honest client, upgraded, that has moved bytes both ways; and how many KiB of its block are on pages of the pool.
    fn honest(&mut self) -> (Peer, [usize; 2], usize) {
        let mut client = Peer::start(&Setup::with_host(self.host.socket()));
        let (c, s) = connect(&mut client, Kind::Shm, &mut self.server, self.address);
        assert_eq!(upgraded(&mut client, c, &mut self.server, s), ["upgraded"; 2]);
        let step = Move { write: MUCH, read: MUCH, ..Move::default() };
        client.tell(&Command::Move(c, step));
        self.server.tell(&Command::Move(s, step));
        for peer in [&mut client, &mut self.server] {
            assert_eq!(peer.moved().read, MUCH);
        }
        let maps = std::fs::read_to_string(format!("/proc/{}/smaps", client.pid())).expect("smaps");
        let block = maps.split_once("memfd:shmbc").expect("a block").1;
        let kib = block.lines().find_map(|line| line.strip_prefix("Shared_Hugetlb:")).expect("a count");
        (client, [c, s], kib.trim().trim_end_matches(" kB").parse().expect("a number"))
    }
}

fn connection_is_on_huge_pages() {
    let _alone = alone();
    let before = free();
    let mut scene = Scene::new(CAPACITY);
    let (mut client, [c, s], huge) = scene.honest();
    assert_eq!(huge, 2 * HUGE_PAGE / 1024);
    assert_eq!(free(), before - 2);
    client.done(&Command::Drop(c));
    scene.server.done(&Command::Drop(s));
    wait_until("the pages are back", || free() == before);
}

fn connection_is_on_ordinary_pages() {
    let _alone = alone();
    let taken = empty_the_pool();
    let mut scene = Scene::new(CAPACITY);
    assert_eq!(scene.honest().2, 0);
    drop(taken);
    assert_eq!(scene.honest().2, 2 * HUGE_PAGE / 1024, "later ones are on huge pages again");
}

/// An end that keeps to no rule: it holds what an end is granted, and no more.
struct Hostile {
    session: OwnedFd,
    tcp: TcpStream,
    block: OwnedFd,
    map: SharedMap,
    _bells: Vec<OwnedFd>,
}

impl Hostile {
    const ID: OfferId = OfferId(1);

    /// Connects, offers, and has its grant. The victim offers with its traffic.
    fn granted(scene: &mut Scene) -> (Self, usize) {
        let session = hello(scene.host.socket()).expect("a host service");
        scene.server.tell(&Command::Accept);
        let tcp = TcpStream::connect(scene.address).expect("connect");
        let stream = scene.server.stream();
        let (local, peer) = (tcp.local_addr().expect("an address"), tcp.peer_addr().expect("an address"));
        let offer = Offer { id: Self::ID, fd: tcp.as_raw_fd(), local, peer, cpu: 0 };
        socket::send(session.as_fd(), &ToHost::Offer(offer), &[]).expect("send");
        scene.server.tell(&Command::Move(stream, Move { write: MUCH, read: MUCH, ..Move::default() }));
        exchange(&tcp, 0..MUCH / 2);
        let (ToClient::Grant(grant), fds) = hear(&session) else { panic!("no grant") };
        assert_eq!(grant.pages, Pages::Hugetlb);
        let mut fds = fds.into_iter();
        let block = fds.next().expect("a block");
        let map = SharedMap::new(block.as_fd(), 2 * HUGE_PAGE).expect("mmap");
        (Self { session, tcp, block, map, _bells: fds.collect() }, stream)
    }

    fn say(&self, message: &ToHost) {
        socket::send(self.session.as_fd(), message, &[]).expect("send");
    }

    /// The rest of the victim's bytes go by TCP, and it closes, alive.
    fn goes_on_by_tcp(self, scene: &mut Scene, stream: usize) {
        exchange(&self.tcp, MUCH / 2..MUCH);
        let moved = scene.server.moved();
        assert_eq!((moved.wrote, moved.read), (MUCH, MUCH), "{moved:?}");
        scene.server.done(&Command::Shutdown(stream));
        scene.server.done(&Command::Drop(stream));
    }
}

/// The next message that is not about addresses.
fn hear(session: &OwnedFd) -> (ToClient, Vec<OwnedFd>) {
    loop {
        wait_for(session, PollFlags::IN);
        let got = socket::receive::<ToClient>(session.as_fd()).expect("receive").expect("a session");
        if !matches!(got.message, ToClient::Locality { .. }) {
            return (got.message, got.fds);
        }
    }
}

/// Writes this part of the stream that the victim expects, and reads as much.
fn exchange(mut tcp: &TcpStream, part: std::ops::Range<u64>) {
    let len = (part.end - part.start) as usize;
    let (mut write, mut read) = (vec![0; len], vec![0; len]);
    Pattern::new(1).fill(part.start, &mut write);
    thread::scope(|scope| {
        let mut out = tcp;
        scope.spawn(move || out.write_all(&write).expect("write"));
        tcp.read_exact(&mut read).expect("read");
    });
}

fn peer_punches() {
    let _alone = alone();
    let mut scene = Scene::new(CAPACITY);
    let (hostile, stream) = Hostile::granted(&mut scene);
    fallocate(&hostile.block, PUNCH, 0, 2 * HUGE_PAGE as i64).expect("not sealed yet");
    let _taken = empty_the_pool();
    assert_eq!(
        scene.host.connections().len(),
        2,
        "the service lives when it is asked for its tables: a grant and a listener"
    );
    hostile.say(&ToHost::Mapped(Hostile::ID));
    assert_eq!(hear(&hostile.session).0, ToClient::Refused(Hostile::ID, Refusal::Tampered));
    hostile.goes_on_by_tcp(&mut scene, stream);
}

fn peer_seals() {
    let _alone = alone();
    let mut scene = Scene::new(CAPACITY);
    let (hostile, stream) = Hostile::granted(&mut scene);
    add(&hostile.block, SealFlag::F_SEAL_SEAL).expect("not sealed yet");
    hostile.say(&ToHost::Mapped(Hostile::ID));
    assert_eq!(hear(&hostile.session).0, ToClient::Refused(Hostile::ID, Refusal::Tampered));
    hostile.goes_on_by_tcp(&mut scene, stream);
}

fn peer_is_silent() {
    let _alone = alone();
    let mut scene = Scene::new(CAPACITY);
    let (hostile, stream) = Hostile::granted(&mut scene);
    hostile.map.advise(libc::MADV_REMOVE).expect("not sealed yet");
    let _taken = empty_the_pool();
    // As if it had been told to go.
    hostile.say(&ToHost::Ready(Hostile::ID));
    hostile.goes_on_by_tcp(&mut scene, stream);
}

fn peer_is_late() {
    let _alone = alone();
    let mut scene = Scene::new(CAPACITY);
    let (hostile, stream) = Hostile::granted(&mut scene);
    hostile.say(&ToHost::Mapped(Hostile::ID));
    assert_eq!(hear(&hostile.session).0, ToClient::Sealed(Hostile::ID));
    let _taken = empty_the_pool();
    assert_eq!(fallocate(&hostile.block, PUNCH, 0, HUGE_PAGE as i64), Err(Errno::EPERM));
    assert_eq!(hostile.map.advise(libc::MADV_REMOVE).unwrap_err().raw_os_error(), Some(libc::EPERM));
    hostile.map.advise(libc::MADV_DONTNEED).expect("its own view only");
    hostile.say(&ToHost::Ready(Hostile::ID));
    assert_eq!(hear(&hostile.session).0, ToClient::Go(Hostile::ID));
    // The victim writes into the ring from here on, and the hostile end never reads it: its close is a reset.
    drop(hostile);
    scene.server.moved();
    scene.server.done(&Command::Drop(stream));
}
