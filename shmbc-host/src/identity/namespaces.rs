//! Whether a process is one of the machine's own: in the namespaces of its first process. And to whom a user namespace belongs.
//!
//! That no container is seen in a process's cgroup proves nothing, since a container's cgroup may have any name. Its
//! namespaces do: a container has a mount namespace of its own, whatever else it shares with the machine.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::kernel;

/// Those that make the difference. Network namespaces do not: they only decide who can talk to whom.
const NAMES: [&str; 3] = ["pid", "mnt", "user"];

/// User namespaces within each other; the kernel allows 32 (`user_namespaces(7)`).
const MAX_NESTED: usize = 33;

/// The namespaces of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespaces([PathBuf; NAMES.len()]);

impl Namespaces {
    /// Those of a process; nothing where they may not be seen.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::read(&pid.to_string())
    }

    /// This service's own.
    pub(crate) fn own() -> Option<Self> {
        Self::read("self")
    }

    /// The machine's; the service's own for one that may not see the first process, and serves its own user only.
    pub(crate) fn of_the_machine() -> Option<Self> {
        Self::of(1).or_else(Self::own)
    }

    fn read(process: &str) -> Option<Self> {
        let [a, b, c] = NAMES.map(|name| std::fs::read_link(format!("/proc/{process}/ns/{name}")).ok());
        Some(Self([a?, b?, c?]))
    }
}

/// The user to whom a process's user namespace belongs, if that is another than the machine's: whoever has one of his own has many
/// numbers of users in it, and is one all the same. Of several within each other the outermost counts.
pub(crate) fn owner(pid: i32) -> Option<u32> {
    let machine = std::fs::metadata("/proc/1/ns/user").or_else(|_| std::fs::metadata("/proc/self/ns/user")).ok()?.ino();
    let mut namespace: OwnedFd = File::open(format!("/proc/{pid}/ns/user")).ok()?.into();
    let number = |namespace: &OwnedFd| rustix::fs::fstat(namespace).ok().map(|stat| stat.st_ino);
    if number(&namespace)? == machine {
        return None;
    }
    for _ in 0..MAX_NESTED {
        match kernel::parent_of_namespace(namespace.as_fd()) {
            Ok(parent) if number(&parent)? != machine => namespace = parent,
            _ => break,
        }
    }
    kernel::owner_of_namespace(namespace.as_fd()).ok()
}
