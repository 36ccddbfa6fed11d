//! `upgrade`: from an end's offer until both its directions go through shared memory, on one new connection after the other.
//!
//! Both ends have exchanged a byte by TCP, so that both are at work, and then ask for the upgrade at about the same time.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::rtt::Trips;
use super::{during, read_end};
use crate::contender::Contender;
use crate::protocol::{Outcome, Place, Times};

/// Accepts and upgrades so many connections.
pub(super) async fn serve<C: Contender>(
    contender: C,
    listener: &C::Listener,
    place: &Place,
    connections: u32,
) -> io::Result<Outcome> {
    for _ in 0..connections {
        let mut stream = contender.accept(listener).await.map_err(|e| during("accept", &e))?;
        let byte = stream.read_u8().await.map_err(|e| during("read", &e))?;
        stream.write_u8(byte).await.map_err(|e| during("write", &e))?;
        contender.settle(&stream, place).await?;
        // Closes first: sockets in TIME_WAIT do not take the ports that `connect` picks from.
        stream.shutdown().await?;
        read_end(&mut stream).await?;
    }
    Ok(Outcome { bytes: connections.into(), ..Outcome::default() })
}

/// Connects, and times each upgrade.
pub(super) async fn run<C: Contender>(
    contender: C,
    address: &str,
    place: &Place,
    connections: u32,
) -> io::Result<Outcome> {
    let mut trips = Trips::begin(Times::default())?;
    for _ in 0..connections {
        let mut stream = contender.connect(address).await.map_err(|e| during("connect", &e))?;
        stream.write_u8(1).await.map_err(|e| during("write", &e))?;
        stream.read_u8().await.map_err(|e| during("read", &e))?;
        trips.again();
        contender.settle(&stream, place).await?;
        trips.another(1);
        read_end(&mut stream).await?;
    }
    trips.outcome(true)
}
