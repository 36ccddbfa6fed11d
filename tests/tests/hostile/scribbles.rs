//! Garbage in the header while bytes flow: every word by itself, and all at once.

use std::time::Duration;

use shmbc::layout::{CAPACITY_WORDS, Direction, MAGIC_WORD, VERSION_WORD, Word, Words};
use shmbc_tests::suite::Test;
use shmbc_tests::test;

use crate::orders::Assault;
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

fn words() -> Vec<Word> {
    let named = [MAGIC_WORD, VERSION_WORD].into_iter().chain(CAPACITY_WORDS);
    named.chain(Direction::BOTH.iter().flat_map(|&direction| Words::of(direction).all())).collect()
}

fn every_word() {
    let mut scene = Scene::new();
    for word in words() {
        for value in [0, 1, RING, RING + 1, u64::MAX] {
            let (report, ending) = scene.suffer(Assault::Word(word.offset(), value), BYTES);
            eprintln!("DBG {word:?} {value:#x} {report:?} {ending:?}");
            // The two cursors that the victim must believe, each further than any can be.
            let [mine, its] =
                if report.is_a { Direction::BOTH } else { [Direction::BToA, Direction::AToB] }.map(Words::of);
            if value == u64::MAX && [mine.tail, its.head].contains(&word) {
                assert!(ending.is_reset(), "{word:?}: {report:?}, {ending:?}");
            }
        }
    }
    scene.over();
}

fn backwards() {
    let mut scene = Scene::new();
    for word in words() {
        scene.suffer(Assault::Back(word.offset()), BYTES);
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
