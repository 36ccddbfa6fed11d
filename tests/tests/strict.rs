//! A kernel that keeps strict account of memory: connections stay on TCP, and say so. Changes a setting of the whole machine for a
//! moment, with a limit so high that nobody meets it.

use std::fs;
use std::net::Ipv4Addr;
use std::process::ExitCode;

use shmbc_tests::peer::{connect, upgraded};
use shmbc_tests::script::Kind;
use shmbc_tests::{HostProcess, Need, Peer, Setup, suite, test};

const SETTINGS: &str = "/proc/sys/vm";

fn main() -> ExitCode {
    suite(vec![test("connection_when_memory_is_strictly_accounted_stays_on_tcp_and_says_so", strict).needs(Need::Root)])
}

/// A setting, put back when dropped.
struct Setting(&'static str, String);

impl Setting {
    fn new(name: &'static str, value: &str) -> Self {
        let before = fs::read_to_string(format!("{SETTINGS}/{name}")).expect("a setting");
        fs::write(format!("{SETTINGS}/{name}"), value).expect("root may");
        Self(name, before)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        fs::write(format!("{SETTINGS}/{}", self.0), self.1.trim()).expect("as before");
    }
}

fn strict() {
    let host = HostProcess::start();
    let setup = Setup::with_host(host.socket());
    let (mut client, mut server) = (Peer::start(&setup), Peer::start(&setup));
    let address = server.listen(Kind::Shm, Ipv4Addr::LOCALHOST);
    let mut meet = || {
        let (c, s) = connect(&mut client, Kind::Shm, &mut server, address);
        upgraded(&mut client, c, &mut server, s)
    };
    {
        let _far = Setting::new("overcommit_ratio", "10000");
        let _strict = Setting::new("overcommit_memory", "2");
        let refused = "refused: the kernel keeps strict account of memory, so that touching shared memory can fail";
        assert_eq!(meet(), [refused; 2]);
    }
    assert_eq!(meet(), ["upgraded"; 2]);
}
