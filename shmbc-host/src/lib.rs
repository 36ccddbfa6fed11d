//! The host service of SHMBC: it knows who is who on this machine and brings the two ends of a connection together.
//!
//! One per machine. Programs offer it TCP connections of theirs over a control socket; it proves each offer from what the
//! kernel says, waits until the other end has offered the same connection, and grants both one fresh block of shared
//! memory. It is never on the data path: without it connections stay, or go on as they are.
//!
//! ```text
//!  client ==> server -> session -> identity      who is it?           (kernel, cgroup)
//!                          |-----> prove         is it its connection? (pidfd_getfd)
//!                          '-----> hub -> broker -> twin, policy, quota, table/*   pure decisions
//!                                   '--> pool -> doorbells -> Grant, Go, Refused ==> client
//!  Docker ==> docker -> table/containers
//! ```
//!
//! The service can run in a process of its own (`shmbc-host run`) or inside of one, on the caller's tokio runtime; there
//! are no globals, so several can run side by side:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use shmbc_host::{Docker, Host, HostConfig};
//!
//! let directory = tempfile::tempdir()?;
//! let mut config = HostConfig::at(directory.path().join("host.sock"));
//! config.docker = Docker::Off;
//! let host = Host::start(config).await?;
//! assert_eq!(host.counts().sessions, 0);
//! host.shutdown().await;
//! # Ok(()) }
//! ```

mod broker;
pub mod cli;
mod config;
mod credentials;
mod docker;
mod host;
mod hub;
mod huge_pages;
mod hugetlb;
mod identity;
mod kernel;
mod metrics;
mod numa;
mod policy;
mod pool;
mod prove;
mod quota;
mod server;
mod session;
mod supervise;
mod table;
mod twin;

pub use config::{Docker, HostConfig, HostError};
pub use host::Host;
pub use hub::Counts;
pub use huge_pages::HugePages;
pub use metrics::MetricsAddress;
pub use policy::{Accelerate, Pattern, Policy, Rule};
pub use quota::{Limits, SomeLimits};
