//! One direction across the switch, told to go at any time: every byte once, in order, and no token byte among them.

use std::sync::Arc;

use loom::thread;

use super::end::{End, Reader, Writer};
use super::{check, grant, program_bytes};
use crate::link::Event;

/// A writes `total` bytes and shuts its write side; B reads `most` at a time until EOF. Meanwhile the host grants both ends
/// the block and tells A to go.
fn go_comes_at_any_time(total: usize, token_piece: usize, most: usize) {
    check(move || {
        let (a, b) = (End::offered(), End::offered());
        let host = {
            let (a, b) = (Arc::clone(&a), Arc::clone(&b));
            thread::spawn(move || {
                let (for_a, for_b) = grant(2);
                b.map(&for_b);
                a.map(&for_a);
                a.on(Event::Go);
            })
        };
        let reader = {
            let mut reader = Reader::new(&b, &a);
            thread::spawn(move || reader.read_to_end(most))
        };
        let mut writer = Writer::new(&a, &b);
        writer.token_piece = token_piece;
        writer.write_all(&program_bytes(total)).unwrap();
        a.shut_write(&b);
        assert_eq!(reader.join().unwrap(), program_bytes(total));
        host.join().unwrap();
    });
}

#[test]
fn bytes_when_go_comes_at_any_time_cross_the_switch_once_and_in_order() {
    go_comes_at_any_time(3, 16, 2);
}

/// The read that takes the last program byte also takes token bytes.
#[test]
fn read_when_it_takes_token_bytes_trims_them_off() {
    go_comes_at_any_time(2, 9, 20);
}

/// The switch before every byte; most of what follows it finds the ring full.
#[test]
fn bytes_when_the_switch_lies_before_any_of_them_cross_it_once_and_in_order() {
    const TOTAL: usize = 4;
    for switch_at in 0..=TOTAL {
        check(move || {
            let (for_a, for_b) = grant(2);
            let (a, b) = (End::ready(&for_a), End::ready(&for_b));
            let reader = {
                let mut reader = Reader::new(&b, &a);
                thread::spawn(move || reader.read_to_end(1))
            };
            let mut writer = Writer::new(&a, &b);
            let bytes = program_bytes(TOTAL);
            writer.write_all(&bytes[..switch_at]).unwrap();
            a.on(Event::Go);
            writer.write_all(&bytes[switch_at..]).unwrap();
            a.shut_write(&b);
            assert_eq!(reader.join().unwrap(), bytes);
        });
    }
}
