//! A service that is told to has its connections on huge pages where the kernel has some, and else on ordinary ones.
//!
//! Whether there are some for shared memory is a setting of the whole machine, which no test changes: `scripts/numa-vm` runs this
//! in a virtual machine that has them.

use std::process::ExitCode;

use shmbc_tests::peer::{connect, upgraded};
use shmbc_tests::script::{Kind, Move};
use shmbc_tests::{HostProcess, Need, Peer, Setup, suite, test};

const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

fn main() -> ExitCode {
    let advised = Need::Other("huge pages for shared memory that asks (advise, in shmem_enabled)", || is("[advise]"));
    let none = Need::Other("no huge pages for shared memory (never, in shmem_enabled)", || is("[never]"));
    suite(vec![
        test("block_when_the_service_is_told_to_is_on_huge_pages", || assert!(huge_kib(&["--huge-pages"]) >= 2048))
            .needs(advised),
        test("block_when_the_service_is_not_told_to_is_on_ordinary_pages", || {
            assert_eq!(huge_kib(&[]), 0);
        })
        .needs(advised),
        test("block_when_the_kernel_has_no_huge_pages_is_on_ordinary_pages", || {
            assert_eq!(huge_kib(&["--huge-pages"]), 0);
        })
        .needs(none),
    ])
}

fn is(word: &str) -> bool {
    std::fs::read_to_string(SETTING).is_ok_and(|setting| setting.contains(word))
}

/// Moves bytes through a service with these arguments, and returns how many KiB of its block one end has on huge pages.
fn huge_kib(arguments: &[&str]) -> usize {
    let host = HostProcess::start_with(arguments);
    let setup = Setup::with_host(host.socket());
    let (mut client, mut server) = (Peer::start(&setup), Peer::start(&setup));
    let address = server.listen(Kind::Shm, [127, 0, 0, 1]);
    let (c, s) = connect(&mut client, Kind::Shm, &mut server, address);
    assert_eq!(upgraded(&mut client, c, &mut server, s), ["upgraded"; 2]);
    // More than fits beside the header in the first huge page, and nobody reads meanwhile: small traffic stays there.
    let bytes = 3 << 20;
    assert_eq!(client.moves(c, Move { write: bytes, ..Move::default() }).wrote, bytes);
    let maps = std::fs::read_to_string(format!("/proc/{}/smaps", client.pid())).expect("smaps");
    let block = maps.split_once("memfd:shmbc").expect("a block").1;
    let huge = block.lines().find_map(|line| line.strip_prefix("ShmemPmdMapped:")).expect("a count");
    let huge = huge.trim().trim_end_matches(" kB").parse().expect("a number");
    assert_eq!(server.moves(s, Move { read: bytes, ..Move::default() }).read, bytes);
    huge
}
