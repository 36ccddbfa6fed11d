//! What is measured: each measure has a file with the work of its two ends, written once for all contenders.

mod bare;
mod copies;
mod grpc;
mod http1;
pub(crate) mod idle;
mod loads;
mod oneshot;
mod requests;
mod rtt;
mod stream;
mod upgrade;

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
        (_, &[limit @ (names::Contender::Memcpy | names::Contender::Memcpy2)]) => {
            Box::pin(async move { copies::serve(limit, work, &place, announce) })
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

/// Serves one sample of one contender.
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
            let Self { work, place, announce } = self;
            announce(vec![address])?;
            match work {
                Work::Rtt { size, .. } => rtt::serve(accept(contender, &listener, &place).await?, size).await,
                Work::Stream { times, .. } => stream::serve(accept(contender, &listener, &place).await?, times).await,
                Work::Http1 { size, conns, .. } => {
                    http1::serve(accept_all(contender, &listener, &place, conns).await?, size).await
                }
                Work::Grpc { conns, .. } => grpc::serve(accept_all(contender, &listener, &place, conns).await?).await,
                Work::Hold { conns } => idle::serve(contender, &listener, &place, conns, true).await,
                Work::Idle { conns, .. } => idle::serve(contender, &listener, &place, conns, false).await,
                Work::Upgrade { connections } => upgrade::serve(contender, &listener, &place, connections).await,
                Work::Loads { size, load, .. } => {
                    loads::serve(accept_all(contender, &listener, &place, load.conns()).await?, size, load).await
                }
                Work::Oneshot { .. } => Err(io::Error::other("one-shot connections are never settled")),
            }
        })
    }
}

/// Makes the connections of one sample of one contender and measures on them.
struct RunOne {
    work: Work,
    place: Arc<Place>,
    address: String,
}

impl Visit for RunOne {
    type Output = Sampling;

    fn visit<C: Contender>(self, contender: C) -> Sampling {
        Box::pin(async move {
            let Self { work, place, address } = self;
            match work {
                Work::Rtt { size, times } => rtt::run(connect(contender, &address, &place).await?, size, times).await,
                Work::Stream { size, times } => {
                    stream::run(connect(contender, &address, &place).await?, size, times).await
                }
                Work::Http1 { size, conns, times } => {
                    http1::run(connect_all(contender, &address, &place, conns).await?, size, times).await
                }
                Work::Grpc { size, conns, times } => {
                    grpc::run(connect_all(contender, &address, &place, conns).await?, size, times).await
                }
                Work::Hold { conns } => idle::hold(contender, &address, &place, conns).await,
                Work::Idle { conns, all, before } => idle::run(contender, &address, &place, conns, all, before).await,
                Work::Upgrade { connections } => upgrade::run(contender, &address, &place, connections).await,
                Work::Loads { size, load, times } => {
                    loads::run(connect_all(contender, &address, &place, load.conns()).await?, size, load, times).await
                }
                Work::Oneshot { .. } => Err(io::Error::other("one-shot connections are never settled")),
            }
        })
    }
}

/// The next connection, as the contender's name promises it.
async fn accept<C: Contender>(contender: C, listener: &C::Listener, place: &Place) -> io::Result<C::Stream> {
    let stream = contender.accept(listener).await.map_err(|e| during("accept", &e))?;
    contender.settle(&stream, place).await.map(|()| stream)
}

/// So many connections, one after the other.
async fn accept_all<C: Contender>(
    contender: C,
    listener: &C::Listener,
    place: &Place,
    conns: u32,
) -> io::Result<Vec<C::Stream>> {
    let mut streams = Vec::with_capacity(conns as usize);
    for _ in 0..conns {
        streams.push(accept(contender, listener, place).await?);
    }
    Ok(streams)
}

/// A new connection, as the contender's name promises it.
async fn connect<C: Contender>(contender: C, address: &str, place: &Place) -> io::Result<C::Stream> {
    let stream = contender.connect(address).await.map_err(|e| during("connect", &e))?;
    contender.settle(&stream, place).await.map(|()| stream)
}

/// So many new connections, one after the other.
async fn connect_all<C: Contender>(
    contender: C,
    address: &str,
    place: &Place,
    conns: u32,
) -> io::Result<Vec<C::Stream>> {
    let mut streams = Vec::with_capacity(conns as usize);
    for _ in 0..conns {
        streams.push(connect(contender, address, place).await?);
    }
    Ok(streams)
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
