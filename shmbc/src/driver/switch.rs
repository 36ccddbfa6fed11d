//! The upgrade of one stream, seen from the stream: when it is offered, and how each direction comes to switch.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use socket2::{SockAddr, SockRef};

use super::writing::Peer;
use super::{Driver, Progress, ReadSide, WriteSide, lock};
use crate::agent;
use crate::link::{Granted, Path, Reason, Send};
use crate::reactor::{Socket, Way};
use crate::ring::PeerFault;
use crate::sys::{current_cpu, tcp_position};
use crate::upgrade::Stage;

impl<S: Socket> Driver<S> {
    /// Counts bytes that went by TCP and offers the connection when they show that it lives on.
    pub(super) fn note(&self, way: Way, n: usize) {
        if self.upgrade.stage() == Stage::Young && self.traffic.note(way, n) {
            self.offer(false);
        }
    }

    /// Offers the connection to the host service. `early`: before its traffic asked for it.
    pub(crate) fn offer(&self, early: bool) {
        let Some(registrar) = self.socket().registrar() else { return };
        // Addresses fail when the connection is reset: then there is nothing to offer.
        let socket = SockRef::from(self.socket());
        let address = |found: io::Result<SockAddr>| found.ok().and_then(|found| found.as_socket());
        let (Some(local), Some(peer)) = (address(socket.local_addr()), address(socket.peer_addr())) else { return };
        let claim = agent::Claim {
            upgrade: Arc::downgrade(&self.upgrade),
            id: self.upgrade.id,
            fd: self.socket().as_fd().as_raw_fd(),
            local,
            peer,
            registrar,
            early,
            cpu: current_cpu(),
            since: std::time::Instant::now(),
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
    pub(super) fn drive(&self, write: &Mutex<WriteSide>) {
        if self.upgrade.stage() == Stage::Go && !self.progress.has(Progress::SENDS | Progress::SEND_ENDED) {
            self.drive_locked(&mut lock(write));
        }
    }

    #[cold]
    pub(super) fn drive_locked(&self, write: &mut WriteSide) {
        loop {
            match write.link.step() {
                Send::Tcp => {
                    if !self.begin_switch(write) {
                        return;
                    }
                }
                Send::Token(rest) => match self.send(&[IoSlice::new(rest)]) {
                    Ok(n) => write.link.token_sent(n),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        let ready = self.socket().poll_write_ready(&mut self.upgrade.context());
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
    pub(super) fn begin_switch(&self, write: &mut WriteSide) -> bool {
        let (Some(granted), Some(sent)) = (self.upgrade.granted(), write.link.on_tcp()) else { return false };
        if self.upgrade.stage() != Stage::Go || self.upgrade.is_shut() || self.progress.has(Progress::UNCOUNTED) {
            return false;
        }
        match tcp_position(self.socket()) {
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

    pub(super) fn progressed(&self, bit: u8) {
        if self.progress.0.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            self.upgrade.wakers().on_news.on_news();
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
            Path::Tcp(Reason::NotYet) if self.is_over() => Some(Err(Reason::Closed)),
            Path::Tcp(Reason::NotYet) => None,
            Path::Tcp(reason) => Some(Err(reason)),
        }
    }

    /// Whether nothing can switch any more. If not, whoever waits is woken when the connection ends.
    fn is_over(&self) -> bool {
        if self.progress.has(Progress::FAULT)
            || self.progress.has(Progress::SEND_ENDED) && self.progress.has(Progress::RECEIVE_ENDED)
        {
            return true;
        }
        // Bytes that nobody reads may lie before the end, so reading does not tell; and until this end has switched, writers
        // need the other readiness. A peer that dies earlier is missed by the host service, which refuses.
        if self.progress.has(Progress::SENDS) && self.watch_lifeline().is_err() {
            return true;
        }
        self.peer().is_ok_and(|peer| peer == Peer::Gone)
    }

    /// Takes the peer's token if it is next: nobody may be reading while `upgraded` waits. Leaves the program's bytes alone.
    pub(super) fn take_token(&self, read: &mut ReadSide) {
        while !read.link.switched() {
            let switched_at = self.upgrade.granted().and_then(Granted::peer_switched);
            if let (Some(claim), Some(received)) = (switched_at, read.link.on_tcp())
                && claim < received
            {
                let error = self.fault(PeerFault::SwitchedInThePast { claim, received });
                return self.read_failed(read, error);
            }
            if self.next_is_token(read) {
                // Never more than the token: what may follow it is a probe, and those are the lifeline's.
                let mut token = [0; 16];
                match self.receive(&mut token[..read.link.token_left()]) {
                    Ok(0) => return self.progressed(Progress::RECEIVE_ENDED),
                    Ok(n) => match self.came_by_tcp(read, &token[..n]) {
                        Ok(_) => continue,
                        Err(error) => return read.error = Some(error),
                    },
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return self.read_failed(read, error),
                }
            }
            // An error: the runtime is gone.
            if !matches!(self.socket().poll_read_ready(&mut self.upgrade.context()), Poll::Ready(Ok(()))) {
                return;
            }
            // Readable, but by what?
            match self.peek_tcp() {
                Ok(0) => return self.progressed(Progress::RECEIVE_ENDED),
                Ok(_) if self.next_is_token(read) => {}
                // The program's bytes come first; whoever reads them goes on with the token.
                Ok(_) => return,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return self.read_failed(read, error),
            }
        }
    }

    /// An error that was met while nobody was reading: the next read reports it.
    fn read_failed(&self, read: &mut ReadSide, error: io::Error) {
        read.error = Some(error);
        self.progressed(Progress::RECEIVE_ENDED);
    }
}
