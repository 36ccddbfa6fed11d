//! Contenders that know no runtime: used in a thread that blocks or spins, because a runtime would only slow them down.

use std::convert::Infallible;
use std::io;

use tokio::io::DuplexStream;

use super::Contender;
use super::iceoryx2::Iceoryx2;
use super::ring::Ring;
use crate::names;
use crate::protocol::Place;

/// A way for two threads of two processes to have a byte stream between them.
pub(crate) trait Bare: Copy {
    /// What waits for the one connection.
    type Listener;
    /// The connection.
    type Stream: Duplex;

    /// A new listener and the address that reaches it.
    fn bind(self, place: &Place) -> io::Result<(Self::Listener, String)>;

    /// Waits for the connection.
    fn accept(self, listener: Self::Listener) -> io::Result<Self::Stream>;

    /// A connection to what `bind` returned in the other process.
    fn connect(self, address: &str) -> io::Result<Self::Stream>;
}

/// Both directions of a byte stream.
pub(crate) trait Duplex: io::Read + io::Write {
    /// Nothing more will be written: behind the last byte the other end reads an end.
    fn finish(&mut self) -> io::Result<()>;
}

/// Something to do with a bare contender whose type is known only by its name.
pub(crate) trait VisitBare {
    /// What comes of it.
    type Output;

    /// Does it.
    fn visit<B: Bare>(self, contender: B) -> io::Result<Self::Output>;
}

/// From a name to the type behind it.
pub(crate) fn visit<V: VisitBare>(name: names::Contender, visitor: V) -> io::Result<V::Output> {
    match name {
        names::Contender::Iceoryx2Busy => visitor.visit(Iceoryx2::Busy),
        names::Contender::Iceoryx2Event => visitor.visit(Iceoryx2::Event),
        names::Contender::Ring => visitor.visit(Ring),
        other => Err(io::Error::other(format!("{other} is no byte stream of a thread"))),
    }
}

/// Stands for a bare contender where a stream of tokio's is wanted, and refuses.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotAsync;

impl NotAsync {
    fn error() -> io::Error {
        io::Error::other("this contender has no stream of tokio's")
    }
}

impl Contender for NotAsync {
    type Listener = Infallible;
    type Stream = DuplexStream;

    async fn bind(self, _place: &Place) -> io::Result<(Infallible, String)> {
        Err(Self::error())
    }

    async fn accept(self, listener: &Infallible) -> io::Result<DuplexStream> {
        match *listener {}
    }

    async fn connect(self, _address: &str) -> io::Result<DuplexStream> {
        Err(Self::error())
    }

    async fn settle(self, _stream: &DuplexStream, _place: &Place) -> io::Result<()> {
        Err(Self::error())
    }
}
