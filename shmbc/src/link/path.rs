//! Which way a connection's bytes go, and why not through shared memory. The words that people see.

use std::fmt;

use crate::control::message::{Decline, Refusal};

/// Which way a connection's bytes go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// Both directions go through shared memory.
    SharedMemory,
    /// At least one direction goes through TCP.
    Tcp(Reason),
}

/// Why a connection is on TCP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The connection is too young to be worth it, or the upgrade is under way.
    NotYet,
    /// The other end is not on this host.
    Remote,
    /// No host service answers.
    NoHost,
    /// The other end does not speak SHMBC, or has acceleration turned off.
    PeerNotAware,
    /// The host service refused.
    Refused(Refusal),
    /// This end could not use the grant.
    Declined(Decline),
    /// Turned off for this process (`SHMBC_HOST=off`) or this stream.
    Disabled,
    /// The connection ended before it could be upgraded.
    Closed,
    /// Bytes went over the socket before it became a stream, so nobody can say where to switch.
    UsedBefore,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedMemory => f.write_str("shared memory"),
            Self::Tcp(reason) => write!(f, "TCP ({reason})"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYet => f.write_str("not yet upgraded"),
            Self::Remote => f.write_str("the peer is not on this host"),
            Self::NoHost => f.write_str("no host service"),
            Self::PeerNotAware => f.write_str("the peer does not speak SHMBC"),
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
            Self::Declined(why) => write!(f, "declined: {why}"),
            Self::Disabled => f.write_str("disabled"),
            Self::Closed => f.write_str("closed before it was upgraded"),
            Self::UsedBefore => f.write_str("the socket was used before it became a stream"),
        }
    }
}

impl Reason {
    /// What to change, in one sentence; nothing where TCP is right, or nothing can be done.
    pub const fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::Remote | Self::Closed => return None,
            Self::NotYet => {
                "wait: it is upgraded once its traffic shows that it lives on, or at once with upgraded() or SHMBC_UPGRADE=eager"
            }
            Self::NoHost => {
                "start one with `shmbc-host run`, and mount its directory into this container: docker run -v /run/shmbc:/run/shmbc"
            }
            Self::PeerNotAware => {
                "swap the type in the other program too, give it the mount of /run/shmbc, and take SHMBC_HOST=off from it; one that \
                 has it upgrades when there is traffic, or at once with SHMBC_UPGRADE=eager"
            }
            Self::Refused(refusal) => return refusal.advice(),
            Self::Declined(why) => return why.advice(),
            Self::Disabled => {
                "unset SHMBC_HOST, or name the socket of the host service in it; look for set_acceleration(false)"
            }
            Self::UsedBefore => {
                "make the stream before the first byte goes over the socket, and leave its descriptor alone"
            }
        })
    }
}
