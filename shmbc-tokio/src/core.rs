//! Drives one link with tokio: what the stream and all of its halves call.
//!
//! `shmbc::link` decides where bytes go; this file moves them, and waits. Reading and writing are independent; each has a
//! side of its own behind a lock that only split halves ever share. The rule for going to sleep, in this order: register
//! the task, forget past rings and readiness, arm the mark and look at the ring, look at the lifeline.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use rustix::net::{RecvFlags, SendFlags};
use shmbc::link::{Event, Path, Phase, Reason, Receive, Receiving, Send, Sending};
use shmbc::ring::{Consumer, PeerFault, Producer, Wake};
use shmbc::sys::{current_cpu, tcp_position};
use socket2::SockRef;
use tokio::io::{Interest, ReadBuf, Ready};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::coop;

use crate::agent;
use crate::config::Config;
use crate::traffic::{Traffic, Way};
use crate::upgrade::{Shm, Stage, Upgrade};
use crate::wait::{WaitSetting, Waiting};

/// Bytes between two probes of a peer that has shut its own side and takes nothing.
const PROBE_EVERY: u64 = 64 * 1024;

/// What both directions of a stream share.
#[derive(Debug)]
pub(crate) struct Core {
    /// Nothing once it has been taken out by `take_tcp`, which ends the stream.
    tcp: Option<TcpStream>,
    pub(crate) upgrade: Arc<Upgrade>,
    pub(crate) wait: WaitSetting,
    traffic: Traffic,
    progress: Progress,
    /// The peer has sent a FIN and said that it goes on reading.
    peer_half_closed: AtomicBool,
}

/// The reading side.
#[derive(Debug, Default)]
pub(crate) struct ReadSide {
    link: Receiving,
    waiting: Waiting,
    /// An error that readiness met and the next read reports.
    error: Option<io::Error>,
}

/// The writing side.
#[derive(Debug, Default)]
pub(crate) struct WriteSide {
    link: Sending,
    waiting: Waiting,
    /// Bytes published when a half-closed peer was last probed.
    probed: u64,
}

/// How far the switch of each direction has come: bits that are set once.
#[derive(Debug, Default)]
struct Progress(AtomicU8);

impl Progress {
    const SENDS: u8 = 1;
    const RECEIVES: u8 = 2;
    /// Shut or at its end before it could switch.
    const SEND_ENDED: u8 = 4;
    const RECEIVE_ENDED: u8 = 8;
    /// Bytes went over the socket that the stream did not count: it can never switch.
    const UNCOUNTED: u8 = 16;
    /// The peer broke the format: the connection is reset.
    const FAULT: u8 = 32;

    #[inline]
    fn has(&self, bits: u8) -> bool {
        self.0.load(Ordering::Relaxed) & bits != 0
    }

    fn switched(&self) -> bool {
        let now = self.0.load(Ordering::Relaxed);
        now & (Self::SENDS | Self::SEND_ENDED) != 0
            && now & (Self::RECEIVES | Self::RECEIVE_ENDED) != 0
            && now & (Self::SENDS | Self::RECEIVES) != 0
    }
}

/// What there is before going to sleep.
enum Look {
    /// Try again: there are bytes, or room.
    Something,
    /// The peer has closed its side.
    End,
    /// Nothing; whoever is registered is woken when that changes.
    Nothing,
}

impl Core {
    pub(crate) fn new(tcp: TcpStream, fresh: bool) -> Self {
        let config = Config::current();
        let reason = match (&config.host, fresh) {
            (None, _) => Reason::Disabled,
            (_, false) => Reason::UsedBefore,
            (Some(_), true) => Reason::NotYet,
        };
        Self {
            tcp: Some(tcp),
            upgrade: Upgrade::new(agent::next_id(), reason),
            wait: WaitSetting::new(config.wait),
            traffic: Traffic::default(),
            progress: Progress::default(),
            peer_half_closed: AtomicBool::new(false),
        }
    }

    #[inline]
    pub(crate) const fn tcp(&self) -> &TcpStream {
        self.tcp.as_ref().expect("a stream has its socket until it is consumed")
    }

    /// Takes the socket out of a stream that is consumed. Nothing when it is switched, or may be at any moment.
    pub(crate) fn take_tcp(&mut self) -> Option<TcpStream> {
        if !self.upgrade.withdraw() {
            return None;
        }
        if self.upgrade.was_claimed() {
            agent::close(self.upgrade.id);
        }
        self.tcp.take()
    }

    pub(crate) fn path(&self) -> Path {
        if self.progress.switched() {
            return Path::SharedMemory;
        }
        if self.progress.has(Progress::UNCOUNTED) {
            return Path::Tcp(Reason::UsedBefore);
        }
        match self.upgrade.phase() {
            Phase::Tcp(reason) => Path::Tcp(reason),
            Phase::Offered | Phase::Ready | Phase::Go => Path::Tcp(Reason::NotYet),
        }
    }

    // --- Upgrade ---

    /// Counts bytes that went by TCP and offers the connection when they show that it lives on.
    fn note(&self, way: Way, n: usize) {
        if self.upgrade.stage() == Stage::Young && self.traffic.note(way, n) {
            self.offer(false);
        }
    }

    /// Offers the connection to the host service. `early`: before its traffic asked for it.
    pub(crate) fn offer(&self, early: bool) {
        let Ok(runtime) = Handle::try_current() else { return };
        // Addresses fail when the connection is reset: then there is nothing to offer.
        let (Ok(local), Ok(peer)) = (self.tcp().local_addr(), self.tcp().peer_addr()) else { return };
        let claim = agent::Claim {
            upgrade: Arc::downgrade(&self.upgrade),
            id: self.upgrade.id,
            fd: self.tcp().as_raw_fd(),
            local,
            peer,
            runtime,
            early,
        };
        if !self.upgrade.claim() {
            return;
        }
        if let Err(reason) = agent::offer(claim) {
            self.upgrade.stay(reason);
        }
    }

    /// Switches the direction that this end writes, as far as possible now. Called by whoever comes by after Go, so that an
    /// idle writer does not keep the connection on TCP.
    #[inline]
    fn drive(&self, write: &Mutex<WriteSide>) {
        if self.upgrade.stage() == Stage::Go && !self.progress.has(Progress::SENDS | Progress::SEND_ENDED) {
            self.drive_locked(&mut lock(write));
        }
    }

    #[cold]
    fn drive_locked(&self, write: &mut WriteSide) {
        loop {
            match write.link.step() {
                Send::Tcp => {
                    if !self.begin_switch(write) {
                        return;
                    }
                }
                Send::Token(rest) => match self.tcp().try_write(rest) {
                    Ok(n) => write.link.token_sent(n),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        let ready = self.tcp().poll_write_ready(&mut self.upgrade.context());
                        if !matches!(ready, Poll::Ready(Ok(()))) {
                            return;
                        }
                    }
                    // The connection is broken; the next operation says so.
                    Err(_) => return,
                },
                Send::Ring(_) => return self.progressed(Progress::SENDS),
            }
        }
    }

    /// Publishes where this direction switches, if it may. False: it stays on TCP.
    fn begin_switch(&self, write: &mut WriteSide) -> bool {
        let (Some(granted), Some(sent)) = (self.upgrade.granted(), write.link.on_tcp()) else { return false };
        if self.upgrade.stage() != Stage::Go || self.upgrade.is_shut() || self.progress.has(Progress::UNCOUNTED) {
            return false;
        }
        match tcp_position(self.tcp()) {
            Ok(position) if position.written == sent => write.link.begin_switch(granted),
            Ok(position) => {
                let counted = sent;
                tracing::warn!(
                    counted,
                    written = position.written,
                    "bytes were written outside of the stream: stays on TCP"
                );
                self.progressed(Progress::UNCOUNTED);
                false
            }
            // Closed or reset: the next operation says so.
            Err(_) => false,
        }
    }

    fn progressed(&self, bit: u8) {
        if self.progress.0.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            self.upgrade.wakers().others.notify_waiters();
        }
    }

    /// Whether the wait for the upgrade is over; otherwise everybody in `others` is notified when it may be.
    pub(crate) fn upgraded(&self, read: &Mutex<ReadSide>, write: &Mutex<WriteSide>) -> Option<Result<(), Reason>> {
        if self.upgrade.stage() == Stage::Young && matches!(self.path(), Path::Tcp(Reason::NotYet)) {
            self.offer(true);
        }
        self.drive(write);
        self.take_token(&mut lock(read));
        match self.path() {
            Path::SharedMemory => Some(Ok(())),
            Path::Tcp(Reason::NotYet) if self.ended() => Some(Err(Reason::NotYet)),
            Path::Tcp(Reason::NotYet) => None,
            Path::Tcp(reason) => Some(Err(reason)),
        }
    }

    /// Both directions are over before any of them switched.
    fn ended(&self) -> bool {
        self.progress.has(Progress::SEND_ENDED) && self.progress.has(Progress::RECEIVE_ENDED)
            || self.progress.has(Progress::FAULT)
    }

    /// Takes the peer's token if it is next: nobody may be reading while `upgraded` waits. Leaves the program's bytes alone.
    fn take_token(&self, read: &mut ReadSide) {
        while !read.link.switched() {
            if self.next_is_token(read) {
                // Never more than the token: what may follow it is a probe, and those are the lifeline's.
                let mut token = [0; 16];
                match self.tcp().try_read(&mut token[..read.link.token_left()]) {
                    Ok(0) => return self.progressed(Progress::RECEIVE_ENDED),
                    Ok(n) => match self.came_by_tcp(read, &token[..n]) {
                        Ok(_) => continue,
                        Err(error) => return read.error = Some(error),
                    },
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
            // An error: the runtime is gone.
            if !matches!(self.tcp().poll_read_ready(&mut self.upgrade.context()), Poll::Ready(Ok(()))) {
                return;
            }
            // Readable, but by what? A look that takes nothing and clears stale readiness.
            let look = self.tcp().try_io(Interest::READABLE, || {
                Ok(rustix::net::recv(self.tcp(), &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT)?)
            });
            match look {
                Ok((_, 0)) => return self.progressed(Progress::RECEIVE_ENDED),
                Ok(_) if self.next_is_token(read) => {}
                // The program's bytes come first; whoever reads them goes on with the token.
                Ok(_) => return,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    // --- Reading ---

    pub(crate) fn poll_read(
        &self,
        read: &mut ReadSide,
        write: &Mutex<WriteSide>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut registered = false;
        loop {
            if let Some(error) = read.error.take() {
                return Poll::Ready(Err(error));
            }
            let look = match read.link.step() {
                Receive::Tcp => {
                    self.drive(write);
                    match self.tcp().poll_read_ready(&mut self.upgrade.context())? {
                        Poll::Ready(()) => match self.read_tcp(read, buf) {
                            Ok(Some(_)) => return Poll::Ready(Ok(())),
                            Ok(None) => continue,
                            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                            Err(e) => return Poll::Ready(Err(e)),
                        },
                        Poll::Pending => Look::Nothing,
                    }
                }
                Receive::Ring(consumer) => {
                    self.drive(write);
                    let available = consumer.available().map_err(|fault| self.fault(fault))?;
                    if available > 0 || buf.remaining() == 0 {
                        let budget = ready!(coop::poll_proceed(cx));
                        let n = buf.remaining().min(available as usize);
                        let got = self.read_ring(consumer, &mut buf.initialize_unfilled_to(n)[..n])?;
                        buf.advance(got);
                        read.waiting.over();
                        budget.made_progress();
                        return Poll::Ready(Ok(()));
                    }
                    if read
                        .waiting
                        .poll_again(self.wait.get(), || consumer.producer_cpu() == Some(current_cpu().into()))
                    {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    if registered { self.watch_ring(read)? } else { Look::Nothing }
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
    fn read_tcp(&self, read: &mut ReadSide, buf: &mut ReadBuf<'_>) -> io::Result<Option<usize>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let mut result = None;
        let _ = self.tcp().try_io(Interest::READABLE, || {
            let got = self.tcp().try_read_buf(buf);
            // A short read has emptied the socket: clear the readiness now and save the call that would say so.
            let emptied = matches!(got, Ok(n) if 0 < n && n < room);
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
    fn came_by_tcp(&self, read: &mut ReadSide, bytes: &[u8]) -> io::Result<usize> {
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

    /// Fills `to` from the ring, in several publications if it is long, so that the producer can go on meanwhile.
    fn read_ring(&self, consumer: &mut Consumer, to: &mut [u8]) -> io::Result<usize> {
        let mut got = 0;
        while got < to.len() {
            let (n, wake) = consumer.read(&mut to[got..]).map_err(|fault| self.fault(fault))?;
            self.ring(wake);
            got += n;
            if n == 0 {
                break;
            }
        }
        Ok(got)
    }

    /// Before the reading side sleeps on its ring. Whoever is to be woken has registered.
    fn watch_ring(&self, read: &mut ReadSide) -> io::Result<Look> {
        let mut context = self.upgrade.context();
        self.shm()?.bell.watch(&mut context)?;
        let fault = |fault| self.fault(fault);
        let Some(consumer) = read.link.ring() else { return Ok(Look::Something) };
        consumer.found_empty();
        if !consumer.arm().map_err(fault)? {
            return Ok(Look::Something);
        }
        // The lifeline. It costs a system call only when the kernel has reported something about it.
        while self.tcp().poll_read_ready(&mut context)?.is_ready() {
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
        Ok(Look::Nothing)
    }

    /// Reads the TCP leg behind the token: probes are forgotten. `Some` at its end, `None` when it is open and empty.
    fn lifeline(&self, read: &mut ReadSide) -> io::Result<Option<()>> {
        let mut probes = [0; 64];
        loop {
            match self.tcp().try_read(&mut probes) {
                Ok(0) => return Ok(Some(())),
                Ok(n) => drop(self.came_by_tcp(read, &probes[..n])?),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    pub(crate) fn poll_peek(
        &self,
        read: &mut ReadSide,
        write: &Mutex<WriteSide>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        self.upgrade.wakers().read.register(cx.waker());
        self.peek_with(read, write, buf)
    }

    /// Peeks; `Pending` leaves the combined waker with every source.
    pub(crate) fn peek_with(
        &self,
        read: &mut ReadSide,
        write: &Mutex<WriteSide>,
        buf: &mut ReadBuf<'_>,
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
                    let seen = consumer.peek(&mut buf.initialize_unfilled_to(n)[..n]).map_err(|f| self.fault(f))?;
                    buf.advance(seen);
                    return Poll::Ready(Ok(seen));
                }
                Receive::Tcp => {
                    let before = buf.filled().len();
                    let n = ready!(self.tcp().poll_peek(&mut self.upgrade.context(), buf))?;
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
    ) -> Poll<io::Result<Option<Ready>>> {
        let closed = Some(Ready::READABLE | Ready::READ_CLOSED);
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
                ready!(self.tcp().poll_read_ready(&mut self.upgrade.context()))?;
                Poll::Ready(Ok(Some(self.tcp_ready(Interest::READABLE))))
            }
            Receive::Ring(_) => match self.watch_ring(read) {
                Ok(Look::Something) => Poll::Ready(Ok(Some(Ready::READABLE))),
                Ok(Look::End) => Poll::Ready(Ok(closed)),
                Ok(Look::Nothing) => Poll::Pending,
                Err(error) => {
                    read.error = Some(error);
                    Poll::Ready(Ok(closed))
                }
            },
        }
    }

    /// What tokio knows of the socket, without waiting.
    fn tcp_ready(&self, interest: Interest) -> Ready {
        let now = std::pin::pin!(self.tcp().ready(interest));
        match now.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(ready)) => ready,
            _ => Ready::EMPTY,
        }
    }

    pub(crate) fn try_read(
        &self,
        read: &mut ReadSide,
        write: &Mutex<WriteSide>,
        buf: &mut ReadBuf<'_>,
    ) -> io::Result<usize> {
        loop {
            if let Some(error) = read.error.take() {
                return Err(error);
            }
            self.drive(write);
            match read.link.step() {
                Receive::Tcp => {
                    if let Some(n) = self.read_tcp(read, buf)? {
                        return Ok(n);
                    }
                }
                Receive::Ring(consumer) => {
                    let available = consumer.available().map_err(|fault| self.fault(fault))?;
                    let n = buf.remaining().min(available as usize);
                    if n > 0 || buf.remaining() == 0 {
                        let got = self.read_ring(consumer, &mut buf.initialize_unfilled_to(n)[..n])?;
                        buf.advance(got);
                        return Ok(got);
                    }
                    match self.watch_ring(read)? {
                        Look::Something => {}
                        Look::End => return Ok(0),
                        Look::Nothing => return Err(io::ErrorKind::WouldBlock.into()),
                    }
                }
            }
        }
    }

    // --- Writing ---

    pub(crate) fn poll_write(
        &self,
        write: &mut WriteSide,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut registered = false;
        loop {
            let look = match write.link.step() {
                Send::Tcp => {
                    if self.upgrade.stage() == Stage::Go && self.begin_switch(write) {
                        continue;
                    }
                    match self.tcp().poll_write_ready(&mut self.upgrade.context())? {
                        Poll::Ready(()) => match self.write_tcp(write, from) {
                            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                            done => return Poll::Ready(done),
                        },
                        Poll::Pending => Look::Nothing,
                    }
                }
                Send::Token(rest) => match self.tcp().poll_write_ready(&mut self.upgrade.context())? {
                    Poll::Ready(()) => {
                        match self.tcp().try_write(rest) {
                            Ok(n) => write.link.token_sent(n),
                            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                            Err(e) => return Poll::Ready(Err(e)),
                        }
                        continue;
                    }
                    Poll::Pending => Look::Nothing,
                },
                Send::Ring(producer) => {
                    let budget = ready!(coop::poll_proceed(cx));
                    self.may_write(producer, &mut write.probed)?;
                    let n = self.write_ring(producer, from)?;
                    if n > 0 || from.iter().all(|slice| slice.is_empty()) {
                        write.waiting.over();
                        budget.made_progress();
                        return Poll::Ready(Ok(n));
                    }
                    drop(budget);
                    if write
                        .waiting
                        .poll_again(self.wait.get(), || producer.consumer_cpu() == Some(current_cpu().into()))
                    {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    if registered { self.watch_room(producer)? } else { Look::Nothing }
                }
            };
            match look {
                Look::Something => {}
                Look::Nothing | Look::End if registered => return Poll::Pending,
                Look::Nothing | Look::End => {
                    self.upgrade.wakers().write.register(cx.waker());
                    registered = true;
                }
            }
        }
    }

    fn write_tcp(&self, write: &mut WriteSide, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let wanted: usize = from.iter().map(|slice| slice.len()).sum();
        let mut result = None;
        let _ = self.tcp().try_io(Interest::WRITABLE, || {
            let sent = match from {
                [one] => self.tcp().try_write(one),
                many => self.tcp().try_write_vectored(many),
            };
            // A short write has filled the socket: clear the readiness now and save the call that would say so.
            let filled = matches!(sent, Ok(n) if n < wanted);
            result = Some(sent);
            if filled { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        let n = result.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))?;
        write.link.sent_by_tcp(n);
        self.note(Way::Out, n);
        Ok(n)
    }

    /// Puts into the ring what fits, in several publications if it is long, so that the consumer can begin meanwhile.
    fn write_ring(&self, producer: &mut Producer, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let [one] = from else {
            let (n, wake) = producer.write_vectored(from).map_err(|fault| self.fault(fault))?;
            self.ring(wake);
            return Ok(n);
        };
        let mut sent = 0;
        while sent < one.len() {
            let (n, wake) = producer.write(&one[sent..]).map_err(|fault| self.fault(fault))?;
            self.ring(wake);
            sent += n;
            if n == 0 {
                break;
            }
        }
        Ok(sent)
    }

    /// Before every write to the ring: what TCP would say if the peer is gone. An atomic load while the kernel has
    /// reported nothing.
    #[inline]
    fn may_write(&self, producer: &mut Producer, probed: &mut u64) -> io::Result<()> {
        if self.upgrade.is_shut() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.tcp().try_io(Interest::READABLE, || Ok(())).is_ok() {
            return self.check_lifeline(producer, probed);
        }
        Ok(())
    }

    #[cold]
    fn check_lifeline(&self, producer: &mut Producer, probed: &mut u64) -> io::Result<()> {
        if self.peer_half_closed.load(Ordering::Relaxed) && self.tcp().try_io(Interest::ERROR, || Ok(())).is_err() {
            // It goes on reading, so it lives while it takes bytes. If it does not, the kernel may have been silent about its
            // death: its FIN came long ago.
            let taken = producer.consumed().map_err(|fault| self.fault(fault))?;
            if taken < producer.produced() && (*probed <= taken || producer.produced() - *probed >= PROBE_EVERY) {
                *probed = producer.produced();
                return self.probe();
            }
            return Ok(());
        }
        match self.peer()? {
            Peer::Open => Ok(()),
            Peer::HalfClosed => {
                self.peer_half_closed.store(true, Ordering::Relaxed);
                Ok(())
            }
            // As TCP does it: the first write after the peer's close still succeeds and is answered with a reset.
            Peer::Gone => self.probe(),
        }
    }

    /// What the kernel knows of the peer, without taking an error that is a read's to report.
    fn peer(&self) -> io::Result<Peer> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(self.tcp(), PollFlags::RDHUP)];
        poll(&mut fds, Some(&Timespec::default()))?;
        let events = fds[0].revents();
        Ok(if events.intersects(PollFlags::ERR | PollFlags::HUP) {
            Peer::Gone
        } else if !events.contains(PollFlags::RDHUP) {
            Peer::Open
        } else if self.upgrade.granted().is_some_and(shmbc::link::Granted::peer_half_closed) {
            Peer::HalfClosed
        } else {
            Peer::Gone
        })
    }

    /// Sends one byte behind the token. A living peer forgets it, a dead one's kernel answers with a reset; after one it
    /// fails as any write would.
    fn probe(&self) -> io::Result<()> {
        match rustix::net::send(self.tcp(), &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Before the writing side sleeps on a full ring. Whoever is to be woken has registered.
    fn watch_room(&self, producer: &mut Producer) -> io::Result<Look> {
        let mut context = self.upgrade.context();
        self.shm()?.bell.watch(&mut context)?;
        // Nothing is written by TCP any more, so this readiness means: something has happened to the lifeline. (The
        // read side's cannot be used: it stays set while unread bytes lie before a FIN.)
        let mut watched = false;
        for _ in 0..2 {
            watched = self.tcp().poll_write_ready(&mut context)?.is_pending();
            if watched {
                break;
            }
            let _ = self.tcp().try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
        if !producer.arm().map_err(|fault| self.fault(fault))? {
            return Ok(Look::Something);
        }
        // A peer that has shut its own side can die without a word from the kernel: ask.
        if self.peer()? != Peer::Open {
            self.probe()?;
        }
        Ok(if watched { Look::Nothing } else { Look::Something })
    }

    /// Ready when a write would not block. `Pending` leaves the combined waker with every source.
    pub(crate) fn poll_writable(&self, write: &mut WriteSide) -> Poll<io::Result<()>> {
        match write.link.step() {
            Send::Tcp | Send::Token(_) => self.tcp().poll_write_ready(&mut self.upgrade.context()),
            Send::Ring(producer) => {
                // A write that would fail does not block.
                if self.upgrade.is_shut() || producer.free().map_err(|fault| self.fault(fault))? > 0 {
                    return Poll::Ready(Ok(()));
                }
                match self.watch_room(producer) {
                    Ok(Look::Nothing) => Poll::Pending,
                    _ => Poll::Ready(Ok(())),
                }
            }
        }
    }

    pub(crate) fn try_write(&self, write: &mut WriteSide, from: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.upgrade.stage() == Stage::Go {
            self.drive_locked(write);
        }
        match write.link.step() {
            Send::Tcp => self.write_tcp(write, from),
            Send::Token(_) => Err(io::ErrorKind::WouldBlock.into()),
            Send::Ring(producer) => {
                self.may_write(producer, &mut write.probed)?;
                match self.write_ring(producer, from)? {
                    0 if from.iter().any(|slice| !slice.is_empty()) => Err(io::ErrorKind::WouldBlock.into()),
                    n => Ok(n),
                }
            }
        }
    }

    // --- The end ---

    /// Shuts the write side: the peer reads what was written, then its end.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        // The mark first: whoever sees the FIN must see that this end goes on reading.
        self.upgrade.shut();
        self.progressed(Progress::SEND_ENDED);
        match SockRef::from(self.tcp()).shutdown(std::net::Shutdown::Write) {
            // Reset by the peer: there is nothing left to shut. tokio says the same.
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        }
    }

    /// The stream is dropped. What TCP does with the program's unread bytes is done for those in the ring: a reset. Bytes that
    /// are not the program's, a token or probes, must not cause one.
    pub(crate) fn close(&mut self, read: &mut ReadSide) {
        let Some(tcp) = &self.tcp else { return };
        if let Some(granted) = self.upgrade.granted()
            && !read.link.switched()
            && !granted.forbid_switch()
        {
            self.take_token(read);
        }
        if let Some(consumer) = read.link.ring() {
            if consumer.filled().is_ok_and(|n| n > 0) {
                let _ = SockRef::from(tcp).set_linger(Some(std::time::Duration::ZERO));
            } else if self.upgrade.is_shut() {
                let _ = self.lifeline(read);
            }
        }
        let token_on_its_way = self.next_is_token(read).then(|| read.link.token_left());
        if self.upgrade.was_claimed() {
            agent::close(self.upgrade.id);
        }
        if let Some(left) = token_on_its_way
            && let Some(tcp) = self.tcp.take()
            && SockRef::from(&tcp).shutdown(std::net::Shutdown::Write).is_ok()
            && let Ok(tcp) = tcp.into_std()
        {
            agent::close_behind_token(tcp.into(), left);
        }
    }

    /// Whether the next byte by TCP is one of the peer's token, come or not.
    fn next_is_token(&self, read: &ReadSide) -> bool {
        let switched_at = self.upgrade.granted().and_then(shmbc::link::Granted::peer_switched);
        switched_at.is_some() && switched_at == read.link.on_tcp()
    }

    /// The peer broke the format: the connection is reset, for both ends, now.
    #[cold]
    fn fault(&self, fault: PeerFault) -> io::Error {
        if !self.progress.has(Progress::FAULT) {
            self.progressed(Progress::FAULT);
            tracing::warn!(%fault, peer = ?self.upgrade.shm().map(|shm| &shm.peer), "connection reset");
            // Disconnecting sends the reset without waiting for the program to drop the stream.
            let _ = rustix::net::connect_unspec(self.tcp());
        }
        io::Error::new(io::ErrorKind::ConnectionReset, fault)
    }

    #[inline]
    fn ring(&self, wake: Wake) {
        if wake == Wake::Peer
            && let Some(shm) = self.upgrade.shm()
            && let Err(error) = shm.ringer.ring()
        {
            tracing::error!(%error, "doorbell does not ring");
        }
    }

    fn shm(&self) -> io::Result<&Shm> {
        self.upgrade.shm().ok_or_else(|| io::Error::other("a ring without a grant"))
    }
}

/// What the kernel knows of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Open,
    /// It has shut its write side and goes on reading.
    HalfClosed,
    /// It has closed, was killed, or the connection was reset.
    Gone,
}

/// A panic of another task's while it held the lock has left nothing half done: the link's steps do not panic in between.
pub(crate) fn lock<T>(side: &Mutex<T>) -> MutexGuard<'_, T> {
    side.lock().unwrap_or_else(PoisonError::into_inner)
}
