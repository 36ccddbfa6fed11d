//! All of tokio, with the TCP types of `shmbc-tokio`: connections to peers on this host go through shared memory.
//!
//! Stands in for the package `tokio` by way of an entry in `[patch]`; made by `compat/tokio/setup`. What is not named here
//! is tokio's own.

#![allow(unexpected_cfgs)] // `loom`

pub use tokio_real::*;

/// Networking: tokio's, but for TCP.
#[cfg(all(feature = "net", target_os = "linux", not(loom)))]
pub mod net {
    pub use shmbc_tokio::net::{TcpListener, TcpSocket, TcpStream};
    pub use tokio_real::net::*;

    /// TCP: the halves of a stream.
    pub mod tcp {
        pub use shmbc_tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, ReuniteError, WriteHalf};
        // What a later tokio has here.
        #[allow(unused_imports)]
        pub use tokio_real::net::tcp::*;
    }
}
