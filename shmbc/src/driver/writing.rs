//! The writing side: to TCP, the token, to the ring; whether the peer still lives; and what it watches before it sleeps.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::link::{Granted, Send};
use crate::ring::Producer;
use crate::sys::{current_cpu, tcp_peer_has_ended};
use rustix::net::{SendAncillaryBuffer, SendFlags};

use super::{Driver, Look, Short, WriteSide, would_block};
use crate::agent;
use crate::reactor::{Budget, EndWatch, Socket, Way};
use crate::storm::Storm;
use crate::upgrade::Stage;

/// Bytes between two probes of a peer that has shut its own side and takes nothing.
const PROBE_EVERY: u64 = 64 * 1024;

/// How long a writer that sleeps on the full ring of a half-closed peer waits before it probes again.
const PROBE_AGAIN: Duration = Duration::from_secs(1);

/// What the kernel knows of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Open,
    /// It has shut its write side and goes on reading.
    HalfClosed,
    /// It has closed, was killed, or the connection was reset.
    Gone,
}

impl<S: Socket> Driver<S> {
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
                    match self.socket().poll_write_ready(&mut self.upgrade.context())? {
                        Poll::Ready(()) => match self.write_tcp(write, from, Short::Ends) {
                            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                            done => return Poll::Ready(done),
                        },
                        Poll::Pending => Look::Nothing,
                    }
                }
                Send::Token(rest) => match self.socket().poll_write_ready(&mut self.upgrade.context())? {
                    Poll::Ready(()) => {
                        match self.send(&[IoSlice::new(rest)]) {
                            Ok(n) => write.link.token_sent(n),
                            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                            Err(e) => return Poll::Ready(Err(e)),
                        }
                        continue;
                    }
                    Poll::Pending => Look::Nothing,
                },
                Send::Ring(producer) => {
                    let budget = ready!(S::proceed(cx));
                    self.may_write(producer, &mut write.probed)?;
                    let n = self.write_ring(producer, from)?;
                    write.assumed = n == from.iter().map(|slice| slice.len()).sum();
                    if n > 0 || write.assumed {
                        write.waiting.over();
                        budget.made_progress();
                        return Poll::Ready(Ok(n));
                    }
                    drop(budget);
                    let same_cpu = || producer.consumer_cpu() == Some(current_cpu().into());
                    if registered {
                        self.watch_room(producer, &mut write.storm)?
                    } else if write.waiting.poll_again(self.wait.get(), same_cpu) {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    } else {
                        Look::Nothing
                    }
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

    fn write_tcp(&self, write: &mut WriteSide, from: &[IoSlice<'_>], short: Short) -> io::Result<usize> {
        let wanted: usize = from.iter().map(|slice| slice.len()).sum();
        let mut result = None;
        let _ = self.socket().attempt(Way::Out, || {
            let sent = send(self.socket(), from);
            let filled = matches!(sent, Ok(n) if n < wanted) && short == Short::Ends || would_block(&sent);
            result = Some(sent);
            if filled { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        let n = result.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))?;
        write.link.sent_by_tcp(n);
        self.note(Way::Out, n);
        Ok(n)
    }

    /// Writes what fits by TCP.
    pub(super) fn send(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket().attempt(Way::Out, || send(self.socket(), from))
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
        if self.socket().may_be_readable() {
            return self.check_lifeline(producer, probed);
        }
        Ok(())
    }

    #[cold]
    fn check_lifeline(&self, producer: &mut Producer, probed: &mut u64) -> io::Result<()> {
        if self.peer_half_closed.load(Ordering::Relaxed) && !self.socket().may_have_failed() {
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
            Peer::Open => {
                // Readable, but nothing has happened: bytes for the reading side, or a readiness that is out of date, since tokio
                // takes a new socket for readable. The latter is cleared, or each write would come here: 500 ns instead of 60.
                let _ = self.peek_tcp();
                Ok(())
            }
            Peer::HalfClosed => {
                self.peer_half_closed.store(true, Ordering::Relaxed);
                Ok(())
            }
            // As TCP does it: the first write after the peer's close still succeeds and is answered with a reset.
            Peer::Gone => self.probe(),
        }
    }

    /// What the kernel knows of the peer, without taking an error that is a read's to report.
    pub(super) fn peer(&self) -> io::Result<Peer> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(self.socket(), PollFlags::RDHUP)];
        poll(&mut fds, Some(&Timespec::default()))?;
        let events = fds[0].revents();
        Ok(if events.intersects(PollFlags::ERR | PollFlags::HUP) {
            Peer::Gone
        } else if !events.contains(PollFlags::RDHUP) || !tcp_peer_has_ended(self.socket())? {
            // (The kernel says the same of one that has shut its own reading side.)
            Peer::Open
        } else if self.upgrade.granted().is_some_and(Granted::peer_half_closed) {
            Peer::HalfClosed
        } else {
            Peer::Gone
        })
    }

    /// Sends one byte behind the token. A living peer forgets it, a dead one's kernel answers with a reset; after one it
    /// fails as any write would.
    fn probe(&self) -> io::Result<()> {
        match rustix::net::send(self.socket(), &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Arranges that whoever waits is woken when something happens to the lifeline of a stream that has switched its sending. True
    /// if so; false when it has happened.
    pub(super) fn watch_lifeline(&self) -> io::Result<bool> {
        let watch = self.socket().watch_end(&mut self.upgrade.context())?;
        if watch == EndWatch::Unwatchable {
            agent::wake_later(&self.upgrade, PROBE_AGAIN);
        }
        Ok(watch != EndWatch::Happened)
    }

    /// Before the writing side sleeps on a full ring. Whoever is to be woken has registered.
    fn watch_room(&self, producer: &mut Producer, storm: &mut Storm) -> io::Result<Look> {
        let mut context = self.upgrade.context();
        self.moved[1].store(producer.produced(), Ordering::Relaxed);
        self.watch_bell(&mut context, storm)?;
        let watched = self.watch_lifeline()?;
        if !producer.arm().map_err(|fault| self.fault(fault))? {
            return Ok(Look::Something);
        }
        // A peer that has shut its own side can die without a word from the kernel: ask, and ask again later, since it may take
        // the probe before it dies.
        if self.peer()? != Peer::Open {
            self.probe()?;
            agent::wake_later(&self.upgrade, PROBE_AGAIN);
        }
        Ok(if watched { Look::Nothing } else { Look::Something })
    }

    /// Ready when a write would not block. `Pending` leaves the combined waker with every source.
    pub(crate) fn poll_writable(&self, write: &mut WriteSide) -> Poll<io::Result<()>> {
        match write.link.step() {
            Send::Tcp | Send::Token(_) => self.socket().poll_write_ready(&mut self.upgrade.context()),
            Send::Ring(producer) => {
                // A write that would fail does not block.
                if self.upgrade.is_shut() || producer.free().map_err(|fault| self.fault(fault))? > 0 {
                    return Poll::Ready(Ok(()));
                }
                match self.watch_room(producer, &mut write.storm) {
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
            Send::Tcp => self.write_tcp(write, from, Short::EndsNothing),
            // It did not go, or only in part: say why.
            Send::Token(rest) => {
                let n = self.send(&[IoSlice::new(rest)])?;
                write.link.token_sent(n);
                Err(io::ErrorKind::WouldBlock.into())
            }
            Send::Ring(producer) => {
                self.may_write(producer, &mut write.probed)?;
                let n = self.write_ring(producer, from)?;
                write.assumed = n > 0 || from.iter().all(|slice| slice.is_empty());
                if write.assumed { Ok(n) } else { Err(io::ErrorKind::WouldBlock.into()) }
            }
        }
    }
}

/// Most buffers that one `sendmsg(2)` takes (`UIO_MAXIOV`).
const IOV_MAX: usize = 1024;

/// Writes to the socket without waiting, and without a signal when it is closed.
fn send(socket: impl AsFd, from: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(match from {
        [one] => rustix::net::send(socket, one, flags)?,
        many => {
            let many = &many[..many.len().min(IOV_MAX)];
            rustix::net::sendmsg(socket, many, &mut SendAncillaryBuffer::default(), flags)?
        }
    })
}
