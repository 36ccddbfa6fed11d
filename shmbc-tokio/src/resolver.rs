//! Whether an address is on this host.

use std::net::IpAddr;

use shmbc::locality::Locality;

use crate::agent;

/// What the host service has said about `ip`: on this host (and in which container), elsewhere, or not known because no host
/// service has answered yet. Costs no message: the host pushes its table to every client.
///
/// The first call of a process starts the conversation with the host service, so it may answer
/// [`Locality::Unknown`] where a later one knows.
pub fn query(ip: IpAddr) -> Locality {
    agent::locality(ip)
}
