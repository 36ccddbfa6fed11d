//! `oneshot`: connect, one request, one answer, close; connections per second, one after the other.
//!
//! Contenders that share the two processes take turns batch by batch, in an order that changes, so that a difference
//! of a few per cent between two of them shows. The server closes first, as after an HTTP/1.0 answer: sockets in
//! TIME_WAIT then hang on its port, where `connect` never looks, and not on the ports that `connect` picks from.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Announce, during, read_end};
use crate::contender::{self, Contender, Visit};
use crate::names;
use crate::protocol::{Outcome, Place};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// The connections of one contender; boxed, so that several can take turns. Within a batch all types are known.
trait Batches: Send + Sync {
    /// Accepts so many connections and answers them.
    fn serve(&self, connections: usize, size: usize) -> Boxed<'_, ()>;
}

struct Listening<C: Contender> {
    contender: C,
    listener: C::Listener,
}

impl<C: Contender> Batches for Listening<C> {
    fn serve(&self, connections: usize, size: usize) -> Boxed<'_, ()> {
        Box::pin(async move {
            let mut message = vec![0; size];
            for _ in 0..connections {
                let mut stream = self.contender.accept(&self.listener).await.map_err(|e| during("accept", &e))?;
                stream.read_exact(&mut message).await.map_err(|e| during("read", &e))?;
                stream.write_all(&message).await.map_err(|e| during("write", &e))?;
            }
            Ok(())
        })
    }
}

/// Makes the listener of one contender.
struct Listen(Arc<Place>);

impl Visit for Listen {
    type Output = Boxed<'static, (Box<dyn Batches>, String)>;

    fn visit<C: Contender>(self, contender: C) -> Self::Output {
        Box::pin(async move {
            let (listener, address) = contender.bind(&self.0).await.map_err(|e| during("bind", &e))?;
            Ok((Box::new(Listening { contender, listener }) as Box<dyn Batches>, address))
        })
    }
}

/// Connects, asks, reads the answer to the end and closes, so many times; returns connections per second.
struct Ask {
    address: String,
    connections: usize,
    size: usize,
}

impl Visit for Ask {
    type Output = Boxed<'static, f64>;

    fn visit<C: Contender>(self, contender: C) -> Self::Output {
        Box::pin(async move {
            let request = vec![1; self.size];
            let mut answer = vec![0; self.size];
            let begin = Instant::now();
            for _ in 0..self.connections {
                let mut stream = contender.connect(&self.address).await.map_err(|e| during("connect", &e))?;
                stream.write_all(&request).await.map_err(|e| during("write", &e))?;
                stream.read_exact(&mut answer).await.map_err(|e| during("read", &e))?;
                read_end(&mut stream).await?;
            }
            let rate = self.connections as f64 / begin.elapsed().as_secs_f64();
            if answer == request { Ok(rate) } else { Err(io::Error::other("the answer is not the request")) }
        })
    }
}

/// Serves all contenders of a sample in the order in which the other end asks.
pub(super) async fn serve(
    contenders: Vec<names::Contender>,
    size: usize,
    batch: usize,
    batches: usize,
    place: Arc<Place>,
    announce: Announce,
) -> io::Result<Outcome> {
    let mut listening = Vec::new();
    let mut addresses = Vec::new();
    for &name in &contenders {
        let (batches, address) = contender::visit(name, Listen(Arc::clone(&place))).await?;
        listening.push(batches);
        addresses.push(address);
    }
    announce(addresses)?;
    for round in 0..=batches {
        for index in order(round, contenders.len()) {
            listening[index].serve(batch, size).await?;
        }
    }
    Ok(Outcome { bytes: total(contenders.len(), size, batch, batches), ..Outcome::default() })
}

/// Asks all contenders of a sample, batch by batch.
pub(super) async fn run(
    contenders: Vec<names::Contender>,
    addresses: Vec<String>,
    size: usize,
    batch: usize,
    batches: usize,
) -> io::Result<Outcome> {
    let mut values = vec![Vec::new(); contenders.len()];
    for round in 0..=batches {
        for index in order(round, contenders.len()) {
            let address = addresses.get(index).cloned().ok_or_else(|| io::Error::other("an address is missing"))?;
            let rate = contender::visit(contenders[index], Ask { address, connections: batch, size }).await?;
            // The first batch of each is the warm-up.
            if round > 0 {
                values[index].push(rate);
            }
        }
    }
    Ok(Outcome { values, bytes: total(contenders.len(), size, batch, batches), ..Outcome::default() })
}

/// Who comes when in one round of batches: every contender in every place, and each pair in both orders.
fn order(round: usize, contenders: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..contenders).map(|i| (i + round / 2) % contenders).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

fn total(contenders: usize, size: usize, batch: usize, batches: usize) -> u64 {
    (contenders * size * batch * (batches + 1)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_two_contenders_puts_each_first_equally_often() {
        let first: Vec<usize> = (1..=8).map(|round| order(round, 2)[0]).collect();
        assert_eq!(first.iter().filter(|&&index| index == 0).count(), 4);
    }
}
