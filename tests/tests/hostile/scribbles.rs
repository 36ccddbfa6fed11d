//! Garbage in the header while bytes flow: every word by itself, and all at once.

use std::time::Duration;

use shmbc::layout::{CAPACITY_WORDS, Direction, MAGIC_WORD, VERSION_WORD, Words};
use shmbc_tests::suite::Test;
use shmbc_tests::test;

use crate::orders::{Assault, WordAt};
use crate::scene::Scene;

/// Bytes each way that an assault lets flow, if it can.
const BYTES: u64 = 128 << 10;
/// Capacity of a ring of the service's.
const RING: u64 = 4 << 20;
/// Many connections, each of which may come to a standstill for a moment.
const PATIENCE: Duration = Duration::from_secs(900);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("header_when_any_word_is_set_to_any_extreme_ends_that_connection_only", every_word).patience(PATIENCE),
        test("header_when_any_word_goes_backwards_ends_that_connection_only", backwards).patience(PATIENCE),
        test("header_when_random_words_are_written_ends_that_connection_only", random_words).patience(PATIENCE),
        test("header_when_random_bytes_are_written_ends_that_connection_only", random_bytes).patience(PATIENCE),
        test("header_when_filled_with_one_byte_ends_that_connection_only", filled).patience(PATIENCE),
    ]
}

fn words() -> Vec<WordAt> {
    let named = [MAGIC_WORD, VERSION_WORD].into_iter().chain(CAPACITY_WORDS).map(|word| WordAt::Offset(word.offset()));
    let of_a_direction = 0..Words::of(Direction::AToB).all().len();
    named.chain(of_a_direction.flat_map(|index| [WordAt::Mine(index), WordAt::Its(index)])).collect()
}

fn every_word() {
    let words_of_a = Words::of(Direction::AToB).all();
    let index = |word| words_of_a.iter().position(|&other| other == word).expect("one of them");
    let (tail, head) = (index(Words::of(Direction::AToB).tail), index(Words::of(Direction::AToB).head));
    let mut scene = Scene::new();
    for word in words() {
        for value in [0, 1, RING, RING + 1, u64::MAX] {
            let (report, ending) = scene.suffer(Assault::Word(word, value), BYTES);
            // The two cursors that the victim depends on, further than they can be whatever has moved.
            if [WordAt::Mine(tail), WordAt::Its(head)].contains(&word) && value == u64::MAX {
                assert!(ending.is_reset(), "{word:?} set to {value}: {report:?}, {ending:?}");
            }
        }
    }
    scene.over();
}

fn backwards() {
    let mut scene = Scene::new();
    for word in words() {
        scene.suffer(Assault::Back(word), BYTES);
    }
    scene.over();
}

fn random_words() {
    many(&Assault::RandomWords);
}

fn random_bytes() {
    many(&Assault::RandomBytes);
}

fn many(assault: &Assault) {
    let mut scene = Scene::new();
    let resets = (0..20).filter(|_| scene.suffer(assault.clone(), BYTES).1.is_reset()).count();
    assert!(resets > 0, "the victim noticed nothing");
    scene.over();
}

fn filled() {
    let mut scene = Scene::new();
    for byte in [0, 1, 0x7f, 0x80, 0xff] {
        for _ in 0..4 {
            scene.suffer(Assault::Fill(byte), BYTES);
        }
    }
    scene.over();
}
