//! The main road and its exits, on real connections over the real control socket.

mod common;

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
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

#[tokio::test]
async fn both_ends_when_offered_in_one_session_are_paired() {
    let service = start().await;
    let client = service.client().await;
    let (left, right) = tcp();
    client.offer(1, &left);
    client.offer(2, &right);
    let (ga, gb) = (client.granted().await, client.granted().await);
    assert_eq!((ga.grant.id, ga.grant.end), (OfferId(1), End::A));
    assert_eq!((gb.grant.id, gb.grant.end), (OfferId(2), End::B));
    client.say(&ToHost::Ready(OfferId(1)));
    client.say(&ToHost::Ready(OfferId(2)));
    client.told_to_go(1).await;
    client.told_to_go(2).await;
}

#[tokio::test]
async fn connection_when_v6_or_v4_mapped_is_paired() {
    let service = start().await;
    for address in ["[::1]:0", "[::]:0"] {
        let Ok(listener) = TcpListener::bind(address) else { continue };
        let port = listener.local_addr().unwrap().port();
        let to = if address == "[::]:0" { format!("127.0.0.1:{port}") } else { format!("[::1]:{port}") };
        let left = TcpStream::connect(to).unwrap();
        let (right, _) = listener.accept().unwrap();
        let client = service.client().await;
        client.offer(1, &left);
        client.offer(2, &right);
        client.granted().await;
        client.granted().await;
    }
}

#[tokio::test]
async fn lone_offer_when_the_other_end_never_offers_is_refused_in_the_end() {
    let service = start_with(|config| config.twin_timeout = Duration::from_millis(20)).await;
    let client = service.client().await;
    let (left, _right) = tcp();
    client.offer(1, &left);
    assert_eq!(client.refused(1).await, Refusal::NoTwin);
    service.until_empty().await;
}

#[tokio::test]
async fn grant_when_only_one_end_answers_in_time_is_refused_to_both() {
    let service = start_with(|config| config.ready_timeout = Duration::from_millis(20)).await;
    let client = service.client().await;
    let (left, right) = tcp();
    client.offer(1, &left);
    client.offer(2, &right);
    client.granted().await;
    client.granted().await;
    client.say(&ToHost::Ready(OfferId(1)));
    assert_eq!(client.refused(1).await, Refusal::NotReady);
    assert_eq!(client.refused(2).await, Refusal::NotReady);
    service.until_empty().await;
}

#[tokio::test]
async fn offer_when_it_does_not_name_its_connection_is_not_proven() {
    let service = start().await;
    let client = service.client().await;
    let (left, right) = tcp();
    let (local, peer) = (left.local_addr().unwrap(), left.peer_addr().unwrap());
    let other = "127.0.0.1:1".parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(peer).unwrap();
    let file = std::fs::File::open("/").unwrap();
    let closed = {
        let copy = left.try_clone().unwrap();
        copy.as_raw_fd()
    };
    let cases = [
        ("wrong local address", left.as_raw_fd(), other, peer),
        ("wrong peer address", left.as_raw_fd(), local, other),
        ("the other end's descriptor", right.as_raw_fd(), local, peer),
        ("a closed descriptor", closed, local, peer),
        ("no descriptor", -1, local, peer),
        ("no such descriptor", i32::MAX, local, peer),
        ("a listener", listener.as_raw_fd(), listener.local_addr().unwrap(), peer),
        ("a UDP socket", udp.as_raw_fd(), udp.local_addr().unwrap(), peer),
        ("a directory", file.as_raw_fd(), local, peer),
        ("the control socket", client.as_fd().as_raw_fd(), local, peer),
    ];
    for (id, (what, fd, local, peer)) in (0..).zip(cases) {
        client.offer_as(id, fd, local, peer);
        assert_eq!(client.refused(id).await, Refusal::NotProven, "{what}");
    }
    client.offer(100, &left);
    client.offer(101, &right);
    client.granted().await;
}

#[tokio::test]
async fn client_when_it_speaks_of_anothers_offer_is_ignored() {
    let service = start().await;
    let (a, b, stranger) = (service.client().await, service.client().await, service.client().await);
    let (left, right) = tcp();
    let meddle = async || {
        for id in [1, 2] {
            stranger.say(&ToHost::Ready(OfferId(id)));
            stranger.say(&ToHost::Decline(OfferId(id), Decline::Unsound));
            stranger.say(&ToHost::Close(OfferId(id)));
        }
        stranger.settled().await;
    };
    a.offer(1, &left);
    a.settled().await;
    meddle().await;
    b.offer(2, &right);
    a.granted().await;
    b.granted().await;
    meddle().await;
    a.say(&ToHost::Ready(OfferId(1)));
    a.settled().await;
    meddle().await;
    assert_eq!(service.host.counts().granted, 1, "only its own end can make it ready");
    b.say(&ToHost::Ready(OfferId(2)));
    a.told_to_go(1).await;
    b.told_to_go(2).await;
    meddle().await;
    assert_eq!(service.host.counts().established, 1);
}

#[tokio::test]
async fn client_when_it_repeats_itself_or_speaks_of_nothing_is_ignored() {
    let service = start().await;
    let client = service.client().await;
    for id in [0, 1, u64::MAX] {
        client.say(&ToHost::Ready(OfferId(id)));
        client.say(&ToHost::Decline(OfferId(id), Decline::Closed));
        client.say(&ToHost::Close(OfferId(id)));
    }
    let (left, right) = tcp();
    client.offer(1, &left);
    client.offer(1, &left);
    client.offer_as(1, -1, left.local_addr().unwrap(), left.peer_addr().unwrap());
    client.offer(2, &right);
    client.granted().await;
    client.granted().await;
    for _ in 0..3 {
        client.say(&ToHost::Ready(OfferId(1)));
    }
    client.say(&ToHost::Ready(OfferId(2)));
    client.say(&ToHost::Ready(OfferId(2)));
    client.told_to_go(1).await;
    client.told_to_go(2).await;
    for id in [1, 2] {
        client.say(&ToHost::Close(OfferId(id)));
        client.say(&ToHost::Close(OfferId(id)));
        client.say(&ToHost::Ready(OfferId(id)));
    }
    service.until_empty().await;
    client.settled().await;
}

#[tokio::test]
async fn client_when_over_its_quota_is_told_in_a_sentence() {
    let service = start_with(|config| {
        config.policy.limits.connections = 2;
        config.policy.limits.block_bytes = 4 * (2 * 4096 + (128 << 10));
    })
    .await;
    let client = service.client().await;
    let pairs = [tcp(), tcp()];
    client.offer(1, &pairs[0].0);
    client.offer(2, &pairs[0].1);
    client.granted().await;
    client.granted().await;
    client.offer(3, &pairs[1].0);
    let Refusal::Quota(sentence) = client.refused(3).await else { panic!("no quota") };
    let me = format!("uid {} outside of containers", nix::unistd::getuid());
    assert_eq!(sentence, format!("{me} has 2 of at most 2 connections: raise limits.connections of the host service"));

    let service = start_with(|config| config.policy.limits.block_bytes = 1000).await;
    let client = service.client().await;
    client.offer(1, &pairs[0].0);
    client.offer(2, &pairs[0].1);
    let refused = client.refused(1).await;
    let why = format!("{me} has 0 of at most 1000 bytes of blocks: raise limits.block_bytes of the host service");
    assert_eq!(refused, Refusal::Quota(why));
    assert_eq!(client.refused(2).await, refused);

    let service = start_with(|config| config.policy.limits.offers_per_second = 1).await;
    let client = service.client().await;
    client.offer(1, &pairs[0].0);
    client.offer(2, &pairs[0].1);
    assert!(matches!(client.refused(2).await, Refusal::Quota(why) if why.contains("more than 1 connections a second")));

    let service = start_with(|config| config.memory = Some(1000)).await;
    let client = service.client().await;
    client.offer(1, &pairs[0].0);
    client.offer(2, &pairs[0].1);
    let why =
        "all connections together have 0 of at most 1000 bytes of blocks: raise blocks.memory of the host service";
    assert_eq!(client.refused(1).await, Refusal::Quota(why.into()));

    let service = start_with(|config| config.policy.limits.sessions = 1).await;
    let _first = service.client().await;
    let second = raw(service.host.socket());
    assert!(!matches!(hear(&second).await, Ok(Some(_))), "turned away at the door");
}

#[tokio::test]
async fn addresses_when_a_client_arrives_are_those_of_this_host_without_loopback() {
    let service = start().await;
    let socket = raw(service.host.socket());
    shmbc::control::socket::send(socket.as_fd(), &ToHost::Hello { protocol: PROTOCOL }, &[]).unwrap();
    assert!(matches!(hear(&socket).await.unwrap().unwrap().message, ToClient::Welcome { .. }));
    let ToClient::Locality { fresh: true, entries } = hear(&socket).await.unwrap().unwrap().message else {
        panic!("no addresses after the welcome");
    };
    assert!(entries.iter().all(|entry| !entry.ip.is_loopback() && entry.container.is_none()), "{entries:?}");
    for interface in nix::ifaddrs::getifaddrs().unwrap() {
        if let Some(ip) = interface.address.as_ref().and_then(|a| a.as_sockaddr_in().map(|a| a.ip()))
            && !ip.is_loopback()
            && !ip.is_link_local()
        {
            assert!(entries.iter().any(|entry| entry.ip == ip), "{ip} is missing in {entries:?}");
        }
    }
}

#[tokio::test]
async fn tables_when_listed_show_states_ends_bytes_and_reasons() {
    let service = start_with(|config| config.twin_timeout = Duration::from_millis(20)).await;
    let client = service.client().await;
    let lone: Vec<_> = (0..5).map(|_| tcp()).collect();
    for (id, (left, _)) in (10..).zip(&lone) {
        client.offer(id, left);
    }
    for id in 10..15 {
        assert_eq!(client.refused(id).await, Refusal::NoTwin);
    }
    let (left, right) = tcp();
    client.offer(1, &left);
    client.offer(2, &right);
    client.granted().await;
    client.granted().await;
    client.say(&ToHost::ListConnections);
    let mut rows = Vec::new();
    loop {
        let (ToClient::Connections { rows: more, last }, _) = client.hear().await else { panic!("no rows") };
        assert!(more.len() <= MAX_ROWS);
        rows.extend(more);
        if last {
            break;
        }
    }
    assert_eq!(rows.len(), 6);
    assert_eq!(rows[0].state, ConnectionState::Granted);
    assert_eq!(rows[0].block, 2 * 4096 + (128 << 10));
    assert_eq!(rows[0].ends[0].local, left.local_addr().unwrap());
    assert_eq!(rows[0].ends[1].local, right.local_addr().unwrap());
    assert_eq!(rows[0].ends[0].pid, std::process::id() as i32);
    for row in &rows[1..] {
        assert_eq!((row.state, &row.refusal), (ConnectionState::Refused, &Some(Refusal::NoTwin)));
    }
}

#[tokio::test]
async fn service_when_shut_down_tells_who_waits_and_lets_go_of_what_is_established() {
    let service = start().await;
    let client = service.client().await;
    let (left, right) = tcp();
    client.offer(1, &left);
    client.offer(2, &right);
    let granted = client.granted().await;
    client.granted().await;
    client.say(&ToHost::Ready(OfferId(1)));
    client.say(&ToHost::Ready(OfferId(2)));
    client.told_to_go(1).await;
    client.told_to_go(2).await;
    let lone = tcp();
    client.offer(3, &lone.0);
    client.settled().await;
    let before = nix::sys::stat::fstat(&granted.fds[0]).unwrap().st_blocks;
    let path = service.host.socket().to_owned();
    service.host.shutdown().await;
    assert_eq!(client.refused(3).await, Refusal::Draining);
    client.ended().await;
    assert!(!path.exists(), "the socket's file is gone");
    let after = nix::sys::stat::fstat(&granted.fds[0]).unwrap().st_blocks;
    assert!(before > 0 && after == before, "what established connections use stays");
}
