//! Requests one at a time on each of several connections: what `http1` and its like have in common.
//!
//! Every connection is a task of its own, as in a program. A request counts when it was sent after the warm-up.

use std::io;

use tokio::task::JoinSet;

use super::rtt::Trips;
use crate::protocol::{Outcome, Times};

/// One connection to ask on.
pub(super) trait Asking: Send + 'static {
    /// Sends a request and checks the answer.
    fn ask(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

/// Asks on all connections until the time is over, and drops them. Each request counts for so many bytes.
pub(super) async fn run<A: Asking>(connections: Vec<A>, size: usize, times: Times) -> io::Result<Outcome> {
    let mut tasks = JoinSet::new();
    for connection in connections {
        tasks.spawn(ask(connection, Trips::begin(times)?, size));
    }
    let (mut all, mut rate, mut bytes) = (Trips::begin(times)?.histogram, 0.0, 0);
    while let Some(trips) = tasks.join_next().await {
        let trips = trips.map_err(io::Error::other)??;
        rate += trips.rate();
        bytes += trips.bytes;
        all.add(trips.histogram).map_err(io::Error::other)?;
    }
    let quantile = |q| Some(all.value_at_quantile(q) as f64);
    let (p50, p99, p999) = (quantile(0.5), quantile(0.99), quantile(0.999));
    Ok(Outcome { values: vec![vec![rate]], p50, p99, p999, bytes, ..Outcome::default() })
}

async fn ask<A: Asking>(mut connection: A, mut trips: Trips, size: usize) -> io::Result<Trips> {
    loop {
        connection.ask().await?;
        if trips.another(size) {
            return Ok(trips);
        }
    }
}
