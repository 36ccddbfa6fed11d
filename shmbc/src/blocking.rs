//! Streams for threads: `std::net`'s TCP types, upgraded to shared memory when the peer is on this host.
//!
//! A thread that waits sleeps in `poll(2)` on the TCP connection, the doorbell, and an eventfd by which this process wakes
//! it. The other end may be any kind of stream of SHMBC: this one, tokio's, mio's.
//!
//! ```
//! use std::io::{Read, Write};
//! use shmbc::blocking::{ShmListener, ShmStream};      // was: use std::net::{TcpListener, TcpStream};
//!
//! # fn main() -> std::io::Result<()> {
//! let listener = ShmListener::bind("127.0.0.1:0")?;
//! let address = listener.local_addr()?;
//! let server = std::thread::spawn(move || -> std::io::Result<()> {
//!     let (mut stream, _peer) = listener.accept()?;
//!     let mut request = [0; 4];
//!     stream.read_exact(&mut request)?;
//!     stream.write_all(&request)
//! });
//! let mut stream = ShmStream::connect(address)?;
//! stream.write_all(b"ping")?;
//! let mut answer = [0; 4];
//! stream.read_exact(&mut answer)?;
//! assert_eq!(&answer, b"ping");
//! println!("by {}", stream.path());
//! # server.join().unwrap()
//! # }
//! ```

mod listener;
mod parker;
mod source;
mod stream;
mod turns;

pub use listener::{Incoming, ShmListener};
pub use stream::ShmStream;
