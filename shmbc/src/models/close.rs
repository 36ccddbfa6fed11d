//! One direction that ends: its writer shuts its write side or is killed, after any of its steps. The reader gets every
//! byte that was written and then EOF; the other direction goes on exactly if the end that sent FIN still reads; and an
//! end that closes never meets a token too late.

use std::sync::Arc;

use loom::thread;

use super::end::{End, Gone, Got, Reader, Writer};
use super::kernel::Seen;
use super::{check, grant, program_bytes};
use crate::link::{Event, Send};

/// What a writer does, one after the other.
#[derive(Clone, Copy, Debug)]
enum Step {
    Tcp,
    PublishCount,
    /// This many bytes of the token.
    Token(usize),
    Ring,
}

/// A direction that switches after `before` bytes and writes `after` more, the token in two pieces.
fn steps(before: usize, after: usize) -> Vec<Step> {
    let switch = [Step::PublishCount, Step::Token(9), Step::Token(7)];
    std::iter::repeat_n(Step::Tcp, before).chain(switch).chain(std::iter::repeat_n(Step::Ring, after)).collect()
}

/// How a direction ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    HalfClose,
    Killed,
}

/// A takes `steps` and ends; the reader has seen exactly the program bytes that the steps wrote.
fn ends_after(steps: Vec<Step>, ending: Ending, most: usize) {
    check(move || {
        let (for_a, for_b) = grant(2);
        let (a, b) = (End::ready(&for_a), End::ready(&for_b));
        let reader = {
            let mut reader = Reader::new(&b, &a);
            thread::spawn(move || reader.read_to_end(most))
        };
        let mut writer = Writer::new(&a, &b);
        let mut left = program_bytes(steps.len()).into_iter();
        let mut written = Vec::new();
        for step in &steps {
            match *step {
                Step::Tcp | Step::Ring => {
                    let byte = left.next().unwrap();
                    writer.write_all(&[byte]).unwrap();
                    written.push(byte);
                }
                Step::PublishCount => {
                    a.on(Event::Go);
                    writer.sending.begin_switch(&for_a);
                }
                Step::Token(n) => {
                    let Send::Token(rest) = writer.sending.step() else { panic!("the token comes next") };
                    b.kernel.deliver(&rest[..n]);
                    writer.sending.token_sent(n);
                }
            }
        }
        match ending {
            Ending::HalfClose => a.shut_write(&b),
            Ending::Killed => a.die(&b),
        }
        assert_eq!(reader.join().unwrap(), written);
    });
}

#[test]
fn reader_when_the_writer_half_closes_after_any_step_gets_all_bytes_and_then_eof() {
    after_any_step(Ending::HalfClose);
}

#[test]
fn reader_when_the_writer_is_killed_after_any_step_gets_an_exact_prefix_and_then_eof() {
    after_any_step(Ending::Killed);
}

fn after_any_step(ending: Ending) {
    for before in 0..=1 {
        let all = steps(before, 3);
        for n in 0..=all.len() {
            for most in [1, 20] {
                ends_after(all[..n].to_vec(), ending, most);
            }
        }
    }
}

/// B writes more than its ring holds; A goes away. Whatever B has been told and seen, it never sleeps for ever.
#[test]
fn writer_when_the_reader_is_killed_at_any_time_gets_an_error_and_never_hangs() {
    check(|| {
        let (for_a, for_b) = grant(2);
        let (a, b) = (End::ready(&for_a), End::ready(&for_b));
        b.on(Event::Go);
        let writing = {
            let mut writer = Writer::new(&b, &a);
            thread::spawn(move || writer.write_all(&program_bytes(7)))
        };
        let mut reader = Reader::new(&a, &b);
        let _ = reader.read(20);
        let _ = reader.read(20);
        a.die(&b);
        // Two reads made room for four bytes at most, and the ring holds two: one too few.
        assert_eq!(writing.join().unwrap(), Err(Gone));
    });
}

/// A shuts its write side while the host grants the block, and reads on: B never takes A for dead.
#[test]
fn writer_when_the_reader_half_closes_at_any_time_writes_everything() {
    for close_first in [true, false] {
        check(move || {
            let (a, b) = (End::offered(), End::offered());
            let (for_a, for_b) = grant(2);
            b.map(&for_b);
            let host = {
                let (a, b) = (Arc::clone(&a), Arc::clone(&b));
                thread::spawn(move || {
                    a.map(&for_a);
                    b.on(Event::Go);
                })
            };
            let writing = {
                let (mut writer, a, b) = (Writer::new(&b, &a), Arc::clone(&a), Arc::clone(&b));
                thread::spawn(move || {
                    writer.write_all(&program_bytes(3)).unwrap();
                    b.shut_write(&a);
                })
            };
            let mut reader = Reader::new(&a, &b);
            if close_first {
                a.shut_write(&b);
                assert_eq!(reader.read_to_end(2), program_bytes(3));
            } else {
                let got = reader.read_to_end(2);
                a.shut_write(&b);
                assert_eq!(got, program_bytes(3));
            }
            writing.join().unwrap();
            host.join().unwrap();
        });
    }
}

/// A begins to switch while B closes: either B forbids it and no token comes, or B takes the token before it closes. A
/// token that came later, or lay there unread, would turn B's close into a reset.
#[test]
fn end_when_it_closes_while_the_peer_switches_forbids_it_or_takes_the_token() {
    for before in 0..=1 {
        check(move || {
            let (for_a, for_b) = grant(2);
            let (a, b) = (End::ready(&for_a), End::ready(&for_b));
            let mut writer = Writer::new(&a, &b);
            writer.write_all(&program_bytes(before)).unwrap();
            let switching = thread::spawn(move || {
                writer.sending.begin_switch(&for_a);
                while let Send::Token(rest) = writer.sending.step() {
                    let n = rest.len().min(9);
                    writer.there.kernel.deliver(&rest[..n]);
                    writer.sending.token_sent(n);
                }
                writer.sending.switched()
            });
            let (mut reader, mut seen) = (Reader::new(&b, &a), Seen::default());
            if before > 0 {
                assert_eq!(reader.read(before), Got::Bytes(program_bytes(before)));
            }
            let forbidden = for_b.forbid_switch();
            while !forbidden && !reader.receiving.switched() {
                assert_eq!(for_b.peer_switched(), Some(before as u64), "its token is on its way");
                if reader.read(20) == Got::WouldBlock && !reader.receiving.switched() {
                    b.kernel.wait(&mut seen);
                }
            }
            b.kernel.close();
            assert_eq!(switching.join().unwrap(), !forbidden);
            assert_eq!(for_b.peer_switched().is_some(), !forbidden);
        });
    }
}
