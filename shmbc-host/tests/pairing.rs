//! The main road and its exits, on real connections over the real control socket.

mod common;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use common::*;
use shmbc::block;
use shmbc::control::message::*;
use shmbc::doorbell::Ringer;
use shmbc::layout::Direction;

#[tokio::test]
async fn two_ends_of_one_connection_when_both_offer_and_are_ready_are_told_to_go() {
    let service = start().await;
    let (a, b) = (service.client().await, service.client().await);
    let (left, right) = tcp();
    a.offer(1, &left);
    a.settled().await;
    b.offer(7, &right);
    let (ga, gb) = (a.granted().await, b.granted().await);
    assert_eq!((ga.grant.id, gb.grant.id), (OfferId(1), OfferId(7)));
    assert_eq!((ga.grant.end, gb.grant.end), (End::A, End::B));
    assert_eq!(ga.grant.send_token, gb.grant.receive_token);
    assert_eq!(gb.grant.send_token, ga.grant.receive_token);
    assert_ne!(ga.grant.send_token, ga.grant.receive_token);
    assert_eq!(ga.grant.peer.pid, std::process::id() as i32);
    assert_eq!(ga.grant.peer.uid, nix::unistd::getuid().as_raw());
    assert_eq!((service.host.counts().granted, service.host.counts().blocks), (1, 1));

    // Each rings what the other waits on, and both map the same block.
    let mut bells = Vec::new();
    for (rings, waits) in [(&ga, &gb), (&gb, &ga)] {
        let waiter = waits.fds[2].try_clone().unwrap();
        let ringer = Ringer::adopt(rings.fds[1].try_clone().unwrap()).unwrap();
        let mut fds = [rustix::event::PollFd::new(&waiter, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut fds, Some(&now)).unwrap(), 0, "silent before it is rung");
        ringer.ring().unwrap();
        let mut fds = [rustix::event::PollFd::new(&waiter, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut fds, Some(&now)).unwrap(), 1, "heard");
        bells.push(ringer);
    }
    let sizes = ga.grant.sizes().unwrap();
    assert_eq!(sizes.capacity(Direction::AToB), 64 << 10);
    let inode = |fd: &std::os::fd::OwnedFd| nix::sys::stat::fstat(fd).unwrap().st_ino;
    assert_eq!(inode(&ga.fds[0]), inode(&gb.fds[0]));
    block::verify(ga.fds[0].try_clone().unwrap(), sizes).unwrap();
    block::verify(gb.fds[0].try_clone().unwrap(), sizes).unwrap();

    a.say(&ToHost::Ready(OfferId(1)));
    a.settled().await;
    assert_eq!(service.host.counts().granted, 1, "one ready end is not enough");
    b.say(&ToHost::Ready(OfferId(7)));
    a.told_to_go(1).await;
    b.told_to_go(7).await;
    assert_eq!(service.host.counts().established, 1);

    a.say(&ToHost::Close(OfferId(1)));
    a.settled().await;
    let counts = service.host.counts();
    assert_eq!((counts.established, counts.blocks), (1, 1), "the other end may still be reading");
    b.say(&ToHost::Close(OfferId(7)));
    service.until_empty().await;
    let blocks = nix::sys::stat::fstat(&ga.fds[0]).unwrap().st_blocks;
    assert_eq!(blocks, 0, "the memory is back though the descriptors are still here");
    drop((left, right));
}
