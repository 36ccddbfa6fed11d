//! Every order of what the host, the program and death do to one connection, one thing at a time.
//!
//! Nothing here is concurrent, so one thread takes every path through the choices: which message arrives next, whether the
//! host refuses or dies, when A writes, half-closes or is killed, when B reads and writes. The other models check
//! what happens when two of these happen at once.

use std::sync::{Arc, Mutex};

use super::end::{End, Got, Reader, Writer};
use super::{check, grant};
use crate::control::message::{Decline, Refusal};
use crate::link::{Event, Phase, Reason};

/// A path through a tree of choices, and the way to the next one.
#[derive(Debug, Default)]
struct Path {
    taken: Vec<(usize, usize)>,
    at: usize,
}

impl Path {
    fn choose(&mut self, of: usize) -> usize {
        if self.at == self.taken.len() {
            self.taken.push((0, of));
        }
        self.at += 1;
        self.taken[self.at - 1].0
    }

    /// Goes to the next path; false when all have been taken.
    fn advance(&mut self) -> bool {
        self.at = 0;
        while let Some((chosen, of)) = self.taken.pop() {
            if chosen + 1 < of {
                self.taken.push((chosen + 1, of));
                return true;
            }
        }
        false
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    GrantA,
    GrantB,
    GoA,
    GoB,
    Refuse,
    HostDies,
    AWrites,
    AHalfCloses,
    AIsKilled,
    BReads,
    BWrites,
}

/// What has happened so far, as far as it decides what can happen next.
#[derive(Debug, Default)]
struct So {
    host_gone: bool,
    refused: bool,
    granted: [bool; 2],
    told: [bool; 2],
    a_wrote: u8,
    a_ended: bool,
    b_read: bool,
    b_wrote: bool,
}

impl So {
    fn possible(&self) -> Vec<Act> {
        let host = !self.host_gone && !self.refused;
        let ready = host && self.granted == [true; 2];
        let all = [
            (host && !self.granted[0], Act::GrantA),
            (host && !self.granted[1], Act::GrantB),
            (ready && !self.told[0], Act::GoA),
            (ready && !self.told[1], Act::GoB),
            // A host that has told one end to go does not refuse the other.
            (host && self.told == [false; 2], Act::Refuse),
            (host && self.told != [true; 2], Act::HostDies),
            (!self.a_ended && self.a_wrote < 2, Act::AWrites),
            (!self.a_ended, Act::AHalfCloses),
            (!self.a_ended, Act::AIsKilled),
            (!self.b_read, Act::BReads),
            (!self.b_wrote, Act::BWrites),
        ];
        all.into_iter().filter_map(|(possible, act)| possible.then_some(act)).collect()
    }
}

/// One connection along one path, until A has ended and B has done its part.
fn take(path: &mut Path) {
    let (for_a, for_b) = grant(2);
    let (a, b) = (End::offered(), End::offered());
    let (mut a_writes, mut b_writes) = (Writer::new(&a, &b), Writer::new(&b, &a));
    let (mut a_reads, mut b_reads) = (Reader::new(&a, &b), Reader::new(&b, &a));
    let (mut so, mut got, mut killed) = (So::default(), Vec::new(), false);
    while !(so.a_ended && so.b_read && so.b_wrote) {
        let possible = so.possible();
        match possible[path.choose(possible.len())] {
            Act::GrantA => {
                a.map(&for_a);
                so.granted[0] = true;
            }
            Act::GrantB => {
                b.map(&for_b);
                so.granted[1] = true;
            }
            Act::GoA => {
                a.on(Event::Go);
                so.told[0] = true;
            }
            Act::GoB => {
                b.on(Event::Go);
                so.told[1] = true;
            }
            Act::Refuse => {
                for end in [&a, &b] {
                    end.on(Event::Refused(Refusal::Declined(Decline::Unsound)));
                }
                so.refused = true;
            }
            Act::HostDies => {
                a.on(Event::HostLost);
                b.on(Event::HostLost);
                so.host_gone = true;
            }
            Act::AWrites => {
                so.a_wrote += 1;
                assert_eq!(a_writes.write(&[so.a_wrote]), Ok(1));
            }
            Act::AHalfCloses => {
                a.shut_write(&b);
                so.a_ended = true;
            }
            Act::AIsKilled => {
                a.die(&b);
                (so.a_ended, killed) = (true, true);
            }
            Act::BReads => {
                if let Got::Bytes(bytes) = b_reads.read(20) {
                    got.extend(bytes);
                }
                so.b_read = true;
            }
            Act::BWrites => {
                assert_eq!(b_writes.write(&[9]), Ok(1), "there is room");
                so.b_wrote = true;
            }
        }
    }
    b.shut_write(&a);
    while let Got::Bytes(bytes) = b_reads.read(1) {
        got.extend(bytes);
    }
    assert_eq!(got, (1..=so.a_wrote).collect::<Vec<_>>());
    assert_eq!(b_reads.read(1), Got::Eof);
    if !killed {
        assert_eq!(a_reads.read(20), Got::Bytes(vec![9]));
        assert_eq!(a_reads.read(20), Got::Eof);
        if so.granted == [true; 2] {
            assert!(for_b.peer_half_closed(), "whenever A shut its side, B knows that it is alive");
        }
    }
    let switched = a_writes.sending.switched() || b_writes.sending.switched();
    assert!(!switched || so.told != [false; 2], "nobody switches whom neither host nor peer told");
    if so.refused {
        assert_eq!([a.phase(), b.phase()], [refused(), refused()]);
    }
}

const fn refused() -> Phase {
    Phase::Tcp(Reason::Refused(Refusal::Declined(Decline::Unsound)))
}

#[test]
fn connection_when_host_program_and_death_act_in_every_order_delivers_every_byte_once() {
    let path = Arc::new(Mutex::new(Path::default()));
    let mut paths = 0_u32;
    loop {
        let model_path = Arc::clone(&path);
        check(move || take(&mut model_path.lock().unwrap()));
        paths += 1;
        if !path.lock().unwrap().advance() {
            break;
        }
    }
    println!("{paths} orders");
}
