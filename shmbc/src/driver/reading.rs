//! The reading side: from TCP, across the token, from the ring; and what it watches before it sleeps.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use rustix::net::RecvFlags;

use crate::link::{Event, Receive};
use crate::ring::{Consumer, PeerFault};
use crate::sys::current_cpu;

use super::{Driver, Look, Progress, ReadSide, Short, WriteSide, would_block};
use crate::connection::Readable;
use crate::reactor::{Budget, Buffer, Socket, Way};
use crate::storm::{Storm, VAIN_MAX};

impl<S: Socket> Driver<S> {
    pub(crate) fn poll_read(
        &self,
        read: &mut ReadSide,
        write: &Mutex<WriteSide>,
        cx: &mut Context<'_>,
        buf: &mut S::Buf<'_, '_>,
    ) -> Poll<io::Result<()>> {
        let mut registered = false;
        loop {
            if let Some(error) = read.error.take() {
                return Poll::Ready(Err(error));
            }
            let look = match read.link.step() {
                Receive::Tcp => {
                    self.drive(write);
                    match self.socket().poll_read_ready(&mut self.upgrade.context())? {
                        Poll::Ready(()) => match self.read_tcp(read, buf, Short::Ends) {
                            Ok(Some(_)) => return Poll::Ready(Ok(())),
                            Ok(None) => continue,
                            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                            Err(e) => return Poll::Ready(Err(e)),
                        },
                        Poll::Pending => {
                            read.assumed = false;
                            Look::Nothing
                        }
                    }
                }
                Receive::Ring(consumer) => {
                    self.drive(write);
                    let mut available = consumer.unread();
                    if available == 0 {
                        if read.pace.is_too_early() {
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                        available = consumer.filled().map_err(|fault| self.fault(fault))?;
                        // A producer that needs this CPU is not waited for.
                        let apart = consumer.producer_cpu() != Some(current_cpu().into());
                        read.pace.found(if apart { available } else { 0 });
                    }
                    if available > 0 || buf.remaining() == 0 {
                        let budget = ready!(S::proceed(cx));
                        let n = buf.remaining().min(available as usize);
                        self.read_ring(consumer, buf, n)?;
                        read.assumed = buf.remaining() == 0;
                        read.waiting.over();
                        budget.made_progress();
                        return Poll::Ready(Ok(()));
                    }
                    read.assumed = false;
                    let same_cpu = || consumer.producer_cpu() == Some(current_cpu().into());
                    if registered {
                        self.watch_ring(read, write)?
                    } else if read.waiting.poll_again(self.wait.get(), same_cpu) {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    } else {
                        Look::Nothing
                    }
                }
            };
            match look {
                Look::Something => {}
                Look::End => return Poll::Ready(Ok(())),
                Look::Nothing if registered => return Poll::Pending,
                // Once more with the task registered: what happened until now woke nobody.
                Look::Nothing => {
                    self.upgrade.wakers().read.register(cx.waker());
                    registered = true;
                }
            }
        }
    }

    /// Reads from the TCP leg. `Some(n)`: n bytes of the program's, 0 at its end. `None`: only token bytes came.
    fn read_tcp(&self, read: &mut ReadSide, buf: &mut S::Buf<'_, '_>, short: Short) -> io::Result<Option<usize>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        read.assumed = false;
        let mut result = None;
        let _ = self.socket().attempt(Way::In, || {
            let got = self.socket().recv(buf);
            let emptied = matches!(got, Ok(n) if 0 < n && n < room) && short == Short::Ends || would_block(&got);
            result = Some(got);
            if emptied { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        let n = result.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))?;
        if n == 0 {
            if room > 0 {
                self.progressed(Progress::RECEIVE_ENDED);
            }
            return Ok(Some(0));
        }
        let app = self.came_by_tcp(read, &buf.filled()[before..])?;
        buf.set_filled(before + app);
        Ok((app > 0).then_some(app))
    }

    /// Tells the link what came by TCP; says how much of it is the program's.
    pub(super) fn came_by_tcp(&self, read: &mut ReadSide, bytes: &[u8]) -> io::Result<usize> {
        if read.link.switched() {
            return read.link.read_by_tcp(bytes, None).map_err(|fault| self.fault(fault));
        }
        // Looked up after the read: the grant and the count are there if any of these bytes belongs to the token.
        let granted = self.upgrade.granted();
        let app = read.link.read_by_tcp(bytes, granted).map_err(|fault| self.fault(fault))?;
        if read.link.switched() {
            self.upgrade.on(Event::PeerSwitched);
            self.progressed(Progress::RECEIVES);
        }
        if app > 0 {
            self.note(Way::In, app);
        }
        Ok(app)
    }

    /// Fills `n` bytes of `buf` from the ring, in several publications if they are many, so that the producer can go on
    /// meanwhile.
    fn read_ring(&self, consumer: &mut Consumer, buf: &mut S::Buf<'_, '_>, n: usize) -> io::Result<usize> {
        let filled = buf.filled().len();
        let to = buf.next(n);
        let mut got = 0;
        while got < to.len() {
            let (n, wake) = consumer.read(&mut to[got..]).map_err(|fault| self.fault(fault))?;
            self.ring(wake);
            got += n;
            if n == 0 {
                break;
            }
        }
        buf.set_filled(filled + got);
        Ok(got)
    }

    /// Before the reading side sleeps on its ring. Whoever is to be woken has registered.
    fn watch_ring(&self, read: &mut ReadSide, write: &Mutex<WriteSide>) -> io::Result<Look> {
        let mut context = self.upgrade.context();
        let fault = |fault| self.fault(fault);
        let Some(consumer) = read.link.ring() else { return Ok(Look::Something) };
        self.moved[0].store(consumer.consumed(), Ordering::Relaxed);
        self.watch_bell(&mut context, &mut read.storm)?;
        consumer.found_empty();
        if !consumer.arm().map_err(fault)? {
            return Ok(Look::Something);
        }
        // The lifeline. It costs a system call only when the kernel has reported something about it.
        while self.socket().poll_read_ready(&mut context)?.is_ready() {
            let end = self.lifeline(read);
            // Bytes published before the end are read before it is reported. They are all there: the peer published them
            // before its socket was closed.
            let left = read.link.ring().map_or(Ok(0), Consumer::filled).map_err(fault)?;
            match end {
                Ok(None) => {}
                Ok(Some(())) | Err(_) if left > 0 => {
                    read.error = end.err();
                    return Ok(Look::Something);
                }
                Ok(Some(())) => return Ok(Look::End),
                Err(error) => return Err(error),
            }
        }
        self.rest(read, write);
        Ok(Look::Nothing)
    }

    /// Watches the doorbell, which both sides share: a ring is vain when neither has moved a byte since the last.
    pub(super) fn watch_bell(&self, context: &mut Context<'_>, storm: &mut Storm) -> io::Result<()> {
        let rung = self.shm()?.bell.watch(context)?;
        if rung && storm.rung([0, 1].map(|way| self.moved[way].load(Ordering::Relaxed))) {
            return Err(self.fault(PeerFault::Storm { rings: VAIN_MAX }));
        }
        Ok(())
    }

    /// Reads what has come by TCP into a plain slice.
    pub(super) fn receive(&self, to: &mut [u8]) -> io::Result<usize> {
        let socket = self.socket();
        socket.attempt(Way::In, || Ok(rustix::net::recv(socket, to, RecvFlags::DONTWAIT).map(|(n, _)| n)?))
    }

    fn peek_into(&self, buf: &mut S::Buf<'_, '_>) -> io::Result<usize> {
        let (filled, room) = (buf.filled().len(), buf.remaining());
        let socket = self.socket();
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let n = socket.attempt(Way::In, || Ok(rustix::net::recv(socket, buf.next(room), flags).map(|(n, _)| n)?))?;
        buf.set_filled(filled + n);
        Ok(n)
    }

    /// Reads the TCP leg behind the token: probes are forgotten. `Some` at its end, `None` when it is open and empty.
    pub(super) fn lifeline(&self, read: &mut ReadSide) -> io::Result<Option<()>> {
        let mut probes = [0; 64];
        loop {
            match self.receive(&mut probes) {
                Ok(0) => return Ok(Some(())),
                Ok(n) => drop(self.came_by_tcp(read, &probes[..n])?),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    /// Peeks; `Pending` leaves the combined waker with every source.
    pub(crate) fn poll_peek(
        &self,
        read: &mut ReadSide,
        write: &Mutex<WriteSide>,
        buf: &mut S::Buf<'_, '_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if ready!(self.poll_readable(read, write))?.is_none() {
                continue;
            }
            if let Some(error) = read.error.take() {
                return Poll::Ready(Err(error));
            }
            match read.link.step() {
                Receive::Ring(consumer) => {
                    let available = consumer.filled().map_err(|fault| self.fault(fault))? as usize;
                    let n = buf.remaining().min(available);
                    let filled = buf.filled().len();
                    let seen = consumer.peek(buf.next(n)).map_err(|f| self.fault(f))?;
                    buf.set_filled(filled + seen);
                    return Poll::Ready(Ok(seen));
                }
                Receive::Tcp => {
                    let before = buf.filled().len();
                    ready!(self.socket().poll_read_ready(&mut self.upgrade.context()))?;
                    let n = match self.peek_into(buf) {
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                        peeked => peeked?,
                    };
                    let app = read.link.peeked_by_tcp(n, self.upgrade.granted()).map_err(|f| self.fault(f))?;
                    buf.set_filled(before + app);
                    if app > 0 || n == 0 {
                        return Poll::Ready(Ok(app));
                    }
                    self.take_token(read);
                }
            }
        }
    }

    /// Ready when a read would not block. `Pending` leaves the combined waker with every source. `Ready(None)`: look
    /// again (the link has switched).
    pub(crate) fn poll_readable(
        &self,
        read: &mut ReadSide,
        write: &Mutex<WriteSide>,
    ) -> Poll<io::Result<Option<Readable>>> {
        let closed = Some(Readable::Closed);
        self.drive(write);
        if read.error.is_some() {
            return Poll::Ready(Ok(closed));
        }
        match read.link.step() {
            Receive::Tcp => {
                if self.upgrade.granted().is_some() {
                    self.take_token(read);
                    if read.link.switched() {
                        return Poll::Ready(Ok(None));
                    }
                }
                ready!(self.socket().poll_read_ready(&mut self.upgrade.context()))?;
                Poll::Ready(Ok(Some(Readable::Tcp)))
            }
            Receive::Ring(_) => match self.watch_ring(read, write) {
                Ok(Look::Something) => Poll::Ready(Ok(Some(Readable::Ring))),
                Ok(Look::End) => Poll::Ready(Ok(closed)),
                Ok(Look::Nothing) => Poll::Pending,
                Err(error) => {
                    read.error = Some(error);
                    Poll::Ready(Ok(closed))
                }
            },
        }
    }

    pub(crate) fn try_read(
        &self,
        read: &mut ReadSide,
        write: &Mutex<WriteSide>,
        buf: &mut S::Buf<'_, '_>,
    ) -> io::Result<usize> {
        loop {
            if let Some(error) = read.error.take() {
                return Err(error);
            }
            self.drive(write);
            match read.link.step() {
                Receive::Tcp => {
                    if let Some(n) = self.read_tcp(read, buf, Short::EndsNothing)? {
                        return Ok(n);
                    }
                }
                Receive::Ring(consumer) => {
                    let available = consumer.available().map_err(|fault| self.fault(fault))?;
                    let n = buf.remaining().min(available as usize);
                    if n > 0 || buf.remaining() == 0 {
                        read.assumed = true;
                        return self.read_ring(consumer, buf, n);
                    }
                    read.assumed = false;
                    match self.watch_ring(read, write)? {
                        Look::Something => {}
                        Look::End => return Ok(0),
                        Look::Nothing => return Err(io::ErrorKind::WouldBlock.into()),
                    }
                }
            }
        }
    }
}
