//! [`ShmStream`] for mio.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;

use ::mio::event::Source;
use ::mio::{Interest, Registry, Token};

use super::source::{Polling, Registration};
use crate::Wait;
use crate::agent::bells::{Rung, listen};
use crate::connection::{Connection, OnNews, Readable, is_unused};
use crate::link::Reason;
use crate::over_tcp::over_tcp;
use crate::polled::Polled;
use crate::reactor::{Slice, Way};

/// A byte stream between two processes for programs that poll: as mio's [`TcpStream`](mio::net::TcpStream), upgraded to shared
/// memory when both ends are on this host.
///
/// Reading and writing never wait, and work on a shared reference too. Bytes must go through the stream: what is written or
/// read through its descriptor is not counted, and a connection whose count is wrong stays on TCP (written) or is reset
/// at the switch (read). Dropping it closes the connection; a forked child's copy only closes the descriptor, and the parent's
/// connection goes on.
///
/// # Writability
///
/// The kernel can tell of a doorbell only that it was rung, as readability. When a write has found the ring full, the agent's
/// thread listens for the ring that says that there is room, and has the kernel report the socket as writable.
pub struct ShmStream {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection<Polled<Polling>>,
    /// The agent listens for room in the ring.
    listening: AtomicBool,
    /// Somebody wants to know what becomes of the upgrade.
    curious: AtomicBool,
    /// A call was told to come again when the host service has decided.
    held_back: AtomicBool,
}

over_tcp!(ShmStream);

impl ShmStream {
    /// Begins to connect, like mio's: it is writable once it is connected, or has failed; see
    /// [`take_error`](Self::take_error) and [`peer_addr`](Self::peer_addr).
    ///
    /// # Errors
    ///
    /// Those of `socket(2)` and `connect(2)`.
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        Ok(Self::new(::mio::net::TcpStream::connect(addr)?.into(), true))
    }

    /// Takes over a standard library stream, which must be in non-blocking mode. If bytes have been written to or read from it,
    /// nobody can say where to switch, and it stays on TCP ([`Reason::UsedBefore`]).
    pub fn from_std(stream: TcpStream) -> Self {
        let unused = is_unused(&stream);
        Self::new(stream, unused)
    }

    pub(super) fn new(tcp: TcpStream, unused: bool) -> Self {
        let inner = Arc::new_cyclic(|inner: &Weak<Inner>| {
            let polling = Polling { tcp, registration: Arc::default() };
            Inner {
                connection: Connection::new(Polled::new(polling), unused, Box::new(News(Weak::clone(inner)))),
                listening: AtomicBool::new(false),
                curious: AtomicBool::new(false),
                held_back: AtomicBool::new(false),
            }
        });
        Self { inner }
    }

    // --- What SHMBC adds ---

    /// Whether both directions go through shared memory; offers the connection at once if that has not been done. The other
    /// end does so when it has seen enough traffic, or when it asks for the upgrade too.
    ///
    /// `Ok` counts as an event, readable and writable: what came meanwhile may be in the ring and is not reported again.
    ///
    /// # Errors
    ///
    /// `Err(None)`: not yet; an event comes when it may be, if the stream is registered for writing. Else the [`Reason`] for
    /// which it stays on TCP.
    pub fn upgraded(&self) -> Result<(), Option<Reason>> {
        self.inner.curious.store(true, Ordering::Relaxed);
        self.socket().assume(Way::In);
        match self.inner.connection.upgraded() {
            Some(done) => {
                self.inner.curious.store(false, Ordering::Relaxed);
                done.map_err(Some)
            }
            None => Err(None),
        }
    }

    /// How this stream waits for its peer: without meaning here, where the program waits. For the other kinds of streams.
    pub fn set_wait(&self, wait: Wait) {
        self.inner.connection.set_wait(wait);
    }

    // --- As mio's TcpStream ---

    /// Copies what is there without taking it. 0: the peer has closed its side, or `buf` is empty.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is there; else as reading.
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.inner.may_begin()?;
        self.socket().assume(Way::In);
        match self.inner.connection.poll_peek(&mut Slice::new(buf)) {
            Poll::Ready(done) => done,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Calls `io`, which may use the descriptor, like mio's. So that this means the same here, a stream that is still on TCP
    /// stays there for good ([`Reason::Disabled`]), as with [`set_acceleration(false)`](Self::set_acceleration).
    ///
    /// # Errors
    ///
    /// Those of `io`; `Unsupported` once the bytes go, or may go at any moment, through shared memory, where a descriptor
    /// cannot reach them. [`set_acceleration(false)`](Self::set_acceleration) right after connecting keeps that from
    /// happening.
    pub fn try_io<T>(&self, io: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if !self.inner.connection.withdraw() {
            let why = "the connection goes through shared memory, out of its descriptor's reach; \
                       call set_acceleration(false) before it is upgraded";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        io()
    }

    fn socket(&self) -> &Polled<Polling> {
        self.inner.connection.socket()
    }

    fn tcp(&self) -> &TcpStream {
        &self.socket().source.tcp
    }

    fn connection(&self) -> &Connection<Polled<Polling>> {
        &self.inner.connection
    }

    fn registration(&self) -> &Registration {
        &self.socket().source.registration
    }
}

impl Inner {
    /// `WouldBlock` while nothing may be read or written; then an event comes when it may.
    fn may_begin(&self) -> io::Result<()> {
        if self.connection.is_held() {
            self.held_back.store(true, Ordering::Release);
            // Decided meanwhile: then nobody may have been told.
            if self.connection.is_held() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        Ok(())
    }

    /// For a program that begins to wait for bytes: they may be in the ring already, which the kernel cannot say, and where
    /// they do not ring before a read has found none.
    fn report_unread(&self) -> io::Result<()> {
        if self.peer_switched()
            && let Poll::Ready(Ok(Readable::Ring | Readable::Closed)) = self.connection.poll_readable()
        {
            self.connection.socket().source.registration.report()?;
        }
        Ok(())
    }

    /// Whether there may be anything in a ring.
    fn peer_switched(&self) -> bool {
        self.connection.peer_identity().is_some()
    }

    fn poke(&self) {
        let polling = &self.connection.socket().source;
        polling.registration.poke(polling.tcp.as_raw_fd());
    }

    /// After a write that found no room: arranges that the program hears of it. False: there is room by now.
    fn await_room(self: &Arc<Self>) -> io::Result<bool> {
        if self.connection.poll_writable()?.is_ready() {
            return Ok(false);
        }
        // On TCP there is no doorbell: the kernel reports the socket itself.
        if let Some(bell) = self.connection.socket().source.registration.bell()
            && !self.listening.swap(true, Ordering::AcqRel)
        {
            let inner: Arc<dyn Rung> = Arc::<Self>::clone(self);
            listen(&bell, &inner);
        }
        Ok(true)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A forked child shares the `epoll` with its parent, who goes on.
        if !self.connection.is_inherited() {
            let polling = &self.connection.socket().source;
            polling.registration.forget(polling.tcp.as_raw_fd());
        }
    }
}

impl Rung for Inner {
    fn rung(&self) -> bool {
        if matches!(self.connection.poll_writable(), Poll::Pending) {
            return true;
        }
        // Before the event, so that a write which answers it can have the agent listen again.
        self.listening.store(false, Ordering::Release);
        self.poke();
        false
    }
}

/// Tells the program of an upgrade that it asked about.
struct News(Weak<Inner>);

impl OnNews for News {
    fn on_news(&self) {
        if let Some(inner) = self.0.upgrade()
            && (inner.held_back.swap(false, Ordering::AcqRel) || inner.curious.load(Ordering::Relaxed))
        {
            inner.poke();
        }
    }
}

impl fmt::Debug for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("News(..)")
    }
}

impl Read for &ShmStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.may_begin()?;
        self.socket().assume(Way::In);
        self.inner.connection.try_read(&mut Slice::new(buf))
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match bufs.iter_mut().find(|buf| !buf.is_empty()) {
            Some(buf) => self.read(buf),
            None => Ok(0),
        }
    }
}

impl Write for &ShmStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.inner.may_begin()?;
        loop {
            self.socket().assume(Way::Out);
            match self.inner.connection.try_write(bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.inner.await_room()? {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }

    /// Written bytes are visible to the peer at once: nothing to do.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for ShmStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(bufs)
    }
}

impl Write for ShmStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for ShmStream {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.registration().register(self.as_raw_fd(), registry, token, interests)?;
        if interests.is_readable() { self.inner.report_unread() } else { Ok(()) }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.registration().reregister(self.as_raw_fd(), registry, token, interests)?;
        if interests.is_readable() { self.inner.report_unread() } else { Ok(()) }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.registration().deregister(self.as_raw_fd(), registry)
    }
}
