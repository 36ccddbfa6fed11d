//! [`ShmStream`] for threads.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::parker::{self, Woken};
use super::source::Thread;
use super::turns::Turns;
use crate::Wait;
use crate::connection::{Connection, is_unused};
use crate::control::message::Decline;
use crate::driver::lock;
use crate::link::Reason;
use crate::over_tcp::over_tcp;
use crate::polled::{News, Polled};
use crate::reactor::{Slice, Way};

/// A byte stream between two processes for threads that wait: as [`TcpStream`], upgraded to shared memory when both ends are on
/// this host.
///
/// Reading and writing work on a shared reference too, so that one thread can read and another write. Two threads that
/// read at once take turns. Dropping the last handle closes the connection; the last of a forked child's only closes the descriptor,
/// and the parent's connection goes on.
///
/// Bytes must go through the stream: what is written or read through its descriptor is not counted, and a connection
/// whose count is wrong stays on TCP (written) or is reset at the switch (read).
pub struct ShmStream {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection<Polled<Thread>>,
    news: Arc<News>,
    nonblocking: AtomicBool,
    timeouts: Mutex<[Option<Duration>; 2]>,
    /// Held by the thread that reads, so that each wake-up finds the one it is for.
    reading: Turns,
    writing: Turns,
}

over_tcp!(ShmStream);

impl ShmStream {
    /// Opens a connection, like [`TcpStream::connect`]: each address that `addr` resolves to is tried in turn.
    ///
    /// # Errors
    ///
    /// The error of the last address tried; `InvalidInput` when there is none.
    pub fn connect<A: ToSocketAddrs>(addr: A) -> io::Result<Self> {
        Self::new(TcpStream::connect(addr)?, true)
    }

    /// Opens a connection within `timeout`, like [`TcpStream::connect_timeout`].
    ///
    /// # Errors
    ///
    /// `TimedOut` when it took longer; `InvalidInput` for a timeout of zero; else those of `connect(2)`.
    pub fn connect_timeout(addr: &SocketAddr, timeout: Duration) -> io::Result<Self> {
        Self::new(TcpStream::connect_timeout(addr, timeout)?, true)
    }

    /// Takes over a standard library stream. If bytes have been written to or read from it, nobody can say where to switch, and
    /// it stays on TCP ([`Reason::UsedBefore`]).
    ///
    /// The stream is in blocking mode afterwards; see [`set_nonblocking`](Self::set_nonblocking).
    ///
    /// # Errors
    ///
    /// Those of `fcntl(2)`.
    pub fn from_std(stream: TcpStream) -> io::Result<Self> {
        let fresh = is_unused(&stream);
        Self::new(stream, fresh)
    }

    pub(super) fn new(tcp: TcpStream, fresh: bool) -> io::Result<Self> {
        // The kernel must never put a thread to sleep that also waits for a doorbell.
        tcp.set_nonblocking(true)?;
        let news = Arc::<News>::default();
        let connection = Connection::new(Polled::new(Thread(tcp)), fresh, Box::new(Arc::clone(&news)));
        Ok(Self {
            inner: Arc::new(Inner {
                connection,
                news,
                nonblocking: AtomicBool::new(false),
                timeouts: Mutex::default(),
                reading: Turns::default(),
                writing: Turns::default(),
            }),
        })
    }

    // --- What SHMBC adds ---

    /// Waits until both directions go through shared memory; offers the connection at once if that has not been done. The
    /// other end does so when it has seen enough traffic, or when it waits for the upgrade too.
    ///
    /// # Errors
    ///
    /// The [`Reason`] for which the connection stays on TCP; [`Reason::NotYet`] when it took longer than `timeout`.
    pub fn upgraded(&self, timeout: Option<Duration>) -> Result<(), Reason> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let done = self.wait_for(Way::In, until, |connection, cx| {
            self.inner.news.tell(cx.waker());
            connection.upgraded().map_or(Poll::Pending, Poll::Ready)
        });
        match done {
            Ok(Some(done)) => done,
            Ok(None) => Err(Reason::NotYet),
            // Mostly no descriptor left to be woken by.
            Err(_) => Err(Reason::Declined(Decline::OutOfResources)),
        }
    }

    /// How this stream waits for its peer from now on.
    pub fn set_wait(&self, wait: Wait) {
        self.inner.connection.set_wait(wait);
    }

    /// How this stream waits for its peer.
    pub fn wait(&self) -> Wait {
        self.inner.connection.wait()
    }

    // --- As std's TcpStream ---

    /// Another handle of the same stream, like [`TcpStream::try_clone`].
    ///
    /// # Errors
    ///
    /// None; a `Result` because std's is one.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { inner: Arc::clone(&self.inner) })
    }

    /// Reads fail with `WouldBlock` after this long; never when `None`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a timeout of zero, as with std.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_timeout(Way::In, timeout)
    }

    /// Writes fail with `WouldBlock` after this long; never when `None`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a timeout of zero, as with std.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_timeout(Way::Out, timeout)
    }

    /// The timeout of reads.
    ///
    /// # Errors
    ///
    /// None; a `Result` because std's is one.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.timeout(Way::In))
    }

    /// The timeout of writes.
    ///
    /// # Errors
    ///
    /// None; a `Result` because std's is one.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.timeout(Way::Out))
    }

    /// Whether reads and writes fail with `WouldBlock` instead of waiting, for all handles of this stream.
    ///
    /// # Errors
    ///
    /// None; a `Result` because std's is one.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.inner.nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(())
    }

    /// Waits for bytes and copies them without taking them, like [`TcpStream::peek`]. 0: the peer has closed its side.
    ///
    /// # Errors
    ///
    /// As reading.
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.transfer(Way::In, |connection, cx| {
            connection.register_reader(cx.waker());
            connection.poll_peek(&mut Slice::new(buf))
        })
    }

    fn tcp(&self) -> &TcpStream {
        &self.inner.connection.socket().source.0
    }

    fn connection(&self) -> &Connection<Polled<Thread>> {
        &self.inner.connection
    }

    fn timeout(&self, way: Way) -> Option<Duration> {
        lock(&self.inner.timeouts)[usize::from(way == Way::Out)]
    }

    fn set_timeout(&self, way: Way, timeout: Option<Duration>) -> io::Result<()> {
        if timeout == Some(Duration::ZERO) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a timeout of zero: use `None` to wait for ever"));
        }
        lock(&self.inner.timeouts)[usize::from(way == Way::Out)] = timeout;
        Ok(())
    }

    /// A read or write: `WouldBlock` when it is late, or may not wait at all.
    fn transfer<T>(
        &self,
        way: Way,
        mut look: impl FnMut(&Connection<Polled<Thread>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> io::Result<T> {
        let until = match self.timeout(way) {
            _ if self.inner.nonblocking.load(Ordering::Relaxed) => Some(Instant::now()),
            // Later than the clock can say: never.
            timeout => timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        };
        let turns = if way == Way::In { &self.inner.reading } else { &self.inner.writing };
        let Some(_turn) = turns.take(until) else { return Err(io::ErrorKind::WouldBlock.into()) };
        self.wait_for(way, until, &mut look)?.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
    }

    /// Looks until there is something, and sleeps in between. Nothing when it is late.
    fn wait_for<T>(
        &self,
        way: Way,
        until: Option<Instant>,
        mut look: impl FnMut(&Connection<Polled<Thread>>, &mut Context<'_>) -> Poll<T>,
    ) -> io::Result<Option<T>> {
        let socket = self.inner.connection.socket();
        // What an earlier call found may be out of date.
        socket.assume(way);
        loop {
            let waker = parker::begin()?;
            if let Poll::Ready(done) = look(&self.inner.connection, &mut Context::from_waker(&waker)) {
                return Ok(Some(done));
            }
            match parker::park(socket.as_fd(), until)? {
                Woken::Late => return Ok(None),
                Woken::Look { readable, writable } => {
                    if readable {
                        socket.assume(Way::In);
                    }
                    if writable {
                        socket.assume(Way::Out);
                    }
                }
            }
        }
    }
}

impl Read for &ShmStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        use crate::reactor::Buffer;
        self.transfer(Way::In, |connection, cx| {
            let mut buf = Slice::new(buf);
            connection.poll_read_shared(cx, &mut buf).map_ok(|()| buf.filled().len())
        })
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
        self.transfer(Way::Out, |connection, cx| connection.poll_write_shared(cx, bufs))
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
