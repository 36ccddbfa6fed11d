//! shmipc, protocol v4 with eventfds, through its own adapter for tokio's traits.
//!
//! What is written through the adapter goes out when it is flushed; a stream's bytes go out by themselves, so each write
//! is flushed here. A closed stream cannot be read any more, there is no half-close.

use std::io;
use std::os::unix::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, ready};

use shmipc::Listener;
use shmipc::compact::StreamExt;
use shmipc::config::Config;
use shmipc::session::{SessionManager, SessionManagerConfig};
use shmipc::transport::{DefaultUnixConnect, DefaultUnixListen};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Mutex;

use super::{Contender, uds};
use crate::protocol::Place;

type Manager = SessionManager<DefaultUnixConnect>;

/// What the sample before this one used. Closing a session throws away what the peer has not read yet, so it waits for
/// the next sample, which begins when both ends are through. Nobody waits for it: it can wait for the peer, which does
/// nothing between samples.
static LISTENER: std::sync::Mutex<Option<Arc<Mutex<Listener>>>> = std::sync::Mutex::new(None);
static MANAGER: std::sync::Mutex<Option<Manager>> = std::sync::Mutex::new(None);

/// One session, one stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shmipc;

impl Contender for Shmipc {
    type Listener = Arc<Mutex<Listener>>;
    type Stream = Flushed;

    async fn bind(self, place: &Place) -> io::Result<(Self::Listener, String)> {
        if let Some(old) = keep(&LISTENER, None).and_then(Arc::into_inner) {
            tokio::spawn(old.into_inner().close());
        }
        let path = uds::new_path(place)?;
        let listener = Listener::new(DefaultUnixListen, SocketAddr::from_pathname(&path)?, Config::default()).await?;
        let listener = Arc::new(Mutex::new(listener));
        keep(&LISTENER, Some(Arc::clone(&listener)));
        Ok((listener, path))
    }

    async fn accept(self, listener: &Self::Listener) -> io::Result<Flushed> {
        Ok(Flushed::new(listener.lock().await.accept().await?))
    }

    async fn connect(self, address: &str) -> io::Result<Flushed> {
        if let Some(old) = keep(&MANAGER, None) {
            tokio::spawn(async move { old.close().await });
        }
        let config = SessionManagerConfig::new().with_config(Config::default().with_v4_eventfd()).with_session_num(1);
        let address = SocketAddr::from_pathname(address)?;
        let manager = SessionManager::new(config, DefaultUnixConnect, address).await.map_err(io::Error::other)?;
        let stream = manager.get_stream().map_err(io::Error::other)?;
        keep(&MANAGER, Some(manager));
        Ok(Flushed::new(stream))
    }

    async fn settle(self, _stream: &Flushed, _place: &Place) -> io::Result<()> {
        Ok(())
    }
}

/// Puts something in its place and returns what was there.
fn keep<T>(place: &std::sync::Mutex<Option<T>>, new: Option<T>) -> Option<T> {
    std::mem::replace(&mut place.lock().unwrap_or_else(PoisonError::into_inner), new)
}

/// A stream whose every write is flushed.
pub(crate) struct Flushed {
    stream: StreamExt,
    unflushed: bool,
    closed: bool,
}

impl Flushed {
    fn new(stream: shmipc::stream::Stream) -> Self {
        Self { stream: StreamExt::new(stream), unflushed: false, closed: false }
    }
}

impl AsyncRead for Flushed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        if self.unflushed {
            let _ = self.as_mut().poll_flush(cx)?;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Flushed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.unflushed {
            ready!(self.as_mut().poll_flush(cx))?;
        }
        let n = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.unflushed = true;
        let _ = self.poll_flush(cx)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(self.as_mut().poll_flush(cx))?;
        }
        self.closed = true;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
