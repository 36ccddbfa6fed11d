//! What can be seen without asking anybody: this process's settings, kernel, limits and container.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use shmbc::block::Block;
use shmbc::layout::Sizes;
use shmbc_tokio::Config;

use super::Finding;

/// Variables that something of SHMBC reads; others that begin like them are mistyped.
const VARIABLES: [&str; 14] = [
    "SHMBC_HOST",
    "SHMBC_WAIT",
    "SHMBC_UPGRADE",
    "SHMBC_LOG",
    "SHMBC_HOST_CONFIG",
    "SHMBC_HOST_DOCKER",
    "SHMBC_HOST_HUGE_PAGES",
    "SHMBC_HOST_MEMORY",
    "SHMBC_HOST_METRICS",
    "SHMBC_HOST_RING_CAPACITY",
    "SHMBC_HOST_SANDBOX",
    "SHMBC_HOST_STOCK",
    "SHMBC_HOST_TWIN_TIMEOUT",
    "SHMBC_LOG_FORMAT",
];

/// Descriptors below which a program with some hundred connections may run out: each takes two more than TCP.
const FEW_DESCRIPTORS: u64 = 1024;

/// The smallest block: whether one can be made does not depend on its size.
const CAPACITY: u64 = 64 << 10;

/// The variables of this process.
pub(super) fn settings() -> Vec<Finding> {
    let mut findings = vec![match Config::from_env() {
        Ok(_) => Finding::ok("settings", "all SHMBC_ variables make sense"),
        Err(wrong) => Finding::problem("settings", wrong.to_string()).fix("correct or unset it"),
    }];
    let unknown = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in unknown.filter(|name| name.starts_with("SHMBC_") && !VARIABLES.contains(&name.as_str())) {
        let found = format!("nothing reads {name}");
        findings.push(Finding::warning("settings", found).fix(format!("known are {}", VARIABLES.join(", "))));
    }
    findings
}

/// What the kernel has, by trying it.
pub(super) fn kernel() -> Vec<Finding> {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_else(|_| "unknown".into());
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0_u32));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let mut findings = vec![match version {
        (0..5, _) | (5, 0..6) => {
            let found =
                format!("Linux {release} lacks pidfd_getfd (5.6): a host service here serves its own user only");
            Finding::warning("kernel", found).fix("use Linux 5.6 or newer")
        }
        (5, 6..14) => {
            Finding::note("kernel", format!("Linux {release}: before 5.14 network namespaces are not told apart"))
        }
        (5, _) | (6, 0..5) => {
            Finding::note("kernel", format!("Linux {release}: before 6.5 clients are identified without SO_PEERPIDFD"))
        }
        _ => Finding::ok("kernel", format!("Linux {release}")),
    }];
    let tried = Sizes::new([CAPACITY; 2]).map_err(std::io::Error::other).and_then(Block::create);
    findings.push(match tried {
        Ok(_) => Finding::ok("shared memory", "a sealed memfd can be made"),
        Err(error) => Finding::problem("shared memory", format!("no sealed memfd can be made: {error}"))
            .fix("allow memfd_create and fcntl(F_ADD_SEALS) in the seccomp profile, or raise the memory limit"),
    });
    if let Err(error) = shmbc::eventfd::EventFd::new() {
        let fix = "allow eventfd2 in the seccomp profile, or raise the limit of descriptors";
        findings.push(Finding::problem("doorbells", format!("no eventfd can be made: {error}")).fix(fix));
    }
    findings
}

/// How many descriptors a program may open here.
pub(super) fn descriptors() -> Finding {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Err(error) => Finding::note("descriptors", format!("the limit cannot be read: {error}")),
        Ok((soft, hard)) if soft < FEW_DESCRIPTORS => {
            let found = format!("{soft} may be open; a connection in shared memory takes two more than one on TCP");
            let fix = match hard > soft {
                true => format!("ulimit -n {hard}"),
                false => "docker run --ulimit nofile=65536, or LimitNOFILE=65536 in the unit".to_owned(),
            };
            Finding::warning("descriptors", found).fix(fix)
        }
        Ok((soft, _)) => Finding::ok("descriptors", format!("{soft} may be open, three for each connection")),
    }
}

/// Whether this is a container, and what it shares without need.
pub(super) fn container() -> Vec<Finding> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let contained = Path::new("/.dockerenv").exists()
        || Path::new("/run/.containerenv").exists()
        || ["docker", "kubepods", "libpod", "containerd", "crio"].iter().any(|word| cgroups.contains(word));
    let mut findings = vec![match contained {
        true => Finding::ok("place", "in a container"),
        false => Finding::ok("place", "not in a container, as far as can be seen from here"),
    }];
    findings.extend(memory_limit());
    findings
}

/// Pages of a ring count against the memory limit of who touches them.
fn memory_limit() -> Option<Finding> {
    const LITTLE: u64 = 64 << 20;
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit: u64 = files.iter().find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())?;
    (limit < LITTLE).then(|| {
        let found = format!("the memory limit is {}; rings in use count against it", crate::rows::bytes(limit));
        Finding::warning("memory", found).fix("raise it, or run the host service with a smaller --ring-capacity")
    })
}
