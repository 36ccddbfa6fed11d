//! tokio's TCP through a bridge of two network namespaces, as between two containers on one machine.
//!
//! The stream is that of `tcp`; the difference is where its two processes live (`netns`, and `docker` for the contender of
//! that name).

use std::io;

use tokio::net::{TcpListener, TcpStream};

use super::{Contender, Tcp};
use crate::protocol::Place;

/// TCP whose processes are attached to a bridge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bridge;

impl Contender for Bridge {
    type Listener = TcpListener;
    type Stream = TcpStream;

    async fn bind(self, place: &Place) -> io::Result<(TcpListener, String)> {
        Tcp.bind(place).await
    }

    async fn accept(self, listener: &TcpListener) -> io::Result<TcpStream> {
        Tcp.accept(listener).await
    }

    async fn connect(self, address: &str) -> io::Result<TcpStream> {
        Tcp.connect(address).await
    }

    async fn settle(self, stream: &TcpStream, place: &Place) -> io::Result<()> {
        // Whatever went wrong with the namespaces, it must not turn this into a second `tcp`.
        if stream.peer_addr()?.ip() == stream.local_addr()?.ip() || stream.local_addr()?.ip() != place.ip {
            return Err(io::Error::other("the connection does not go through the bridge"));
        }
        Tcp.settle(stream, place).await
    }
}
