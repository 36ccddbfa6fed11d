//! What is compared: each contender opens, accepts and names streams in its own file; measures do the rest.

mod bare;
mod bridge;
mod iceoryx2;
mod ring;
mod shmbc;
mod shmipc;
mod tcp;
mod uds;

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use self::bare::NotAsync;
pub(crate) use self::bare::{Bare, Duplex, VisitBare, visit as visit_bare};
use self::bridge::Bridge;
use self::shmbc::Shmbc;
use self::shmipc::Shmipc;
use self::tcp::Tcp;
use self::uds::Uds;
use crate::names;
use crate::protocol::Place;

/// A way for two processes to have a byte stream between them, used as its own documentation says.
pub(crate) trait Contender: Copy + Send + Sync + 'static {
    /// Accepts connections.
    type Listener: Send + Sync + 'static;
    /// One connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// A new listener and the address that reaches it.
    fn bind(self, place: &Place) -> impl Future<Output = io::Result<(Self::Listener, String)>> + Send;

    /// The next connection.
    fn accept(self, listener: &Self::Listener) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// A connection to what `bind` returned in the other process.
    fn connect(self, address: &str) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Brings a stream into the state that the contender's name promises; both ends call it before the measurement.
    fn settle(self, stream: &Self::Stream, place: &Place) -> impl Future<Output = io::Result<()>> + Send;
}

/// Something to do with a contender whose type is known only by its name.
pub(crate) trait Visit {
    /// What comes of it.
    type Output;

    /// Does it.
    fn visit<C: Contender>(self, contender: C) -> Self::Output;
}

/// From a name to the type behind it: the measures are compiled once for each.
pub(crate) fn visit<V: Visit>(name: names::Contender, visitor: V) -> V::Output {
    match name {
        names::Contender::Tcp => visitor.visit(Tcp),
        names::Contender::Bridge | names::Contender::Docker => visitor.visit(Bridge),
        names::Contender::Uds => visitor.visit(Uds),
        names::Contender::Shmipc => visitor.visit(Shmipc),
        names::Contender::ShmbcOff => visitor.visit(Shmbc::Off),
        names::Contender::ShmbcAdaptive => visitor.visit(Shmbc::Adaptive),
        names::Contender::ShmbcFixed => visitor.visit(Shmbc::Fixed),
        names::Contender::Iceoryx2Busy
        | names::Contender::Iceoryx2Event
        | names::Contender::Ring
        | names::Contender::Memcpy
        | names::Contender::Memcpy2 => visitor.visit(NotAsync),
    }
}
