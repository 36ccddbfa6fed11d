//! Sessions of processes that change who they are: a program that a user starts with more rights than his own (setuid, file
//! capabilities), or that drops or gains some by itself, must not be reachable through a session that was begun before.
//!
//! The attack: a process opens a session, gives the control socket to somebody who keeps it, and becomes such a program. The
//! keeper then offers that program's connection as if it were his. The processes are this test program once more.
//!
//! Takes root, to make such programs; elsewhere the tests are reported as ignored.

mod common;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use common::*;
use libtest_mimic::{Arguments, Trial};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, geteuid, setresuid};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::XattrFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use shmbc::control::message::*;
use shmbc::control::socket;

/// What a child of this program does; without it this is the test.
const ROLE: &str = "SHMBC_TEST_ROLE";
/// Where the service is.
const SERVICE: &str = "SHMBC_TEST_SERVICE";
/// What the child connects to.
const SERVER: &str = "SHMBC_TEST_SERVER";
/// What the child becomes.
const PROGRAM: &str = "SHMBC_TEST_PROGRAM";

/// An ordinary user.
const USER: u32 = 1000;

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(ROLE) {
        return child(&role);
    }
    let not_root = !geteuid().is_root();
    if not_root {
        eprintln!("skipped: programs that have other rights than who starts them take root to make");
    }
    let trials = vec![
        trial("session_when_its_process_becomes_a_setuid_program_ends_with_nothing_given", setuid),
        trial("session_when_its_process_becomes_a_program_with_capabilities_ends_with_nothing_given", capabilities),
        trial("session_when_its_process_becomes_any_other_program_ends_with_nothing_given", other_program),
        trial("session_when_its_process_drops_rights_ends_with_nothing_given", dropped),
        trial("session_when_its_process_enters_a_user_namespace_ends_with_nothing_given", user_namespace),
        trial("process_when_protected_from_its_own_user_is_refused_by_name", guarded),
        trial("socket_when_made_by_another_user_is_refused_by_name", of_another),
        trial("session_when_its_process_stays_who_it_was_is_granted", unchanged),
    ];
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(not_root)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial<F: Future<Output = ()> + 'static>(name: &str, test: fn() -> F) -> Trial {
    Trial::test(name, move || {
        tokio::runtime::Runtime::new().unwrap().block_on(test());
        Ok(())
    })
}

// --- the child

fn child(role: &str) -> ExitCode {
    let keeper = std::io::stdin();
    let service = PathBuf::from(std::env::var_os(SERVICE).unwrap());
    if role != "victim" {
        // The socket that is inherited was made by whoever started this.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        if role == "guarded" {
            become_another();
        }
        let session = runtime.block_on(Client::greeted(&service));
        socket::send(keeper.as_fd(), &ToHost::ListContainers, &[session.as_fd()]).unwrap();
    }
    match role {
        "exec" => panic!("{}", Command::new(std::env::var_os(PROGRAM).unwrap()).env(ROLE, "victim").exec()),
        "drop" => become_another(),
        "user-namespace" => unshare(CloneFlags::CLONE_NEWUSER).unwrap(),
        "unchanged" | "victim" | "guarded" => {}
        "inherit" => {
            // Connected by root, before this process became an ordinary one.
            let inherited = std::io::stdout();
            let name = rustix::net::getsockname(&inherited).unwrap().try_into().unwrap();
            let peer = rustix::net::getpeername(&inherited).unwrap().unwrap().try_into().unwrap();
            return offer(inherited.as_fd().as_raw_fd(), name, peer);
        }
        other => panic!("no role {other}"),
    }
    let stream = TcpStream::connect(std::env::var(SERVER).unwrap()).unwrap();
    offer(stream.as_raw_fd(), stream.local_addr().unwrap(), stream.peer_addr().unwrap())
}

fn become_another() {
    let user = Uid::from_raw(USER);
    setresuid(user, user, user).unwrap();
}

/// Tells the keeper what to offer, and lives as long as he does.
fn offer(fd: i32, local: SocketAddr, peer: SocketAddr) -> ExitCode {
    let keeper = std::io::stdin();
    let offer = ToHost::Offer(Offer { id: OfferId(1), fd, local, peer, cpu: 0 });
    socket::send(keeper.as_fd(), &offer, &[]).unwrap();
    let _ = wait_for(keeper.as_fd());
    ExitCode::SUCCESS
}

/// The next message between keeper and child; nothing when the other has ended.
fn wait_for(socket: BorrowedFd<'_>) -> Option<socket::Received<ToHost>> {
    rustix::event::poll(&mut [PollFd::new(&socket, PollFlags::IN)], None).unwrap();
    socket::receive(socket).unwrap()
}

// --- the test

/// The service, the honest end, and the keeper of the child's session.
struct Scene {
    service: Service,
    /// Copies of this program that everybody may start.
    program: PathBuf,
    listener: TcpListener,
}

/// A child whose session is kept.
struct Kept {
    child: Child,
    session: OwnedFd,
    offer: ToHost,
    _socket: OwnedFd,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Scene {
    async fn new() -> Self {
        let service = start().await;
        let everybody = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        everybody(service.directory.path(), 0o755);
        let program = service.directory.path().join("program");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        everybody(&program, 0o755);
        Self { service, program, listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    /// A copy of the program, with other rights.
    fn copy(&self, mode: u32) -> PathBuf {
        let copy = self.service.directory.path().join("other");
        std::fs::copy(&self.program, &copy).unwrap();
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(mode)).unwrap();
        copy
    }

    /// Starts a child, which opens a session and then does what its role says.
    fn keep(&self, role: &str, user: u32, becomes: &Path) -> Kept {
        let flags = SocketFlags::CLOEXEC;
        let (here, there) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let server = self.listener.local_addr().unwrap();
        let inherited = match role {
            "inherit" => OwnedFd::from(TcpStream::connect(server).unwrap()).into(),
            _ => Stdio::null(),
        };
        let child = Command::new(&self.program)
            .envs([(ROLE, role), (SERVER, &server.to_string())])
            .env(SERVICE, self.service.host.socket())
            .env(PROGRAM, becomes)
            .stdin(there)
            .stdout(inherited)
            .uid(user)
            .gid(user)
            .spawn()
            .unwrap();
        let hear = || wait_for(here.as_fd()).expect("the child has ended");
        let session = hear().fds.pop().expect("the control socket");
        let offer = hear().message;
        Kept { child, session, offer, _socket: here }
    }

    /// Offers both ends: this one for who has accepted it, and the child's over the session that was kept. What the keeper
    /// is told, but for addresses; nothing if the session has ended.
    async fn offer(&self, kept: &Kept) -> Option<ToClient> {
        let (accepted, _) = self.listener.accept().unwrap();
        let honest = self.service.client().await;
        honest.offer(2, &accepted);
        socket::send(kept.session.as_fd(), &kept.offer, &[]).unwrap();
        loop {
            match hear(&kept.session).await {
                Ok(Some(received)) if matches!(received.message, ToClient::Locality { .. }) => {}
                Ok(Some(received)) => return Some(received.message),
                Ok(None) => return None,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn ends(&self, role: &str, user: u32, becomes: &Path) {
        let kept = self.keep(role, user, becomes);
        assert_eq!(self.offer(&kept).await, None, "the keeper is told something");
        self.service.until("its offer is forgotten", |counts| counts.granted + counts.established == 0).await;
    }
}

async fn setuid() {
    let scene = Scene::new().await;
    scene.ends("exec", USER, &scene.copy(0o4755)).await;
}

async fn capabilities() {
    let scene = Scene::new().await;
    let program = scene.copy(0o755);
    // `struct vfs_cap_data` of linux/capability.h: revision 2 and "effective", then permitted and inheritable, twice 32 bits.
    // The capability is CAP_NET_RAW, 13: it has nothing to do with the connection.
    let words: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    let value: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    rustix::fs::setxattr(&program, "security.capability", &value, XattrFlags::empty()).unwrap();
    scene.ends("exec", USER, &program).await;
}

async fn other_program() {
    let scene = Scene::new().await;
    scene.ends("exec", USER, &scene.copy(0o755)).await;
}

async fn dropped() {
    let scene = Scene::new().await;
    scene.ends("drop", 0, Path::new("")).await;
}

async fn user_namespace() {
    let scene = Scene::new().await;
    scene.ends("user-namespace", USER, Path::new("")).await;
}

async fn guarded() {
    let scene = Scene::new().await;
    let kept = scene.keep("guarded", 0, Path::new(""));
    assert_eq!(scene.offer(&kept).await, Some(ToClient::Refused(OfferId(1), Refusal::Guarded)));
}

async fn of_another() {
    let scene = Scene::new().await;
    let kept = scene.keep("inherit", USER, Path::new(""));
    assert_eq!(scene.offer(&kept).await, Some(ToClient::Refused(OfferId(1), Refusal::OtherOwner)));
}

async fn unchanged() {
    let scene = Scene::new().await;
    for user in [USER, 0] {
        let kept = scene.keep("unchanged", user, Path::new(""));
        let told = scene.offer(&kept).await;
        assert!(matches!(told, Some(ToClient::Grant(_))), "{told:?}");
    }
}
