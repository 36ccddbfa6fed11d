//! tokio's Unix stream socket.

use std::io;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::{UnixListener, UnixStream};

use super::Contender;
use crate::protocol::Place;

/// A socket in the run's private directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uds;

impl Contender for Uds {
    type Listener = UnixListener;
    type Stream = UnixStream;

    async fn bind(self, place: &Place) -> io::Result<(UnixListener, String)> {
        // Each sample has a listener of its own, and a Unix socket's name outlives its listener.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = place.dir.join(format!("{}-{}.sock", process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let address =
            path.to_str().ok_or_else(|| io::Error::other("the directory for temporary files is not UTF-8"))?;
        Ok((UnixListener::bind(&path)?, address.to_owned()))
    }

    async fn accept(self, listener: &UnixListener) -> io::Result<UnixStream> {
        Ok(listener.accept().await?.0)
    }

    async fn connect(self, address: &str) -> io::Result<UnixStream> {
        UnixStream::connect(address).await
    }

    async fn settle(self, _stream: &UnixStream, _place: &Place) -> io::Result<()> {
        Ok(())
    }
}
