//! Everything a grant must pass before a stream sees it.

use std::os::fd::OwnedFd;

use crate::block::{self, BlockError, Unsealed};
use crate::control::message::{Decline, Grant, Pages};
use crate::doorbell::{Ringer, Waiter};
use crate::link::Granted;
use crate::reactor::Registrar;
use crate::sys::Mapping;
use crate::upgrade::Shm;

/// What became of a grant.
pub(super) enum Accepted {
    /// The stream can have it.
    Usable(Box<Shm>),
    /// Mapped, but not to be touched before the host has sealed it.
    Unsealed(Pending),
}

/// A grant whose block on huge pages is not sealed yet.
#[derive(Debug)]
pub(crate) struct Pending {
    grant: Grant,
    block: Unsealed,
    bells: [OwnedFd; 2],
}

/// Verifies and maps the block, and registers the doorbell.
pub(super) fn accept(grant: Grant, fds: Vec<OwnedFd>, registrar: &dyn Registrar) -> Result<Accepted, Decline> {
    let sizes = grant.sizes().map_err(|_| Decline::Unsound)?;
    let [block, ring, wait] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| Decline::Unsound)?;
    if grant.pages == Pages::Hugetlb {
        let block = Unsealed::map(block, sizes).map_err(decline)?;
        return Ok(Accepted::Unsealed(Pending { grant, block, bells: [ring, wait] }));
    }
    let mapping = block::verify(block, sizes).map_err(decline)?;
    if grant.pages == Pages::Transparent
        && let Err(error) = mapping.advise_huge_pages()
    {
        tracing::debug!(%error, "no huge pages");
    }
    Ok(Accepted::Usable(Box::new(finish(grant, mapping, [ring, wait], registrar)?)))
}

impl Pending {
    /// The host says that it is sealed: verifies that, and does the rest.
    pub(super) fn sealed(self, registrar: &dyn Registrar) -> Result<Shm, Decline> {
        finish(self.grant, self.block.open().map_err(decline)?, self.bells, registrar)
    }
}

fn finish(grant: Grant, mapping: Mapping, bells: [OwnedFd; 2], registrar: &dyn Registrar) -> Result<Shm, Decline> {
    let sizes = grant.sizes().map_err(|_| Decline::Unsound)?;
    let [ring, wait] = bells;
    let ringer = Ringer::adopt(ring).map_err(|_| Decline::Unsound)?;
    let bell = registrar.register(Waiter::adopt(wait)).map_err(|error| {
        tracing::warn!(%error, "doorbell not registered");
        Decline::OutOfResources
    })?;
    let granted = Granted::new(mapping, sizes, grant.end, grant.send_token, grant.receive_token);
    Ok(Shm { granted, ringer, bell, peer: grant.peer })
}

fn decline(error: BlockError) -> Decline {
    tracing::warn!(%error, "block not mapped");
    match error {
        BlockError::Io(_) => Decline::OutOfResources,
        _ => Decline::Unsound,
    }
}
