//! Two "machines": network namespaces of their own, joined by a cable.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Two network namespaces joined by a veth pair; removed when dropped.
#[derive(Debug)]
pub struct NetNs {
    names: [String; 2],
}

impl NetNs {
    /// Addresses of the two.
    pub const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 213, 0, 1), Ipv4Addr::new(10, 213, 0, 2)];

    /// Makes them. Needs [`Need::NetNs`](crate::Need::NetNs).
    ///
    /// # Panics
    ///
    /// When `ip` cannot, with what it said.
    pub fn pair() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("shmbc-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let made = Self { names: ["a", "b"].map(|end| format!("{unique}-{end}")) };
        for name in &made.names {
            ip(&["netns", "add", name]);
        }
        let [a, b] = &made.names;
        ip(&["-n", a, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", b]);
        for (name, address) in made.names.iter().zip(Self::ADDRESSES) {
            ip(&["-n", name, "address", "add", &format!("{address}/24"), "dev", "cable"]);
            ip(&["-n", name, "link", "set", "cable", "up"]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        made
    }

    /// The name of one of them, for [`command`].
    pub fn name(&self, index: usize) -> &str {
        &self.names[index]
    }
}

/// A command that runs `program`, in the namespace `netns` if one is named.
pub fn command(netns: Option<&str>, program: &std::path::Path) -> Command {
    let Some(name) = netns else {
        return Command::new(program);
    };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", name]).arg(program);
    command
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("run ip");
    assert!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
}

impl Drop for NetNs {
    fn drop(&mut self) {
        for name in &self.names {
            // One that was never made cannot be removed, and what went wrong has been said.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}
