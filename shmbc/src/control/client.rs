//! A blocking client of the control socket, for people's commands: asks for the tables, and whether somebody answers.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::message::{ConnectionRow, ContainerRow, PROTOCOL, Status, ToClient, ToHost};
use super::socket::{self, DEFAULT_PATH};

/// How long the service may take for one message.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the service could not be asked. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens at this path.
    #[error("no host service at {0}: start one with `shmbc-host run`, or name its socket with --socket or SHMBC_HOST")]
    NoHost(String),
    /// The socket may not be reached.
    #[error("no permission to reach the host service at {0}")]
    Permission(String),
    /// The service speaks another version of the protocol.
    #[error(
        "the host service speaks version {0} of the protocol, this program version {PROTOCOL}: use the same release"
    )]
    Version(u16),
    /// The service does not answer this to everybody.
    #[error("{0}")]
    Forbidden(String),
    /// No answer within five seconds.
    #[error("the host service does not answer")]
    Silent,
    /// The session ended before the answer.
    #[error("the host service ended the session")]
    Ended,
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A path that cannot be that of a control socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocketPathError {
    /// `SHMBC_HOST=off`.
    #[error("SHMBC_HOST=off turns acceleration off: unset it, or name a socket with --socket")]
    Off,
    /// Clients of other directories would not find it.
    #[error("{0:?}: expected the absolute path of the host service's socket, such as {DEFAULT_PATH}")]
    Relative(PathBuf),
}

/// Where the control socket is, from an option or `SHMBC_HOST`. Empty: at the default path.
///
/// # Errors
///
/// [`SocketPathError`] says what would be right.
pub fn socket_path(given: &Path) -> Result<PathBuf, SocketPathError> {
    match given {
        empty if empty.as_os_str().is_empty() => Ok(DEFAULT_PATH.into()),
        off if off.as_os_str() == "off" => Err(SocketPathError::Off),
        relative if relative.is_relative() => Err(SocketPathError::Relative(relative.into())),
        absolute => Ok(absolute.into()),
    }
}

/// A session with the service.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
}

impl Client {
    /// Connects and says hello.
    ///
    /// # Errors
    ///
    /// [`AskError`] says what stands in the way.
    pub fn connect(path: &Path) -> Result<Self, AskError> {
        let shown = || path.display().to_string();
        let address = SocketAddrUnix::new(path).map_err(|_| AskError::NoHost(shown()))?;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(io::Error::from)?;
        rustix::net::connect(&socket, &address).map_err(|error| match error {
            Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR | Errno::PROTOTYPE => AskError::NoHost(shown()),
            Errno::ACCESS | Errno::PERM => AskError::Permission(shown()),
            other => AskError::Io(other.into()),
        })?;
        let client = Self { socket };
        client.say(&ToHost::Hello { protocol: PROTOCOL })?;
        match client.hear()? {
            ToClient::Welcome { protocol: PROTOCOL, .. } => Ok(client),
            ToClient::Welcome { protocol, .. } => Err(AskError::Version(protocol)),
            _ => Err(AskError::Ended),
        }
    }

    /// The connection table.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn connections(&self) -> Result<Vec<ConnectionRow>, AskError> {
        self.say(&ToHost::ListConnections)?;
        self.collect(|message| match message {
            ToClient::Connections { rows, last } => Some((rows, last)),
            _ => None,
        })
    }

    /// The container table.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn containers(&self) -> Result<Vec<ContainerRow>, AskError> {
        self.say(&ToHost::ListContainers)?;
        self.collect(|message| match message {
            ToClient::Containers { rows, last } => Some((rows, last)),
            _ => None,
        })
    }

    /// How the service is.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn status(&self) -> Result<Status, AskError> {
        self.say(&ToHost::Status)?;
        loop {
            match self.hear()? {
                ToClient::Forbidden { why } => return Err(AskError::Forbidden(why)),
                ToClient::Status(status) => return Ok(status),
                // Addresses come in between.
                _ => {}
            }
        }
    }

    fn collect<R>(&self, piece: impl Fn(ToClient) -> Option<(Vec<R>, bool)>) -> Result<Vec<R>, AskError> {
        let mut all = Vec::new();
        loop {
            match self.hear()? {
                ToClient::Forbidden { why } => return Err(AskError::Forbidden(why)),
                other => {
                    // Addresses come in between.
                    let Some((rows, last)) = piece(other) else { continue };
                    all.extend(rows);
                    if last {
                        return Ok(all);
                    }
                }
            }
        }
    }

    fn say(&self, message: &ToHost) -> Result<(), AskError> {
        Ok(socket::send(self.socket.as_fd(), message, &[])?)
    }

    fn hear(&self) -> Result<ToClient, AskError> {
        let until = Instant::now() + PATIENCE;
        loop {
            match socket::receive(self.socket.as_fd()) {
                Ok(Some(received)) => return Ok(received.message),
                Ok(None) => return Err(AskError::Ended),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e.into()),
            }
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Err(AskError::Silent),
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(AskError::Io(e.into())),
            }
        }
    }
}
