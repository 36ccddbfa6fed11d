//! A mistake in one session ends that session, and nobody else notices.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use shmbc::control::message::{OfferId, PROTOCOL, ToClient, ToHost};
use shmbc::control::socket;

use super::*;
use crate::Docker;

/// Closing this offer makes a session panic, in these tests only.
pub(crate) const PANICS: ToHost = ToHost::Close(OfferId(u64::MAX));

fn greeted(path: &Path) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let client = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    rustix::net::connect(&client, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket::send(client.as_fd(), &ToHost::Hello { protocol: PROTOCOL }, &[]).unwrap();
    assert!(matches!(hear(&client), Some(ToClient::Welcome { .. })));
    client
}

/// The next message; nothing when the session has ended.
fn hear(client: &OwnedFd) -> Option<ToClient> {
    let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
    assert_ne!(poll(&mut [PollFd::new(client, PollFlags::IN)], Some(&patience)).unwrap(), 0, "it says nothing");
    socket::receive(client.as_fd()).ok().flatten().map(|received| received.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn session_when_it_panics_ends_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = HostConfig::at(directory.path().join("host.sock"));
    config.docker = Docker::Off;
    config.stock = 1;
    let host = Host::start(config).await.unwrap();
    let path = host.socket().to_owned();
    let talk = move || {
        let (unlucky, other) = (greeted(&path), greeted(&path));
        socket::send(unlucky.as_fd(), &PANICS, &[]).unwrap();
        while hear(&unlucky).is_some() {}
        let answered = |client: &OwnedFd| {
            socket::send(client.as_fd(), &ToHost::ListContainers, &[]).unwrap();
            while let Some(message) = hear(client) {
                if matches!(message, ToClient::Containers { .. } | ToClient::Forbidden { .. }) {
                    return true;
                }
            }
            false
        };
        assert!(answered(&other), "who was there is served");
        let next = greeted(&path);
        assert!(answered(&next), "who comes is served");
        [unlucky, other, next]
    };
    let sockets = tokio::task::spawn_blocking(talk).await.unwrap();
    let counted = async {
        while host.hub.panics.total() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), counted).await.expect("it is counted");
    assert_eq!(host.counts().sessions, 2, "it is in no table");
    drop(sockets);
    host.shutdown().await;
}
