//! Who a client is, from what the kernel says: its process, user and container. Never from what it says itself.
//!
//! The kernel keeps a pidfd of the process that connected (`SO_PEERPIDFD`, Linux 6.5), so a process id that has been used
//! again is noticed: what is read under `/proc/PID` counts only if the pidfd still says "running" afterwards. Older
//! kernels: `pidfd_open` of the process id in `SO_PEERCRED`, right after accepting.
//!
//! The container is the outermost one in the process's cgroup path. A process can make cgroups below its own, never above, so
//! a name further down proves nothing. Called by the server for each accepted socket.

mod addresses;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(crate) use self::addresses::of_host as host_addresses;
use crate::credentials::Credentials;
use crate::quota::ClientKey;

/// A client process.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) pidfd: OwnedFd,
    /// As the host sees it.
    pub(crate) pid: i32,
    /// Its name, for people: any text that it likes, without control characters. At most 15 bytes, says `proc(5)`.
    pub(crate) process: Arc<str>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Its container's id.
    pub(crate) container: Option<String>,
    /// It is in a container, even if one whose id is not to be trusted.
    pub(crate) contained: bool,
    pub(crate) key: ClientKey,
    /// What it may do, when its session began.
    pub(crate) credentials: Credentials,
}

/// Why a client is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unknown {
    #[error("the client is in another PID namespace: run the service with the host's (docker run --pid host)")]
    OtherPidNamespace,
    #[error("the client has exited")]
    Exited,
    #[error("process {0} is in a cgroup that was removed")]
    Removed(i32),
    #[error("process {0} is in different containers at once")]
    Contradiction(i32),
    #[error("{what}: {error}")]
    Io { what: &'static str, error: io::Error },
}

impl Client {
    /// Who connected to `socket`.
    pub(crate) fn of(socket: BorrowedFd<'_>) -> Result<Self, Unknown> {
        let failed = |what| move |error: io::Error| Unknown::Io { what, error };
        let credentials =
            getsockopt(&socket, sockopt::PeerCredentials).map_err(io::Error::from).map_err(failed("SO_PEERCRED"))?;
        let pid = rustix::process::Pid::from_raw(credentials.pid()).ok_or(Unknown::OtherPidNamespace)?;
        let pidfd = match getsockopt(&socket, sockopt::PeerPidfd) {
            Ok(pidfd) => pidfd,
            Err(nix::errno::Errno::ESRCH | nix::errno::Errno::EINVAL | nix::errno::Errno::ENODATA) => {
                return Err(Unknown::Exited);
            }
            Err(_) => rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map_err(|e| {
                if e == rustix::io::Errno::SRCH { Unknown::Exited } else { failed("pidfd_open")(e.into()) }
            })?,
        };
        let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", credentials.pid()));
        let process = process_name(credentials.pid());
        let rights = Credentials::of(credentials.pid());
        if has_exited(pidfd.as_fd()) {
            return Err(Unknown::Exited);
        }
        let place = place(&cgroups.map_err(failed("reading the client's cgroup"))?).map_err(|bad| match bad {
            BadCgroup::Removed => Unknown::Removed(credentials.pid()),
            BadCgroup::Contradiction => Unknown::Contradiction(credentials.pid()),
        })?;
        let container = match &place {
            Place::Container(id) => Some(id.clone()),
            Place::Outside | Place::Delegated => None,
        };
        let key = match &container {
            Some(id) => ClientKey::Container(Arc::from(id.as_str())),
            None => ClientKey::Uid(credentials.uid()),
        };
        let contained = place != Place::Outside;
        Ok(Self {
            pidfd,
            pid: credentials.pid(),
            process,
            uid: credentials.uid(),
            gid: credentials.gid(),
            container,
            contained,
            key,
            credentials: rights.map_err(failed("reading what the client may do"))?,
        })
    }

    /// Whether its process still is who it was when the session began.
    pub(crate) fn is_unchanged(&self) -> bool {
        Credentials::of(self.pid).is_ok_and(|now| now == self.credentials) && !self.has_exited()
    }

    /// Whether its process has, or has had, other rights than its user's other processes: then it is not certain that it began
    /// this session as what it is now.
    pub(crate) fn is_guarded(&self) -> bool {
        !self.credentials.are_plain(self.uid, self.gid)
    }

    /// Whether its process has exited.
    pub(crate) fn has_exited(&self) -> bool {
        has_exited(self.pidfd.as_fd())
    }

    /// Returns when its process has exited.
    pub(crate) async fn exited(&self) {
        let watched =
            self.pidfd.try_clone().and_then(|pidfd| crate::kernel::register(pidfd, tokio::io::Interest::READABLE));
        match watched {
            Ok(pidfd) => drop(pidfd.readable().await),
            Err(error) => tracing::warn!(%error, "a process cannot be watched"),
        }
    }

    /// The addresses of its network namespace.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let addresses = addresses::of_client(self.pid);
        if self.has_exited() { Vec::new() } else { addresses }
    }
}

fn has_exited(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(poll(&mut fds, Some(&now)), Ok(0))
}

/// Where a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In no container.
    Outside,
    /// In the container with this id, of 64 hexadecimal digits.
    Container(String),
    /// In something named like a container, but below a cgroup that an ordinary user may shape as he likes.
    Delegated,
}

/// A cgroup file from which nothing can be concluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadCgroup {
    /// The cgroup is gone; its name may be somebody else's by now.
    Removed,
    /// Its lines name different containers.
    Contradiction,
}

/// Concludes from the text of `/proc/PID/cgroup`.
pub(crate) fn place(cgroups: &str) -> Result<Place, BadCgroup> {
    let mut found = Place::Outside;
    // hierarchy-ID:controllers:path; the path may contain colons.
    for path in cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)) {
        if path.ends_with(" (deleted)") {
            return Err(BadCgroup::Removed);
        }
        match (&found, place_of_path(path)) {
            // A machine may keep some controllers outside of the container's cgroup.
            (_, Place::Outside) => {}
            (Place::Outside, place) => found = place,
            (one, other) if *one == other => {}
            _ => return Err(BadCgroup::Contradiction),
        }
    }
    Ok(found)
}

fn place_of_path(path: &str) -> Place {
    let mut delegated = false;
    let mut parent = "";
    for name in path.split('/').filter(|name| !name.is_empty()) {
        if let Some(id) = container_id(parent, name) {
            return if delegated { Place::Delegated } else { Place::Container(id.to_owned()) };
        }
        delegated |= name == "user.slice" || name.starts_with("user@");
        parent = name;
    }
    Place::Outside
}

/// The id in one component of a path, if it names a container.
fn container_id<'a>(parent: &str, name: &'a str) -> Option<&'a str> {
    // Managed by Docker itself, or by Kubernetes' cgroupfs driver: the bare id. Seen from a cgroup namespace that is
    // the container of this service, the siblings stand right behind the way up.
    let bare = matches!(parent, "docker" | "..") || parent.starts_with("pod") || parent == "libpod_parent";
    if bare && is_id(name) {
        return Some(name);
    }
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    ["docker-", "libpod-", "cri-containerd-", "crio-"]
        .iter()
        .find_map(|prefix| stem.strip_prefix(prefix))
        .filter(|id| is_id(id))
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The name of a process, fit to be printed.
fn process_name(pid: i32) -> Arc<str> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned();
    Arc::from(name.replace(char::is_control, "?"))
}

#[cfg(test)]
mod tests;
