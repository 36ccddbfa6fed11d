//! The control socket: makes it, accepts clients, starts a session for each.
//!
//! The socket is open to everybody: who may do what is decided by who a client is, not by who reaches the file. A
//! file left behind by a service that died is replaced; one behind which somebody answers never is.

mod door;
mod predecessor;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use self::door::Door;
use crate::config::HostError;
use crate::hub::Hub;
use crate::identity::{Client, Unknown};
use crate::{kernel, session};

/// Clients that may wait to be accepted. Accepting takes microseconds; the kernel's own limit is 4096 by default.
const BACKLOG: i32 = 1024;

/// How long to wait before accepting again when descriptors have run out.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// How long sessions may take to send their last words when the service stops.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a service waits for another one that starts. It takes that some milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Between two attempts to lock.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The socket that clients connect to. Its file goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: AsyncFd<OwnedFd>,
    path: PathBuf,
    /// Nothing when somebody else keeps the socket: it outlives the service, and clients that come meanwhile wait in it.
    _file: Option<SocketFile>,
}

/// The file of a listening socket.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have put another one there meanwhile.
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.inode);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            warn!(%error, path = %self.path.display(), "the socket's file could not be removed");
        }
    }
}

impl Listener {
    /// Makes the socket at `path`.
    ///
    /// # Errors
    ///
    /// [`HostError`] says what stands in the way.
    pub(crate) async fn bind(path: &Path) -> Result<Self, HostError> {
        let address = SocketAddrUnix::new(path).map_err(|_| HostError::PathTooLong(path.to_owned()))?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let failed = |what: &'static str| {
            move |error: Errno| match error {
                Errno::ACCESS | Errno::PERM | Errno::ROFS => HostError::Permission(directory.to_owned()),
                Errno::NOENT | Errno::NOTDIR => HostError::NoDirectory(directory.to_owned()),
                other => HostError::Io { what, error: other.into() },
            }
        };
        let opened = std::fs::File::open(directory)
            .map_err(|e| failed("opening the socket's directory")(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        let locked = lock(opened).await?;
        predecessor::make_way(path, &address).await?;

        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(failed("making the control socket"))?;
        if let Err(error) = kernel::refuse_descriptors(socket.as_fd()) {
            debug!(%error, "this kernel lets clients send descriptors; any that come are closed");
        }
        rustix::net::bind(&socket, &address).map_err(failed("binding the control socket"))?;
        let metadata = std::fs::symlink_metadata(path).map_err(HostError::io("looking at the control socket"))?;
        let file = SocketFile { path: path.to_owned(), inode: (metadata.dev(), metadata.ino()) };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
            .map_err(HostError::io("opening the control socket to everybody"))?;
        rustix::net::listen(&socket, BACKLOG).map_err(failed("listening on the control socket"))?;
        drop(locked);
        let socket =
            kernel::register(socket, Interest::READABLE).map_err(HostError::io("watching the control socket"))?;
        Ok(Self { socket, path: path.to_owned(), _file: Some(file) })
    }

    /// Takes over a socket that somebody else made, listens on and keeps, such as systemd.
    ///
    /// # Errors
    ///
    /// [`HostError::Inherited`] when it is another kind of socket.
    pub(crate) fn inherit(socket: OwnedFd) -> Result<Self, HostError> {
        let right = sockopt::socket_domain(&socket).is_ok_and(|domain| domain == AddressFamily::UNIX)
            && sockopt::socket_type(&socket).is_ok_and(|kind| kind == SocketType::SEQPACKET)
            && sockopt::socket_acceptconn(&socket).unwrap_or(false);
        let address = rustix::net::getsockname(&socket).ok().and_then(|address| SocketAddrUnix::try_from(address).ok());
        let path =
            address.as_ref().and_then(SocketAddrUnix::path_bytes).map(|path| PathBuf::from(OsStr::from_bytes(path)));
        let (true, Some(path)) = (right, path) else { return Err(HostError::Inherited) };
        rustix::io::ioctl_fionbio(&socket, true)
            .map_err(|e| HostError::io("preparing the control socket")(e.into()))?;
        if let Err(error) = kernel::refuse_descriptors(socket.as_fd()) {
            debug!(%error, "this kernel lets clients send descriptors; any that come are closed");
        }
        let socket =
            kernel::register(socket, Interest::READABLE).map_err(HostError::io("watching the control socket"))?;
        Ok(Self { socket, path, _file: None })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    async fn accept(&self) -> io::Result<OwnedFd> {
        loop {
            let mut guard = self.socket.readable().await?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match guard.try_io(|socket| Ok(rustix::net::accept_with(socket, flags)?)) {
                Ok(accepted) => return accepted,
                Err(_would_block) => {}
            }
        }
    }
}

/// Two services that start at once must not both find the same old file and remove each other's new one. But everybody who sees the
/// directory can lock it, for as long as he likes: then this goes on without.
async fn lock(directory: std::fs::File) -> Result<Option<Flock<std::fs::File>>, HostError> {
    let mut directory = directory;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        directory = match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(Some(locked)),
            Err((directory, nix::errno::Errno::EAGAIN)) if Instant::now() < until => directory,
            Err((_, nix::errno::Errno::EAGAIN)) => {
                warn!("somebody keeps the socket's directory locked; the service starts all the same");
                return Ok(None);
            }
            Err((_, error)) => return Err(HostError::io("locking the socket's directory")(error.into())),
        };
        tokio::time::sleep(LOCK_PAUSE).await;
    }
}

/// Accepts clients until told to stop, then lets their sessions finish.
pub(crate) async fn serve(place: &mut Option<Listener>, hub: Arc<Hub>, mut stopping: watch::Receiver<bool>) {
    let Some(listener) = place else { return };
    let mut sessions = JoinSet::new();
    let mut door = Door::default();
    let mut told_pid_namespace = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = sessions.join_next() => {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    hub.panics.count();
                    tracing::error!(%error, "a session failed by a mistake of the service");
                }
                continue;
            }
            () = session::stopped(&mut stopping) => break,
        };
        let client = match accepted {
            Ok(socket) => {
                let admitted = getsockopt(&socket, PeerCredentials).is_ok_and(|who| door.admits(&who, Instant::now()));
                if !admitted {
                    debug!("a process that comes too often is turned away");
                    continue;
                }
                Client::of(socket.as_fd()).map(|client| (client, socket))
            }
            Err(error) => {
                let errno = Errno::from_io_error(&error);
                if matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)) {
                    warn!(%error, "cannot accept a client for want of descriptors; raise LimitNOFILE");
                    tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                } else {
                    debug!(%error, "accepting a client failed");
                }
                continue;
            }
        };
        let (client, socket) = match client {
            Ok(known) => known,
            Err(why @ Unknown::OtherPidNamespace) if !told_pid_namespace => {
                told_pid_namespace = true;
                warn!("{why}");
                continue;
            }
            Err(why) => {
                debug!(%why, "client turned away");
                continue;
            }
        };
        match kernel::register(socket, Interest::READABLE | Interest::WRITABLE) {
            Ok(socket) => {
                sessions.spawn(session::serve(Arc::clone(&hub), client, socket, stopping.clone()));
            }
            Err(error) => warn!(%error, "a client's socket cannot be watched"),
        }
    }
    // The file goes first: nobody finds a service that is about to end.
    *place = None;
    let all = async { while sessions.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_WORDS, all).await;
}
