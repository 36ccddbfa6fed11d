//! One connection: connects to the target, and moves bytes both ways until both directions have ended.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::copy_bidirectional_with_sizes;
use tracing::{debug, warn};

use super::end::{Address, Stream};

/// One direction's buffer: a pipe's, beyond which a copy does not get faster.
const BUFFER: usize = 64 << 10;

/// How long a target may take to accept. The kernel alone would try for two minutes.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// Forwards one connection. A target that cannot be reached closes it; a failure at one end resets the other.
pub(super) async fn forward(mut client: Stream, peer: Option<SocketAddr>, target: Arc<Address>) {
    let peer = Peer(peer);
    let connected = tokio::time::timeout(CONNECT_PATIENCE, target.connect()).await;
    let mut server = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(server) => server,
        Err(error) => {
            warn!(%peer, to = %target, %error, "the target cannot be reached: the connection is closed");
            return;
        }
    };
    debug!(%peer, to = %target, "connected");
    let began = Instant::now();
    let ended = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await;
    let (path, target_path) = (client.path(), server.path());
    let seconds = began.elapsed().as_secs_f64();
    match ended {
        Ok((sent, received)) => debug!(%peer, path, path_to = target_path, sent, received, seconds, "ended"),
        Err(error) => {
            debug!(%peer, path, path_to = target_path, %error, seconds, "broken");
            client.reset_on_close();
            server.reset_on_close();
        }
    }
}

/// Where a connection comes from, for the log.
struct Peer(Option<SocketAddr>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("unix socket"),
        }
    }
}
