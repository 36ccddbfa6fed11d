//! The words of the command line and of the JSON output: measures, contenders, placements, runtimes.
//!
//! A new contender or measure begins with a line here; the compiler then names every place that must know it.

use std::fmt;
use std::time::Duration;

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
    /// gRPC unary calls per second.
    Grpc,
    /// From an end's offer to shared memory, ns.
    Upgrade,
    /// What connections cost that wait: memory and CPU time.
    Idle,
    /// CPU time, system calls and sleeps for so much work.
    Cpu,
    /// Round trips per second while something else wants the CPUs, 1/s.
    Loads,
}

/// What is told of a measure that has several values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Aspect {
    /// Memory of a connection, both ends, host service and kernel together.
    Memory,
    /// The same, a second after some have moved much.
    AfterBurst,
    /// CPU time in a second in which nothing happens.
    Resting,
    /// CPU time of both processes for a gigabyte.
    PerByte,
    /// CPU time of both processes for a million round trips.
    PerRequest,
    /// System calls for a megabyte.
    Calls,
    /// Times that a thread slept while as many bytes passed as a ring holds.
    Sleeps,
}

impl Aspect {
    /// The unit of its values.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::Memory | Self::AfterBurst => "B",
            Self::Resting => "ms/s",
            Self::PerByte => "s/GB",
            Self::PerRequest => "s/M",
            Self::Calls => "1/MB",
            Self::Sleeps => "1/ring",
        }
    }

    /// Message sizes.
    pub(crate) const fn sizes(self) -> &'static [usize] {
        match self {
            Self::Memory | Self::AfterBurst | Self::Resting | Self::PerRequest => &[64],
            Self::PerByte => &[16 << 10, 64 << 10],
            Self::Calls => &[64 << 10],
            Self::Sleeps => &[16 << 10],
        }
    }
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
    /// Limit: one core copies into a buffer as large as the ring.
    Memcpy,
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

/// What else wants the time of the two processes while `loads` measures them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Load {
    /// 64 connections in one runtime: four busy, the others nearly idle.
    Connections,
    /// Another task of each runtime computes for 20 us between two yields.
    BusyRuntime,
    /// A thread of another process spins on each of the CPUs.
    BusyCores,
    /// Each process has half a CPU, by its control group.
    Quota,
    /// The peer works for 30 us before it answers.
    #[serde(rename = "slow-peer-30us")]
    #[value(name = "slow-peer-30us")]
    SlowPeer30,
    /// The peer works for 200 us before it answers.
    #[serde(rename = "slow-peer-200us")]
    #[value(name = "slow-peer-200us")]
    SlowPeer200,
}

impl Load {
    /// How many connections there are at once.
    pub(crate) const fn conns(self) -> u32 {
        if matches!(self, Self::Connections) { 64 } else { 1 }
    }

    /// How long the peer works before it answers.
    pub(crate) const fn work(self) -> Option<Duration> {
        match self {
            Self::SlowPeer30 => Some(Duration::from_micros(30)),
            Self::SlowPeer200 => Some(Duration::from_micros(200)),
            Self::Connections | Self::BusyRuntime | Self::BusyCores | Self::Quota => None,
        }
    }
}

impl Contender {
    /// Whether it works in one of tokio's runtimes, and not in a thread that blocks.
    pub(crate) const fn has_runtime(self) -> bool {
        match self {
            Self::Iceoryx2Busy | Self::Iceoryx2Event | Self::Ring | Self::Memcpy | Self::Memcpy2 => false,
            Self::Tcp | Self::Bridge | Self::Docker | Self::Uds | Self::Shmipc => true,
            Self::ShmbcOff | Self::ShmbcAdaptive | Self::ShmbcFixed => true,
        }
    }

    /// Whether it is SHMBC, by whichever way of waiting.
    pub(crate) const fn is_shmbc(self) -> bool {
        matches!(self, Self::ShmbcOff | Self::ShmbcAdaptive | Self::ShmbcFixed)
    }

    /// Whether it is no rival but what the machine can do at best.
    pub(crate) const fn is_limit(self) -> bool {
        matches!(self, Self::Ring | Self::Memcpy | Self::Memcpy2)
    }
}

impl Measure {
    /// What is told of it, where that is not just one value.
    pub(crate) const fn aspects(self) -> &'static [Aspect] {
        match self {
            Self::Idle => &[Aspect::Memory, Aspect::AfterBurst, Aspect::Resting],
            Self::Cpu => &[Aspect::PerByte, Aspect::PerRequest, Aspect::Calls, Aspect::Sleeps],
            _ => &[],
        }
    }

    /// The unit of its values, where they have no aspect.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::Idle | Self::Cpu => "",
            Self::Rtt | Self::Upgrade => "ns",
            Self::Stream => "GB/s",
            Self::Oneshot | Self::Http1 | Self::Grpc | Self::Loads => "1/s",
        }
    }

    /// Whether a smaller value is the better one.
    pub(crate) const fn smaller_is_better(self) -> bool {
        matches!(self, Self::Rtt | Self::Upgrade | Self::Idle | Self::Cpu)
    }

    /// Message sizes when none are given.
    pub(crate) const fn sizes(self, quick: bool) -> &'static [usize] {
        match (self, quick) {
            (Self::Rtt, true) => &[64, 1024],
            (Self::Rtt, false) => &[64, 1024, 65536],
            (Self::Stream, true) => &[64, 1024, 16384, 1 << 20],
            (Self::Stream, false) => &[64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20],
            (Self::Oneshot | Self::Http1 | Self::Loads, _) => &[64],
            (Self::Grpc, _) => &[1024],
            (Self::Upgrade, _) => &[1],
            (Self::Idle | Self::Cpu, _) => &[],
        }
    }

    /// Numbers of connections when none are given; none where the measure has just the one.
    pub(crate) const fn conns(self, quick: bool) -> &'static [u32] {
        match (self, quick) {
            (Self::Rtt | Self::Stream | Self::Oneshot | Self::Upgrade | Self::Cpu | Self::Loads, _) => &[],
            (Self::Idle, true) => &[1000],
            (Self::Idle, false) => &[10_000],
            (Self::Http1 | Self::Grpc, true) => &[1, 8],
            (Self::Http1 | Self::Grpc, false) => &[1, 8, 64],
        }
    }

    /// Whether this contender has something to show in this measure: a one-shot connection never waits on a ring, so
    /// one way of waiting stands for all three; only some are connected like a socket; a copy has no way back.
    pub(crate) const fn suits(self, contender: Contender) -> bool {
        use Contender::{Bridge, Docker, Memcpy, Memcpy2, ShmbcAdaptive, ShmbcFixed, ShmbcOff, Tcp, Uds};
        match self {
            Self::Rtt => !matches!(contender, Memcpy | Memcpy2),
            Self::Stream => true,
            Self::Oneshot => matches!(contender, Tcp | Bridge | Docker | Uds | ShmbcAdaptive),
            Self::Upgrade => matches!(contender, ShmbcAdaptive),
            Self::Idle => matches!(contender, Tcp | ShmbcAdaptive),
            Self::Cpu => contender.has_runtime(),
            Self::Loads => matches!(contender, Uds | ShmbcOff | ShmbcAdaptive | ShmbcFixed),
            Self::Http1 | Self::Grpc => {
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
display_as_value!(Aspect, Measure, Contender, Placement, Runtime, Load);
