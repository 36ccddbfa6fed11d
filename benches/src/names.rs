//! The words of the command line and of the JSON output: measures, contenders, placements, runtimes.
//!
//! A new contender or measure begins with a line here; the compiler then names every place that must know it.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measure {
    /// Round trip of one message and its echo, ns.
    Rtt,
    /// Bytes through one connection in one direction, GB/s.
    Stream,
    /// Connections per second: connect, one request, one answer, close.
    Oneshot,
    /// HTTP/1.1 requests per second, keep-alive.
    Http1,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// tokio's TCP over the loopback device.
    Tcp,
    /// tokio's TCP through a bridge between two network namespaces.
    Bridge,
    /// tokio's TCP between two containers on a Docker network.
    Docker,
    /// tokio's Unix stream socket.
    Uds,
    /// shmipc 0.2, protocol v4, woken by eventfd.
    Shmipc,
    /// iceoryx2, both ends busy-waiting in a thread.
    Iceoryx2Busy,
    /// iceoryx2, woken by its events in a thread.
    Iceoryx2Event,
    /// SHMBC that sleeps at once.
    ShmbcOff,
    /// SHMBC with the adaptive wait, the default.
    ShmbcAdaptive,
    /// SHMBC that always polls for a fixed time before it sleeps.
    ShmbcFixed,
    /// Limit: SHMBC's ring alone, both ends spinning in a thread.
    Ring,
    /// Limit: one core copies into a buffer that fits the L2 cache, the other one out of it.
    Memcpy2,
}

/// Where the two processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Placement {
    /// Each process pinned to a core of its own.
    TwoCores,
    /// Both pinned to the same core.
    OneCore,
    /// Wherever the kernel puts them.
    Unpinned,
}

/// Which of tokio's runtimes the two processes use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Runtime {
    /// One thread.
    #[value(alias = "current-thread")]
    Current,
    /// tokio's default: as many worker threads as CPUs that the process may run on.
    #[value(alias = "multi-thread")]
    Multi,
}

impl Contender {
    /// Whether it works in one of tokio's runtimes, and not in a thread that blocks.
    pub(crate) const fn has_runtime(self) -> bool {
        match self {
            Self::Iceoryx2Busy | Self::Iceoryx2Event | Self::Ring | Self::Memcpy2 => false,
            Self::Tcp | Self::Bridge | Self::Docker | Self::Uds | Self::Shmipc => true,
            Self::ShmbcOff | Self::ShmbcAdaptive | Self::ShmbcFixed => true,
        }
    }

    /// Whether it is no rival but what the machine can do at best.
    pub(crate) const fn is_limit(self) -> bool {
        matches!(self, Self::Ring | Self::Memcpy2)
    }
}

impl Measure {
    /// The unit of its values.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::Rtt => "ns",
            Self::Stream => "GB/s",
            Self::Oneshot | Self::Http1 => "1/s",
        }
    }

    /// Whether a smaller value is the better one.
    pub(crate) const fn smaller_is_better(self) -> bool {
        matches!(self, Self::Rtt)
    }

    /// Message sizes when none are given.
    pub(crate) const fn sizes(self, quick: bool) -> &'static [usize] {
        match (self, quick) {
            (Self::Rtt, true) => &[64, 1024],
            (Self::Rtt, false) => &[64, 1024, 65536],
            (Self::Stream, true) => &[64, 1024, 16384, 1 << 20],
            (Self::Stream, false) => &[64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20],
            (Self::Oneshot | Self::Http1, _) => &[64],
        }
    }

    /// Numbers of connections when none are given; none where the measure has just the one.
    pub(crate) const fn conns(self, quick: bool) -> &'static [u32] {
        match (self, quick) {
            (Self::Rtt | Self::Stream | Self::Oneshot, _) => &[],
            (Self::Http1, true) => &[1, 8],
            (Self::Http1, false) => &[1, 8, 64],
        }
    }

    /// Whether this contender has something to show in this measure: a one-shot connection never waits on a ring, so
    /// one way of waiting stands for all three; only some are connected like a socket; a copy has no way back.
    pub(crate) const fn suits(self, contender: Contender) -> bool {
        use Contender::{Bridge, Docker, Memcpy2, ShmbcAdaptive, ShmbcFixed, ShmbcOff, Tcp, Uds};
        match self {
            Self::Rtt => !matches!(contender, Memcpy2),
            Self::Stream => true,
            Self::Oneshot => matches!(contender, Tcp | Bridge | Docker | Uds | ShmbcAdaptive),
            Self::Http1 => {
                matches!(contender, Tcp | Bridge | Docker | Uds | ShmbcOff | ShmbcAdaptive | ShmbcFixed)
            }
        }
    }
}

/// Shows a name as it is written on the command line and in the output.
macro_rules! display_as_value {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.to_possible_value().as_ref().map_or("hidden", |value| value.get_name()))
            }
        }
    )*};
}
display_as_value!(Measure, Contender, Placement, Runtime);
