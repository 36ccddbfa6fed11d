//! Who a client is, from what the kernel says: its process, user and container. Never from what it says itself.
//!
//! The kernel keeps a pidfd of the process that connected (`SO_PEERPIDFD`, Linux 6.5), so a process id that has been used
//! again is noticed: what is read under `/proc/PID` counts only if the pidfd still says "running" afterwards. Older
//! kernels: `pidfd_open` of the process id in `SO_PEERCRED`, right after accepting.
//!
//! Which container it is in, `place` concludes from its cgroup and Docker's word; that it is in none takes proof, too
//! (`namespaces`). What is neither is an unknown container, with least rights. Called by the server for each accepted socket.

mod addresses;
pub(crate) mod namespaces;
pub(crate) mod place;
pub(crate) mod stranger;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(crate) use self::addresses::of_host as host_addresses;
use self::namespaces::Namespaces;
use self::place::{BadCgroup, Claim, Place, place};
use self::stranger::Stranger;
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
    /// Its container's id, once that is certain ([`Client::recognise`]).
    pub(crate) container: Option<String>,
    /// It is in a container, or in something that is not known to be none.
    pub(crate) contained: bool,
    pub(crate) key: ClientKey,
    /// The container that its cgroup names.
    pub(crate) claim: Option<Claim>,
    namespaces: Option<Namespaces>,
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
        let namespaces = Namespaces::of(credentials.pid());
        let owner = namespaces::owner(credentials.pid());
        if has_exited(pidfd.as_fd()) {
            return Err(Unknown::Exited);
        }
        let cgroups = cgroups.map_err(failed("reading the client's cgroup"))?;
        let place = place(&cgroups).map_err(|bad| match bad {
            BadCgroup::Removed => Unknown::Removed(credentials.pid()),
            BadCgroup::Contradiction => Unknown::Contradiction(credentials.pid()),
        })?;
        let machine = Namespaces::of_the_machine();
        let contained = place != Place::Outside || namespaces.is_none() || namespaces != machine;
        let uid = owner.unwrap_or_else(|| credentials.uid());
        let key = match contained {
            true => {
                let within = namespaces.clone().filter(|_| owner.is_none() && namespaces != machine).map(Arc::new);
                ClientKey::Unknown(Stranger { uid, within })
            }
            false => ClientKey::Uid(uid),
        };
        let claim = Claim::of(&place, &cgroups).filter(|claim| !claim.is_homemade());
        Ok(Self {
            pidfd,
            pid: credentials.pid(),
            process,
            uid: credentials.uid(),
            gid: credentials.gid(),
            container: None,
            contained,
            key,
            claim,
            namespaces,
            credentials: rights.map_err(failed("reading what the client may do"))?,
        })
    }

    /// The container that its cgroup names is the one that it is in.
    pub(crate) fn recognise(&mut self) {
        if let Some(claim) = self.claim.take() {
            self.key = ClientKey::Container(Arc::from(claim.id.as_str()));
            self.container = Some(claim.id);
        }
    }

    /// Whether it is in these namespaces.
    pub(crate) fn is_in(&self, namespaces: &Namespaces) -> bool {
        self.namespaces.as_ref() == Some(namespaces)
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

/// The name of a process, fit to be printed.
fn process_name(pid: i32) -> Arc<str> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned();
    Arc::from(name.replace(char::is_control, "?"))
}

#[cfg(test)]
mod tests;
