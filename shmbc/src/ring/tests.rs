//! The ring against an oracle, over a real mapped memfd, with a peer that may scribble over the header at any step.

use std::collections::VecDeque;
use std::os::fd::AsFd;

use proptest::prelude::*;

use super::*;
use crate::block::{Block, verify};
use crate::layout::{Direction, Sizes, Words};
use crate::sync::{Arc, Ordering};
use crate::sys::Mapping;

const CAPACITY: u64 = 4096;

fn ring() -> (Arc<Mapping>, Producer, Consumer) {
    let sizes = Sizes::new([CAPACITY, CAPACITY]).unwrap();
    let block = Block::create(sizes).unwrap();
    let memory = Arc::new(verify(block.as_fd().try_clone_to_owned().unwrap(), sizes).unwrap());
    let producer = Producer::new(Arc::clone(&memory), sizes, Direction::AToB);
    let consumer = Consumer::new(Arc::clone(&memory), sizes, Direction::AToB);
    (memory, producer, consumer)
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize),
    Read(usize),
    Peek(usize),
    ArmConsumer,
    ArmProducer,
    Rest,
    Scribble { word: usize, value: u64 },
}

fn honest() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..6000).prop_map(Step::Write),
        4 => (0_usize..6000).prop_map(Step::Read),
        1 => (0_usize..6000).prop_map(Step::Peek),
        1 => Just(Step::ArmConsumer),
        1 => Just(Step::ArmProducer),
        1 => Just(Step::Rest),
    ]
}

fn hostile() -> impl Strategy<Value = Step> {
    let value = prop_oneof![any::<u64>(), 0_u64..20_000, Just(u64::MAX), Just(CAPACITY), Just(CAPACITY + 1)];
    prop_oneof![
        3 => honest(),
        1 => (0_usize..15, value).prop_map(|(word, value)| Step::Scribble { word, value }),
    ]
}

proptest! {
    /// Every byte once and in order; marks are answered; as much moves as fits.
    #[test]
    fn ring_when_driven_in_any_order_moves_every_byte_once_and_in_order(steps in proptest::collection::vec(honest(), 0..80)) {
        let (_memory, mut producer, mut consumer) = ring();
        let mut oracle = VecDeque::new();
        let mut next = 0_u8;
        let (mut consumer_sleeps, mut producer_sleeps) = (false, false);
        for step in steps {
            match step {
                Step::Write(n) => {
                    let bytes: Vec<u8> = (0..n).map(|i| next.wrapping_add(i as u8)).collect();
                    let (written, wake) = producer.write(&bytes).unwrap();
                    prop_assert_eq!(written, n.min(CAPACITY as usize - oracle.len()));
                    prop_assert_eq!(wake == Wake::Peer, consumer_sleeps && written > 0);
                    if written > 0 { consumer_sleeps = false; }
                    oracle.extend(&bytes[..written]);
                    next = next.wrapping_add(written as u8);
                }
                Step::Read(n) => {
                    let mut to = vec![0; n];
                    let (read, wake) = consumer.read(&mut to).unwrap();
                    prop_assert_eq!(read, n.min(oracle.len()));
                    let expected: Vec<u8> = oracle.drain(..read).collect();
                    prop_assert_eq!(&to[..read], &expected[..]);
                    let rung = producer_sleeps && read > 0 && CAPACITY as usize - oracle.len() >= CAPACITY as usize / 2;
                    prop_assert_eq!(wake == Wake::Peer, rung);
                    if rung { producer_sleeps = false; }
                }
                Step::Peek(n) => {
                    let mut to = vec![0; n];
                    let seen = consumer.peek(&mut to).unwrap();
                    prop_assert!(seen == n.min(oracle.len()));
                    prop_assert!(to[..seen].iter().eq(oracle.iter().take(seen)));
                }
                Step::ArmConsumer => consumer_sleeps = consumer.arm().unwrap(),
                Step::ArmProducer => producer_sleeps = producer.arm().unwrap(),
                Step::Rest => producer.rest().unwrap(),
                Step::Scribble { .. } => unreachable!(),
            }
        }
    }

    /// A peer that writes anything anywhere in the header gets a fault or moves bytes of its own; nothing else happens.
    #[test]
    fn ring_when_the_peer_scribbles_over_the_header_faults_or_stays_within_the_ring(steps in proptest::collection::vec(hostile(), 0..80)) {
        let (memory, mut producer, mut consumer) = ring();
        let words = Words::of(Direction::AToB).all();
        for step in steps {
            match step {
                Step::Write(n) => match producer.write(&vec![1; n]) {
                    Ok((written, _)) => prop_assert!(written <= n && written <= CAPACITY as usize),
                    Err(PeerFault::Cursor { claim, least, most }) => prop_assert!(claim < least || claim > most),
                    Err(other) => prop_assert!(false, "{other}"),
                },
                Step::Read(n) => match consumer.read(&mut vec![0; n]) {
                    Ok((read, _)) => prop_assert!(read <= n && read <= CAPACITY as usize),
                    Err(PeerFault::Cursor { claim, least, most }) => prop_assert!(claim < least || claim > most),
                    Err(other) => prop_assert!(false, "{other}"),
                },
                Step::Peek(n) => drop(consumer.peek(&mut vec![0; n])),
                Step::ArmConsumer => drop(consumer.arm()),
                Step::ArmProducer => drop(producer.arm()),
                Step::Rest => drop(producer.rest()),
                Step::Scribble { word, value } => memory.word(words[word]).store(value, Ordering::Relaxed),
            }
        }
    }
}

#[test]
fn vectored_write_when_it_fits_in_part_is_one_publication_of_a_prefix() {
    let (_memory, mut producer, mut consumer) = ring();
    let (a, b) = ([1; 3000], [2; 3000]);
    let slices = [std::io::IoSlice::new(&a), std::io::IoSlice::new(&[]), std::io::IoSlice::new(&b)];
    assert!(consumer.arm().unwrap());
    assert_eq!(producer.write_vectored(&slices).unwrap(), (4096, Wake::Peer));
    assert_eq!(producer.write_vectored(&slices).unwrap(), (0, Wake::Nobody));
    let mut seen = [0; 6000];
    assert_eq!(consumer.read(&mut seen).unwrap().0, 4096);
    assert!(seen[..3000] == a && seen[3000..4096] == b[..1096]);
}

#[test]
fn write_when_larger_than_a_publication_is_cut_there() {
    let sizes = Sizes::new([1 << 20, 4096]).unwrap();
    let block = Block::create(sizes).unwrap();
    let memory = Arc::new(verify(block.as_fd().try_clone_to_owned().unwrap(), sizes).unwrap());
    let mut producer = Producer::new(memory, sizes, Direction::AToB);
    let (written, _) = producer.write(&vec![0; 1 << 20]).unwrap();
    assert_eq!(written, producer::PUBLISH_MAX);
}

/// A ring of a megabyte whose block tells how much memory it holds.
fn large() -> (Block, Producer, Consumer) {
    let sizes = Sizes::new([1 << 20; 2]).unwrap();
    let block = Block::create(sizes).unwrap();
    let memory = Arc::new(verify(block.as_fd().try_clone_to_owned().unwrap(), sizes).unwrap());
    let producer = Producer::new(Arc::clone(&memory), sizes, Direction::AToB);
    (block, producer, Consumer::new(memory, sizes, Direction::AToB))
}

/// The header, and the page with the first bytes of both rings.
const TWO_PAGES: u64 = 8192;

/// `n` bytes go through, `piece` at a time, and are the same.
fn exchange(producer: &mut Producer, consumer: &mut Consumer, n: usize, piece: usize) {
    let mut seen = vec![0; piece];
    for i in 0..n / piece {
        let bytes: Vec<u8> = (0..piece).map(|j| (i * 31 + j) as u8).collect();
        assert_eq!(producer.write(&bytes).unwrap().0, piece);
        assert_eq!(consumer.read(&mut seen).unwrap().0, piece);
        assert_eq!(seen, bytes);
    }
}

#[test]
fn ring_when_each_small_message_is_taken_before_the_next_stays_in_its_first_page() {
    let (block, mut producer, mut consumer) = large();
    for piece in [64, 100, 1000, 2048] {
        exchange(&mut producer, &mut consumer, 1 << 20, piece);
        assert_eq!(block.resident().unwrap(), TWO_PAGES, "messages of {piece}");
    }
}

#[test]
fn ring_when_it_rests_after_a_burst_gives_its_memory_back_and_goes_on() {
    let (block, mut producer, mut consumer) = large();
    for _ in 0..3 {
        exchange(&mut producer, &mut consumer, 8 << 20, 60_000);
        assert!(producer.is_spread() && consumer.is_spread() && block.resident().unwrap() > TWO_PAGES);
        producer.rest().unwrap();
        assert_eq!(block.resident().unwrap(), TWO_PAGES);
        exchange(&mut producer, &mut consumer, 1 << 20, 64);
        assert!(!producer.is_spread() && !consumer.is_spread());
        assert_eq!(block.resident().unwrap(), TWO_PAGES);
    }
}

#[test]
fn ring_when_it_holds_bytes_and_rests_keeps_them() {
    let (_block, mut producer, mut consumer) = large();
    exchange(&mut producer, &mut consumer, 3000, 1000);
    let bytes: Vec<u8> = (0..50_000_u32).map(|i| (i * 7) as u8).collect();
    assert_eq!(producer.write(&bytes).unwrap().0, bytes.len());
    producer.rest().unwrap();
    let mut seen = vec![0; bytes.len()];
    assert_eq!(consumer.read(&mut seen).unwrap().0, bytes.len());
    assert_eq!(seen, bytes);
}

/// What programs count on that write before they read: the ring takes as much as it can hold, wherever its cursors stand.
#[test]
fn ring_when_its_consumer_stands_still_holds_its_whole_capacity() {
    for before in [0, 1, 2047, 2048, 100_000, 3 << 20] {
        let (_block, mut producer, mut consumer) = large();
        exchange(&mut producer, &mut consumer, before, before.clamp(1, 1000));
        let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
        for piece in bytes.chunks(100) {
            assert_eq!(producer.write(piece).unwrap().0, piece.len());
        }
        assert_eq!(producer.write(&[1]).unwrap().0, 0);
        let mut seen: Vec<u8> = Vec::new();
        while seen.len() < bytes.len() {
            let mut piece = [0; 3000];
            let (n, _) = consumer.read(&mut piece).unwrap();
            seen.extend(&piece[..n]);
        }
        assert!(seen == bytes, "{before}");
    }
}
