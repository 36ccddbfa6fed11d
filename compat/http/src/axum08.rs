//! `axum::serve` over a `ShmListener`. A local wrapper, since both the listener and axum's trait are foreign here.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener, TapIo};
use shmbc_tokio::ShmListener;

use crate::accept::of_one_connection;
use crate::{HttpStream, ShmPeer};

/// How long accepting pauses after an error that is not one connection's own, as in axum and hyper: mostly the process
/// has no descriptor left, and needs a moment to close some.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// A [`ShmListener`] for [`axum::serve()`].
///
/// A handler that wants to know its caller asks for `ConnectInfo<ShmPeer>`; see the [crate's example](crate). One that
/// wants `ConnectInfo<SocketAddr>` gets it when the listener is tapped, as with every listener but tokio's own:
///
/// ```
/// use std::net::SocketAddr;
///
/// use axum::serve::ListenerExt;
/// use axum::{Router, extract::ConnectInfo, routing::get};
/// use shmbc_http::AxumListener;
/// use shmbc_tokio::ShmListener;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = AxumListener(ShmListener::bind("127.0.0.1:0").await?);
/// let app = Router::new().route("/", get(async |ConnectInfo(addr): ConnectInfo<SocketAddr>| addr.to_string()));
/// let server = axum::serve(
///     listener.tap_io(|stream| drop(stream.get_ref().set_nodelay(true))), // or `|_| {}`
///     app.into_make_service_with_connect_info::<SocketAddr>(),
/// );
/// # drop(server);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AxumListener(pub ShmListener);

impl Listener for AxumListener {
    type Io = HttpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let accepted = self.0.accept().await;
            match accepted.and_then(|(stream, addr)| Ok((HttpStream::accepted(stream, addr)?, addr))) {
                Ok(accepted) => return accepted,
                Err(error) if of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!("accept error: {error}");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

impl From<ShmListener> for AxumListener {
    fn from(listener: ShmListener) -> Self {
        Self(listener)
    }
}

impl Connected<IncomingStream<'_, AxumListener>> for ShmPeer {
    fn connect_info(stream: IncomingStream<'_, AxumListener>) -> Self {
        stream.io().peer().clone()
    }
}

impl<F> Connected<IncomingStream<'_, TapIo<AxumListener, F>>> for ShmPeer
where
    F: FnMut(&mut HttpStream) + Send + 'static,
{
    fn connect_info(stream: IncomingStream<'_, TapIo<AxumListener, F>>) -> Self {
        stream.io().peer().clone()
    }
}
