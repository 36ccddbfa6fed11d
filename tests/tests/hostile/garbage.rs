//! Garbage on the control socket, while the victim and the honest pair go on.

use std::time::Duration;

use shmbc_tests::suite::Test;
use shmbc_tests::test;

use crate::orders::{Assault, Garbage, Order};
use crate::scene::Scene;

const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("host_when_thrown_random_frames_serves_all_others", || thrown(Garbage::Frames(rand::random())))
            .patience(PATIENCE),
        test("host_when_thrown_frames_of_any_length_serves_all_others", || thrown(Garbage::Lengths)).patience(PATIENCE),
        test("host_when_messages_come_in_no_order_serves_all_others", || thrown(Garbage::Disorder)).patience(PATIENCE),
        test("host_when_told_about_others_offers_believes_nothing", || thrown(Garbage::ForeignIds)).patience(PATIENCE),
        test("host_when_offered_what_is_not_the_offerers_refuses", false_offers).patience(PATIENCE),
        test("host_when_sent_descriptors_keeps_none", || thrown(Garbage::Descriptors)).patience(PATIENCE),
        test("host_when_flooded_serves_all_others", || thrown(Garbage::Flood)).patience(PATIENCE),
        test("host_when_many_say_nothing_serves_all_others", || thrown(Garbage::Silence)).patience(PATIENCE),
    ]
}

fn thrown(garbage: Garbage) {
    pelted(Scene::new(), garbage);
}

fn pelted(mut scene: Scene, garbage: Garbage) {
    // The hostile process is connected meanwhile, so that there is something of its own to lose.
    let stream = scene.upgraded();
    scene.busy(stream);
    let thrown: u64 = scene.hostile.order(&Order::Throw(garbage)).parse().expect("a number");
    assert!(thrown > 0 || garbage == Garbage::Descriptors, "nothing was thrown");
    scene.ending(stream);
    let (report, _) = scene.suffer(Assault::Nothing, 4096);
    assert!(!report.reset, "an honest connection of the hostile process itself: {report:?}");
    scene.over();
}

fn false_offers() {
    let scene = Scene::new();
    let (local, peer) = scene.honest_connection();
    pelted(scene, Garbage::FalseOffers(local, peer));
}
