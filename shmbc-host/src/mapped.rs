//! Finds the block that a client has mapped, for a service that was not there when it was granted.
//!
//! `/proc/PID/map_files` leads to what is mapped at an address; the kernel lets those with `CAP_CHECKPOINT_RESTORE` follow, and
//! into another user's directory there those with `CAP_DAC_READ_SEARCH`. Where a client points is its own choice, so before
//! anything is opened for use it must be an ordinary file of the kernel's own shared memory: no device, nothing of a file
//! system that somebody else answers for. Without the capabilities the connection is listed without figures, and its memory is freed by the kernel when both ends have unmapped it.

use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use shmbc::block::Block;
use tracing::debug;

use crate::identity::Client;

/// The device number of the file system on which the kernel keeps memfds.
static MEMFDS: LazyLock<Option<u64>> = LazyLock::new(|| {
    let probe = memfd_create(c"shmbc-probe", MFdFlags::MFD_CLOEXEC).ok()?;
    Some(fstat(&probe).ok()?.st_dev)
});

/// The block at this address and of this length in the client's process, if it is one and may be looked at.
pub(crate) fn block(client: &Client, (address, len): (u64, u64)) -> Option<Block> {
    let path = format!("/proc/{}/map_files/{address:x}-{:x}", client.pid, address.checked_add(len)?);
    let found = open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .inspect_err(|error| debug!(%error, path, "a block is not to be seen"))
        .ok()?;
    // The number may have been another process's by then.
    if client.has_exited() || !is_memfd(&found) {
        return None;
    }
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
    let opened = open(&again, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).ok()?;
    Block::adopt(opened).inspect_err(|error| debug!(%error, path, "not a block")).ok()
}

fn is_memfd(file: &OwnedFd) -> bool {
    fstat(file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && Some(stat.st_dev) == *MEMFDS
    })
}
