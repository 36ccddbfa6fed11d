//! Which container a process is in, by the text of `/proc/PID/cgroup`, and whether that text can be believed.
//!
//! The container is the outermost one in the path: a process can make cgroups below its own, never above. But who was given a
//! cgroup to keep (a guest of LXC, a unit with `Delegate=yes`) makes cgroups of any name below it. So a name counts only where
//! every cgroup on the way is root's, and, where Docker knows a container of this id, only if that container's own first process
//! is in the very same cgroup ([`Claim`]).

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::namespaces::kernel_threads;

/// Where a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In no container.
    Outside,
    /// In the container with this id, of 64 hexadecimal digits.
    Container(String),
    /// In a cgroup that only has the form of an id, where no manager of containers is known to make one.
    Named(String),
    /// In something named like a container, but below a cgroup that an ordinary user may shape as he likes.
    Delegated,
}

/// A cgroup file from which nothing can be concluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadCgroup {
    /// The cgroup is gone; its name may be somebody else's by now.
    Removed,
    /// Its lines name different containers.
    Contradiction,
}

/// Concludes from the text of `/proc/PID/cgroup`.
pub(crate) fn place(cgroups: &str) -> Result<Place, BadCgroup> {
    let mut found = Place::Outside;
    // hierarchy-ID:controllers:path; the path may contain colons.
    for path in cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)) {
        if path.ends_with(" (deleted)") {
            return Err(BadCgroup::Removed);
        }
        match (&found, place_of_path(path)) {
            // A machine may keep some controllers outside of the container's cgroup.
            (_, Place::Outside) => {}
            (Place::Outside, place) => found = place,
            (one, other) if *one == other => {}
            _ => return Err(BadCgroup::Contradiction),
        }
    }
    Ok(found)
}

fn place_of_path(path: &str) -> Place {
    let mut delegated = false;
    let mut parent = "";
    for name in path.split('/').filter(|name| !name.is_empty()) {
        if let Some(id) = container_id(parent, name) {
            return if delegated { Place::Delegated } else { Place::Container(id.to_owned()) };
        }
        if is_id(name) {
            return if delegated { Place::Delegated } else { Place::Named(name.to_owned()) };
        }
        delegated |= name == "user.slice" || name.starts_with("user@");
        parent = name;
    }
    Place::Outside
}

/// The id in one component of a path, if it names a container.
fn container_id<'a>(parent: &str, name: &'a str) -> Option<&'a str> {
    // Managed by Docker itself, or by Kubernetes' cgroupfs driver: the bare id. Seen from a cgroup namespace that is
    // the container of this service, the siblings stand right behind the way up.
    let bare = matches!(parent, "docker" | "..") || parent.starts_with("pod") || parent == "libpod_parent";
    if bare && is_id(name) {
        return Some(name);
    }
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    ["docker-", "libpod-", "cri-containerd-", "crio-"]
        .iter()
        .find_map(|prefix| stem.strip_prefix(prefix))
        .filter(|id| is_id(id))
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A container that a process's cgroup names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) id: String,
    /// The name stands where a manager of containers makes such.
    managed: bool,
    /// The controllers of each hierarchy that names it, and the path up to its name.
    cgroups: BTreeSet<(String, String)>,
}

impl Claim {
    /// What is concluded from the text of a process's cgroup file, if it names a container.
    pub(crate) fn of(place: &Place, cgroups: &str) -> Option<Self> {
        let (id, managed) = match place {
            Place::Container(id) => (id, true),
            Place::Named(id) => (id, false),
            Place::Outside | Place::Delegated => return None,
        };
        Some(Self { id: id.clone(), managed, cgroups: named(cgroups, id) })
    }

    /// Whether it counts without anybody's word: its name stands where a manager makes such.
    pub(crate) const fn is_managed(&self) -> bool {
        self.managed
    }

    /// Whether the process `first`, which Docker says is the first of this container, is in these cgroups.
    pub(crate) fn is_of(&self, first: i32) -> bool {
        let cgroups = std::fs::read_to_string(format!("/proc/{first}/cgroup")).unwrap_or_default();
        !self.cgroups.is_empty() && self.cgroups.is_subset(&named(&cgroups, &self.id))
    }

    /// Whether somebody else than root keeps a cgroup on the way, and may have given it this name. What cannot be seen is
    /// not held against it: cgroups beside or below that of a service with a cgroup namespace of its own.
    pub(crate) fn is_homemade(&self) -> bool {
        let top =
            kernel_threads().map(|pid| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default());
        let top = top.unwrap_or_default();
        self.cgroups.iter().any(|(controllers, path)| {
            let Some(mut way) = from_top(&top, controllers, path) else { return false };
            loop {
                if owner(controllers, way).is_some_and(|uid| uid != 0) {
                    return true;
                }
                match way.rfind('/') {
                    Some(0) | None => return false,
                    Some(end) => way = &way[..end],
                }
            }
        })
    }
}

/// The controllers of each hierarchy whose path has this id, and the path up to there.
fn named(cgroups: &str, id: &str) -> BTreeSet<(String, String)> {
    let paths = lines(cgroups).filter_map(|(controllers, path)| {
        let start = path.find(id)?;
        let end = path[start..].find('/').map_or(path.len(), |slash| start + slash);
        Some((controllers.to_owned(), path[..end].to_owned()))
    });
    paths.collect()
}

/// The path from the top of its hierarchy, where `top` is the cgroup file of a process that is there. To a cgroup namespace
/// below it all paths are told from that namespace's own cgroup, that of the top as so many steps up.
fn from_top<'a>(top: &str, controllers: &str, path: &'a str) -> Option<&'a str> {
    let up = lines(top).find(|(its, _)| *its == controllers).map_or("", |(_, path)| path.trim_end_matches('/'));
    let way = path.strip_prefix(up)?;
    (way.starts_with('/') && !way.starts_with("/../")).then_some(way)
}

/// The controllers and the path of each line of a cgroup file.
fn lines(cgroups: &str) -> impl Iterator<Item = (&str, &str)> {
    cgroups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    })
}

/// Who keeps the cgroup of this path, where it can be seen. The machine's own view first: a container has one of its own.
fn owner(controllers: &str, path: &str) -> Option<u32> {
    let hierarchy = match controllers.strip_prefix("name=").unwrap_or(controllers) {
        "" => ["unified", "."],
        name => [name, name],
    };
    let mounts = ["/proc/1/root/sys/fs/cgroup", "/sys/fs/cgroup"];
    let mut ways = mounts.iter().flat_map(|mount| hierarchy.map(|name| Path::new(mount).join(name)));
    ways.find_map(|way| {
        let found = std::fs::symlink_metadata(way.join(path.trim_start_matches('/'))).ok()?;
        found.is_dir().then(|| found.uid())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_when_told_from_a_cgroup_namespace_is_found_from_the_top_unless_it_is_beside_or_below() {
        let top = "9:name=systemd:/\n4:memory:/../..\n0::/..\n";
        let from_top = |controllers, path| from_top(top, controllers, path);
        assert_eq!(from_top("name=systemd", "/a/docker"), Some("/a/docker"));
        assert_eq!(from_top("name=systemd", "/..a/docker"), Some("/..a/docker"), "just a name");
        assert_eq!(from_top("memory", "/../../a/docker"), Some("/a/docker"));
        assert_eq!(from_top("", "/../a"), Some("/a"));
        for unseen in ["/../a", "/a", "/", "/../../../a", "/../..a/b"] {
            assert_eq!(from_top("memory", unseen), None, "{unseen}");
        }
        assert_eq!(from_top("unlisted", "/a"), Some("/a"));
        assert_eq!(from_top("unlisted", "/../a"), None);
    }
}
