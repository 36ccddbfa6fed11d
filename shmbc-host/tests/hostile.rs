//! Clients that break the rules: their own session ends, and nothing else happens.

mod common;

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use common::*;
use rustix::net::{SendFlags, send};
use shmbc::control::codec::{self, MAX_FRAME};
use shmbc::control::message::*;
use shmbc::control::socket;

/// Sends raw bytes; the service may have ended the session already.
fn throw(client: &Client, bytes: &[u8]) {
    let _ = send(client.as_fd(), bytes, SendFlags::NOSIGNAL);
}

async fn still_works(service: &Service) {
    let client = service.client().await;
    let (left, right) = tcp();
    client.offer(1, &left);
    client.offer(2, &right);
    client.granted().await;
    client.granted().await;
}

#[tokio::test]
async fn frame_when_garbage_or_too_long_or_cut_ends_its_session_only() {
    let service = start().await;
    let witness = service.client().await;
    let good = codec::encode(&ToHost::Close(OfferId(300))).unwrap();
    let mut longer = good.clone();
    longer.push(0);
    let frames: Vec<Vec<u8>> = vec![
        b"garbage".to_vec(),
        vec![],
        vec![0],
        vec![1],
        vec![1, 200],
        vec![1; 600],
        vec![0xff; MAX_FRAME],
        vec![1; MAX_FRAME + 1],
        vec![0; 100_000],
        good[..good.len() - 1].to_vec(),
        longer,
        codec::encode(&ToClient::Go(OfferId(1))).unwrap().into_iter().chain([9]).collect(),
    ];
    for frame in frames {
        let client = service.client().await;
        throw(&client, &frame);
        client.ended().await;
    }
    witness.settled().await;
    still_works(&service).await;
}

#[tokio::test]
async fn session_when_it_does_not_begin_with_one_hello_of_this_protocol_is_ended() {
    let service = start().await;
    let first = raw(service.host.socket());
    socket::send(first.as_fd(), &ToHost::ListContainers, &[]).unwrap();
    assert!(matches!(hear(&first).await, Ok(None) | Err(_)));

    let other = raw(service.host.socket());
    socket::send(other.as_fd(), &ToHost::Hello { protocol: PROTOCOL + 1 }, &[]).unwrap();
    let welcome = hear(&other).await.unwrap().unwrap().message;
    assert!(matches!(welcome, ToClient::Welcome { protocol: PROTOCOL, .. }), "it learns which version would be right");
    assert!(matches!(hear(&other).await, Ok(None) | Err(_)));

    let twice = service.client().await;
    twice.say(&ToHost::Hello { protocol: PROTOCOL });
    twice.ended().await;

    let silent = raw(service.host.socket());
    assert!(matches!(hear(&silent).await, Ok(None) | Err(_)), "after some seconds");
    still_works(&service).await;
}

#[tokio::test]
async fn frame_when_descriptors_come_with_it_is_refused_by_the_kernel_or_ends_the_session() {
    let service = start().await;
    let client = service.client().await;
    let message = ToHost::Close(OfferId(1));
    match socket::send(client.as_fd(), &message, &[client.as_fd()]) {
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        Ok(()) => client.ended().await,
    }
    still_works(&service).await;
}

#[tokio::test]
async fn client_when_it_does_not_read_is_let_go_and_others_are_served() {
    // All clients here are one user, so what the deaf one may offer the others may not.
    let service = start_with(|config| config.policy.limits.offers_per_second = u32::MAX).await;
    let deaf = service.client().await;
    let address = "127.0.0.1:1".parse().unwrap();
    let flood = async {
        for id in 0.. {
            let offer = ToHost::Offer(Offer { id: OfferId(id), fd: -1, local: address, peer: address, cpu: 0 });
            match socket::send(deaf.as_fd(), &offer, &[]) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(_) => return,
            }
            if id % 500 == 0 {
                still_works(&service).await;
            }
        }
    };
    tokio::time::timeout(WATCHDOG, flood).await.expect("the service never lets go of it");
    service.until("all sessions end", |counts| counts.sessions == 0).await;
}
