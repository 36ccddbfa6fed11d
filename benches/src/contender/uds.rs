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
        let path = new_path(place)?;
        Ok((UnixListener::bind(&path)?, path))
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

/// A path for one sample's listener: the name of a Unix socket outlives it.
pub(super) fn new_path(place: &Place) -> io::Result<String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let path = place.dir.join(format!("{}-{}.sock", process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let path = path.to_str().ok_or_else(|| io::Error::other("the directory for temporary files is not UTF-8"))?;
    Ok(path.to_owned())
}
