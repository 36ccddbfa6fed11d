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

/// The parent of the kernel's threads, in the machine's own PID namespace; in another one this is anybody.
const KTHREADD: i32 = 2;

/// `PF_KTHREAD` of the kernel's `include/linux/sched.h`, in the ninth field of `/proc/PID/stat`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// The namespaces of a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

    /// The machine's: those of its first process, or of the kernel's own threads where that one hides from everybody. The service's own
    /// for one that may see neither, and serves its own user only.
    pub(crate) fn of_the_machine() -> Option<Self> {
        Self::of(1).or_else(|| Self::of(kernel_threads()?)).or_else(Self::own)
    }

    fn read(process: &str) -> Option<Self> {
        let [a, b, c] = NAMES.map(|name| std::fs::read_link(format!("/proc/{process}/ns/{name}")).ok());
        Some(Self([a?, b?, c?]))
    }
}

/// The process that all of the kernel's threads come from: in the machine's own namespaces, and at the top of each hierarchy
/// of cgroups.
pub(super) fn kernel_threads() -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{KTHREADD}/stat")).ok()?;
    let behind_the_name = stat.rsplit(')').next().unwrap_or_default();
    let flags = behind_the_name.split_whitespace().nth(6).and_then(|flags| flags.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & KERNEL_THREAD != 0).then_some(KTHREADD)
}

/// The user to whom a process's user namespace belongs, if that is another than the machine's: whoever has one of his own has many
/// numbers of users in it, and is one all the same. Of several within each other the outermost counts.
pub(crate) fn owner(pid: i32) -> Option<u32> {
    let machine = std::fs::metadata("/proc/1/ns/user");
    let machine = machine.or_else(|_| std::fs::metadata("/proc/self/ns/user")).ok()?.ino();
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
