//! Everything a grant must pass before a stream sees it.

use std::os::fd::OwnedFd;

use crate::block::{self, BlockError};
use crate::control::message::{Decline, Grant};
use crate::doorbell::{Ringer, Waiter};
use crate::link::Granted;
use crate::reactor::Registrar;
use crate::upgrade::Shm;

/// Verifies and maps the block, and registers the doorbell.
pub(super) fn accept(grant: Grant, fds: Vec<OwnedFd>, registrar: &dyn Registrar) -> Result<Shm, Decline> {
    let sizes = grant.sizes().map_err(|_| Decline::Unsound)?;
    let [block, ring, wait] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| Decline::Unsound)?;
    let mapping = block::verify(block, sizes).map_err(|error| match error {
        BlockError::Io(error) => {
            tracing::warn!(%error, "block not mapped");
            Decline::OutOfResources
        }
        error => {
            tracing::warn!(%error, "block not mapped");
            Decline::Unsound
        }
    })?;
    if grant.huge_pages
        && let Err(error) = mapping.advise_huge_pages()
    {
        tracing::debug!(%error, "no huge pages");
    }
    let ringer = Ringer::adopt(ring).map_err(|_| Decline::Unsound)?;
    let bell = registrar.register(Waiter::adopt(wait)).map_err(|error| {
        tracing::warn!(%error, "doorbell not registered");
        Decline::OutOfResources
    })?;
    let granted = Granted::new(mapping, sizes, grant.end, grant.send_token, grant.receive_token);
    Ok(Shm { granted, ringer, bell, peer: grant.peer })
}
