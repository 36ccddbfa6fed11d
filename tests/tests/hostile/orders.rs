//! What a test orders the hostile process to do, what that reports, and the process as the test sees it. One JSON object a line.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde::{Deserialize, Serialize};
use shmbc::layout::Words;
use shmbc_tests::suite::player;

/// The role in which this test program is the hostile process.
pub(crate) const ROLE: &str = "hostile";

/// Where the hostile process finds the host service.
pub(crate) const HOST: &str = "SHMBC_TEST_HOST";

/// One order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Connects to a listener of the victim's.
    Connect(SocketAddr),
    /// Offers the connection to the host service.
    Offer,
    /// Waits for the grant and maps the block.
    Grant,
    /// Waits for the grant, and drops all that came with it.
    GrantUnmapped,
    /// Hangs as many epoll instances on its eventfd, two deep, as the kernel allows on one that somebody else watches.
    Exhaust,
    /// Says that it has mapped the block.
    Ready,
    /// Waits until it may switch.
    Go,
    /// Sends so many bytes of the stream's by TCP.
    SendByTcp(u64),
    /// Switches the direction that it writes, as it should or not.
    Switch(Switch),
    /// Says that it will go on reading, and sends nothing more. Its FIN follows if asked for.
    HalfClose {
        /// Whether the FIN follows.
        fin: bool,
    },
    /// Reads what comes by TCP, such as probes, until there is nothing more for now; answered with how much.
    ReadTcp,
    /// Moves bytes both ways while the assault goes on, until this many have moved, the victim has reset the connection, or nothing
    /// has moved for long. Answered with [`Said::Moved`].
    Assault(Assault, u64),
    /// Throws garbage at the host service.
    Throw(Garbage),
    /// Keeps the connection and what was granted as they are, until it is killed.
    Keep,
    /// Closes the connection and lets go of all that was granted.
    Close,
}

/// How it switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Switch {
    /// As it should.
    Honest,
    /// One bit of the token is wrong.
    WrongToken,
    /// At a byte before the last one sent.
    Past,
    /// At a byte far ahead; the token comes all the same.
    Future,
    /// The token never follows.
    NoToken,
    /// Half of the token follows.
    HalfToken,
    /// The token comes without a word in the block.
    Unannounced,
    /// The word that forbids it, in its own direction; and the token.
    Forbidden,
    /// It forbids the victim to switch, and switches itself.
    ForbidVictim,
}

/// What it does to the connection while bytes flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Assault {
    /// Nothing.
    Nothing,
    /// Writes one word of the header over and over.
    Word(WordAt, u64),
    /// Sets one word of the header to less than it was, over and over.
    Back(WordAt),
    /// Random words anywhere in the header.
    RandomWords,
    /// Random bytes, one at a time, so that words are torn too.
    RandomBytes,
    /// The whole header, with one byte.
    Fill(u8),
    /// Rings the victim without end.
    Storm,
    /// Sends this many bytes by TCP, behind the token.
    Stray(u64),
    /// Something with the descriptors it was given.
    Wreck(Wreck),
}

/// A word of the header, as the hostile process sees it. The two ends are not told beforehand which of them is A.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WordAt {
    /// One of [`Words::all`] of the direction that it writes.
    Mine(usize),
    /// One of the direction that the victim writes.
    Its(usize),
    /// At this offset.
    Offset(usize),
}

impl WordAt {
    /// Its offset, where the two directions have these words.
    pub(crate) const fn offset(self, [mine, its]: [Words; 2]) -> usize {
        match self {
            Self::Mine(index) => mine.all()[index].offset(),
            Self::Its(index) => its.all()[index].offset(),
            Self::Offset(offset) => offset,
        }
    }
}

impl Assault {
    /// Whether it writes into the header.
    pub(crate) const fn is_scribble(&self) -> bool {
        use Assault::{Back, Fill, RandomBytes, RandomWords, Word};
        matches!(self, Word(..) | Back(_) | RandomWords | RandomBytes | Fill(_))
    }
}

/// What it does with the descriptors it was given, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wreck {
    /// Makes all of them blocking.
    Unblock,
    /// Fills the counter of the eventfd.
    Fill,
    /// Fills and drains it.
    FillAndDrain,
    /// Makes it blocking, fills it, and rings: that would block whoever shares it.
    Block,
    /// Hangs epoll instances on the epoll descriptor and on the eventfd until the kernel refuses.
    Hang,
    /// Waits on the epoll descriptor a thousand times over.
    Watch,
    /// Takes out, and puts in, what the epoll descriptor watches, by any number it can think of.
    Rewire,
    /// Changes the size of the block.
    Resize,
    /// Adds seals to it.
    Seal,
    /// Punches holes into the rings.
    PunchRings,
    /// Punches a hole over all of the block, header included.
    PunchAll,
    /// The same by `MADV_REMOVE`.
    Remove,
    /// Has the kernel page the block out.
    PageOut,
    /// Closes all of them.
    Close,
}

/// What it throws at the host service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Garbage {
    /// Random bytes in frames of random length; damaged frames; many sessions.
    Frames(u64),
    /// Frames cut, too long and empty.
    Lengths,
    /// Valid messages in orders that make no sense.
    Disorder,
    /// Words about offers that are somebody else's.
    ForeignIds,
    /// Offers of descriptors that are no such connection, and of other people's connections.
    FalseOffers(SocketAddr, SocketAddr),
    /// Descriptors with the messages.
    Descriptors,
    /// As many messages as it can send, without ever reading an answer.
    Flood,
    /// Many sessions that never say a word.
    Silence,
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Said {
    /// Done; with something to tell.
    Done(String),
    /// How far an assault came.
    Moved(Report),
    /// It could not be done.
    Failed(String),
}

/// How far an assault came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Bytes that it put into the ring.
    pub(crate) wrote: u64,
    /// Bytes of the victim's that it took out.
    pub(crate) read: u64,
    /// Bytes that came by TCP.
    pub(crate) stray: u64,
    /// How often it struck.
    pub(crate) strikes: u64,
    /// Whether the victim has reset the connection.
    pub(crate) reset: bool,
    /// What it found out.
    pub(crate) found: String,
}

/// The hostile process; killed when dropped.
pub(crate) struct Hostile {
    child: Child,
    orders: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Hostile {
    pub(crate) fn start(host: &Path) -> Self {
        let mut command = player(ROLE);
        let mut child = command
            .env(HOST, host)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the hostile process");
        let (orders, said) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, orders, said: BufReader::new(said) }
    }

    pub(crate) fn tell(&mut self, order: &Order) {
        let mut line = serde_json::to_vec(order).expect("plain data");
        line.push(b'\n');
        self.orders.write_all(&line).expect("the hostile process lives");
    }

    pub(crate) fn hear(&mut self) -> Said {
        let mut line = String::new();
        let n = self.said.read_line(&mut line).expect("read");
        assert!(n > 0, "the hostile process ended without a word: {:?}", self.child.wait());
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"))
    }

    /// An order that is to be carried out; what it has to tell.
    pub(crate) fn order(&mut self, order: &Order) -> String {
        self.tell(order);
        match self.hear() {
            Said::Done(text) => text,
            other => panic!("{order:?}: {other:?}"),
        }
    }

    pub(crate) fn assault(&mut self, assault: Assault, bytes: u64) -> Report {
        self.tell(&Order::Assault(assault.clone(), bytes));
        match self.hear() {
            Said::Moved(report) => report,
            other => panic!("{assault:?}: {other:?}"),
        }
    }

    pub(crate) fn kill(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.kill();
    }
}
