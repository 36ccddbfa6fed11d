//! The table of cgroup files, and a look at this very process.

use super::*;

impl Client {
    /// A client for tests of what is decided about clients; the process is this one.
    pub(crate) fn pretended(uid: u32, container: Option<&str>) -> Arc<Self> {
        let pidfd =
            rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty()).unwrap();
        let key = container.map_or(ClientKey::Uid(uid), |id| ClientKey::Container(Arc::from(id)));
        Arc::new(Self {
            pidfd,
            pid: std::process::id() as i32,
            process: "test".into(),
            uid,
            gid: uid,
            container: container.map(str::to_owned),
            contained: container.is_some(),
            key,
            claim: None,
            namespaces: Namespaces::own(),
            credentials: Credentials::default(),
        })
    }
}

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn place_when_concluded_from_each_known_form_of_cgroup_file_is_the_outermost_container() {
    let a = || Ok(Place::Container(A.to_owned()));
    let outside = || Ok(Place::Outside);
    let delegated = || Ok(Place::Delegated);
    let table: Vec<(String, Result<Place, BadCgroup>)> = vec![
        // No container.
        (String::new(), outside()),
        ("0::/\n".into(), outside()),
        ("0::/init.scope\n".into(), outside()),
        ("0::/user.slice/user-1000.slice/session-3.scope\n".into(), outside()),
        ("0::/system.slice/docker.service\n".into(), outside()),
        ("0::/system.slice/docker.service/docker\n".into(), outside()),
        ("12:memory:/\n0::/\n".into(), outside()),
        (format!("0::/{A}\n"), Ok(Place::Named(A.to_owned()))),
        (format!("0::/other/{A}\n"), Ok(Place::Named(A.to_owned()))),
        (format!("0::/other/{A}/docker/{B}\n"), Ok(Place::Named(A.to_owned()))),
        (format!("0::/user.slice/{A}\n"), delegated()),
        // Docker, cgroupfs driver: v1, v2, hybrid, with named hierarchies.
        (format!("0::/docker/{A}\n"), a()),
        (format!("9:name=systemd:/docker/{A}\n4:memory:/docker/{A}\n0::/docker/{A}\n"), a()),
        (format!("3:cpuset:/\n4:memory:/docker/{A}\n0::/\n"), a()),
        (format!("4:memory:/docker/{A}\n"), a()),
        (format!("0::/docker/{A}/init\n"), a()),
        (format!("0::/system.slice/docker/{A}\n"), a()),
        (format!("0::/docker/{A}"), a()),
        // Docker, systemd driver.
        (format!("0::/system.slice/docker-{A}.scope\n"), a()),
        (format!("0::/my.slice/docker-{A}.scope/sub\n"), a()),
        (format!("1:name=systemd:/system.slice/docker-{A}.scope\n0::/system.slice/docker-{A}.scope\n"), a()),
        // Podman.
        (format!("0::/machine.slice/libpod-{A}.scope\n"), a()),
        (format!("0::/machine.slice/libpod-{A}.scope/container\n"), a()),
        (format!("0::/libpod_parent/libpod-{A}\n"), a()),
        // Kubernetes with containerd and CRI-O, both drivers.
        (format!("0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-{A}.scope\n"), a()),
        (format!("0::/kubepods.slice/kubepods-pod1.slice/crio-{A}.scope\n"), a()),
        (format!("0::/kubepods/burstable/pod8f8ab9a3-0a3c-4a/{A}\n"), a()),
        (format!("5:cpu:/kubepods/besteffort/pod12/{A}\n0::/\n"), a()),
        // Nested: what stands below is the process's own word.
        (format!("0::/docker/{A}/docker/{B}\n"), a()),
        (format!("0::/system.slice/docker-{A}.scope/docker-{B}.scope\n"), a()),
        (format!("0::/docker/{A}/system.slice/docker-{B}.scope\n"), a()),
        (format!("0::/docker/{A}/user.slice/docker/{B}\n"), a()),
        // Seen from the cgroup namespace of a service that is itself in a container.
        (format!("0::/../{A}\n"), a()),
        (format!("0::/../docker-{A}.scope\n"), a()),
        (format!("0::/../../docker/{A}\n"), a()),
        (format!("0::/../{A}/docker/{B}\n"), a()),
        ("0::/../user.slice\n".into(), outside()),
        // Colons belong to the path.
        (format!("0::/docker/{A}/a:b:c\n"), a()),
        // Not quite an id: 63 and 65 digits, capitals, other letters, other prefixes.
        (format!("0::/docker/{}\n", &A[1..]), outside()),
        (format!("0::/docker/{A}a\n"), outside()),
        (format!("0::/docker/{}\n", A.to_uppercase()), outside()),
        (format!("0::/docker/{}g\n", &A[1..]), outside()),
        (format!("0::/system.slice/docker-{A}.service\n"), outside()),
        (format!("0::/system.slice/xdocker-{A}.scope\n"), outside()),
        (format!("0::/system.slice/docker-{A}.scope.d\n"), outside()),
        // Below a user's own slice anybody can make a cgroup of any name.
        (format!("0::/user.slice/user-1000.slice/user@1000.service/docker/{A}\n"), delegated()),
        (format!("0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope\n"), delegated()),
        (format!("0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope\n"), delegated()),
        (format!("0::/user.slice/user-1000.slice/docker/{A}\n"), delegated()),
        (format!("0::/other.slice/user@1000.service/docker-{A}.scope\n"), delegated()),
        // Nothing to be concluded.
        (format!("0::/docker/{A} (deleted)\n"), Err(BadCgroup::Removed)),
        (format!("4:memory:/docker/{A}\n0::/x (deleted)\n"), Err(BadCgroup::Removed)),
        (format!("4:memory:/docker/{A}\n0::/docker/{B}\n"), Err(BadCgroup::Contradiction)),
        (
            format!("4:memory:/docker/{A}\n0::/user.slice/user@1.service/docker-{B}.scope\n"),
            Err(BadCgroup::Contradiction),
        ),
        // Not a cgroup file at all.
        ("garbage\n:::\n::\n\n/docker/\n".into(), outside()),
    ];
    assert!(table.len() >= 30);
    for (text, expected) in table {
        assert_eq!(place(&text), expected, "{text:?}");
    }
}

#[test]
fn client_when_it_is_this_process_is_found_with_its_ids_and_its_loopback_address() {
    let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
    let client = Client::of(a.as_fd()).unwrap();
    assert_eq!(client.pid, std::process::id() as i32);
    assert_eq!(client.uid, rustix::process::geteuid().as_raw());
    assert!(!client.has_exited());
    assert!(client.addresses().contains(&IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)), "{:?}", client.addresses());
}

#[test]
fn client_when_its_process_has_exited_is_unknown() {
    // The child is this very test once more.
    if let Some(path) = std::env::var_os("SHMBC_TEST_CONNECT_TO") {
        std::os::unix::net::UnixStream::connect(path).unwrap();
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["identity::tests::client_when_its_process_has_exited_is_unknown", "--exact"])
        .env("SHMBC_TEST_CONNECT_TO", &path)
        .status();
    assert!(child.unwrap().success());
    let (accepted, _) = listener.accept().unwrap();
    let client = Client::of(accepted.as_fd());
    assert!(matches!(client, Err(Unknown::Exited)), "{client:?}");
}
