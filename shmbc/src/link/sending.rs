//! The end of a direction that sends: TCP until the switch, then the ring.

use super::Granted;
use super::granted::SwitchToken;
use crate::ring::Producer;

/// The sending end of one direction.
#[derive(Debug)]
pub struct Sending {
    state: State,
}

/// The ring is boxed: a stream on TCP is small, and moves from task to task.
#[derive(Debug)]
enum State {
    Tcp { sent: u64 },
    Token { token: SwitchToken, written: usize, then: Box<Producer> },
    Ring(Box<Producer>),
}

/// What to do with the program's next bytes.
#[derive(Debug)]
pub enum Send<'a> {
    /// Write them by TCP and say how many with [`Sending::sent_by_tcp`].
    Tcp,
    /// First write these bytes by TCP and say how many with [`Sending::token_sent`].
    Token(&'a [u8]),
    /// Write them here.
    Ring(&'a mut Producer),
}

impl Default for Sending {
    fn default() -> Self {
        Self { state: State::Tcp { sent: 0 } }
    }
}

impl Sending {
    /// What to do with the program's next bytes.
    #[inline]
    pub fn step(&mut self) -> Send<'_> {
        match &mut self.state {
            State::Tcp { .. } => Send::Tcp,
            State::Token { token, written, .. } => Send::Token(&token.as_bytes()[*written..]),
            State::Ring(producer) => Send::Ring(producer),
        }
    }

    /// `n` bytes of the program's went by TCP.
    pub fn sent_by_tcp(&mut self, n: usize) {
        if let State::Tcp { sent } = &mut self.state {
            *sent += n as u64;
        }
    }

    /// Bytes of the program's that went by TCP, while still on TCP.
    pub const fn on_tcp(&self) -> Option<u64> {
        match &self.state {
            State::Tcp { sent } => Some(*sent),
            State::Token { .. } | State::Ring(_) => None,
        }
    }

    /// The ring, once the token is sent.
    pub fn ring(&mut self) -> Option<&mut Producer> {
        match &mut self.state {
            State::Ring(producer) => Some(producer),
            State::Tcp { .. } | State::Token { .. } => None,
        }
    }

    /// Whether this end has switched.
    pub const fn switched(&self) -> bool {
        matches!(self.state, State::Ring(_))
    }

    /// Publishes where this direction switches. From here on only the token goes by TCP. False, and nothing is done, when it has
    /// switched before or when the other end has closed.
    ///
    /// The caller knows that both ends are ready, that no write of the program's is half done, and that the count
    /// is the socket's true position.
    pub fn begin_switch(&mut self, granted: &Granted) -> bool {
        let State::Tcp { sent } = self.state else { return false };
        if !granted.publish_switch(sent) {
            return false;
        }
        self.state = State::Token { token: *granted.send_token(), written: 0, then: Box::new(granted.producer()) };
        true
    }

    /// `n` bytes of the token went by TCP.
    ///
    /// # Panics
    ///
    /// When more are reported than [`Send::Token`] held.
    pub fn token_sent(&mut self, n: usize) {
        let state = std::mem::replace(&mut self.state, State::Tcp { sent: 0 });
        self.state = match state {
            State::Token { token, written, then } => match written + n {
                SwitchToken::LEN => State::Ring(then),
                written => {
                    assert!(written < SwitchToken::LEN, "more token bytes sent than there are");
                    State::Token { token, written, then }
                }
            },
            other => other,
        };
    }
}
