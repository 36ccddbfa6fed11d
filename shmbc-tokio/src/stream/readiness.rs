//! What does not wait, and waiting for when that pays: readiness, `try_` calls, peeking, closures on the descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use bytes::BufMut;
use shmbc::connection::Readable;
use tokio::io::{AsyncRead, AsyncReadExt, Interest, ReadBuf, Ready};
use tokio::task::coop;

use super::ShmStream;
use crate::reactor::Buffer;

/// What a closure that uses the descriptor is told.
const THROUGH_SHARED_MEMORY: &str = "the connection goes through shared memory: the closure must use the stream's own \
    methods, not its descriptor";

/// How often in a row a closure may find nothing where the stream has something. One that reads the descriptor of a stream in
/// shared memory finds nothing for ever, and its caller would turn round for ever.
const VAIN_CLOSURES: u32 = 64;

impl ShmStream {
    /// Waits until one of `interest` is ready, like [`TcpStream::ready`](tokio::net::TcpStream::ready).
    ///
    /// # Errors
    ///
    /// When the runtime is shut down.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        if !interest.is_readable() && !interest.is_writable() {
            return self.tcp().ready(interest).await;
        }
        self.wait_for(|| self.look(interest).map_or_else(|error| Some(Err(error)), |ready| ready.map(Ok))).await
    }

    /// What of `interest` is ready now. Nothing: whoever waits in `others` is notified when there may be.
    fn look(&self, interest: Interest) -> io::Result<Option<Ready>> {
        let mut ready = Ready::EMPTY;
        if interest.is_readable()
            && let Poll::Ready(readable) = self.poll_readable()?
        {
            ready |= readable;
        }
        if interest.is_writable() && self.connection.poll_writable()?.is_ready() {
            ready |= Ready::WRITABLE;
        }
        Ok((!ready.is_empty()).then_some(ready))
    }

    /// Waits until a read would not block, like [`TcpStream::readable`](tokio::net::TcpStream::readable).
    ///
    /// # Errors
    ///
    /// When the runtime is shut down.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.ready(Interest::READABLE).await.map(drop)
    }

    /// Waits until a write would not block, like [`TcpStream::writable`](tokio::net::TcpStream::writable).
    ///
    /// # Errors
    ///
    /// When the runtime is shut down.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn writable(&self) -> io::Result<()> {
        self.ready(Interest::WRITABLE).await.map(drop)
    }

    /// Polls for readiness to read, like [`TcpStream::poll_read_ready`](tokio::net::TcpStream::poll_read_ready). Shares its waker with `poll_read` and `poll_peek`.
    ///
    /// # Errors
    ///
    /// When the runtime is shut down.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.register_reader(cx.waker());
        self.poll_readable().map_ok(drop)
    }

    /// Polls for readiness to write, like [`TcpStream::poll_write_ready`](tokio::net::TcpStream::poll_write_ready). Shares its waker with `poll_write`.
    ///
    /// # Errors
    ///
    /// When the runtime is shut down.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.register_writer(cx.waker());
        self.connection.poll_writable()
    }

    /// Reads what is there, like [`TcpStream::try_read`](tokio::net::TcpStream::try_read). 0: the peer has closed its side, or `buf` is empty.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is there; else as reading.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.connection.try_read(&mut Buffer(&mut ReadBuf::new(buf)))
    }

    /// Reads what is there into the first buffers, like [`TcpStream::try_read_vectored`](tokio::net::TcpStream::try_read_vectored).
    ///
    /// # Errors
    ///
    /// As [`try_read`](Self::try_read).
    pub fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut total = 0;
        for buf in bufs.iter_mut().filter(|buf| !buf.is_empty()) {
            match self.try_read(buf) {
                Ok(n) => {
                    total += n;
                    if n < buf.len() {
                        break;
                    }
                }
                Err(_) if total > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    /// Reads what is there into the spare room of `buf`, like [`TcpStream::try_read_buf`](tokio::net::TcpStream::try_read_buf). 0: the peer has closed its side, or
    /// `buf` has no room.
    ///
    /// # Errors
    ///
    /// As [`try_read`](Self::try_read).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(stream: shmbc_tokio::ShmStream) -> std::io::Result<()> {
    /// let mut heard = Vec::with_capacity(4096);
    /// stream.readable().await?;
    /// match stream.try_read_buf(&mut heard) {
    ///     Ok(n) => println!("{n} bytes"),
    ///     Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_read_buf<B: BufMut>(&self, buf: &mut B) -> io::Result<usize> {
        let mut now = Now(self);
        // One poll: `Now` is pending where a read would block.
        match pin!(now.read_buf(buf)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => done,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes what fits, like [`TcpStream::try_write`](tokio::net::TcpStream::try_write).
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing fits; else as writing.
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        self.try_write_vectored(&[IoSlice::new(buf)])
    }

    /// Writes what fits of several buffers, like [`TcpStream::try_write_vectored`](tokio::net::TcpStream::try_write_vectored).
    ///
    /// # Errors
    ///
    /// As [`try_write`](Self::try_write).
    pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.connection.try_write(bufs)
    }

    /// Runs `f` if one of `interest` is ready, like [`TcpStream::try_io`](tokio::net::TcpStream::try_io); if it then says `WouldBlock`, that readiness was out of
    /// date.
    ///
    /// tokio's closures work on the descriptor, around the stream. So that this means the same here, calling this keeps
    /// a stream that is still on TCP there for good ([`Reason::Disabled`](shmbc::link::Reason::Disabled)), as [`set_acceleration(false)`](Self::set_acceleration)
    /// does. Once the connection goes through shared memory, `f` runs when the *stream* is ready, and only the stream's own
    /// `try_read`, `try_write` and their like move bytes in it: the descriptor has none.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing of `interest` is ready or `f` said so; else what `f` returned. `Unsupported` when `f` is
    /// found to use the descriptor of a connection in shared memory: it wrote bytes, which do not reach the peer's program,
    /// or said `WouldBlock` 64 times in a row where the stream was ready.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::os::fd::AsFd;
    /// use tokio::io::Interest;
    ///
    /// # async fn example(stream: shmbc_tokio::ShmStream) -> std::io::Result<()> {
    /// stream.readable().await?;
    /// let mut peeked = [0; 16];
    /// // By the descriptor: the stream stays on TCP.
    /// let n = stream.try_io(Interest::READABLE, || {
    ///     Ok(rustix::net::recv(stream.as_fd(), &mut peeked, rustix::net::RecvFlags::PEEK)?.0)
    /// })?;
    /// # let _ = n;
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_io<R>(&self, interest: Interest, f: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        if self.connection.withdraw() || !interest.is_readable() && !interest.is_writable() {
            return self.tcp().try_io(interest, f);
        }
        if self.look(interest)?.is_none() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let before = self.connection.moved();
        let result = f();
        let after = self.connection.moved();
        let would_block = matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        let vain = if would_block && before == after { self.vain.fetch_add(1, Ordering::Relaxed) + 1 } else { 0 };
        if vain == 0 {
            self.vain.store(0, Ordering::Relaxed);
        }
        if vain >= VAIN_CLOSURES || after.went_around(&before) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, THROUGH_SHARED_MEMORY));
        }
        result
    }

    /// Waits until one of `interest` is ready and runs `f`, again and again while that says `WouldBlock`, like
    /// [`TcpStream::async_io`](tokio::net::TcpStream::async_io). What `f` may do, and what calling this means for the stream, is as with
    /// [`try_io`](Self::try_io).
    ///
    /// # Errors
    ///
    /// What `f` returned, or as [`try_io`](Self::try_io); never `WouldBlock`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: `f` runs without interruption, and not after it has succeeded.
    pub async fn async_io<R>(&self, interest: Interest, mut f: impl FnMut() -> io::Result<R>) -> io::Result<R> {
        loop {
            if self.connection.withdraw() || !interest.is_readable() && !interest.is_writable() {
                return self.tcp().async_io(interest, f).await;
            }
            self.ready(interest).await?;
            coop::consume_budget().await;
            match self.try_io(interest, &mut f) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    /// Waits for bytes and copies them without taking them, like [`TcpStream::peek`](tokio::net::TcpStream::peek). 0: the peer has closed its side.
    ///
    /// # Errors
    ///
    /// As reading.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        coop::consume_budget().await;
        self.wait_for(|| {
            let peeked = self.connection.poll_peek(&mut Buffer(&mut ReadBuf::new(buf)));
            match peeked {
                Poll::Ready(done) => Some(done),
                Poll::Pending => None,
            }
        })
        .await
    }

    /// Polls for bytes without taking them, like [`TcpStream::poll_peek`](tokio::net::TcpStream::poll_peek).
    ///
    /// # Errors
    ///
    /// As reading.
    pub fn poll_peek(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        self.connection.register_reader(cx.waker());
        self.connection.poll_peek(&mut Buffer(buf))
    }

    // --- Below ---

    /// Calls `look` until it has something, each time any source of this stream's events has fired.
    ///
    /// Costs nothing of tokio's budget, as waiting for readiness costs none there. (And where the budget is used up, every look would
    /// say "pending" and fire the event itself: this would go round for ever.)
    pub(super) async fn wait_for<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        coop::unconstrained(async {
            loop {
                let notified = self.others.notified();
                let mut notified = pin!(notified);
                // From here on no event is missed, so looking comes second.
                notified.as_mut().enable();
                if let Some(found) = look() {
                    return found;
                }
                notified.await;
            }
        })
        .await
    }

    fn poll_readable(&self) -> Poll<io::Result<Ready>> {
        self.connection.poll_readable().map_ok(|readable| match readable {
            Readable::Tcp => self.tcp_ready(Interest::READABLE),
            Readable::Ring | Readable::Assumed => Ready::READABLE,
            Readable::Closed => Ready::READABLE | Ready::READ_CLOSED,
        })
    }

    /// What tokio knows of the socket, without waiting.
    fn tcp_ready(&self, interest: Interest) -> Ready {
        let now = pin!(self.tcp().ready(interest));
        match now.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(ready)) => ready,
            _ => Ready::EMPTY,
        }
    }
}

/// Reads what is there: pending, without a wake-up, where a read would block.
struct Now<'a>(&'a ShmStream);

impl AsyncRead for Now<'_> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.0.connection.try_read(&mut Buffer(buf)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            done => Poll::Ready(done.map(drop)),
        }
    }
}
