//! A forked child drops its copy of a stream: its parent and the peer go on, and the end is what TCP says.
//!
//! Not tried with tokio's own stream, whose copy takes the parent's out of the `epoll` that both share: the parent hears nothing more.

use std::net::Ipv4Addr;
use std::process::ExitCode;

use shmbc_tests::peer::{connect, upgraded};
use shmbc_tests::script::{Command, Kind, Move, Moved, TO_THE_END};
use shmbc_tests::{HostProcess, Peer, Setup, suite, test};

fn main() -> ExitCode {
    suite(vec![
        test("stream_when_dropped_in_a_forked_child_goes_on_and_is_upgraded", || goes_on(false)),
        test("stream_when_dropped_in_a_forked_child_goes_on_in_shared_memory", || goes_on(true)),
    ])
}

fn goes_on(upgrade: bool) {
    let host = HostProcess::start();
    let setup = Setup::with_host(host.socket());
    let (mut parent, mut peer) = (Peer::start(&setup), Peer::start(&setup));
    let address = parent.listen(Kind::Shm, Ipv4Addr::LOCALHOST);
    let (p, s) = connect(&mut peer, Kind::Shm, &mut parent, address);
    if upgrade {
        assert_eq!(upgraded(&mut peer, p, &mut parent, s), ["upgraded"; 2]);
    }
    // Bytes that nobody has read: a close would be a reset.
    let sent = Moved { wrote: 1000, ..Moved::default() };
    assert_eq!(peer.moves(p, Move { write: 1000, ..Move::default() }), sent);
    parent.done(&Command::DropInChild(s));
    assert_eq!(parent.moves(s, Move { read: 1000, ..Move::default() }).read, 1000);
    assert_eq!(upgraded(&mut peer, p, &mut parent, s), ["upgraded"; 2]);
    // Turn after turn, so that both sleep and are woken.
    let chat = |stream, first| Command::PingPong { stream, first, rounds: 200, bytes: 100 };
    peer.tell(&chat(p, true));
    parent.tell(&chat(s, false));
    let all = Moved { wrote: 20_000, read: 20_000, ..Moved::default() };
    assert_eq!((peer.moved(), parent.moved()), (all.clone(), all));
    parent.done(&Command::DropInChild(s));
    parent.done(&Command::Drop(s));
    let end = peer.moves(p, Move { read: TO_THE_END, ..Move::default() });
    assert_eq!((end.read, end.read_end.as_deref()), (0, Some("eof")));
}
