//! What a grant gives one end: the mapped block, which end it is, and the two switch tokens.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::control::message::End;
use crate::layout::{FORBIDDEN, Sizes, Words};
use crate::ring::{Consumer, Producer};
use crate::sync::{Arc, Ordering};
use crate::sys::Mapping;

/// The last 16 bytes that a direction sends by TCP. Random, known to the two ends of one connection only: if what the
/// receiver finds behind the last counted byte is anything else, the two are not ends of the same connection.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchToken([u8; 16]);

impl SwitchToken {
    /// Its length in bytes.
    pub const LEN: usize = size_of::<Self>();

    /// A token of these bytes, which the caller drew at random.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Its bytes, as they go over TCP.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for SwitchToken {
    /// Does not show it: a log is read by more people than the two ends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SwitchToken(..)")
    }
}

/// A verified and mapped grant.
#[derive(Debug)]
pub struct Granted {
    memory: Arc<Mapping>,
    sizes: Sizes,
    end: End,
    send_token: SwitchToken,
    receive_token: SwitchToken,
}

impl Granted {
    /// The grant of `memory`, which [`verify`](crate::block::verify) has returned for `sizes`.
    pub fn new(memory: Mapping, sizes: Sizes, end: End, send_token: SwitchToken, receive_token: SwitchToken) -> Self {
        Self::shared(Arc::new(memory), sizes, end, send_token, receive_token)
    }

    pub(crate) fn shared(
        memory: Arc<Mapping>,
        sizes: Sizes,
        end: End,
        send_token: SwitchToken,
        receive_token: SwitchToken,
    ) -> Self {
        Self { memory, sizes, end, send_token, receive_token }
    }

    /// Which end of the block this is.
    #[cfg(not(loom))]
    pub(crate) const fn end(&self) -> End {
        self.end
    }

    /// Where the block is mapped: address and length in bytes.
    #[cfg(not(loom))]
    pub(crate) fn mapped(&self) -> (u64, u64) {
        (self.memory.address(), self.memory.len() as u64)
    }

    /// Sizes of the block.
    pub const fn sizes(&self) -> Sizes {
        self.sizes
    }

    pub(super) fn producer(&self) -> Producer {
        Producer::new(Arc::clone(&self.memory), self.sizes, self.end.sends())
    }

    pub(super) fn consumer(&self) -> Consumer {
        Consumer::new(Arc::clone(&self.memory), self.sizes, self.end.receives())
    }

    pub(super) const fn send_token(&self) -> &SwitchToken {
        &self.send_token
    }

    pub(super) const fn receive_token(&self) -> &SwitchToken {
        &self.receive_token
    }

    fn mine(&self) -> Words {
        Words::of(self.end.sends())
    }

    fn peers(&self) -> Words {
        Words::of(self.end.receives())
    }

    /// Publishes that this end sent `sent` bytes by TCP and that its token follows. False: the other end has closed, and no
    /// token may follow.
    pub(super) fn publish_switch(&self, sent: u64) -> bool {
        let word = self.memory.word(self.mine().switched);
        // Release pairs with the Acquire in `peer_switched`. The token goes through the kernel after this store.
        word.compare_exchange(0, sent + 1, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// How many bytes the other end says it sent by TCP before its token, if it has switched. A claim.
    #[inline]
    pub fn peer_switched(&self) -> Option<u64> {
        // Pairs with the Release in `publish_switch`.
        match self.memory.word(self.peers().switched).load(Ordering::Acquire) {
            0 | FORBIDDEN => None,
            switched => Some(switched - 1),
        }
    }

    /// Forbids the other end to switch, because this end is about to close its socket. A token that came to a closed socket
    /// would be answered with a reset, which destroys what this end has written and the other has not yet read. False: too
    /// late, the token is there or on its way.
    pub fn forbid_switch(&self) -> bool {
        let word = self.memory.word(self.peers().switched);
        // Acquire on failure pairs with the Release in `publish_switch`.
        word.compare_exchange(0, FORBIDDEN, Ordering::Relaxed, Ordering::Acquire).is_ok()
    }

    /// Tells the other end that the FIN which follows closes only this end's write side. To be called before
    /// the FIN is sent, or before the other end can have switched.
    pub fn mark_half_closed(&self) {
        // Pairs with the Acquire in `peer_half_closed`.
        self.memory.word(self.mine().half_closed).store(1, Ordering::Release);
    }

    /// Whether the other end said that it only shut its write side. A claim: if it lies, only what we write to it is lost.
    pub fn peer_half_closed(&self) -> bool {
        // Pairs with the Release in `mark_half_closed`.
        self.memory.word(self.peers().half_closed).load(Ordering::Acquire) != 0
    }
}
