//! Small processes that look at clients' sockets for the service, each at one at a time, and are replaced when they hang.
//!
//! ```text
//!   service --"connection PID FD", pidfd--> puller     pulls, asks, closes; or hangs, alone
//!      '-----"new"-----> nursery --fork--> puller      begun with the service, has nothing of it
//! ```
//!
//! What a client has open can make who touches it wait for as long as the client likes, in the kernel, where no signal is heard: a
//! `close` of a file of a file system that does not answer is enough. A thread that hangs so keeps all that its process has open;
//! a process that hangs so and has nothing keeps nothing but itself. So nothing of this is done in the service. Pullers are
//! forked by the nursery, which is small and has one thread, because forking the service would copy all it has.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait, waitpid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::look::{Request, Seen, look};
use crate::kernel;

/// How long a look may take. Some tens of microseconds, unless the client makes it slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Most looks at a time, those that hang included; more wait. A client can make one hang for each proof it has under
/// way, and nobody who has made one hang has another: so many need as many hostile users. Each takes a puller, of some
/// 200 KiB.
const MAX_LOOKS: usize = 256;

/// How long a look waits for its turn. A thousand take a tenth of a second, unless all pullers hang.
const TURN: Duration = Duration::from_secs(5);

/// Pullers that are there from the start, and when there is nothing to do.
const KEPT: usize = 2;

/// Longest line between them: an answer with two addresses and three numbers.
const LINE: usize = 256;

/// Room for one descriptor.
const FD_SPACE: usize = rustix::cmsg_space!(ScmRights(1));

/// Why nothing was seen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// It hangs: whoever made it do so is to have no other until it is gone.
    #[error("looking at the client's socket takes more than {PATIENCE:?}")]
    Stuck(Stuck),
    #[error("no process can be had to look at sockets: {0}")]
    Nobody(#[from] io::Error),
}

/// A puller that hangs.
#[derive(Debug)]
pub(crate) struct Stuck(Puller, #[expect(dead_code, reason = "given back when it is gone")] OwnedSemaphorePermit);

impl Stuck {
    /// Returns when it is gone, or goes on and ends.
    pub(crate) async fn gone(self) {
        // It says what it has seen, which nobody wants any more, or is killed.
        let _ = self.0.socket.readable().await;
    }
}

/// The pullers.
#[derive(Debug)]
pub(crate) struct Pullers {
    nursery: tokio::sync::Mutex<Option<AsyncFd<OwnedFd>>>,
    idle: Mutex<Vec<Puller>>,
    turns: Arc<Semaphore>,
}

/// One of them.
#[derive(Debug)]
struct Puller {
    socket: AsyncFd<OwnedFd>,
    pid: i32,
}

impl Pullers {
    pub(crate) fn new() -> Self {
        let (nursery, idle) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { nursery, idle, turns: Arc::new(Semaphore::new(MAX_LOOKS)) }
    }

    /// Has the first begun, while the service has little that a fork would copy.
    ///
    /// # Errors
    ///
    /// When there is no process to be had.
    pub(crate) async fn begin(&self) -> io::Result<()> {
        for _ in 0..KEPT {
            let puller = self.another().await?;
            self.idle().push(puller);
        }
        Ok(())
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Puller>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has something looked at in the process of `pidfd`.
    pub(super) async fn ask(
        &self,
        request: &Request,
        pidfd: BorrowedFd<'_>,
    ) -> Result<(Seen, Option<OwnedFd>), Unanswered> {
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(io::Error::other("too many of them hang").into()) };
        loop {
            let kept = self.idle().pop();
            let fresh = kept.is_none();
            let puller = match kept {
                Some(puller) => puller,
                None => self.another().await?,
            };
            match tokio::time::timeout(PATIENCE, puller.ask(request, pidfd)).await {
                Ok(Ok(seen)) => {
                    self.put_back(puller);
                    return Ok(seen);
                }
                // One that was kept may have been killed by somebody meanwhile.
                Ok(Err(_)) if !fresh => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => {
                    self.end(puller.pid).await;
                    return Err(Unanswered::Stuck(Stuck(puller, turn)));
                }
            }
        }
    }

    /// One that has answered. While looks wait for their turn, the next one takes it.
    fn put_back(&self, puller: Puller) {
        let mut idle = self.idle();
        idle.push(puller);
        if self.turns.available_permits() > 0 {
            idle.truncate(KEPT);
        }
    }

    /// Has the nursery make one; has another nursery if that is gone.
    async fn another(&self) -> io::Result<Puller> {
        let mut nursery = self.nursery.lock().await;
        let mut retried = false;
        loop {
            let asked = match &*nursery {
                Some(nursery) => ask(nursery, "new", None).await,
                None => Err(io::ErrorKind::NotConnected.into()),
            };
            match asked {
                Ok((text, Some(socket))) => {
                    let pid = text.parse().map_err(|_| io::Error::other("the nursery makes no sense"))?;
                    let socket = kernel::register(socket, Interest::READABLE | Interest::WRITABLE)?;
                    return Ok(Puller { socket, pid });
                }
                Ok((why, None)) => return Err(io::Error::other(why)),
                Err(error) if retried => return Err(error),
                Err(_) => {
                    retried = true;
                    *nursery = None;
                    let (here, there) = pair()?;
                    // Through one that ends at once: nobody has to wait for the nursery's end.
                    let between = kernel::spawn(there, |there| drop(kernel::spawn(there, serve_nursery)))?;
                    match waitpid(Pid::from_raw(between), WaitOptions::empty()) {
                        // Reaped by the kernel, where this process was told to ignore its children.
                        Ok(_) | Err(Errno::CHILD) => {}
                        Err(error) => return Err(error.into()),
                    }
                    *nursery = Some(kernel::register(here, Interest::READABLE | Interest::WRITABLE)?);
                }
            }
        }
    }

    /// Kills one. Where a signal is heard, it hangs no longer.
    async fn end(&self, pid: i32) {
        if let Some(nursery) = &*self.nursery.lock().await {
            let _ = ask(nursery, &format!("end {pid}"), None).await;
        }
    }
}

impl Puller {
    async fn ask(&self, request: &Request, pidfd: BorrowedFd<'_>) -> io::Result<(Seen, Option<OwnedFd>)> {
        let (text, fd) = ask(&self.socket, &request.to_string(), Some(pidfd)).await?;
        let seen = text.parse().map_err(|()| io::Error::other(format!("a puller says {text:?}")))?;
        Ok((seen, fd))
    }
}

/// One line there and one back, each with a descriptor or without.
async fn ask(
    socket: &AsyncFd<OwnedFd>,
    line: &str,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<(String, Option<OwnedFd>)> {
    loop {
        let mut guard = socket.writable().await?;
        match guard.try_io(|socket| send(socket.as_fd(), line, fd, SendFlags::DONTWAIT)) {
            Ok(sent) => break sent?,
            Err(_would_block) => {}
        }
    }
    loop {
        let mut guard = socket.readable().await?;
        match guard.try_io(|socket| receive(socket.as_fd(), RecvFlags::DONTWAIT)) {
            Ok(Ok(Some(answer))) => return Ok(answer),
            Ok(Ok(None)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn send(socket: BorrowedFd<'_>, line: &str, fd: Option<BorrowedFd<'_>>, flags: SendFlags) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); FD_SPACE];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if let Some(fd) = &fd {
        ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
    }
    sendmsg(socket, &[IoSlice::new(line.as_bytes())], &mut ancillary, flags | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A line; nothing when the other side has gone.
fn receive(socket: BorrowedFd<'_>, flags: RecvFlags) -> io::Result<Option<(String, Option<OwnedFd>)>> {
    let mut line = [0; LINE];
    let mut space = [MaybeUninit::uninit(); FD_SPACE];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut line)], &mut ancillary, flags)?;
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let text = String::from_utf8_lossy(&line[..got.bytes]).into_owned();
    Ok((got.bytes > 0).then_some((text, fd)))
}

// --- the processes; see `kernel::spawn` for what they may not do

/// The nursery: makes pullers until the service is gone.
#[expect(clippy::needless_pass_by_value, reason = "it is the child's own")]
fn serve_nursery(service: OwnedFd) {
    let mut living: Vec<i32> = Vec::new();
    while let Some((line, _)) = next(&service) {
        while let Ok(Some((ended, _))) = wait(WaitOptions::NOHANG) {
            living.retain(|pid| *pid != ended.as_raw_nonzero().get());
        }
        let answered = match line.strip_prefix("end ").map(|pid| pid.parse().unwrap_or_default()) {
            Some(pid) => {
                // Only its own, which nobody but it can have reaped.
                if living.contains(&pid)
                    && let Some(pid) = Pid::from_raw(pid)
                {
                    let _ = kill_process(pid, Signal::KILL);
                }
                send(service.as_fd(), "ended", None, SendFlags::empty())
            }
            None => match pair().and_then(|(here, there)| Ok((here, kernel::spawn(there, serve_puller)?))) {
                Ok((here, pid)) => {
                    living.push(pid);
                    send(service.as_fd(), &pid.to_string(), Some(here.as_fd()), SendFlags::empty())
                }
                Err(error) => send(service.as_fd(), &error.to_string(), None, SendFlags::empty()),
            },
        };
        if answered.is_err() {
            break;
        }
    }
}

/// A puller: looks at one thing after the other until nobody wants more.
#[expect(clippy::needless_pass_by_value, reason = "it is the child's own")]
fn serve_puller(service: OwnedFd) {
    while let Some((line, Some(pidfd))) = next(&service) {
        let Ok(request) = line.parse() else { break };
        let (seen, fd) = look(&request, pidfd.as_fd());
        if send(service.as_fd(), &seen.to_string(), fd.as_ref().map(AsFd::as_fd), SendFlags::empty()).is_err() {
            break;
        }
    }
}

fn next(socket: &OwnedFd) -> Option<(String, Option<OwnedFd>)> {
    loop {
        match receive(socket.as_fd(), RecvFlags::empty()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.ok().flatten(),
        }
    }
}
