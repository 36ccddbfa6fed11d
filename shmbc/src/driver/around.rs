//! What went around the stream: how far a closure that was handed the descriptor has moved the rings, and the socket behind
//! their back.

use std::sync::Mutex;

use super::writing::Peer;
use super::{Driver, ReadSide, WriteSide, lock};
use crate::link::Send;
use crate::reactor::Socket;
use crate::sys::tcp_position;

/// Where a connection stands, to be compared with where it stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Bytes taken from one ring and put into the other.
    rings: [Option<u64>; 2],
    /// Bytes that the kernel has taken to send, once the program's no longer go there.
    written: Option<u64>,
}

impl Moved {
    /// Whether, since `before`, bytes were written to the socket of a connection that writes to its ring. They do not reach the
    /// peer's program.
    pub fn went_around(&self, before: &Self) -> bool {
        matches!((before.written, self.written), (Some(before), Some(now)) if now != before)
    }
}

impl<S: Socket> Driver<S> {
    pub(crate) fn moved(&self, read: &Mutex<ReadSide>, write: &Mutex<WriteSide>) -> Moved {
        let taken = lock(read).link.ring().map(|consumer| consumer.consumed());
        let put = match lock(write).link.step() {
            Send::Ring(producer) => Some(producer.produced()),
            Send::Tcp | Send::Token(_) => None,
        };
        // Behind a peer that has closed a side, the stream itself writes to the socket: its probes.
        let alone = put.is_some() && self.peer().is_ok_and(|peer| peer == Peer::Open);
        let written = alone.then(|| tcp_position(self.socket()).ok().map(|position| position.written)).flatten();
        Moved { rings: [taken, put], written }
    }
}
