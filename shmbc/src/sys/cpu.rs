//! Which CPU this thread runs on.

/// The CPU that the calling thread runs on now, or 0 where the kernel does not say. With glibc 2.35 and newer this is
/// one load from the thread's restartable-sequence area, 1 ns; it may be outdated as soon as it is returned.
#[inline]
pub fn current_cpu() -> u32 {
    nix::sched::sched_getcpu().map_or(0, |cpu| cpu as u32)
}
