//! tokio's TCP over the loopback device.

use std::io;

use tokio::net::{TcpListener, TcpStream};

use super::Contender;
use crate::protocol::Place;

/// Used as tokio's documentation shows it, with the one option that every program with requests and answers sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tcp;

impl Contender for Tcp {
    type Listener = TcpListener;
    type Stream = TcpStream;

    async fn bind(self, place: &Place) -> io::Result<(TcpListener, String)> {
        let listener = TcpListener::bind((place.ip, 0)).await?;
        let address = listener.local_addr()?.to_string();
        Ok((listener, address))
    }

    async fn accept(self, listener: &TcpListener) -> io::Result<TcpStream> {
        Ok(listener.accept().await?.0)
    }

    async fn connect(self, address: &str) -> io::Result<TcpStream> {
        TcpStream::connect(address).await
    }

    async fn settle(self, stream: &TcpStream, _place: &Place) -> io::Result<()> {
        stream.set_nodelay(true)
    }
}
