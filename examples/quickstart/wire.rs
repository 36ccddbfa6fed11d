//! What the two processes say to each other, the same over each of the three streams: commands from the client,
//! answers from the server, and files in frames. Owns the formats and the two clocks; does no measuring of its own.
//!
//! ```text
//!  client                              server
//!    command: Ping, n    ----------->
//!    64 bytes            ----------->             n times
//!                        <-----------  64 bytes
//!    command: Batch, n   ----------->
//!    n bytes of frames   ----------->             a frame: path length, content length, path, content
//!                        <-----------  answer: when the last byte was there, CPU time, number of files
//!                        <-----------  32-byte digest of each file's path and content, as received
//! ```

use std::io;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Size of a ping and of its answer.
pub(crate) const PING: usize = 64;

/// Bytes handed to one read or write call. A multiple of what each of the contenders moves at once.
pub(crate) const PIECE: usize = 256 << 10;

/// Both processes only ever see each other's lengths; beyond this one of them is broken.
pub(crate) const BATCH_MAX: u64 = 1 << 30;

/// Path length and content length in front of each file.
const FRAME_HEADER: usize = 2 + 8;

/// BLAKE3 of a file's path and content.
pub(crate) type Digest = [u8; 32];

/// What the client wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// That many pings follow.
    Ping(u64),
    /// That many bytes of frames follow.
    Batch(u64),
}

impl Command {
    pub(crate) async fn send(self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let (kind, count) = match self {
            Self::Ping(count) => (0_u64, count),
            Self::Batch(len) => (1, len),
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&count.to_le_bytes());
        to.write_all(&bytes).await
    }

    /// The next command, or nothing when the client has closed.
    pub(crate) async fn receive(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let kind = match from.read_u64_le().await {
            Ok(kind) => kind,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        let count = from.read_u64_le().await?;
        match kind {
            0 => Ok(Some(Self::Ping(count))),
            1 if count <= BATCH_MAX => Ok(Some(Self::Batch(count))),
            1 => Err(invalid(format!("a batch of {count} bytes, at most {BATCH_MAX} are taken"))),
            _ => Err(invalid(format!("command {kind} is unknown"))),
        }
    }
}

/// What the server says about a batch.
#[derive(Debug)]
pub(crate) struct Answer {
    /// When the last byte had been read, on the clock that all processes of a machine share.
    pub(crate) read_at_ns: u64,
    /// CPU time the server spent from the command to the last byte.
    pub(crate) cpu_ns: u64,
    /// Of each file, in the order they came.
    pub(crate) digests: Vec<Digest>,
}

impl Answer {
    pub(crate) async fn send(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(24 + self.digests.len() * size_of::<Digest>());
        for word in [self.read_at_ns, self.cpu_ns, self.digests.len() as u64] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(self.digests.as_flattened());
        to.write_all(&bytes).await
    }

    /// The answer to a batch of `files` files.
    pub(crate) async fn receive(from: &mut (impl AsyncRead + Unpin), files: usize) -> io::Result<Self> {
        let read_at_ns = from.read_u64_le().await?;
        let cpu_ns = from.read_u64_le().await?;
        let answered = from.read_u64_le().await?;
        if answered != files as u64 {
            return Err(invalid(format!("{files} files were sent, {answered} arrived")));
        }
        let mut digests = vec![[0; 32]; files];
        from.read_exact(digests.as_flattened_mut()).await?;
        Ok(Self { read_at_ns, cpu_ns, digests })
    }
}

/// Length of a file's frame.
pub(crate) const fn frame_len(path: &str, content: u64) -> u64 {
    (FRAME_HEADER + path.len()) as u64 + content
}

/// What stands in front of a file's content.
pub(crate) fn frame_header(path: &str, content: u64) -> Vec<u8> {
    let path_len = u16::try_from(path.len()).expect("the walk leaves out longer paths");
    let mut header = Vec::with_capacity(FRAME_HEADER + path.len());
    header.extend_from_slice(&path_len.to_le_bytes());
    header.extend_from_slice(&content.to_le_bytes());
    header.extend_from_slice(path.as_bytes());
    header
}

/// Digests of the files in `frames`.
pub(crate) fn digests(mut frames: &[u8]) -> io::Result<Vec<Digest>> {
    let mut digests = Vec::new();
    while let Some((header, rest)) = frames.split_first_chunk::<FRAME_HEADER>() {
        let [p0, p1, content @ ..] = *header;
        let path_len = usize::from(u16::from_le_bytes([p0, p1]));
        let len = usize::try_from(u64::from_le_bytes(content)).ok().and_then(|content| content.checked_add(path_len));
        let Some((file, rest)) = len.and_then(|len| rest.split_at_checked(len)) else {
            return Err(invalid("a frame is longer than its batch".into()));
        };
        digests.push(*blake3::hash(file).as_bytes());
        frames = rest;
    }
    if frames.is_empty() { Ok(digests) } else { Err(invalid("a batch ends within a frame's header".into())) }
}

/// Nanoseconds on the monotonic clock, which two processes of one machine read alike.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    now.num_nanoseconds().unsigned_abs()
}

/// User and system time this process has used.
pub(crate) fn cpu_ns() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("asking about oneself cannot fail");
    (usage.user_time().num_nanoseconds() + usage.system_time().num_nanoseconds()).unsigned_abs()
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
