//! What clients say of connections that an earlier service has granted: believed as far as it can be seen.

mod common;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use common::*;
use shmbc::block::Block;
use shmbc::control::message::*;
use shmbc::layout::Sizes;

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn announce(client: &Client, id: u64, stream: &TcpStream, end: End, mapped: (u64, u64)) {
    let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    let offer = Offer { id: OfferId(id), fd: stream.as_raw_fd(), local, peer, cpu: 0 };
    client.say(&ToHost::Announce(Announcement { offer, end, mapped }));
}

/// A connection and where each end says that its block is.
async fn established(service: &Service, mapped: [(u64, u64); 2]) -> usize {
    let (a, b) = tcp_pair();
    let [one, other] = [service.client().await, service.client().await];
    announce(&one, 1, &a, End::A, mapped[0]);
    announce(&other, 7, &b, End::B, mapped[1]);
    one.told_to_go(1).await;
    other.told_to_go(7).await;
    let blocks = service.host.counts().blocks;
    one.say(&ToHost::Close(OfferId(1)));
    other.say(&ToHost::Close(OfferId(7)));
    service.until_empty().await;
    blocks
}

/// A mapping of all of `file`, for as long as this process lives.
fn map(file: &impl AsFd, len: usize) -> (u64, u64) {
    let map = memmap2::MmapOptions::new().len(len).map_raw_read_only(file.as_fd().as_raw_fd()).unwrap();
    let at = (map.as_ptr().addr() as u64, len as u64);
    std::mem::forget(map);
    at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_when_both_ends_have_the_same_one_are_taken_over_and_anything_else_is_not() {
    let service = start().await;
    let sizes = Sizes::new([8192; 2]).unwrap();
    let [block, other] = [Block::create(sizes).unwrap(), Block::create(sizes).unwrap()];
    let len = sizes.block_len();
    let [mine, yours, elsewhere] = [map(&block, len), map(&block, len), map(&other, len)];
    let can_look = std::fs::File::open(format!("/proc/self/map_files/{:x}-{:x}", mine.0, mine.0 + mine.1)).is_ok();
    assert_eq!(established(&service, [mine, yours]).await, usize::from(can_look));
    assert_eq!(block.resident().unwrap() == 0, can_look, "given back with the connection");

    let third = Block::create(sizes).unwrap();
    let third = map(&third, len);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![0; len]).unwrap();
    let file = map(&file, len);
    let unsealed = nix::sys::memfd::memfd_create(c"shmbc", nix::sys::memfd::MFdFlags::empty()).unwrap();
    nix::unistd::ftruncate(&unsealed, len as i64).unwrap();
    let unsealed = map(&unsealed, len);
    let lies = [
        ("an emptied block", [mine, yours]),
        ("two blocks", [third, elsewhere]),
        ("an ordinary file", [file, file]),
        ("no seals", [unsealed, unsealed]),
        ("half of it", [(third.0, third.1 / 2); 2]),
        ("nothing there", [(4096, 4096); 2]),
        ("no address", [(u64::MAX, u64::MAX); 2]),
    ];
    for (what, mapped) in lies {
        assert_eq!(established(&service, mapped).await, 0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announcement_when_its_socket_is_another_or_its_session_ends_leaves_nothing() {
    let service = start().await;
    let (a, b) = tcp_pair();
    let client = service.client().await;
    // Each names the descriptor of the other, with its own addresses.
    let offer = |id, stream: &TcpStream, fd: &TcpStream| {
        let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        Offer { id: OfferId(id), fd: fd.as_raw_fd(), local, peer, cpu: 0 }
    };
    client.say(&ToHost::Announce(Announcement { offer: offer(1, &a, &b), end: End::A, mapped: (0, 0) }));
    // Handled after it, in the order in which they came.
    announce(&client, 2, &a, End::A, (0, 0));
    service.until("the true one is listed", |counts| counts.established == 1).await;
    drop(client);
    service.until("it goes with its session", |counts| counts.established == 0).await;
}
