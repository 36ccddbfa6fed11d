//! Where a stream is registered: its socket, and once there is one its doorbell, under one token.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use ::mio::unix::SourceFd;
use ::mio::{Interest, Registry, Token};

use crate::doorbell::Waiter;
use crate::eventfd::EventFd;
use crate::polled::Source;
use crate::reactor::{Bell, EndWatch, Registrar};

/// The socket of a stream. Its program polls it, so there is never anything to arrange.
#[derive(Debug)]
pub(super) struct Polling {
    pub(super) tcp: TcpStream,
    pub(super) registration: Arc<Registration>,
}

impl AsFd for Polling {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

impl Source for Polling {
    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn watch_end(&self, _: &mut Context<'_>, _unread: bool) -> io::Result<EndWatch> {
        // Every event of the socket is an event of the program's.
        Ok(EndWatch::Watched)
    }

    fn registrar(&self) -> Box<dyn Registrar> {
        Box::new(Arc::clone(&self.registration))
    }

    fn into_std(self) -> io::Result<TcpStream> {
        Ok(self.tcp)
    }
}

/// Shared with the agent, which adds the doorbell when it comes.
#[derive(Debug, Default)]
pub(super) struct Registration(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    registered: Option<(Registry, Token, Interest)>,
    bell: Option<Arc<Waiter>>,
    /// The doorbell is registered too. Not for a program that wants to write only, which must not hear of bytes to read.
    heard: bool,
    /// Registered, and readable once.
    report: Option<EventFd>,
}

impl Places {
    /// Registers the doorbell where the socket is.
    fn hear(&mut self, readable: bool) -> io::Result<()> {
        if readable && let (Some((registry, token, _)), Some(bell)) = (&self.registered, &self.bell) {
            registry.register(&mut SourceFd(&bell.as_raw_fd()), *token, Interest::READABLE)?;
            self.heard = true;
        }
        Ok(())
    }

    /// Takes back whatever is registered besides the socket.
    fn silence(&mut self) {
        // Closed, and so taken out by the kernel.
        self.report = None;
        if std::mem::take(&mut self.heard)
            && let (Some((registry, ..)), Some(bell)) = (&self.registered, &self.bell)
            && let Err(error) = registry.deregister(&mut SourceFd(&bell.as_raw_fd()))
        {
            tracing::error!(%error, "a doorbell stays registered");
        }
    }
}

impl Registration {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bell(&self) -> Option<Arc<Waiter>> {
        self.places().bell.clone()
    }

    pub(super) fn register(&self, tcp: RawFd, registry: &Registry, token: Token, to: Interest) -> io::Result<()> {
        let mut places = self.places();
        if places.registered.is_some() {
            // As mio says it of its own.
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the stream is already registered"));
        }
        let kept = registry.try_clone()?;
        registry.register(&mut SourceFd(&tcp), token, to)?;
        places.registered = Some((kept, token, to));
        places.hear(to.is_readable())
    }

    pub(super) fn reregister(&self, tcp: RawFd, registry: &Registry, token: Token, to: Interest) -> io::Result<()> {
        let mut places = self.places();
        // Fails where it is not registered.
        registry.reregister(&mut SourceFd(&tcp), token, to)?;
        if let Some(registered) = &mut places.registered {
            (registered.1, registered.2) = (token, to);
        }
        places.silence();
        places.hear(to.is_readable())
    }

    pub(super) fn deregister(&self, tcp: RawFd, registry: &Registry) -> io::Result<()> {
        let mut places = self.places();
        // Fails where it is not registered.
        registry.deregister(&mut SourceFd(&tcp))?;
        places.silence();
        places.registered = None;
        Ok(())
    }

    /// The stream is dropped: no event comes any more, though its socket may have to outlive it.
    pub(super) fn forget(&self, tcp: RawFd) {
        let mut places = self.places();
        places.silence();
        places.bell = None;
        if let Some((registry, ..)) = places.registered.take() {
            let _ = registry.deregister(&mut SourceFd(&tcp));
        }
    }

    /// Reports the stream as readable, which the kernel does not know: bytes in the ring that nobody has rung for.
    pub(super) fn report(&self) -> io::Result<()> {
        let mut places = self.places();
        let Places { registered: Some((registry, token, _)), .. } = &*places else { return Ok(()) };
        let event = EventFd::new()?;
        event.notify()?;
        registry.register(&mut SourceFd(&event.as_fd().as_raw_fd()), *token, Interest::READABLE)?;
        places.report = Some(event);
        Ok(())
    }

    /// Makes the kernel report again what the socket is ready for.
    pub(super) fn poke(&self, tcp: RawFd) {
        if let Some((registry, token, to)) = &self.places().registered
            && let Err(error) = registry.reregister(&mut SourceFd(&tcp), *token, *to)
        {
            tracing::error!(%error, "an event could not be reported");
        }
    }
}

impl Registrar for Arc<Registration> {
    fn register(&self, waiter: Waiter) -> io::Result<Box<dyn Bell>> {
        let mut places = self.places();
        places.bell = Some(Arc::new(waiter));
        let readable = places.registered.as_ref().is_some_and(|(.., to)| to.is_readable());
        places.hear(readable).inspect_err(|_| places.bell = None)?;
        Ok(Box::new(Registered))
    }
}

/// A doorbell that is registered, edge-triggered, where the program polls: each ring is an event of its own.
#[derive(Debug)]
struct Registered;

impl Bell for Registered {
    fn watch(&self, _: &mut Context<'_>) -> io::Result<bool> {
        Ok(false)
    }
}
