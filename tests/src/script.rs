//! What a test tells a `shmbc-peer` to do, and what that answers: one JSON object a line.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Which types the peer uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// `tokio::net::{TcpListener, TcpStream}`.
    Tcp,
    /// `shmbc_tokio::{ShmListener, ShmStream}`.
    Shm,
}

/// One step of a script. A peer takes them one after another; streams are numbered in the order they were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Binds a listener; answered with [`Answer::Address`].
    Listen(Kind, SocketAddr),
    /// Accepts from the last listener; answered with [`Answer::Stream`].
    Accept,
    /// Connects; answered with [`Answer::Stream`].
    Connect(Kind, SocketAddr),
    /// Moves bytes both ways at once; answered with [`Answer::Moved`].
    Move(usize, Move),
    /// Writes and reads the same amount in turn, this many times; answered with [`Answer::Moved`].
    PingPong {
        /// The stream.
        stream: usize,
        /// Who begins.
        first: bool,
        /// How often.
        rounds: u64,
        /// Bytes each way in a round.
        bytes: u64,
    },
    /// Writes one byte at a time, with a pause for the answer of the kernel in between, until a write fails; answered with
    /// [`Answer::Moved`].
    WriteUntilError(usize),
    /// Shuts the write side.
    Shutdown(usize),
    /// Drops the stream.
    Drop(usize),
    /// Has a forked child drop its copy of the stream, and end.
    DropInChild(usize),
    /// Has a forked child drop its copy of the listener, and end.
    DropListenerInChild,
    /// Sets a linger time of zero, so that dropping it resets.
    ZeroLinger(usize),
    /// Asks for the path; answered with [`Answer::Text`]: `shared memory`, or `TCP (why)`.
    Path(usize),
    /// Waits until the stream is upgraded; answered with [`Answer::Text`]: `upgraded`, or why it stays on TCP.
    Upgraded(usize),
    /// Asks for the proven identity of the peer; answered with [`Answer::Pid`].
    Identity(usize),
    /// Allows or forbids acceleration of this stream.
    Acceleration(usize, bool),
    /// Ends the process at once with this status.
    Exit(i32),
}

/// How much to move on one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Bytes to write.
    pub write: u64,
    /// Bytes to read; [`TO_THE_END`] reads until there are no more.
    pub read: u64,
    /// Say [`Answer::Moving`] once, when this many have been moved in both directions together.
    pub tell_at: Option<u64>,
}

/// Read until EOF or an error.
pub const TO_THE_END: u64 = u64::MAX;

/// What a peer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done, and nothing to tell.
    Done,
    /// The number of the new stream.
    Stream(usize),
    /// An address.
    Address(SocketAddr),
    /// A sentence.
    Text(String),
    /// A process id as the host sees it; nothing when no identity was proven.
    Pid(Option<i32>),
    /// Not the end: as many bytes as asked for have been moved.
    Moving,
    /// The step is done, or both directions have come to an end.
    Moved(Moved),
    /// The step could not be done: kind of error, text.
    Failed(String, String),
}

/// How far a step came and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Bytes written in this step.
    pub wrote: u64,
    /// Bytes read in this step, each of them checked.
    pub read: u64,
    /// How writing ended: nothing when all was written.
    pub write_end: Option<String>,
    /// How reading ended: nothing when all that was asked for has come, `eof`, or the kind of error.
    pub read_end: Option<String>,
}
