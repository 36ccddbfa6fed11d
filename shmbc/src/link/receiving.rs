//! The end of a direction that receives: TCP up to the published count, the token, then the ring.

use super::Granted;
use super::granted::SwitchToken;
use crate::ring::{Consumer, PeerFault};

/// Most bytes that a peer may send by TCP behind its token while it publishes nothing that is read. Each is a probe: one
/// before each sleep, and one for each 64 KiB, of a writer whose peer has shut its own write side. That is 16 Ki for the
/// largest ring; a peer that sends more is not probing.
pub const STRAY_MAX: u64 = 64 * 1024;

/// The receiving end of one direction.
#[derive(Debug)]
pub struct Receiving {
    state: State,
}

/// The ring is boxed: a stream on TCP is small, and moves from task to task.
#[derive(Debug)]
enum State {
    /// `token` bytes of the token have been taken so far.
    Tcp { received: u64, token: usize },
    /// `stray` bytes have come by TCP since the ring had given `since` bytes.
    Ring { consumer: Box<Consumer>, stray: u64, since: u64 },
}

/// Where the program's next bytes come from.
#[derive(Debug)]
pub enum Receive<'a> {
    /// Read by TCP and pass what came to [`Receiving::read_by_tcp`].
    Tcp,
    /// Read here. When it is empty, TCP says whether more can come.
    Ring(&'a mut Consumer),
}

impl Default for Receiving {
    fn default() -> Self {
        Self { state: State::Tcp { received: 0, token: 0 } }
    }
}

impl Receiving {
    /// Where the program's next bytes come from.
    #[inline]
    pub fn step(&mut self) -> Receive<'_> {
        match &mut self.state {
            State::Tcp { .. } => Receive::Tcp,
            State::Ring { consumer, .. } => Receive::Ring(consumer),
        }
    }

    /// Whether the other end has switched and its token has come.
    pub const fn switched(&self) -> bool {
        matches!(self.state, State::Ring { .. })
    }

    /// The ring, once the token has come.
    pub fn ring(&mut self) -> Option<&mut Consumer> {
        match &mut self.state {
            State::Ring { consumer, .. } => Some(consumer),
            State::Tcp { .. } => None,
        }
    }

    /// Bytes of the program's that came by TCP, while still on TCP.
    pub const fn on_tcp(&self) -> Option<u64> {
        match &self.state {
            State::Tcp { received, .. } => Some(*received),
            State::Ring { .. } => None,
        }
    }

    /// Bytes of the token that have not come yet.
    pub const fn token_left(&self) -> usize {
        match &self.state {
            State::Tcp { token, .. } => SwitchToken::LEN - *token,
            State::Ring { .. } => 0,
        }
    }

    /// Takes note of bytes that a TCP read returned and says how many of them, from the front, are the program's. The
    /// others were the token's: they are to be forgotten.
    ///
    /// `granted` must have been looked up *after* the read: it is then there if any token byte is.
    ///
    /// # Errors
    ///
    /// [`PeerFault`]: the peer's count or token is wrong, or it sent too much behind it.
    pub fn read_by_tcp(&mut self, bytes: &[u8], granted: Option<&Granted>) -> Result<usize, PeerFault> {
        match &mut self.state {
            State::Ring { consumer, stray, since } => {
                if *since != consumer.consumed() {
                    (*since, *stray) = (consumer.consumed(), 0);
                }
                *stray += bytes.len() as u64;
                if *stray > STRAY_MAX {
                    return Err(PeerFault::StrayBytes { limit: STRAY_MAX });
                }
                Ok(0)
            }
            State::Tcp { received, token } => {
                let Some((granted, count)) = granted.and_then(|g| g.peer_switched().map(|count| (g, count))) else {
                    *received += bytes.len() as u64;
                    return Ok(bytes.len());
                };
                let Some(left) = count.checked_sub(*received) else {
                    return Err(PeerFault::SwitchedInThePast { claim: count, received: *received });
                };
                let app = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                *received += app as u64;
                let (_, behind) = bytes.split_at(app);
                let expected = &granted.receive_token().as_bytes()[*token..];
                let n = behind.len().min(expected.len());
                if behind[..n] != expected[..n] {
                    return Err(PeerFault::WrongToken);
                }
                *token += n;
                if *token == SwitchToken::LEN {
                    self.state = State::Ring { consumer: Box::new(granted.consumer()), stray: 0, since: 0 };
                    self.read_by_tcp(&behind[n..], None)?;
                }
                Ok(app)
            }
        }
    }

    /// How many of `n` bytes that a TCP peek showed are the program's; the rest belongs to the token.
    ///
    /// # Errors
    ///
    /// As [`read_by_tcp`](Self::read_by_tcp).
    pub fn peeked_by_tcp(&self, n: usize, granted: Option<&Granted>) -> Result<usize, PeerFault> {
        let State::Tcp { received, .. } = self.state else {
            return Ok(0);
        };
        match granted.and_then(Granted::peer_switched) {
            None => Ok(n),
            Some(count) => match count.checked_sub(received) {
                None => Err(PeerFault::SwitchedInThePast { claim: count, received }),
                Some(left) => Ok(n.min(usize::try_from(left).unwrap_or(usize::MAX))),
            },
        }
    }
}
