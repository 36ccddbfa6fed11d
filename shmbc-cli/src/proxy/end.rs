//! What LISTEN and TARGET can be: a TCP address, or a Unix socket. Listening, connecting, and the streams that come of it.

use std::fmt;
use std::fs::{File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use nix::fcntl::{Flock, FlockArg};
use shmbc_tokio::{ShmListener, ShmStream};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

/// Connections that may wait to be accepted, as tokio has it for TCP.
const BACKLOG: i32 = 1024;

/// `sun_path` has 108 bytes, the last of them 0.
const MAX_SOCKET_PATH: usize = 107;

/// One end as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// `HOST:PORT`; a name is looked up for each connection.
    Tcp(String),
    /// `unix:PATH`.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err("expected a path behind unix:".into()),
                1..=MAX_SOCKET_PATH => Ok(Self::Unix(path.into())),
                _ => Err(format!("the path is longer than the {MAX_SOCKET_PATH} bytes of a socket's address")),
            };
        }
        let expected = || "expected HOST:PORT (such as 127.0.0.1:5432 or [::1]:5432) or unix:PATH".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let plain = !host.is_empty() && !host.contains(['/', ':']);
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if !plain && !bracketed || port.parse::<u16>().is_err() {
            return Err(expected());
        }
        Ok(Self::Tcp(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    pub(super) async fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(address) => Stream::tcp(ShmStream::connect(address).await?),
            Self::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        }
    }
}

/// Where connections come in.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(ShmListener),
    Unix(UnixListener, SocketFile),
}

impl Listener {
    pub(super) async fn bind(address: &Address, mode: Option<u32>) -> Result<Self, String> {
        let failed = |error: io::Error| format!("cannot listen at {address}: {error}");
        match address {
            Address::Tcp(text) => ShmListener::bind(text).await.map(Self::Tcp).map_err(failed),
            Address::Unix(path) => bind_unix(path, mode).map_err(failed),
        }
    }

    /// The address, with the port that was chosen for port 0.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(|_| "?".into(), |address| address.to_string()),
            Self::Unix(_, file) => format!("unix:{}", file.path.display()),
        }
    }

    /// A connection, and where it comes from.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe, as tokio's listeners are.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::tcp(stream)?, Some(peer)))
            }
            Self::Unix(listener, _) => listener.accept().await.map(|(stream, _)| (Stream::Unix(stream), None)),
        }
    }
}

/// Makes the socket so that nobody can connect before its permissions hold, and never takes the place of one that answers.
fn bind_unix(path: &Path, mode: Option<u32>) -> io::Result<Listener> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Two that start at once must not both find the same old file and remove each other's new one.
    let _locked = Flock::lock(File::open(directory)?, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let metadata = path.symlink_metadata()?;
    let file = SocketFile { path: path.to_owned(), inode: (metadata.dev(), metadata.ino()) };
    if let Some(mode) = mode {
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    socket.listen(BACKLOG)?;
    Ok(Listener::Unix(
        UnixListener::from_std(std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(socket)))?,
        file,
    ))
}

/// Removes a socket's file behind which nobody answers; anything else at `path` is an error.
fn remove_stale(path: &Path) -> io::Result<()> {
    let kind = match path.symlink_metadata() {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let taken = |why| Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    if !kind.is_socket() {
        return taken("there is something at this path that is not a socket");
    }
    // A full backlog must not hold this up.
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => taken("somebody answers there already"),
    }
}

/// The file of a listening Unix socket; goes with it, unless somebody has put another one there.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = self.path.symlink_metadata().is_ok_and(|m| (m.dev(), m.ino()) == self.inode);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            warn!(%error, path = %self.path.display(), "the socket's file cannot be removed");
        }
    }
}

/// One end of a forwarded connection.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(Box<ShmStream>),
    Unix(UnixStream),
}

impl Stream {
    fn tcp(stream: ShmStream) -> io::Result<Self> {
        // Whoever wrote a piece has decided that it is whole.
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(Box::new(stream)))
    }

    /// Which way its bytes go, for the log.
    pub(super) fn path(&self) -> String {
        match self {
            Self::Tcp(stream) => stream.path().to_string(),
            Self::Unix(_) => "unix socket".into(),
        }
    }

    /// Makes the peer see a reset instead of an end. A Unix socket knows no reset: its peer sees the end, or `EPIPE` when it
    /// writes.
    pub(super) fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self
            && let Err(error) = stream.set_zero_linger()
        {
            warn!(%error, "a connection cannot be reset and is closed");
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_when_written_as_documented_is_understood() {
        for text in ["127.0.0.1:80", "[::1]:80", "db:5432", "0.0.0.0:0", "unix:/run/x.sock", "unix:.s.PGSQL.5432"] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
            assert_eq!(matches!(address, Address::Unix(_)), text.starts_with("unix:"));
        }
    }

    #[test]
    fn address_when_it_makes_no_sense_is_refused() {
        let long = format!("unix:/{}", "x".repeat(107));
        for text in
            ["", "80", ":80", "host", "host:", "host:http", "host:65536", "::1:80", "/run/x.sock", "unix:", &long]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
