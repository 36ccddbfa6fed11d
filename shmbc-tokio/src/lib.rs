//! `TcpListener` and `TcpStream` for tokio, upgraded to shared memory when the peer is on this host.
//!
//! ```no_run
//! use shmbc_tokio::{ShmListener, ShmStream};          // was: use tokio::net::{TcpListener, TcpStream};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # async fn example() -> std::io::Result<()> {
//! let listener = ShmListener::bind("0.0.0.0:7000").await?;
//! let (mut stream, _peer) = listener.accept().await?;
//! let mut buf = [0; 1024];
//! let n = stream.read(&mut buf).await?;
//! stream.write_all(&buf[..n]).await?;
//! println!("by {}", stream.path());                    // "shared memory", or "TCP (why)"
//! # Ok(())
//! # }
//! ```
//!
//! A connection begins as a real TCP connection made by the kernel, and data flows at once. When it turns out
//! to live on (two turnarounds between writing and reading, or 256 KiB one way) and the peer is on this host, both ends offer it
//! to the host service `shmbc-host`, which gives them a block of shared memory; from then on their bytes go through it, and
//! the TCP connection stays as the lifeline. When the peer is elsewhere, or does not speak SHMBC, or no host service
//! runs, it remains a TCP connection; [`ShmStream::path`] says which, and why.
//!
//! # Settings
//!
//! | environment | meaning |
//! |---|---|
//! | `SHMBC_HOST` | path of the host service's socket (default `/run/shmbc/host.sock`), or `off`: plain TCP |
//! | `SHMBC_WAIT` | `adaptive` (default), `off`, `fixed` or `fixed:<n>us`: see [`Wait`] |
//! | `SHMBC_UPGRADE` | `traffic` (default), `eager` or `await`: see [`When`] |
//!
//! [`Config`] sets the same from the program.
//!
//! # Files
//!
//! `stream`, `split`, `listener` and `socket` are the types; `reactor` and `bell` are what the driver of crate `shmbc`, which moves
//! the bytes, must know of tokio.

mod bell;
mod listener;
mod listener_stream;
mod reactor;
mod shared;
mod socket;
mod split;
mod stream;
#[cfg(feature = "tokio-util07")]
mod tokio_util07;

pub use listener::ShmListener;
pub use listener_stream::ShmListenerStream;
pub use shmbc::control::message::{ContainerIdentity, ContainerName, Decline, Identity, MAX_LABELS, MAX_TEXT, Refusal};
pub use shmbc::link::{Path, Reason};
pub use shmbc::locality::Locality;
pub use shmbc::{AlreadyInstalled, Config, ConfigError, Wait, When, query};
pub use socket::ShmSocket;
pub use split::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, ReuniteError, WriteHalf};
pub use stream::ShmStream;

/// The names of `tokio::net`, for a swap in one line: `use shmbc_tokio::net::{TcpListener, TcpStream};`.
///
/// The TCP types are ours; what is not TCP is tokio's own. `docs/tokio-api.md` in the repository has every method of tokio's
/// TCP types and its state on ours.
pub mod net {
    pub use tokio::net::{
        ToSocketAddrs, UdpSocket, UnixDatagram, UnixListener, UnixSocket, UnixStream, lookup_host, unix,
    };

    pub use crate::{ShmListener as TcpListener, ShmSocket as TcpSocket, ShmStream as TcpStream};

    /// The halves of a stream.
    pub mod tcp {
        pub use crate::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, ReuniteError, WriteHalf};
    }
}
