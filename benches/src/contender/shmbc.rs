//! SHMBC over the loopback device, with each way of waiting.

use std::io;
use std::time::Duration;

use shmbc_tokio::{Path, ShmListener, ShmStream, Wait};
use tokio::time::timeout;

use super::Contender;
use crate::protocol::Place;

/// An upgrade takes a millisecond; one that takes so long will never come.
const PATIENCE: Duration = Duration::from_secs(10);

/// The ways of waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shmbc {
    /// Sleeps at once.
    Off,
    /// Polls when that pays: the default.
    Adaptive,
    /// Always polls for the same time.
    Fixed,
}

impl Contender for Shmbc {
    type Listener = ShmListener;
    type Stream = ShmStream;

    async fn bind(self, place: &Place) -> io::Result<(ShmListener, String)> {
        let listener = ShmListener::bind((place.ip, 0)).await?;
        let address = listener.local_addr()?.to_string();
        Ok((listener, address))
    }

    async fn accept(self, listener: &ShmListener) -> io::Result<ShmStream> {
        Ok(listener.accept().await?.0)
    }

    async fn connect(self, address: &str) -> io::Result<ShmStream> {
        ShmStream::connect(address).await
    }

    async fn settle(self, stream: &ShmStream, place: &Place) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_wait(match self {
            Self::Off => Wait::Off,
            Self::Adaptive => Wait::Adaptive,
            Self::Fixed => Wait::Fixed(place.fixed),
        });
        let upgraded = timeout(PATIENCE, stream.upgraded()).await;
        let upgraded = upgraded.map_err(|_| io::Error::other(format!("not upgraded within {PATIENCE:?}")))?;
        upgraded.map_err(|reason| io::Error::other(format!("the connection stays on TCP: {reason}")))?;
        // Figures of a connection that quietly stayed on TCP would be worse than none.
        match stream.path() {
            Path::SharedMemory => Ok(()),
            path @ Path::Tcp(_) => Err(io::Error::other(format!("the path is {path}, not shared memory"))),
        }
    }
}
