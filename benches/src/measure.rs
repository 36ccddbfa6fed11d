//! What is measured: each measure has a file with the work of its two ends, written once for all contenders.

mod bare;
mod copies;
mod oneshot;
mod rtt;
mod stream;

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::contender::{self, Contender, Visit};
use crate::names;
use crate::protocol::{Outcome, Place, Work};

/// One end's part in a sample.
pub(crate) type Sampling = Pin<Box<dyn Future<Output = io::Result<Outcome>> + Send>>;

/// Tells the run the addresses of a sample's listeners.
type Announce = fn(Vec<String>) -> io::Result<()>;

/// The listening end of a sample.
pub(crate) fn serve(contenders: Vec<names::Contender>, work: Work, place: Arc<Place>, announce: Announce) -> Sampling {
    match (work, contenders.as_slice()) {
        (Work::Oneshot { size, batch, batches }, _) => {
            Box::pin(oneshot::serve(contenders, size, batch, batches, place, announce))
        }
        (_, &[copy @ (names::Contender::Memcpy | names::Contender::Memcpy2)]) => {
            Box::pin(async move { copies::serve(copy, work, &place, announce) })
        }
        (_, &[bare]) if !bare.has_runtime() => Box::pin(async move { bare::serve(bare, work, &place, announce) }),
        (_, &[only]) => contender::visit(only, ServeOne { work, place, announce }),
        _ => Box::pin(async { Err(io::Error::other("this measure takes one contender at a time")) }),
    }
}

/// The connecting end of a sample.
pub(crate) fn run(
    contenders: Vec<names::Contender>,
    addresses: Vec<String>,
    work: Work,
    place: Arc<Place>,
) -> Sampling {
    match (work, contenders.as_slice(), addresses.as_slice()) {
        (Work::Oneshot { size, batch, batches }, ..) => {
            Box::pin(oneshot::run(contenders, addresses, size, batch, batches))
        }
        (_, [names::Contender::Memcpy | names::Contender::Memcpy2], _) => Box::pin(async { Ok(Outcome::default()) }),
        (_, &[bare], [address]) if !bare.has_runtime() => {
            let address = address.clone();
            Box::pin(async move { bare::run(bare, work, &address) })
        }
        (_, &[only], [address]) => contender::visit(only, RunOne { work, place, address: address.clone() }),
        _ => Box::pin(async { Err(io::Error::other("this measure takes one contender at a time")) }),
    }
}

/// Serves one connection of one contender.
struct ServeOne {
    work: Work,
    place: Arc<Place>,
    announce: Announce,
}

impl Visit for ServeOne {
    type Output = Sampling;

    fn visit<C: Contender>(self, contender: C) -> Sampling {
        Box::pin(async move {
            let (listener, address) = contender.bind(&self.place).await.map_err(|e| during("bind", &e))?;
            (self.announce)(vec![address])?;
            let stream = contender.accept(&listener).await.map_err(|e| during("accept", &e))?;
            contender.settle(&stream, &self.place).await?;
            match self.work {
                Work::Rtt { size, .. } => rtt::serve(stream, size).await,
                Work::Stream { times, .. } => stream::serve(stream, times).await,
                Work::Oneshot { .. } => Err(io::Error::other("one-shot connections are never settled")),
            }
        })
    }
}

/// Makes one connection of one contender and measures on it.
struct RunOne {
    work: Work,
    place: Arc<Place>,
    address: String,
}

impl Visit for RunOne {
    type Output = Sampling;

    fn visit<C: Contender>(self, contender: C) -> Sampling {
        Box::pin(async move {
            let stream = contender.connect(&self.address).await.map_err(|e| during("connect", &e))?;
            contender.settle(&stream, &self.place).await?;
            match self.work {
                Work::Rtt { size, times } => rtt::run(stream, size, times).await,
                Work::Stream { size, times } => stream::run(stream, size, times).await,
                Work::Oneshot { .. } => Err(io::Error::other("one-shot connections are never settled")),
            }
        })
    }
}

/// Says what was being done when it failed.
fn during(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Waits for the end of a stream on which nothing more may come.
async fn read_end<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<()> {
    match stream.read(&mut [0; 1]).await? {
        0 => Ok(()),
        _ => Err(io::Error::other("a byte came after the last one that was sent")),
    }
}
