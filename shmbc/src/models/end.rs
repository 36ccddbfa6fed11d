//! One end of a connection as the models have it: the smallest stream that drives `Sending`, `Receiving` and `Phase` as a
//! real one must, over the pretended kernel.
//!
//! Both tasks of an end (its writer and its reader) sleep on the same readiness. The order of its steps is what the models
//! check together with the core: arm before looking at FIN, look at the ring once more behind a FIN, mark the
//! half-close before the FIN, look up the grant after the TCP read.

use std::sync::Arc;

use loom::sync::Mutex;

use super::kernel::{Kernel, Seen, Taken};
use crate::link::{Event, Granted, Phase, Receive, Receiving, Send, Sending, SwitchToken};
use crate::ring::Wake;

/// What one process knows of its end.
#[derive(Debug)]
pub(super) struct End {
    pub(super) kernel: Kernel,
    upgrade: Mutex<Upgrade>,
}

#[derive(Debug)]
struct Upgrade {
    phase: Phase,
    granted: Option<Arc<Granted>>,
    shut: bool,
}

/// The other end is dead: it sent FIN and did not say that it goes on reading.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// What a read came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    Bytes(Vec<u8>),
    WouldBlock,
    Eof,
}

impl End {
    /// An end whose offer is with the host.
    pub(super) fn offered() -> Arc<Self> {
        let upgrade = Upgrade { phase: Phase::Offered, granted: None, shut: false };
        Arc::new(Self { kernel: Kernel::new(), upgrade: Mutex::new(upgrade) })
    }

    /// An end that has mapped its grant.
    pub(super) fn ready(granted: &Arc<Granted>) -> Arc<Self> {
        let upgrade = Upgrade { phase: Phase::Ready, granted: Some(Arc::clone(granted)), shut: false };
        Arc::new(Self { kernel: Kernel::new(), upgrade: Mutex::new(upgrade) })
    }

    /// The grant comes; what the program did before is marked in the block before the host hears "ready".
    pub(super) fn map(&self, granted: &Arc<Granted>) {
        let mut upgrade = self.upgrade.lock().unwrap();
        if upgrade.shut {
            granted.mark_half_closed();
        }
        upgrade.granted = Some(Arc::clone(granted));
        upgrade.phase = upgrade.phase.clone().on(Event::Mapped);
    }

    pub(super) fn on(&self, event: Event) {
        let mut upgrade = self.upgrade.lock().unwrap();
        upgrade.phase = upgrade.phase.clone().on(event);
    }

    pub(super) fn phase(&self) -> Phase {
        self.upgrade.lock().unwrap().phase.clone()
    }

    fn granted(&self) -> Option<Arc<Granted>> {
        self.upgrade.lock().unwrap().granted.clone()
    }

    /// The grant, if this end may switch: the host said so, or the peer has switched.
    fn may_switch(&self) -> Option<Arc<Granted>> {
        let mut upgrade = self.upgrade.lock().unwrap();
        let granted = upgrade.granted.clone()?;
        if granted.peer_switched().is_some() {
            upgrade.phase = upgrade.phase.clone().on(Event::PeerSwitched);
        }
        upgrade.phase.may_switch().then_some(granted)
    }

    /// `shutdown(Write)`: mark, then FIN.
    pub(super) fn shut_write(&self, there: &Self) {
        let mut upgrade = self.upgrade.lock().unwrap();
        if let Some(granted) = &upgrade.granted {
            granted.mark_half_closed();
        }
        upgrade.shut = true;
        drop(upgrade);
        there.kernel.deliver_fin();
    }

    /// The kernel closes the socket of a killed process.
    pub(super) fn die(&self, there: &Self) {
        there.kernel.deliver_fin();
    }

    /// Whether the peer is dead, for a writer that finds no room.
    fn peer_is_gone(&self) -> bool {
        self.kernel.fin() && !self.granted().is_some_and(|granted| granted.peer_half_closed())
    }
}

/// The task that writes.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) here: Arc<End>,
    pub(super) there: Arc<End>,
    pub(super) sending: Sending,
    /// Most bytes of the token that the socket takes at once.
    pub(super) token_piece: usize,
}

impl Writer {
    pub(super) fn new(here: &Arc<End>, there: &Arc<End>) -> Self {
        let (here, there) = (Arc::clone(here), Arc::clone(there));
        Self { here, there, sending: Sending::default(), token_piece: SwitchToken::LEN }
    }

    /// Writes some of `bytes`. 0: there is no room, and the reader will ring.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, Gone> {
        if self.sending.on_tcp().is_some()
            && let Some(granted) = self.here.may_switch()
        {
            self.sending.begin_switch(&granted);
        }
        loop {
            match self.sending.step() {
                Send::Tcp => {
                    self.there.kernel.deliver(bytes);
                    self.sending.sent_by_tcp(bytes.len());
                    return Ok(bytes.len());
                }
                Send::Token(rest) => {
                    let n = rest.len().min(self.token_piece);
                    self.there.kernel.deliver(&rest[..n]);
                    self.sending.token_sent(n);
                }
                Send::Ring(producer) => {
                    let (n, wake) = producer.write(bytes).unwrap();
                    if wake == Wake::Peer {
                        self.there.kernel.ring();
                    }
                    if n > 0 {
                        return Ok(n);
                    }
                    if !producer.arm().unwrap() {
                        continue;
                    }
                    return if self.here.peer_is_gone() { Err(Gone) } else { Ok(0) };
                }
            }
        }
    }

    /// Writes all of `bytes`, one a call, and sleeps when there is no room.
    pub(super) fn write_all(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let mut seen = Seen::default();
        for byte in bytes {
            while self.write(&[*byte])? == 0 {
                self.here.kernel.wait(&mut seen);
            }
        }
        Ok(())
    }
}

/// The task that reads.
#[derive(Debug)]
pub(super) struct Reader {
    here: Arc<End>,
    there: Arc<End>,
    pub(super) receiving: Receiving,
}

impl Reader {
    pub(super) fn new(here: &Arc<End>, there: &Arc<End>) -> Self {
        Self { here: Arc::clone(here), there: Arc::clone(there), receiving: Receiving::default() }
    }

    /// Reads at most `most` bytes.
    pub(super) fn read(&mut self, most: usize) -> Got {
        let mut to = vec![0; most];
        loop {
            match self.receiving.step() {
                Receive::Tcp => match self.here.kernel.take(&mut to) {
                    Taken::Bytes(n) => {
                        let granted = self.here.granted();
                        let n = self.receiving.read_by_tcp(&to[..n], granted.as_deref()).unwrap();
                        if n > 0 {
                            to.truncate(n);
                            return Got::Bytes(to);
                        }
                        // Nothing but token bytes: not an EOF.
                    }
                    Taken::Nothing => return Got::WouldBlock,
                    Taken::Fin => return Got::Eof,
                },
                Receive::Ring(consumer) => {
                    let (n, wake) = consumer.read(&mut to).unwrap();
                    if wake == Wake::Peer {
                        self.there.kernel.ring();
                    }
                    if n > 0 {
                        to.truncate(n);
                        return Got::Bytes(to);
                    }
                    if !consumer.arm().unwrap() {
                        continue;
                    }
                    if !self.here.kernel.fin() {
                        return Got::WouldBlock;
                    }
                    // What was published before the FIN is there to be seen now.
                    if consumer.filled().unwrap() == 0 {
                        return Got::Eof;
                    }
                }
            }
        }
    }

    /// Reads until EOF, at most `most` bytes a call, and sleeps in between.
    pub(super) fn read_to_end(&mut self, most: usize) -> Vec<u8> {
        let (mut got, mut seen) = (Vec::new(), Seen::default());
        loop {
            match self.read(most) {
                Got::Bytes(bytes) => got.extend(bytes),
                Got::WouldBlock => self.here.kernel.wait(&mut seen),
                Got::Eof => return got,
            }
        }
    }
}
