//! Sealed memory files: what a peer that holds one can and cannot do to those who have mapped it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use shmbc_tests::raw::SharedMap;
use shmbc_tests::suite::Test;
use shmbc_tests::{Need, test};

const SIZE: usize = 1 << 20;
const PUNCH: FallocateFlags = FallocateFlags::FALLOC_FL_PUNCH_HOLE.union(FallocateFlags::FALLOC_FL_KEEP_SIZE);

pub(crate) fn facts() -> Vec<Test> {
    let numa = Need::Other("mbind and get_mempolicy", || {
        SharedMap::new(memory().as_fd(), SIZE).and_then(|map| map.bind(0, 0).and_then(|()| map.policy())).is_ok()
    });
    vec![
        test("sealed_memfd_when_resized_refuses", sealed_memfd_when_resized_refuses),
        test("sealed_memfd_when_written_past_its_end_refuses", sealed_memfd_when_written_past_its_end_refuses),
        test("sealed_memfd_when_given_more_seals_refuses", sealed_memfd_when_given_more_seals_refuses),
        test("sealed_memfd_when_punched_reads_zeros_without_a_signal", sealed_memfd_when_punched_reads_zeros),
        test("memfd_when_mapped_writable_cannot_be_write_sealed", memfd_when_mapped_writable_cannot_be_write_sealed),
        test("memfd_with_future_write_seal_when_punched_refuses", memfd_with_future_write_seal_when_punched_refuses),
        test("memfd_when_punched_while_mapped_gives_its_memory_back", memfd_when_punched_while_mapped_gives_back),
        test("memfd_when_fallocated_has_its_pages_before_any_touch", memfd_when_fallocated_has_its_pages),
        test("memfd_with_noexec_seal_when_made_executable_refuses", memfd_with_noexec_seal_when_made_executable)
            .needs(Need::Linux(6, 3, "MFD_NOEXEC_SEAL")),
        test("memfd_when_bound_through_one_mapping_is_bound_for_all", memfd_when_bound_is_bound_for_all).needs(numa),
    ]
}

fn memory() -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd = memfd_create(c"kernel-test", flags).expect("memfd_create");
    ftruncate(&fd, SIZE as i64).expect("ftruncate");
    fd
}

fn add(fd: &OwnedFd, seals: SealFlag) -> Result<(), Errno> {
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals)).map(drop)
}

/// A memory file sealed as every block is.
fn sealed() -> OwnedFd {
    let fd = memory();
    add(&fd, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL).expect("seals");
    fd
}

fn pages_of(fd: &OwnedFd) -> u64 {
    nix::sys::stat::fstat(fd).expect("fstat").st_blocks as u64 * 512
}

fn sealed_memfd_when_resized_refuses() {
    let fd = sealed();
    for size in [0, SIZE / 2, SIZE - 1, SIZE + 1, SIZE * 2] {
        assert_eq!(ftruncate(&fd, size as i64), Err(Errno::EPERM), "to {size}");
    }
    assert_eq!(fallocate(&fd, FallocateFlags::empty(), 0, SIZE as i64 * 2), Err(Errno::EPERM));
    assert_eq!(nix::sys::stat::fstat(&fd).unwrap().st_size, SIZE as i64);
}

fn sealed_memfd_when_written_past_its_end_refuses() {
    let file = File::from(sealed());
    file.write_all_at(b"inside", 100).unwrap();
    let error = file.write_at(b"outside", SIZE as u64).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
}

fn sealed_memfd_when_given_more_seals_refuses() {
    let fd = sealed();
    for seal in [SealFlag::F_SEAL_WRITE, SealFlag::F_SEAL_FUTURE_WRITE] {
        assert_eq!(add(&fd, seal), Err(Errno::EPERM), "{seal:?}");
    }
}

fn sealed_memfd_when_punched_reads_zeros() {
    let fd = sealed();
    let victim = SharedMap::new(fd.as_fd(), SIZE).unwrap();
    victim.set(5000, 7);
    fallocate(&fd, PUNCH, 0, SIZE as i64).unwrap();
    assert_eq!(victim.get(5000), 0);
    victim.set(5000, 8);
    assert_eq!(victim.get(5000), 8);
}

fn memfd_when_mapped_writable_cannot_be_write_sealed() {
    let fd = memory();
    let map = SharedMap::new(fd.as_fd(), SIZE).unwrap();
    assert_eq!(add(&fd, SealFlag::F_SEAL_WRITE), Err(Errno::EBUSY));
    drop(map);
    assert_eq!(add(&fd, SealFlag::F_SEAL_WRITE), Ok(()));
}

fn memfd_with_future_write_seal_when_punched_refuses() {
    let fd = memory();
    let map = SharedMap::new(fd.as_fd(), SIZE).unwrap();
    add(&fd, SealFlag::F_SEAL_FUTURE_WRITE).unwrap();
    assert_eq!(fallocate(&fd, PUNCH, 0, SIZE as i64), Err(Errno::EPERM));
    assert_eq!(SharedMap::new(fd.as_fd(), SIZE).unwrap_err().raw_os_error(), Some(libc::EPERM));
    map.set(0, 3);
    assert_eq!(map.get(0), 3, "who mapped before goes on writing");
}

fn memfd_when_punched_while_mapped_gives_back() {
    let fd = sealed();
    let keeper = SharedMap::new(fd.as_fd(), SIZE).unwrap();
    (0..SIZE).step_by(4096).for_each(|at| keeper.set(at, 1));
    assert_eq!(pages_of(&fd), SIZE as u64);
    fallocate(&fd, PUNCH, 0, SIZE as i64).unwrap();
    assert_eq!(pages_of(&fd), 0);
    drop(keeper);
}

fn memfd_when_fallocated_has_its_pages() {
    let fd = sealed();
    assert_eq!(pages_of(&fd), 0, "an untouched file costs nothing");
    fallocate(&fd, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, SIZE as i64 / 2).unwrap();
    assert_eq!(pages_of(&fd), SIZE as u64 / 2);
}

fn memfd_with_noexec_seal_when_made_executable() {
    const NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(8);
    let fd = memfd_create(c"kernel-test", MFdFlags::MFD_ALLOW_SEALING | NOEXEC_SEAL).unwrap();
    let file = File::from(fd);
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o666);
    let error = file.set_permissions(std::fs::Permissions::from_mode(0o777)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
}

fn memfd_when_bound_is_bound_for_all() {
    let fd = sealed();
    let (host, end) = (SharedMap::new(fd.as_fd(), SIZE).unwrap(), SharedMap::new(fd.as_fd(), SIZE).unwrap());
    assert_ne!(end.policy().unwrap().0, libc::MPOL_BIND);
    host.bind(0, 0).unwrap();
    assert_eq!(end.policy().unwrap(), (libc::MPOL_BIND, 1));
    let late = SharedMap::new(fd.as_fd(), SIZE).unwrap();
    assert_eq!(late.policy().unwrap(), (libc::MPOL_BIND, 1), "also for who maps later");
}
