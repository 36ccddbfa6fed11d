//! A connection takes memory while it moves bulk, and gives it back when it rests: as the kernel counts the block's pages.

use std::os::linux::fs::MetadataExt;
use std::process::ExitCode;

use shmbc_tests::peer::{connect, upgraded};
use shmbc_tests::script::{Command, Kind, Move};
use shmbc_tests::sockets::wait_until;
use shmbc_tests::{HostProcess, Peer, Setup, suite, test};

/// Moved in a burst.
const BURST: u64 = 8 << 20;

fn main() -> ExitCode {
    suite(vec![test("connection_when_it_rests_after_a_burst_keeps_two_pages", keeps_two_pages)])
}

/// Bytes of memory of the largest block that the host service holds. (Those in its stock have their header.)
fn largest_block(host: &HostProcess) -> u64 {
    let fds = std::fs::read_dir(format!("/proc/{}/fd", host.pid())).expect("its descriptors");
    let blocks = fds.flatten().filter(|fd| {
        std::fs::read_link(fd.path()).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:shmbc"))
    });
    blocks.filter_map(|fd| Some(std::fs::metadata(fd.path()).ok()?.st_blocks() * 512)).max().unwrap_or(0)
}

fn keeps_two_pages() {
    let host = HostProcess::start();
    let [mut client, mut server] = [0, 1].map(|_| Peer::start(&Setup::with_host(host.socket())));
    let address = server.listen(Kind::Shm, [127, 0, 0, 1]);
    let (c, s) = connect(&mut client, Kind::Shm, &mut server, address);
    assert_eq!(upgraded(&mut client, c, &mut server, s), ["upgraded"; 2]);
    let burst = Move { write: BURST, read: BURST, ..Move::default() };
    for _ in 0..2 {
        client.tell(&Command::Move(c, burst));
        server.tell(&Command::Move(s, burst));
        for peer in [&mut client, &mut server] {
            let moved = peer.moved();
            assert_eq!((moved.wrote, moved.read), (BURST, BURST), "{moved:?}");
        }
        let spread = largest_block(&host);
        assert!(spread > 1 << 20, "{spread} bytes after a burst");
        // An end gives back what it has written once it waits for the next byte: first the one, then the other. How much that is
        // depends on how far each came ahead of its reader.
        let (waits, answers) = (Move { read: 1, ..Move::default() }, Move { write: 1, read: 1, ..Move::default() });
        client.tell(&Command::Move(c, waits));
        wait_until("the client's ring is given back", || largest_block(&host) < spread);
        server.tell(&Command::Move(s, answers));
        assert_eq!(client.moved().read, 1);
        wait_until("both rings are given back", || largest_block(&host) == 8192);
        assert_eq!(client.moves(c, Move { write: 1, ..Move::default() }).wrote, 1);
        assert_eq!(server.moved().read, 1);
    }
}
