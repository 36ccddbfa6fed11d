//! What a process may do at one moment, as the kernel says, to be compared with another moment.
//!
//! A session belongs to a process, and whoever holds a copy of its socket speaks for that process. So the process must stay
//! who it was: one that has become a setuid program, has gained or dropped rights, or runs another program is not the one
//! that began the session, and its connections are not the session's. Read when a session begins and again after each look
//! at a socket of the client's: what the process was in between, it was before or is afterwards.
//!
//! Reads only `/proc/PID` files that the kernel answers by itself; none waits for the process or a file of its.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

/// Lines of `/proc/PID/status` that say what a process may do (`proc_pid_status(5)`).
const RIGHTS: [&str; 8] = ["Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"];

/// Fields of `/proc/PID/stat` behind the name in brackets, counted from 0, that are different each time a program is
/// loaded, as the kernel places it by chance: where its code, stack, data, heap and arguments begin (26, 28, 45, 47 and 48
/// of `proc_pid_stat(5)`), and when the process was started (22).
const IMAGE: [usize; 6] = [19, 23, 25, 42, 44, 45];

/// What a process may do, and which program it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// The lines of [`RIGHTS`].
    rights: Vec<String>,
    /// Of a security module; nothing where there is none.
    label: Option<String>,
    user_namespace: Option<std::path::PathBuf>,
    /// The path of its program, and the fields of [`IMAGE`].
    program: Option<std::path::PathBuf>,
    image: Vec<String>,
    /// Who owns its files under `/proc`.
    keeper: u32,
}

impl Credentials {
    /// Those of a process now. The caller makes sure that the number is still this process's.
    ///
    /// # Errors
    ///
    /// Those of opening and reading `/proc/PID/status`.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let mut status = String::new();
        let mut file = File::open(format!("/proc/{pid}/status"))?;
        file.read_to_string(&mut status)?;
        let keeper = file.metadata()?.uid();
        let rights = status.lines().filter(|line| RIGHTS.iter().any(|name| line.starts_with(name)));
        let text = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
        let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/{name}")).ok();
        Ok(Self {
            rights: rights.map(str::to_owned).collect(),
            label: text("attr/current"),
            user_namespace: link("ns/user"),
            program: link("exe"),
            image: text("stat").map(|stat| image(&stat)).unwrap_or_default(),
            keeper,
        })
    }

    /// Whether the process is what its user and group are, without a trace of anybody else's rights: all its user ids are
    /// this one, all its group ids that one, and the kernel lets other processes of the user look into it.
    ///
    /// The kernel does not where a program was started with more rights than its user has, where a process has changed its
    /// user by itself, or where it wishes so (`PR_SET_DUMPABLE` in `prctl(2)`): others of its user must not have its secrets
    /// then, and a connection in shared memory would be a way to them.
    pub(crate) fn are_plain(&self, uid: u32, gid: u32) -> bool {
        let only = |name: &str, id: u32| {
            let line = self.rights.iter().find_map(|line| line.strip_prefix(name));
            line.is_some_and(|ids| ids.split_whitespace().all(|one| one.parse() == Ok(id)))
        };
        only("Uid:", uid) && only("Gid:", gid) && self.keeper == uid
    }
}

/// What differs between two programs in one process. The name of a process, in brackets, is its own choice.
fn image(stat: &str) -> Vec<String> {
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    IMAGE.iter().filter_map(|n| fields.get(*n).map(|field| (*field).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_when_nothing_changes_are_the_same_and_those_of_another_process_are_not() {
        let me = std::process::id() as i32;
        let mine = Credentials::of(me).unwrap();
        assert_eq!(mine, Credentials::of(me).unwrap());
        assert_eq!((mine.rights.len(), mine.image.len()), (RIGHTS.len(), IMAGE.len()));
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let others = Credentials::of(other.id() as i32).unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
        assert_ne!(mine, others);
        assert!(Credentials::of(other.id() as i32).is_err());
    }

    #[test]
    fn credentials_when_they_name_two_users_or_groups_are_not_plain() {
        let of = |uids: &str, gids: &str, keeper| Credentials {
            rights: vec![format!("Uid:\t{uids}"), format!("Gid:\t{gids}")],
            keeper,
            ..Credentials::default()
        };
        assert!(of("7\t7\t7\t7", "8\t8\t8\t8", 7).are_plain(7, 8));
        assert!(!of("7\t7\t7\t7", "8\t8\t8\t8", 0).are_plain(7, 8), "protected");
        assert!(!of("7\t7\t7\t7", "8\t8\t8\t8", 7).are_plain(6, 8), "not who connected");
        for (uids, gids) in [("7\t0\t0\t0", "8\t8\t8\t8"), ("7\t7\t0\t7", "8\t8\t8\t8"), ("7\t7\t7\t7", "8\t8\t0\t8")] {
            assert!(!of(uids, gids, 7).are_plain(7, 8), "{uids} {gids}");
        }
        assert!(!Credentials::default().are_plain(0, 0), "nothing is known");
    }

    #[test]
    fn image_when_the_name_of_the_process_has_brackets_is_read_behind_the_last() {
        let fields: Vec<_> = (3..53).map(|n: u32| n.to_string()).collect();
        let stat = format!("1 (a) b) {}", fields.join(" "));
        assert_eq!(image(&stat), ["22", "26", "28", "45", "47", "48"]);
        assert!(image("").is_empty());
    }
}
