//! Streams for any executor: with the traits of `futures`, on the reactor of async-io (smol's, one thread for the whole process),
//! upgraded to shared memory when the peer is on this host. Needs the feature `futures`.
//!
//! ```
//! use futures_util::{AsyncReadExt, AsyncWriteExt};
//! use shmbc::futures::{ShmListener, ShmStream};
//!
//! # fn main() -> std::io::Result<()> {
//! # async_io::block_on(async {
//! let listener = ShmListener::bind("127.0.0.1:0".parse().unwrap())?;
//! let mut client = ShmStream::connect(listener.local_addr()?).await?;
//! let (mut server, _peer) = listener.accept().await?;
//! client.write_all(b"ping").await?;
//! let mut request = [0; 4];
//! server.read_exact(&mut request).await?;
//! assert_eq!(&request, b"ping");
//! println!("by {}", client.path());
//! # Ok(())
//! # })
//! # }
//! ```

mod listener;
mod source;
mod stream;

pub use listener::{Incoming, ShmListener};
pub use stream::ShmStream;
