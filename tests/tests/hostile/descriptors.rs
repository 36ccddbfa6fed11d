//! Every descriptor that came with the grant is abused, while bytes flow.

use std::time::Duration;

use nix::sys::signal::Signal;
use shmbc_tests::script::{Answer, Command, Move};
use shmbc_tests::sockets::wait_until;
use shmbc_tests::suite::Test;
use shmbc_tests::{Need, test};

use crate::orders::{Assault, Order, Wreck};
use crate::scene::Scene;
use crate::traced;

const BYTES: u64 = 512 << 10;
const PATIENCE: Duration = Duration::from_secs(900);

/// What does nothing to the victim: the bytes flow on.
pub(crate) const HARMLESS: [Wreck; 9] = [
    Wreck::Unblock,
    Wreck::FillAndDrain,
    Wreck::Block,
    Wreck::Hang,
    Wreck::Watch,
    Wreck::Rewire,
    Wreck::Resize,
    Wreck::Seal,
    Wreck::PageOut,
];

/// What may stop the bytes, or make them other bytes.
pub(crate) const HARMFUL: [Wreck; 5] = [Wreck::Fill, Wreck::PunchRings, Wreck::PunchAll, Wreck::Remove, Wreck::Close];

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("descriptors_when_abused_in_ways_that_cannot_matter_do_not_matter", harmless).patience(PATIENCE),
        test("descriptors_when_abused_in_ways_that_can_end_that_connection_only", harmful).patience(PATIENCE),
        test("doorbell_when_rung_without_end_disturbs_no_other_connection", storm).patience(PATIENCE),
        test("doorbell_when_it_cannot_be_watched_leaves_the_stream_on_tcp", exhausted),
        test("system_calls_when_descriptors_are_abused_never_block", traced::never_block)
            .needs(Need::Other("strace that may trace a process of the same user", traced::can_trace))
            .patience(PATIENCE),
    ]
}

fn harmless() {
    let mut scene = Scene::new();
    for wreck in HARMLESS {
        let (report, ending) = scene.suffer(Assault::Wreck(wreck), BYTES);
        assert!(report.wrote >= BYTES && report.read >= BYTES && !report.reset, "{wreck:?}: {report:?}, {ending:?}");
        match wreck {
            Wreck::Resize | Wreck::Seal => assert_eq!(report.found, "", "{wreck:?}: the block is sealed"),
            Wreck::Hang => assert!(report.found.contains("Some(E"), "the kernel stops this: {report:?}"),
            _ => {}
        }
    }
    scene.over();
}

fn harmful() {
    let mut scene = Scene::new();
    for wreck in HARMFUL {
        for _ in 0..5 {
            scene.suffer(Assault::Wreck(wreck), BYTES);
        }
    }
    scene.over();
}

fn storm() {
    let mut scene = Scene::new();
    for _ in 0..3 {
        let stream = scene.upgraded();
        scene.busy(stream);
        let report = scene.hostile.assault(Assault::Storm, BYTES);
        assert!(report.strikes > 0);
        scene.ending(stream);
        scene.meet_a_friend();
    }
    scene.over();
}

/// The kernel limits the paths from a file through epoll instances; the hostile process, which holds the eventfd, can use them up before
/// the victim watches its half.
fn exhausted() {
    let mut scene = Scene::new();
    let stream = scene.connect();
    scene.victim.tell(&Command::Upgraded(stream));
    let host = &scene.host;
    wait_until("the victim has offered", || host.connections().iter().any(|row| row["state"] == "offered"));
    scene.victim.stop();
    scene.hostile.order(&Order::Offer);
    scene.hostile.order(&Order::Grant);
    let hung = scene.hostile.order(&Order::Exhaust);
    assert!(hung.contains("Some(E"), "the kernel stops this: {hung}");
    scene.victim.signal(Signal::SIGCONT);
    let Answer::Text(answer) = scene.victim.answer() else { panic!("no sentence") };
    assert!(answer.starts_with("declined"), "{answer}");
    scene.hostile.order(&Order::SendByTcp(1000));
    assert_eq!(scene.victim.moves(stream, Move { write: 1000, read: 1000, tell_at: None }).read, 1000);
    scene.busy(stream);
    scene.ending(stream);
    scene.over();
}
