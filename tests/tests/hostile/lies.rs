//! Lies about the switch: counts, tokens, half-closed marks, and a Ready of one that has mapped nothing.

use std::time::Duration;

use shmbc_tests::process::open_fds;
use shmbc_tests::script::{Answer, Command, Move, Moved, TO_THE_END};
use shmbc_tests::sockets::wait_until;
use shmbc_tests::suite::Test;
use shmbc_tests::test;

use crate::orders::{Assault, Order, Switch};
use crate::scene::{Ending, Scene};

/// Far more than any of them takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn tests() -> Vec<Test> {
    let tests = [
        test("token_when_one_bit_is_wrong_resets_the_connection", || resets(Switch::WrongToken)),
        test("count_when_it_lies_in_the_past_resets_the_connection", || resets(Switch::Past)),
        test("count_when_it_lies_far_ahead_is_data_until_the_end", count_far_ahead),
        test("token_when_it_never_comes_is_an_end_at_the_end", token_never_comes),
        test("token_when_it_never_comes_keeps_no_dropped_stream", token_never_comes_to_a_dropped_stream),
        test("tokens_when_they_never_come_to_many_dropped_streams_keep_few_descriptors", tokens_never_come_to_many),
        test("token_when_unannounced_is_data", token_unannounced),
        test("switch_when_forbidden_by_the_peer_leaves_the_stream_on_tcp", switch_forbidden),
        test("tcp_bytes_behind_the_token_when_too_many_reset_the_connection", too_many_stray_bytes),
        test("half_closed_mark_when_silence_follows_is_backpressure_until_the_peer_goes", half_closed_and_silent),
        test(
            "half_closed_mark_when_its_fin_and_silence_follow_is_backpressure_until_the_peer_goes",
            half_closed_with_fin,
        ),
        test("half_closed_peer_when_it_takes_the_probes_and_goes_breaks_the_blocked_writer", half_closed_takes_probes),
        test("upgraded_when_the_connection_is_reset_returns", upgraded_when_reset),
        test("upgraded_when_the_peer_is_gone_behind_unread_bytes_returns", upgraded_when_unread),
        test("ready_when_nothing_was_mapped_harms_nobody", ready_without_mapping),
        test("grant_when_never_answered_ends_as_tcp", grant_never_answered),
    ];
    tests.into_iter().map(|test| test.patience(PATIENCE)).collect()
}

/// Both have talked by TCP until the victim offers, and are told to go. The victim does nothing meanwhile.
fn told_to_go(scene: &mut Scene, ready: &[Order]) -> usize {
    let stream = scene.connect();
    for _ in 0..3 {
        scene.hostile.order(&Order::SendByTcp(1000));
        let both = Move { write: 1000, read: 1000, tell_at: None };
        assert_eq!(scene.victim.moves(stream, both).read, 1000);
        scene.hostile.order(&Order::ReadTcp);
    }
    scene.hostile.order(&Order::Offer);
    for order in ready {
        scene.hostile.order(order);
    }
    scene.hostile.order(&Order::Go);
    stream
}

const AS_IT_SHOULD: [Order; 2] = [Order::Grant, Order::Ready];

/// The hostile process switches as `how` says, while the victim reads and writes; then it closes.
fn switched(scene: &mut Scene, how: Switch) -> Ending {
    let stream = told_to_go(scene, &AS_IT_SHOULD);
    scene.busy(stream);
    scene.hostile.order(&Order::Switch(how));
    scene.ending(stream)
}

fn resets(how: Switch) {
    let mut scene = Scene::new();
    for _ in 0..5 {
        let stream = told_to_go(&mut scene, &AS_IT_SHOULD);
        scene.busy(stream);
        scene.hostile.order(&Order::Switch(how));
        // By itself: the hostile process does not close.
        let ending = Ending::of(scene.victim.answer());
        assert!(ending.is_reset(), "{how:?}: {ending:?}");
        scene.victim.done(&Command::Drop(stream));
        scene.hostile.order(&Order::Close);
    }
    scene.over();
}

fn count_far_ahead() {
    let mut scene = Scene::new();
    // To the victim the token is data, and wrong: those bytes were to be others.
    assert_eq!(switched(&mut scene, Switch::Future), Ending::OtherBytes);
    scene.over();
}

fn token_unannounced() {
    for how in [Switch::Unannounced, Switch::Forbidden] {
        let mut scene = Scene::new();
        assert_eq!(switched(&mut scene, how), Ending::OtherBytes);
        scene.over();
    }
}

fn token_never_comes() {
    let mut scene = Scene::new();
    for how in [Switch::NoToken, Switch::HalfToken] {
        let ending = switched(&mut scene, how);
        assert!(matches!(ending, Ending::Ended(_)), "{ending:?}");
    }
    scene.over();
}

/// A stream that is dropped while a token is on its way leaves its socket behind for some seconds, and not for ever.
fn token_never_comes_to_a_dropped_stream() {
    let mut scene = Scene::new();
    for how in [Switch::NoToken, Switch::HalfToken, Switch::NoToken] {
        let stream = told_to_go(&mut scene, &AS_IT_SHOULD);
        scene.hostile.order(&Order::Switch(how));
        scene.victim.done(&Command::Drop(stream));
        scene.meet_a_friend();
    }
    // The hostile process still holds its last connection; the victim must not.
    scene.victim_has_nothing_left();
    scene.over();
}

/// Sockets that wait for tokens are an eighth of the descriptors that the victim may have, however many a hostile peer would like.
fn tokens_never_come_to_many() {
    const LIMIT: u64 = 128;
    const WAITING: usize = LIMIT as usize / 8;
    /// Its socket and its doorbells.
    const OF_A_STREAM: usize = 3;
    let mut scene = Scene::new();
    let victim = rustix::process::Pid::from_raw(scene.victim.pid() as i32);
    let limit = rustix::process::Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
    rustix::process::prlimit(victim, rustix::process::Resource::Nofile, limit).expect("a limit of our own process");
    let before = open_fds(scene.victim.pid()).expect("the victim runs");
    let mut most = 0;
    for round in 0..4 * WAITING {
        let stream = told_to_go(&mut scene, &AS_IT_SHOULD);
        // The agent has been told of all streams dropped before this one, and has closed what it had to.
        let waiting = open_fds(scene.victim.pid()).expect("the victim runs") - before;
        assert!(waiting <= WAITING + OF_A_STREAM, "{waiting} in round {round}");
        most = most.max(waiting);
        let how = if round.is_multiple_of(2) { Switch::NoToken } else { Switch::HalfToken };
        scene.hostile.order(&Order::Switch(how));
        scene.hostile.order(&Order::Keep);
        scene.victim.done(&Command::Drop(stream));
    }
    assert!(most > OF_A_STREAM, "nothing waited");
    // An honest peer's connections are as ever, also when they end in the midst of this.
    scene.meet_a_friend();
    scene.victim_has_nothing_left();
    scene.over();
}

fn switch_forbidden() {
    let mut scene = Scene::new();
    let forbids = [Order::Grant, Order::Switch(Switch::ForbidVictim), Order::Ready];
    let stream = told_to_go(&mut scene, &forbids);
    scene.busy(stream);
    // The victim's bytes come by TCP, the hostile process's would come by the ring.
    let (report, _) = (scene.hostile.assault(Assault::Nothing, 2 << 20), scene.ending(stream));
    assert!(report.wrote > 0 && report.read == 0 && report.stray > 1 << 20, "{report:?}");
    scene.over();
}

fn ready_without_mapping() {
    let mut scene = Scene::new();
    let stream = told_to_go(&mut scene, &[Order::GrantUnmapped, Order::Ready]);
    scene.busy(stream);
    scene.ending(stream);
    scene.over();
}

/// What waits for the upgrade waits no longer when there is none to come.
fn upgraded_when_reset() {
    let mut scene = Scene::new();
    for how in [Switch::NoToken, Switch::HalfToken] {
        let stream = told_to_go(&mut scene, &AS_IT_SHOULD);
        scene.victim.tell(&Command::Upgraded(stream));
        scene.hostile.order(&Order::Switch(how));
        scene.hostile.order(&Order::Close);
        let answer = scene.victim.answer();
        assert!(matches!(answer, Answer::Text(_)), "{answer:?}");
        scene.victim.done(&Command::Drop(stream));
    }
    scene.over();
}

fn upgraded_when_unread() {
    let mut scene = Scene::new();
    for how in [Switch::Past, Switch::Future, Switch::Unannounced] {
        let stream = told_to_go(&mut scene, &AS_IT_SHOULD);
        scene.victim.tell(&Command::Upgraded(stream));
        scene.hostile.order(&Order::SendByTcp(10));
        scene.hostile.order(&Order::Switch(how));
        scene.hostile.order(&Order::Close);
        let answer = scene.victim.answer();
        assert!(matches!(answer, Answer::Text(_)), "{answer:?}");
        scene.victim.done(&Command::Drop(stream));
    }
    scene.over();
}

fn too_many_stray_bytes() {
    let mut scene = Scene::new();
    for _ in 0..3 {
        let stream = scene.upgraded();
        // The victim only reads, from a ring that stays empty.
        scene.victim.tell(&Command::Move(stream, Move { read: TO_THE_END, ..Move::default() }));
        let stray = Order::SendByTcp(2 * shmbc::link::STRAY_MAX);
        scene.hostile.tell(&stray);
        // The send may fail: the victim has reset the connection.
        scene.hostile.hear();
        let moved = scene.victim.moved();
        assert_eq!(moved.read_end.as_deref(), Some("ConnectionReset"), "{moved:?}");
        scene.hostile.order(&Order::Close);
        scene.victim.done(&Command::Drop(stream));
    }
    scene.over();
}

fn half_closed_and_silent() {
    half_closed(false, false);
}

fn half_closed_with_fin() {
    half_closed(true, false);
}

/// What a writer sends to find out whether its peer lives is read by the hostile process, so that its kernel has nothing unread to
/// answer with a reset when it goes.
fn half_closed_takes_probes() {
    half_closed(true, true);
}

fn half_closed(fin: bool, takes_probes: bool) {
    const RING: u64 = 4 << 20;
    let mut scene = Scene::new();
    let stream = scene.upgraded();
    scene.hostile.order(&Order::HalfClose { fin });
    if fin {
        let read = scene.victim.moves(stream, Move { read: TO_THE_END, ..Move::default() });
        assert_eq!(read, Moved { read_end: Some("eof".into()), ..Moved::default() });
    }
    // Told when the ring is full: what follows is a wait.
    scene.victim.tell(&Command::Move(stream, Move { write: 1 << 40, read: 0, tell_at: Some(RING) }));
    scene.victim.moving();
    if takes_probes {
        // The token, and then the probes, for as long as the victim needs to go to sleep.
        wait_until("the victim sleeps", || scene.victim_sleeps());
        scene.hostile.order(&Order::ReadTcp);
    }
    scene.hostile.order(&Order::Close);
    let moved = scene.victim.moved();
    assert!(matches!(moved.write_end.as_deref(), Some("BrokenPipe" | "ConnectionReset")), "{moved:?}");
    scene.victim.done(&Command::Drop(stream));
    scene.over();
}

fn grant_never_answered() {
    let mut scene = Scene::new();
    let stream = scene.granted();
    // Until the service has lost its patience.
    assert_eq!(scene.victim.answer(), Answer::Text("refused: one of the ends did not map its block in time".into()));
    scene.hostile.order(&Order::Close);
    scene.busy(stream);
    scene.ending(stream);
    // An assault on a block whose grant was taken back reaches nobody.
    let (report, _) = scene.suffer(Assault::Nothing, 4096);
    assert!(!report.reset);
    scene.over();
}
