//! The kernel as the models pretend it: one end's TCP receive queue and the readiness that its tasks sleep on.
//!
//! What it promises is what Linux does: bytes and FIN arrive in order, and every delivery, FIN and doorbell is a new edge
//! that a sleeper gets even if it came before it slept. It orders what it passes on, as the locks of the real one do;
//! models of the ring's own orderings therefore only come here to sleep.

use std::collections::VecDeque;

use loom::sync::{Condvar, Mutex};

/// One end's socket and doorbell.
#[derive(Debug)]
pub(super) struct Kernel {
    state: Mutex<State>,
    edge: Condvar,
}

#[derive(Debug, Default)]
struct State {
    edges: u64,
    incoming: VecDeque<u8>,
    fin: bool,
    closed: bool,
}

/// What a read of the socket returned.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Bytes(usize),
    Nothing,
    Fin,
}

/// How many edges one task has seen.
#[derive(Debug, Default)]
pub(super) struct Seen(u64);

impl Kernel {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State::default()), edge: Condvar::new() }
    }

    /// The other end, or the host, has something for whoever sleeps here.
    pub(super) fn ring(&self) {
        self.change(|_| ());
    }

    /// Bytes come by TCP.
    pub(super) fn deliver(&self, bytes: &[u8]) {
        self.change(|state| {
            assert!(!state.closed, "bytes to a closed socket: its kernel answers with a reset");
            state.incoming.extend(bytes);
        });
    }

    /// The other end shut its write side, or died.
    pub(super) fn deliver_fin(&self) {
        self.change(|state| state.fin = true);
    }

    /// This end closes its socket, with nothing unread.
    pub(super) fn close(&self) {
        self.change(|state| {
            assert!(state.incoming.is_empty(), "closed with unread bytes: the kernel sends a reset");
            state.closed = true;
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap();
        change(&mut state);
        state.edges += 1;
        drop(state);
        self.edge.notify_all();
    }

    /// Sleeps until there is an edge that `seen` has not counted.
    pub(super) fn wait(&self, seen: &mut Seen) {
        let mut state = self.state.lock().unwrap();
        while state.edges == seen.0 {
            state = self.edge.wait(state).unwrap();
        }
        seen.0 = state.edges;
    }

    /// Reads the socket.
    pub(super) fn take(&self, to: &mut [u8]) -> Taken {
        let mut state = self.state.lock().unwrap();
        let n = to.len().min(state.incoming.len());
        for (to, byte) in to.iter_mut().zip(state.incoming.drain(..n)) {
            *to = byte;
        }
        match n {
            0 if state.fin => Taken::Fin,
            0 => Taken::Nothing,
            n => Taken::Bytes(n),
        }
    }

    /// Whether the FIN is there to be read.
    pub(super) fn fin(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.fin && state.incoming.is_empty()
    }
}
