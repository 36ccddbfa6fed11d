//! A client process that is killed: its end counts as closed, and the memory comes back once the other end is done.

mod common;

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::*;
use shmbc::control::message::*;

const ROLE: &str = "SHMBC_TEST_KILLED";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_when_killed_counts_as_closed_and_its_block_is_taken_back_with_the_other_end() {
    if let Ok(role) = std::env::var(ROLE) {
        return child(&role).await;
    }
    let service = start().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let role = format!("{} {}", listener.local_addr().unwrap(), service.host.socket().display());
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["process_when_killed_counts_as_closed_and_its_block_is_taken_back_with_the_other_end", "--exact"])
        .env(ROLE, role)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (stream, _) = listener.accept().unwrap();
    let client = service.client().await;
    client.offer(1, &stream);
    let granted = client.granted().await;
    assert_eq!(granted.grant.peer.pid, other.id() as i32, "the peer is the other process");
    client.say(&ToHost::Ready(OfferId(1)));
    client.told_to_go(1).await;

    other.kill().unwrap();
    other.wait().unwrap();
    service.until("its session ends", |counts| counts.sessions == 1).await;
    let resident = || nix::sys::stat::fstat(&granted.fds[0]).unwrap().st_blocks;
    assert_eq!(service.host.counts().established, 1);
    assert!(resident() > 0, "this end may still be reading");
    client.say(&ToHost::Close(OfferId(1)));
    service.until_empty().await;
    assert_eq!(resident(), 0, "taken back, though the descriptor is still here");
}

async fn child(role: &str) {
    let (address, socket) = role.split_once(' ').unwrap();
    let stream = TcpStream::connect(address).unwrap();
    let client = Client::greeted(&PathBuf::from(socket)).await;
    client.offer(1, &stream);
    client.granted().await;
    client.say(&ToHost::Ready(OfferId(1)));
    client.told_to_go(1).await;
    std::future::pending::<()>().await;
}
