//! The messages between a client and the host service: plain types and their limits.
//!
//! Who sends what, in the order of a connection's life:
//!
//! ```text
//!  client                         host
//!    Hello         ------------->            once per session; anything else first ends it
//!                  <-------------  Welcome   who you are, as the kernel says
//!                  <-------------  Locality  which addresses are on this host; again whenever that changes
//!    Offer         ------------->            "this TCP connection of mine may be upgraded"
//!                  <-------------  Grant     with three descriptors: block, doorbell to ring, doorbell to wait on
//!    Mapped        ------------->            for a block of the hugetlb pool only: "mapped, and not touched"
//!                  <-------------  Sealed    both have mapped it: nobody can take its pages any more
//!    Ready         ------------->            "verified and mapped"
//!                  <-------------  Go        both ends are ready: switch when you like
//!    Close         ------------->            the connection is gone (or the offer is withdrawn); or the listener is
//!                  <-------------  Refused   instead of Grant or Go: it stays TCP, and why
//! ```
//!
//! What a host that has just started cannot know it is told: each listener (`Listen`), and each connection that has its block
//! from an earlier host (`Announce`). It looks at those sockets as it does at offered ones.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::layout::Sizes;
use crate::link::SwitchToken;

/// Version of the protocol that this file describes. A host answers a `Hello` with another version by refusing it, and
/// the client stays on TCP.
pub const PROTOCOL: u16 = 4;

/// Most labels an [`Identity`] carries. Docker sets no limit; beyond this the rest is left out, in order of name.
pub const MAX_LABELS: usize = 64;

/// Longest name, label name or label value, in bytes. In an [`Identity`] longer ones are left out, since somebody may decide
/// by them; in tables for people they are cut.
pub const MAX_TEXT: usize = 128;

/// Most entries in one `Locality` frame; a longer table takes several.
pub const MAX_LOCAL_ENTRIES: usize = 32;

/// Most reasons in a [`Status`]: one for each kind of [`Refusal`], and room for more.
pub const MAX_REASONS: usize = 32;

/// Most rows in one `Connections` frame.
pub const MAX_ROWS: usize = 4;

/// Number a client gives to an offer; unique within its session, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OfferId(pub u64);

impl fmt::Display for OfferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// From a client to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHost {
    /// First frame of a session.
    Hello {
        /// [`PROTOCOL`] as the client knows it.
        protocol: u16,
    },
    /// A TCP connection of the client's that may be upgraded.
    Offer(Offer),
    /// The granted block is mapped, and will not be touched before the host says [`ToClient::Sealed`]. Only for one on
    /// [`Pages::Hugetlb`].
    Mapped(OfferId),
    /// The granted block is verified and mapped.
    Ready(OfferId),
    /// The grant cannot be used; the connection stays TCP.
    Decline(OfferId, Decline),
    /// The connection is closed, or the offer is withdrawn.
    Close(OfferId),
    /// Asks for the connection table. Answered for the host's own user and root outside of containers only.
    ListConnections,
    /// Asks for the container table. Answered like `ListConnections`.
    ListContainers,
    /// A connection that was granted by a host service which is no longer there. Answered, if at all, with [`ToClient::Go`].
    Announce(Announcement),
    /// A socket of the client's that accepts connections. Closed like a connection.
    Listen(Listening),
    /// Asks how the service is. Answered like `ListConnections`.
    Status,
}

/// One TCP connection, as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The number by which both sides speak of it from now on.
    pub id: OfferId,
    /// The descriptor in the client's process. The host looks at the socket itself; the rest is only a claim.
    pub fd: i32,
    /// What `getsockname` says.
    pub local: SocketAddr,
    /// What `getpeername` says.
    pub peer: SocketAddr,
    /// The CPU that the stream's thread last ran on: what it reads is to lie on the node of that.
    pub cpu: u32,
}

/// A connection that was granted by an earlier host service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The connection, as it would be offered.
    pub offer: Offer,
    /// Which end of the block this client is.
    pub end: End,
    /// Where the block is mapped in the client's process: address and length in bytes. The host looks for itself what is there.
    pub mapped: (u64, u64),
}

/// A listening TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// The number by which both sides speak of it; from the same row as those of offers.
    pub id: OfferId,
    /// The descriptor in the client's process. The host looks at the socket itself; the rest is only a claim.
    pub fd: i32,
    /// What `getsockname` says.
    pub local: SocketAddr,
}

/// Why a client cannot use a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Decline {
    /// The connection was closed meanwhile.
    Closed,
    /// The block or a descriptor did not pass the client's checks.
    Unsound,
    /// The client has no descriptor or memory left.
    OutOfResources,
    /// Bytes went over the socket that the client did not count.
    Uncounted,
}

impl fmt::Display for Decline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the connection was closed meanwhile",
            Self::Unsound => "the block did not pass the client's checks",
            Self::OutOfResources => "the client has no descriptor or memory left",
            Self::Uncounted => "bytes went over the socket outside of the stream",
        })
    }
}

impl Decline {
    /// What to change, in one sentence; nothing where nothing can be done.
    pub const fn advice(self) -> Option<&'static str> {
        Some(match self {
            Self::Closed => return None,
            Self::Unsound => {
                "use the same release for both programs and the host service; if they are the same, report it with both logs"
            }
            Self::OutOfResources => {
                "raise that program's limits: `ulimit -n` or docker run --ulimit nofile=65536 (two descriptors a connection), and memory"
            }
            Self::Uncounted => "read and write through the stream only, never through its descriptor",
        })
    }
}

/// From the host to a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToClient {
    /// Answer to `Hello`.
    Welcome {
        /// [`PROTOCOL`] as the host knows it.
        protocol: u16,
        /// The client as the host sees it.
        you: Identity,
    },
    /// Addresses that are on this host.
    Locality {
        /// True in the first frame of a new table: forget the old one.
        fresh: bool,
        /// At most [`MAX_LOCAL_ENTRIES`].
        entries: Vec<LocalEntry>,
    },
    /// Both ends offered the connection: here is its block. Comes with three descriptors, in this order: the block, the
    /// doorbell to ring (an eventfd), the doorbell to wait on (an epoll instance).
    Grant(Grant),
    /// Both ends have said [`ToHost::Mapped`], and the block is sealed. The client sees for itself.
    Sealed(OfferId),
    /// Both ends are ready.
    Go(OfferId),
    /// The connection stays TCP.
    Refused(OfferId, Refusal),
    /// Part of the answer to `ListConnections`.
    Connections {
        /// At most [`MAX_ROWS`].
        rows: Vec<ConnectionRow>,
        /// No more frames follow.
        last: bool,
    },
    /// Part of the answer to `ListContainers`.
    Containers {
        /// At most [`MAX_ROWS`].
        rows: Vec<ContainerRow>,
        /// No more frames follow.
        last: bool,
    },
    /// A request that this client may not make.
    Forbidden {
        /// One sentence that says what would be right.
        why: String,
    },
    /// Answer to `Status`.
    Status(Status),
}

/// What a host service holds now, and what it has done since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the service.
    pub version: String,
    /// Milliseconds since it started.
    pub up_ms: u64,
    /// Whether Docker tells it about containers.
    pub docker: bool,
    /// Clients that are connected.
    pub sessions: u64,
    /// Containers in the table.
    pub containers: u64,
    /// Listening sockets in the table.
    pub listeners: u64,
    /// Connections of which one end has been offered.
    pub offered: u64,
    /// Connections whose ends have grants but not both are ready.
    pub granted: u64,
    /// Connections in shared memory.
    pub established: u64,
    /// Blocks in use, or not yet given back to the machine; without the stock.
    pub blocks: u64,
    /// Size of those blocks in bytes, touched or not.
    pub block_bytes: u64,
    /// Descriptors open in the service.
    pub fds: u64,
    /// How many it may have.
    pub fd_limit: u64,
    /// Ends offered since it started.
    pub offers: u64,
    /// Connections granted since it started.
    pub grants: u64,
    /// Connections told to go since it started, without those that an earlier service had granted.
    pub upgrades: u64,
    /// Bytes moved through shared memory since it started, as the ends say.
    pub moved: u64,
    /// Mistakes of the service that were caught since it started.
    pub panics: u64,
    /// Connections refused since it started, by the names of [`Refusal::name`]; at most [`MAX_REASONS`].
    pub refusals: Vec<(String, u64)>,
}

/// One address on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEntry {
    /// The address, never v4-mapped.
    pub ip: IpAddr,
    /// The container it belongs to, or nothing for an address of the host itself.
    pub container: Option<ContainerName>,
}

/// A container by id and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerName {
    /// 64 hexadecimal digits; empty for a container that the host service does not recognise.
    pub id: String,
    /// Name without the leading slash.
    pub name: String,
}

/// One end's half of a granted connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which offer this answers.
    pub id: OfferId,
    /// Which end of the block this client is.
    pub end: End,
    /// Capacity of each ring, A to B first. Checked by [`Grant::sizes`].
    pub capacity: [u64; 2],
    /// What this end writes as its last TCP bytes.
    pub send_token: SwitchToken,
    /// What the other end will write.
    pub receive_token: SwitchToken,
    /// Which pages the block is on.
    pub pages: Pages,
    /// Who the other end is, as the host proved it.
    pub peer: Identity,
}

impl Grant {
    /// The checked sizes of the block.
    ///
    /// # Errors
    ///
    /// When the host named capacities that no block can have.
    pub const fn sizes(&self) -> Result<Sizes, crate::layout::BadCapacity> {
        Sizes::new(self.capacity)
    }
}

/// What memory a block is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Pages {
    /// Ordinary pages.
    Ordinary,
    /// Ordinary shared memory, for which both ends ask for transparent huge pages.
    Transparent,
    /// Pages of the hugetlb pool: mapped in whole ones, and not touched before it is sealed.
    Hugetlb,
}

/// The two ends of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum End {
    /// Produces into the first ring.
    A,
    /// Produces into the second ring.
    B,
}

impl End {
    /// The direction this end produces.
    pub const fn sends(self) -> crate::layout::Direction {
        match self {
            Self::A => crate::layout::Direction::AToB,
            Self::B => crate::layout::Direction::BToA,
        }
    }

    /// The direction this end consumes.
    pub const fn receives(self) -> crate::layout::Direction {
        self.other().sends()
    }

    /// The other end.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// Who a process is, concluded by the host from what the kernel says, never from what the process says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its container; nothing when it is proven to run outside of containers. One without an id is a container that the host service
    /// does not recognise, or something else that it cannot tell from one, such as a mount namespace of its own.
    pub container: Option<ContainerIdentity>,
    /// Process id in the host service's PID namespace.
    pub pid: i32,
    /// User id, as the kernel recorded it when the process connected to the host service.
    pub uid: u32,
    /// Group id, likewise.
    pub gid: u32,
}

/// A container with the labels it was started with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerIdentity {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Name without the leading slash; empty while the container table does not know it, and when it is longer than
    /// [`MAX_TEXT`].
    pub name: String,
    /// At most [`MAX_LABELS`], the first by name; without those whose name or value is longer than [`MAX_TEXT`].
    pub labels: BTreeMap<String, String>,
}

/// Why a connection was not granted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// The other end did not offer the same connection in time: it does not speak SHMBC.
    NoTwin,
    /// The socket was closed, or is not the one the offer named.
    NotProven,
    /// More than one connection matches: overlapping networks.
    Ambiguous,
    /// A rule forbids it.
    Policy(String),
    /// A limit is reached.
    Quota(String),
    /// The host has no memory or descriptor left for a block.
    OutOfResources,
    /// The other end could not use its grant.
    Declined(Decline),
    /// The other end closed the connection first.
    PeerClosed,
    /// The service is shutting down.
    Draining,
    /// One of the ends did not say in time that it has mapped its block.
    NotReady,
    /// One of the ends changed the block before it was sealed.
    Tampered,
    /// The kernel protects the process from others of its own user, so it is not certain whose session this is.
    Guarded,
    /// The socket was made by another user than the process runs as.
    OtherOwner,
    /// The kernel keeps strict account of memory: a page of a block that cannot be had any more would end whoever touches it.
    StrictAccount,
}

impl Refusal {
    /// A short word for its kind, for programs that count.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NoTwin => "no-twin",
            Self::NotProven => "not-proven",
            Self::Ambiguous => "ambiguous",
            Self::Policy(_) => "policy",
            Self::Quota(_) => "quota",
            Self::OutOfResources => "out-of-resources",
            Self::Declined(_) => "declined",
            Self::PeerClosed => "peer-closed",
            Self::Draining => "draining",
            Self::NotReady => "not-ready",
            Self::Tampered => "tampered",
            Self::Guarded => "guarded",
            Self::OtherOwner => "other-owner",
            Self::StrictAccount => "strict-account",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTwin => f.write_str("the other end did not offer this connection"),
            Self::NotProven => f.write_str("the host service could not see this socket as one end of that connection"),
            Self::Ambiguous => f.write_str("more than one connection on this host has these addresses"),
            Self::Policy(rule) => write!(f, "policy: {rule}"),
            Self::Quota(limit) => write!(f, "quota: {limit}"),
            Self::OutOfResources => f.write_str("the host has no memory or descriptors left"),
            Self::Declined(why) => write!(f, "the other end declined: {why}"),
            Self::PeerClosed => f.write_str("the other end closed the connection"),
            Self::Draining => f.write_str("the host service is shutting down"),
            Self::NotReady => f.write_str("one of the ends did not map its block in time"),
            Self::Tampered => f.write_str("one of the ends changed the block before it was in use"),
            Self::Guarded => f.write_str("this process has, or has had, other rights than its user's other processes"),
            Self::StrictAccount => {
                f.write_str("the kernel keeps strict account of memory, so that touching shared memory can fail")
            }
            Self::OtherOwner => f.write_str("this socket was made by another user than its process runs as"),
        }
    }
}

impl Refusal {
    /// What to change, in one sentence; nothing where nothing can be done, and where [`Display`](fmt::Display) has said it
    /// already.
    pub const fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::PeerClosed | Self::Policy(_) | Self::Quota(_) => return None,
            Self::NoTwin => {
                "swap the type in the other program too, give it the mount of /run/shmbc, and take SHMBC_HOST=off from it"
            }
            Self::NotProven => {
                "if all are refused, let the host service look: docker run --pid host --cap-add SYS_PTRACE, or start it as root"
            }
            Self::Ambiguous => "give the networks different subnets: `docker network create --subnet`",
            Self::OutOfResources => {
                "raise the host service's limits: LimitNOFILE and MemoryMax of its unit, or docker run --ulimit nofile=1048576"
            }
            Self::Declined(why) => return why.advice(),
            Self::Draining => "start the host service again: the connection is offered again when it is back",
            Self::NotReady => {
                "look whether one of the two programs is stopped, or has no CPU time left (its cgroup's cpu.stat)"
            }
            Self::Tampered => {
                "do not trust the other program: it changed memory that it had no reason to touch; use the same release for both"
            }
            Self::Guarded => {
                "start it as the user that it is to be (docker run --user, User= of its unit) instead of letting it change by itself"
            }
            Self::StrictAccount => "set vm.overcommit_memory to 0 or 1 (sysctl) to have connections in shared memory",
            Self::OtherOwner => "let the program make its sockets after it has become the user that it is to be",
        })
    }
}

/// One row of the connection table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// Its number, never used twice while the service runs; nothing for listeners and refused ones.
    pub id: Option<u64>,
    /// Where it is in its life.
    pub state: ConnectionState,
    /// The ends; the second is missing while an offer waits for its twin.
    pub ends: Vec<EndRow>,
    /// Bytes published from the first end to the second and back, since the switch.
    pub bytes: [u64; 2],
    /// Bytes that lie in the ring from the first end to the second and in the one back, as the ends say; at most
    /// [`ring`](Self::ring).
    pub filled: [u64; 2],
    /// Capacity of each ring in bytes; 0 when there is no block.
    pub ring: u64,
    /// Size of the block in bytes; 0 when there is none.
    pub block: u64,
    /// Milliseconds since the offer.
    pub age_ms: u64,
    /// NUMA nodes on which pages of the ring from the first end to the second were found, and of the one back; none where
    /// the machine has one node, or the ring no pages.
    pub ring_nodes: [Vec<u16>; 2],
    /// For a refused one: why it stays on TCP.
    pub refusal: Option<Refusal>,
}

/// One end of a [`ConnectionRow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRow {
    /// Its address.
    pub local: SocketAddr,
    /// The address it sees at the other end.
    pub peer: SocketAddr,
    /// Its container's id, if any.
    pub container_id: Option<String>,
    /// Its container's name, if any.
    pub container: Option<String>,
    /// Its process.
    pub pid: i32,
    /// The name of that process, as it was when it came; any text that it likes, without control characters.
    pub process: String,
    /// Its user.
    pub uid: u32,
    /// NUMA node of the CPU that it says it runs on; nothing where the machine has one node.
    pub node: Option<u16>,
}

/// Where a connection is in its life, as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionState {
    /// One end offered, its twin has not yet.
    Offered,
    /// Both ends have their grants; not both are ready.
    Granted,
    /// Both ends were told to go.
    Established,
    /// One end has closed it.
    Closing,
    /// It stays on TCP.
    Refused,
    /// A listener: its one end has no peer, whose address is all zeros.
    Listening,
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Offered => "offered",
            Self::Granted => "granted",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Refused => "refused",
            Self::Listening => "listening",
        })
    }
}

/// One row of the container table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRow {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Name without the leading slash.
    pub name: String,
    /// What Docker calls its state: `running`, `paused`, ...
    pub state: String,
    /// The image that it was started from, as it was named then.
    pub image: String,
    /// Its networks; at most eight.
    pub networks: Vec<NetworkRow>,
    /// Addresses at which its programs listen, as they say; at most 32.
    pub listening: Vec<SocketAddr>,
    /// TCP ports that its image or its start names; at most 32.
    pub exposed: Vec<u16>,
    /// Addresses of the host that lead to TCP ports of its own; at most 16.
    pub published: Vec<(SocketAddr, u16)>,
    /// What is mounted in it; at most eight.
    pub mounts: Vec<MountRow>,
    /// The first of its labels by name; at most 24.
    pub labels: BTreeMap<String, String>,
    /// Established connections.
    pub connections: u32,
}

/// A container's place in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRow {
    /// Name of the network.
    pub name: String,
    /// The container's addresses in it; at most eight.
    pub addresses: Vec<IpAddr>,
    /// The names that it has there besides its own; at most four.
    pub aliases: Vec<String>,
}

/// Something mounted in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRow {
    /// What Docker calls its kind: `bind`, `volume`, ...
    pub kind: String,
    /// Where it comes from: a path of the host, or a volume's name.
    pub source: String,
    /// Where it is in the container.
    pub target: String,
    /// Whether it may be written there.
    pub writable: bool,
}
