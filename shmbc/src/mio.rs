//! Streams for mio: its TCP types as [event sources](mio::event::Source), upgraded to shared memory when the peer is on this
//! host. Needs the feature `mio`.
//!
//! Events come under one token, whichever way the bytes go, and mean what they mean with mio's own types: they are
//! edge-triggered, may be spurious, and after each the program reads or writes until `WouldBlock`.
//!
//! ```
//! use std::io::{Read, Write};
//!
//! use mio::{Events, Interest, Poll, Token};
//! use shmbc::mio::{ShmListener, ShmStream};          // was: use mio::net::{TcpListener, TcpStream};
//!
//! # fn main() -> std::io::Result<()> {
//! let mut poll = Poll::new()?;
//! let mut listener = ShmListener::bind("127.0.0.1:0".parse().unwrap())?;
//! poll.registry().register(&mut listener, Token(0), Interest::READABLE)?;
//! let mut client = ShmStream::connect(listener.local_addr()?)?;
//! poll.registry().register(&mut client, Token(1), Interest::READABLE | Interest::WRITABLE)?;
//!
//! let mut events = Events::with_capacity(16);
//! poll.poll(&mut events, None)?;
//! for event in &events {
//!     match event.token() {
//!         Token(0) => drop(listener.accept()?),
//!         _ if event.is_writable() => drop(client.write(b"hello")?),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod listener;
mod source;
mod stream;

pub use listener::ShmListener;
pub use stream::ShmStream;
