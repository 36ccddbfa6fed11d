//! Network namespaces for the `bridge` contender: a process with a bridge, and processes attached to it.
//!
//! The namespaces have no names and live in processes: one worker holds the bridge in a namespace of its own, every
//! other one has a namespace with one end of a veth pair whose other end is a port of that bridge. Nothing is made in
//! the namespace of the run, and when the processes are gone, in whatever way, the kernel removes all of it.
//!
//! Where the run is not root, it tries a user namespace, in which it may make network namespaces of its own. Must be
//! called before the process has a second thread.

use std::fs;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::process::Command;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getgid, getuid};

/// The interface of an attached namespace.
const DEVICE: &str = "eth0";
/// The bridge in the namespace of its process.
const BRIDGE: &str = "br0";

/// The address of the n-th attached process. Seen only inside namespaces made by the run, so it can clash with nothing.
pub(crate) fn address(port: u32) -> Option<Ipv4Addr> {
    u8::try_from(port).ok().filter(|n| (1..=254).contains(n)).map(|n| Ipv4Addr::new(10, 213, 77, n))
}

/// Puts this process in a new network namespace and makes the bridge there.
pub(crate) fn hold_bridge() -> Result<(), String> {
    let (uid, gid) = (getuid(), getgid());
    match unshare(CloneFlags::CLONE_NEWNET) {
        Err(Errno::EPERM) => {
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
                .map_err(|e| format!("network namespaces need root or user namespaces: {e}"))?;
            // The `ip` program keeps its rights over the namespace only if it runs as root inside.
            for (file, line) in
                [("setgroups", "deny".into()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))]
            {
                fs::write(format!("/proc/self/{file}"), line).map_err(|e| format!("/proc/self/{file}: {e}"))?;
            }
        }
        other => other.map_err(|e| format!("cannot make a network namespace: {e}"))?,
    }
    ip(&["link", "add", BRIDGE, "type", "bridge"])?;
    ip(&["link", "set", BRIDGE, "up"])
}

/// Attaches the namespace of a process to the bridge in this one.
pub(crate) fn attach(pid: u32, port: u32) -> Result<(), String> {
    let (name, pid) = (format!("port{port}"), pid.to_string());
    ip(&["link", "add", &name, "type", "veth", "peer", "name", DEVICE, "netns", &pid])?;
    ip(&["link", "set", &name, "master", BRIDGE, "up"])
}

/// Puts this process in a new network namespace that the process with the bridge has rights over.
pub(crate) fn enter_new(bridge: u32) -> Result<(), String> {
    let path = format!("/proc/{bridge}/ns/user");
    let theirs = fs::read_link(&path).map_err(|e| format!("{path}: {e}"))?;
    if theirs != fs::read_link("/proc/self/ns/user").map_err(|e| format!("/proc/self/ns/user: {e}"))? {
        let user = File::open(&path).map_err(|e| format!("{path}: {e}"))?;
        setns(user, CloneFlags::CLONE_NEWUSER).map_err(|e| format!("cannot enter the user namespace: {e}"))?;
    }
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| format!("cannot make a network namespace: {e}"))
}

/// Gives this process's end of its veth pair an address and brings it up.
pub(crate) fn take_address(address: Ipv4Addr) -> Result<(), String> {
    ip(&["link", "set", "lo", "up"])?;
    ip(&["address", "add", &format!("{address}/24"), "dev", DEVICE])?;
    ip(&["link", "set", DEVICE, "up"])
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let done = Command::new("ip").args(arguments).output().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => "the program `ip` (package iproute2) is not installed".to_owned(),
        _ => format!("cannot start `ip`: {e}"),
    })?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("`ip {}`: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr).trim()))
}
