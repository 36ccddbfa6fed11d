//! One connection as a state machine without I/O: TCP leg, switch, ring, half-close, reset.
//!
//! The two directions of a connection switch on their own. For each, one end has a [`Sending`], the other a
//! [`Receiving`]; both know the [`Granted`] block once the host has granted it. They say what to do next and are told what
//! was done; tokio, mio and blocking streams, and the models, drive them with real or pretended sockets.
//!
//! ```text
//!  Sending                                            Receiving
//!    Tcp    bytes go by TCP and are counted             Tcp    bytes come by TCP and are counted
//!     |     begin_switch: publish the count,             |     after each read, look for the count:
//!    Token  write 16 bytes by TCP                        |     what lies behind it is the token, not the program's
//!     |                                                  |
//!    Ring   bytes go to the ring                        Ring   bytes come from the ring; TCP is the lifeline
//! ```
//!
//! The count is published before the first token byte is written, so whoever reads a token byte can see the count
//! (the kernel orders the two through the socket). When an end may switch is [`Phase`]'s business.

mod granted;
mod path;
mod phase;
mod receiving;
mod sending;

pub use granted::{Granted, SwitchToken};
pub use path::{Path, Reason};
pub use phase::{Event, Phase};
pub use receiving::{Receive, Receiving, STRAY_MAX};
pub use sending::{Send, Sending};
