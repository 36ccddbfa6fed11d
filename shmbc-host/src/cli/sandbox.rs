//! What the program gives up before it serves anybody: capabilities, and system calls that it never makes. For the program
//! only: whoever embeds the service has a process of its own to keep.
//!
//! Must be called while there is one thread, since all of it is of threads. Not Landlock: a process under it may look at
//! others only if they are under it as well (`landlock(7)`, ptrace restrictions), and looking at its clients' sockets is what
//! this service is for.

use std::collections::BTreeMap;
use std::io;

use clap::ValueEnum;
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition as Condition,
    SeccompFilter, SeccompRule,
};
use tracing::{debug, info, warn};

/// Whether the service confines itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Sandbox {
    /// As far as this kernel lets it.
    Auto,
    /// Fully, or it does not start.
    Strict,
    /// Not at all.
    Off,
}

/// What is kept, where it is there at the start: `SECURITY.md` says for what.
const KEPT: CapabilitySet = CapabilitySet::SYS_PTRACE
    .union(CapabilitySet::CHECKPOINT_RESTORE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::SYS_NICE);

/// Calls that no part of this service makes; a client that took it over would.
const FORBIDDEN: &[libc::c_long] = &[
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes' memory: looking at their sockets takes neither.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    // Other namespaces, mounts and roots.
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_personality,
    libc::SYS_quotactl,
    // Keys, and other users.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_mknodat,
    libc::SYS_fchownat,
];

/// Families of sockets that it makes: the control socket and Docker's, metrics, and lists of addresses.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Gives up what is not needed.
///
/// # Errors
///
/// With [`Sandbox::Strict`], what could not be given up.
pub(super) fn enter(sandbox: Sandbox) -> Result<(), String> {
    if sandbox == Sandbox::Off {
        warn!("not confined: --sandbox off");
        return Ok(());
    }
    let strict = sandbox == Sandbox::Strict;
    for (what, result) in [
        ("new privileges", rustix::thread::set_no_new_privs(true).map_err(io::Error::from)),
        ("capabilities", drop_capabilities()),
        ("system calls", forbid_calls()),
    ] {
        match result {
            Ok(()) => {}
            Err(error) if strict => {
                return Err(format!("{what} cannot be given up: {error}; start with --sandbox auto to go on without"));
            }
            Err(error) => warn!(%error, "{what} cannot be given up: the service goes on with what it has"),
        }
    }
    debug!("confined");
    Ok(())
}

/// Keeps [`KEPT`] of what there is, and makes sure that nothing else can come back.
fn drop_capabilities() -> io::Result<()> {
    let had = rustix::thread::capabilities(None)?;
    let kept = had.permitted & KEPT;
    // Out of the bounding set while there is the right to do so; without that right there is not much to take out.
    if had.effective.contains(CapabilitySet::SETPCAP) {
        for unneeded in (!KEPT).iter() {
            match rustix::thread::remove_capability_from_bounding_set(unneeded) {
                // One that this kernel does not know.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    match rustix::thread::clear_ambient_capability_set() {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    if rustix::process::geteuid().is_root() {
        for (capability, name, cost) in [
            (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE", "it serves processes of its own user only"),
            (
                CapabilitySet::CHECKPOINT_RESTORE,
                "CAP_CHECKPOINT_RESTORE",
                "after a restart, connections that an earlier service granted are listed without figures",
            ),
            (
                CapabilitySet::DAC_READ_SEARCH,
                "CAP_DAC_READ_SEARCH",
                "after a restart, connections of other users' programs are listed without figures",
            ),
        ] {
            if !kept.contains(capability) {
                info!("without {name}: {cost}");
            }
        }
    }
    Ok(())
}

fn forbid_calls() -> io::Result<()> {
    seccompiler::apply_filter(&filter().map_err(io::Error::other)?).map_err(io::Error::other)
}

/// Lets everything pass but what is named; that fails with `EPERM`.
fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<_, _> = FORBIDDEN.iter().map(|call| (*call, Vec::new())).collect();
    let other_family = FAMILIES.map(|family| Condition::new(0, Len::Dword, Op::Ne, family as u64));
    let other_family: Result<Vec<_>, _> = other_family.into_iter().collect();
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(other_family?)?]);
    // No memory is ever made executable: the program and its libraries are loaded.
    let executable = libc::PROT_EXEC as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        let made = Condition::new(2, Len::Dword, Op::MaskedEq(executable), executable)?;
        rules.insert(call, vec![SeccompRule::new(vec![made])?]);
    }
    let forbidden = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, forbidden, std::env::consts::ARCH.try_into()?)?.try_into()
}

#[cfg(test)]
mod tests {
    #[test]
    fn filter_when_made_for_this_machine_compiles() {
        super::filter().unwrap();
    }
}
