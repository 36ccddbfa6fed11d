//! The addresses of a network namespace, as `/proc/PID/net` shows them to everybody.
//!
//! A client's namespace may be of its own making, with as many addresses as it likes: of those only the first are read, since
//! a session begins with this.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most addresses taken from one client's network namespace.
const MAX_ADDRESSES: usize = 64;

/// Bytes read of each of a client's files. [`MAX_ADDRESSES`] take half of it in the routing tree, where each stands twice with
/// its subnet.
const MAX_READ: u64 = 64 << 10;

/// The first addresses of a client's network namespace.
pub(crate) fn of_client(pid: i32) -> Vec<IpAddr> {
    let mut addresses = of_process(pid, MAX_READ);
    addresses.truncate(MAX_ADDRESSES);
    addresses
}

/// All addresses of the network namespace of the machine's first process.
pub(crate) fn of_host() -> Vec<IpAddr> {
    of_process(1, u64::MAX)
}

fn of_process(pid: i32, most: u64) -> Vec<IpAddr> {
    let read = |file| {
        let opened = File::open(format!("/proc/{pid}/net/{file}"));
        opened.and_then(|file| beginning(file, most)).unwrap_or_default()
    };
    let mut addresses = v4_addresses(&read("fib_trie"));
    addresses.extend(v6_addresses(&read("if_inet6")));
    addresses
}

/// The whole lines of the first `most` bytes.
fn beginning(file: impl Read, most: u64) -> io::Result<String> {
    let mut text = String::new();
    file.take(most).read_to_string(&mut text)?;
    if text.len() as u64 == most {
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    }
    Ok(text)
}

/// In the routing tree each address stands on a line of its own, followed by `/32 host LOCAL` if it is ours.
fn v4_addresses(fib_trie: &str) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line == "/32 host LOCAL"
            && let Some(ip) = last
            && !addresses.contains(&ip.into())
        {
            addresses.push(ip.into());
        }
    }
    addresses
}

/// Each line begins with the address in 32 hexadecimal digits.
fn v6_addresses(if_inet6: &str) -> Vec<IpAddr> {
    let first = if_inet6.lines().filter_map(|line| line.split_whitespace().next());
    let parsed = first.filter(|hex| hex.len() == 32).filter_map(|hex| u128::from_str_radix(hex, 16).ok());
    parsed.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_when_read_from_the_routing_tree_are_the_local_ones_once_each() {
        let tree = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
            \x20    +-- 172.18.0.0/16 2 0 2\n        |-- 172.18.0.0\n           /16 link UNICAST\n\
            \x20       |-- 172.18.0.5\n           /32 host LOCAL\n        |-- 172.18.255.255\n           /32 link BROADCAST\n\
            Local:\n        |-- 172.18.0.5\n           /32 host LOCAL\n     |-- nonsense\n           /32 host LOCAL\n";
        assert_eq!(v4_addresses(tree), ["172.18.0.5".parse::<IpAddr>().unwrap()]);
        let inet6 = "fe80000000000000505400fffe123456 02 40 20 80     eth0\nfd000000000000000000000000000001 03 40 00 80 x\nshort 1\n";
        let expected: Vec<IpAddr> = vec!["fe80::5054:ff:fe12:3456".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(v6_addresses(inet6), expected);
        for garbage in ["", "|-- ", "/32 host LOCAL", "zz\n\n"] {
            assert!(v4_addresses(garbage).is_empty() && v6_addresses(garbage).is_empty());
        }
    }

    #[test]
    fn file_when_it_is_long_is_read_to_the_last_whole_line_that_fits_and_no_further() {
        let mut file = io::repeat(b'x').chain(&b""[..]);
        assert_eq!(beginning(&mut file, 100).unwrap(), "", "no line ends");
        assert_eq!(beginning(&b"one\ntwo\nthree\n"[..], 10).unwrap(), "one\ntwo\n");
        assert_eq!(beginning(&b"one\ntwo"[..], 10).unwrap(), "one\ntwo");
        let mut endless = io::repeat(b'\n');
        assert_eq!(beginning(&mut endless, MAX_READ).unwrap().len() as u64, MAX_READ, "and it ends");
    }
}
