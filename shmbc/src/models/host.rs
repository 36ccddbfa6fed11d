//! Both directions at once, each end one task, and a host that dies between its messages: after "ready" and before the
//! first "go", and between the two. An end that was never told learns from its peer that it may switch.

use std::sync::Arc;

use loom::thread;

use super::end::{End, Got, Reader, Writer};
use super::kernel::Seen;
use super::{check, grant, program_bytes};
use crate::link::{Event, Phase};

/// Writes `out`, shuts the write side, and reads until EOF, whichever goes on first; sleeps when neither does.
fn converse(here: &Arc<End>, there: &Arc<End>, out: &[u8]) -> (Vec<u8>, Writer, Reader) {
    let (mut writer, mut reader) = (Writer::new(here, there), Reader::new(here, there));
    let (mut left, mut got, mut seen) = (out, Vec::new(), Seen::default());
    let (mut shut, mut eof) = (false, false);
    while !(shut && eof) {
        let mut moved = false;
        if !left.is_empty() {
            let n = writer.write(&left[..1]).unwrap();
            left = &left[n..];
            moved |= n > 0;
        }
        if left.is_empty() && !shut {
            here.shut_write(there);
            shut = true;
        }
        if !eof {
            match reader.read(20) {
                Got::Bytes(bytes) => {
                    got.extend(bytes);
                    moved = true;
                }
                Got::WouldBlock => {}
                Got::Eof => {
                    eof = true;
                    moved = true;
                }
            }
        }
        if !(moved || shut && eof) {
            here.kernel.wait(&mut seen);
        }
    }
    (got, writer, reader)
}

/// Both ends are ready. The host says "go" to those in `told`, in this order, at any time, and is gone.
fn host_tells(told: &'static [char], bytes: [usize; 2]) {
    check(move || {
        let (for_a, for_b) = grant(2);
        let (a, b) = (End::ready(&for_a), End::ready(&for_b));
        let host = {
            let (a, b) = (Arc::clone(&a), Arc::clone(&b));
            thread::spawn(move || {
                for end in told {
                    if *end == 'a' { a.on(Event::Go) } else { b.on(Event::Go) }
                }
                a.on(Event::HostLost);
                b.on(Event::HostLost);
            })
        };
        let other = {
            let (a, b) = (Arc::clone(&a), Arc::clone(&b));
            thread::spawn(move || {
                let (got, writer, reader) = converse(&b, &a, &program_bytes(bytes[1]));
                assert_eq!(got, program_bytes(bytes[0]));
                (writer.sending.switched(), reader.receiving.switched())
            })
        };
        let (got, writer, reader) = converse(&a, &b, &program_bytes(bytes[0]));
        assert_eq!(got, program_bytes(bytes[1]));
        let (b_sends, b_receives) = other.join().unwrap();
        host.join().unwrap();
        // Both ends agree on where each direction is.
        assert_eq!((writer.sending.switched(), reader.receiving.switched()), (b_receives, b_sends));
        if told.is_empty() {
            assert!(!b_sends && !b_receives);
            assert_eq!([a.phase(), b.phase()], [Phase::Ready, Phase::Ready]);
        }
    });
}

#[test]
fn host_when_it_dies_between_ready_and_go_leaves_both_ends_on_tcp() {
    host_tells(&[], [2, 2]);
}

#[test]
fn host_when_it_tells_both_ends_at_any_time_loses_no_byte_of_either() {
    host_tells(&['a', 'b'], [2, 1]);
}

#[test]
fn host_when_it_dies_between_the_two_gos_loses_no_byte_of_either() {
    host_tells(&['a'], [2, 2]);
}

/// B was never told; once it has read A's token it may switch, and does with its next byte.
#[test]
fn end_when_only_the_peer_was_told_to_go_learns_it_from_the_peers_switch() {
    check(|| {
        let (for_a, for_b) = grant(2);
        let (a, b) = (End::ready(&for_a), End::ready(&for_b));
        a.on(Event::Go);
        b.on(Event::HostLost);
        let asking = {
            let (mut writer, a, b) = (Writer::new(&a, &b), Arc::clone(&a), Arc::clone(&b));
            thread::spawn(move || {
                writer.write_all(&[1, 2, 3]).unwrap();
                a.shut_write(&b);
            })
        };
        let mut reader = Reader::new(&b, &a);
        assert_eq!(reader.read_to_end(2), [1, 2, 3]);
        let mut writer = Writer::new(&b, &a);
        writer.write_all(&[9]).unwrap();
        assert!(writer.sending.switched());
        assert_eq!(b.phase(), Phase::Go);
        b.shut_write(&a);
        assert_eq!(Reader::new(&a, &b).read_to_end(2), [9]);
        asking.join().unwrap();
    });
}
