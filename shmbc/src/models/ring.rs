//! One ring, both ends of which sleep whenever they can: no lost wake-up, every byte once, in order and race-free.

use std::io::IoSlice;
use std::sync::Arc;

use loom::thread;

use super::kernel::{Kernel, Seen};
use super::{check, program_bytes, sizes};
use crate::layout::Direction;
use crate::ring::{Consumer, Producer, Wake};
use crate::sync;
use crate::sys::Mapping;

/// Writes `bytes`, at most `piece` at a time and those in two slices, and sleeps when the ring is full.
fn produce(mut producer: Producer, bytes: &[u8], piece: usize, here: &Kernel, there: &Kernel) {
    let (mut left, mut seen) = (bytes, Seen::default());
    while !left.is_empty() {
        let (first, second) = left[..piece.min(left.len())].split_at(1);
        let (n, wake) = if second.is_empty() {
            producer.write(first).unwrap()
        } else {
            producer.write_vectored(&[IoSlice::new(first), IoSlice::new(second)]).unwrap()
        };
        if wake == Wake::Peer {
            there.ring();
        }
        left = &left[n..];
        if n == 0 && producer.arm().unwrap() {
            here.wait(&mut seen);
        }
    }
}

/// Reads `total` bytes, at most `piece` at a time, and sleeps when the ring is empty.
fn consume(mut consumer: Consumer, total: usize, piece: usize, here: &Kernel, there: &Kernel) -> Vec<u8> {
    let (mut got, mut seen) = (Vec::new(), Seen::default());
    while got.len() < total {
        let mut to = vec![0; piece];
        let (n, wake) = consumer.read(&mut to).unwrap();
        if wake == Wake::Peer {
            there.ring();
        }
        got.extend(&to[..n]);
        if n == 0 && consumer.arm().unwrap() {
            here.wait(&mut seen);
        }
    }
    got
}

fn both_sides_sleep(capacity: u64, total: usize, write: usize, read: usize) {
    check(move || {
        let memory = sync::Arc::new(Mapping::model(sizes(capacity)));
        let producer = Producer::new(sync::Arc::clone(&memory), sizes(capacity), Direction::AToB);
        let consumer = Consumer::new(memory, sizes(capacity), Direction::AToB);
        let (here, there) = (Arc::new(Kernel::new()), Arc::new(Kernel::new()));
        let writer = {
            let (here, there) = (Arc::clone(&here), Arc::clone(&there));
            thread::spawn(move || produce(producer, &program_bytes(total), write, &here, &there))
        };
        let got = consume(consumer, total, read, &there, &here);
        assert_eq!(got, program_bytes(total));
        writer.join().unwrap();
    });
}

#[test]
fn ring_when_both_sides_sleep_loses_no_wake_up_and_no_byte() {
    both_sides_sleep(2, 3, 1, 1);
}

#[test]
fn ring_when_pieces_wrap_around_its_end_loses_no_wake_up_and_no_byte() {
    both_sides_sleep(2, 5, 3, 2);
}

/// A ring of four: freeing one byte is not worth a wake-up, freeing two is.
#[test]
fn producer_when_it_sleeps_is_woken_once_a_worthwhile_part_is_free() {
    both_sides_sleep(4, 7, 4, 1);
}
