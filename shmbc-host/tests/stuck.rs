//! What can make the service wait for ever, or keep a new one from starting: files of a client's that do not answer, a process in the
//! midst of an exec, a predecessor that is stopped, a directory that somebody keeps locked. The service is the real program.
//!
//! Takes root and /dev/fuse; elsewhere the tests are reported as ignored. The processes are this test program once more.

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use common::*;
use libtest_mimic::{Arguments, Trial};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use shmbc::control::message::*;
use shmbc::control::socket::{self, Received};

/// What a child of this program does; without it this is the test.
const ROLE: &str = "SHMBC_TEST_ROLE";
const SERVICE: &str = "SHMBC_TEST_SERVICE";
const FILE: &str = "SHMBC_TEST_FILE";
const SERVER: &str = "SHMBC_TEST_SERVER";

const USER: u32 = 1000;

/// Sessions of the hostile user, and offers of each: more than the service may look at for him at once.
const SESSIONS: usize = 8;
const OFFERS: u64 = 16;

/// Honest users who come at once, as after a restart, each with [`SESSIONS`], and what each session offers: more than
/// may be looked at at a time.
const CROWD: u32 = 60;
const CROWDED: u64 = 6;

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(ROLE) {
        return child(&role);
    }
    let cannot = !geteuid().is_root() || !Path::new("/dev/fuse").exists();
    if cannot {
        eprintln!("skipped: file systems that do not answer take root and /dev/fuse");
    }
    let trials = vec![
        trial("service_when_offered_files_that_never_answer_serves_others_and_ends", flush),
        trial("service_when_a_socket_becomes_such_a_file_in_mid_look_serves_others_and_ends", race),
        trial("service_when_a_client_has_mapped_such_a_file_serves_others_and_ends", mapped),
        trial("service_when_a_client_hangs_in_exec_serves_others_and_ends", exec),
        trial("service_when_its_predecessor_is_stopped_takes_its_place", stopped),
        trial("service_when_another_answers_does_not_start", answered),
        trial("offers_when_many_users_come_at_once_are_all_looked_at", crowd),
        trial("service_when_started_by_one_who_ignores_its_children_starts", ignored),
        trial("service_without_close_range_leaves_no_process_behind", left),
        trial("service_when_its_directory_is_kept_locked_starts_all_the_same", locked),
    ];
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(cannot)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial<F: Future<Output = ()> + 'static>(name: &str, test: fn() -> F) -> Trial {
    Trial::test(name, move || {
        tokio::runtime::Runtime::new().unwrap().block_on(test());
        Ok(())
    })
}

// --- the hostile user's process

fn child(role: &str) -> ExitCode {
    let path = PathBuf::from(std::env::var_os(SERVICE).unwrap());
    if role == "without" {
        forbid_close_range();
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmbc-host"));
        panic!("{}", command.args(["run", "--docker", "off", "--socket"]).arg(path).exec());
    }
    let file = PathBuf::from(std::env::var_os(FILE).unwrap());
    let stream = TcpStream::connect(std::env::var(SERVER).unwrap()).unwrap();
    let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sessions: Vec<_> = (0..SESSIONS).map(|_| runtime.block_on(Client::greeted(&path))).collect();
    match role {
        "flush" => {
            let file = File::open(file).unwrap();
            for session in &sessions {
                for id in 0..OFFERS {
                    session.offer_as(id, file.as_raw_fd(), local, peer);
                }
            }
            // Its own end must not wait for the file either.
            std::mem::forget(file);
        }
        "race" => {
            let file = File::open(file).unwrap();
            // Numbers that are sockets when they are offered, and the file some microseconds later.
            for id in 0..OFFERS * 8 {
                let number: OwnedFd = stream.as_fd().try_clone_to_owned().unwrap();
                sessions[id as usize % SESSIONS].offer_as(id, number.as_raw_fd(), local, peer);
                for _ in 0..id * 40 {
                    std::hint::spin_loop();
                }
                let mut number = number;
                rustix::io::dup2(&file, &mut number).unwrap();
                std::mem::forget(number);
            }
            std::mem::forget(file);
        }
        "mapped" => {
            let file = File::open(file).unwrap();
            // With a length, so that the file is not asked for its own.
            let map = memmap2::MmapOptions::new().len(4096).map_raw_read_only(&file).unwrap();
            let (address, len) = (map.as_ptr() as u64, map.len() as u64);
            std::mem::forget((file, map));
            for (id, session) in sessions.iter().enumerate() {
                let offer = Offer { id: OfferId(id as u64), fd: stream.as_raw_fd(), local, peer, cpu: 0 };
                session.say(&ToHost::Announce(Announcement { offer, end: End::A, mapped: (address, len) }));
            }
        }
        "crowd" => {
            println!("done");
            let _ = std::io::stdin().read(&mut [0]);
            for session in &sessions {
                for id in 0..CROWDED {
                    session.offer_as(id, stream.as_raw_fd(), local, peer);
                }
            }
            let answers: Vec<_> = sessions
                .iter()
                .flat_map(|session| (0..CROWDED).map(|_| runtime.block_on(answer_to(session))))
                .collect();
            let unseen = answers.iter().filter(|answer| matches!(answer, None | Some(Refusal::OutOfResources))).count();
            println!("{unseen}");
        }
        "exec" => {
            // Closed on exec, in whose midst it waits for the answer.
            std::mem::forget(File::open(file).unwrap());
            let keeper = std::io::stdin();
            socket::send(keeper.as_fd(), &ToHost::ListContainers, &[sessions[0].as_fd()]).unwrap();
            let kept = rustix::io::dup(&stream).unwrap();
            let offer = Offer { id: OfferId(1), fd: kept.as_raw_fd(), local, peer, cpu: 0 };
            socket::send(keeper.as_fd(), &ToHost::Offer(offer), &[]).unwrap();
            std::mem::forget(kept);
            panic!("{}", Command::new("/bin/sleep").arg("600").exec());
        }
        other => panic!("no role {other}"),
    }
    println!("done");
    let _ = std::io::stdin().read(&mut [0]);
    // Not by the runtime's end, nor by any destructor.
    kill(Pid::this(), Signal::SIGKILL).unwrap();
    ExitCode::SUCCESS
}

fn forbid_close_range() {
    let rules = [(libc::SYS_close_range, Vec::new())].into_iter().collect();
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    let machine = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, unknown, machine).unwrap();
    rustix::thread::set_no_new_privs(true).unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

/// Why an offer was refused; nothing when the session has ended.
async fn answer_to(session: &Client) -> Option<Refusal> {
    loop {
        match common::hear(&session.socket).await {
            Ok(Some(Received { message: ToClient::Refused(_, why), .. })) => return Some(why),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

// --- a file system that does not answer

/// A FUSE file system with one file, which answers everything but FLUSH, and GETATTR once the file is open. Unmounted
/// and given up when dropped.
struct Silent {
    directory: tempfile::TempDir,
    /// Where the kernel takes the order to give the file system up.
    abort: PathBuf,
    /// What was asked and has no answer.
    unanswered: std::sync::mpsc::Receiver<()>,
}

impl Silent {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let options = "fd=0,rootmode=40755,user_id=0,group_id=0,allow_other";
        let mut mount = Command::new("mount");
        mount.args(["-i", "-t", "fuse", "-o", options, "silent"]).arg(directory.path());
        assert!(mount.stdin(device.try_clone().unwrap()).status().unwrap().success());
        let (asked, unanswered) = std::sync::mpsc::channel();
        std::thread::spawn(move || answer(device, &asked));
        let device = fs::metadata(directory.path()).unwrap().dev();
        let abort = PathBuf::from(format!("/sys/fs/fuse/connections/{}/abort", device & 0xff | device >> 12 & !0xff));
        Self { directory, abort, unanswered }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("file")
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = Command::new("mount").args(["-t", "fusectl", "fusectl", "/sys/fs/fuse/connections"]).output();
        fs::write(&self.abort, "1").expect("the file system can be given up");
        let _ = Command::new("umount").arg("-l").arg(self.directory.path()).output();
    }
}

/// The daemon, by `linux/fuse.h`: a header of 40 bytes in, of 16 bytes out.
fn answer(mut device: File, asked: &std::sync::mpsc::Sender<()>) {
    let mut request = vec![0; 128 << 10];
    let attributes = |node: u64| {
        let mode: u32 = if node == 1 { 0o40_755 } else { 0o100_666 };
        let times = [0_u64; 3];
        let mut bytes = Vec::new();
        for word in [node, 0, 0, times[0], times[1], times[2]] {
            bytes.extend(word.to_le_bytes());
        }
        for word in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0_u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    };
    let mut opened = false;
    while let Ok(n) = device.read(&mut request) {
        let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_le_bytes(request[at..at + 8].try_into().unwrap());
        let (opcode, unique, node) = (word(4), long(8), long(16));
        assert!(n >= 40);
        // An hour.
        let valid = 3600_u64.to_le_bytes();
        let (error, body): (i32, Vec<u8>) = match opcode {
            // LOOKUP: node, generation, how long entry and attributes are valid (these not at all), attributes.
            1 => (0, [&2_u64.to_le_bytes()[..], &[0; 8], &valid, &[0; 8], &[0; 8], &attributes(2)].concat()),
            // FORGET and BATCH_FORGET have no answer.
            2 | 42 => continue,
            // GETATTR
            3 if opened && node == 2 => {
                let _ = asked.send(());
                continue;
            }
            3 => (0, [&valid[..], &[0; 8], &attributes(node)].concat()),
            // OPEN and OPENDIR: handle, flags.
            14 | 27 => {
                opened |= opcode == 14;
                (0, vec![0; 16])
            }
            // RELEASE and RELEASEDIR
            18 | 29 => (0, Vec::new()),
            // FLUSH
            25 => {
                let _ = asked.send(());
                continue;
            }
            // INIT: version 7.31, and the rest as small as it may be.
            26 => {
                let mut body = vec![0; 64];
                body[0] = 7;
                body[4] = 31;
                body[20..24].copy_from_slice(&4096_u32.to_le_bytes());
                (0, body)
            }
            _ => (-libc::ENOSYS, Vec::new()),
        };
        let mut out = Vec::from((16 + body.len() as u32).to_le_bytes());
        out.extend(error.to_le_bytes());
        out.extend(unique.to_le_bytes());
        out.extend(body);
        if device.write_all(&out).is_err() {
            break;
        }
    }
}

// --- the test

/// The program, at a socket that everybody may reach.
struct Scene {
    service: Running,
    directory: tempfile::TempDir,
    socket: PathBuf,
    listener: TcpListener,
}

fn started(socket: &Path) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmbc-host"));
    command.args(["run", "--docker", "off", "--socket"]).arg(socket).stdin(Stdio::null());
    Running::answers(command.spawn().unwrap(), socket)
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let socket = directory.path().join("host.sock");
        Self { service: started(&socket), directory, socket, listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    /// A process of the hostile user.
    fn attack(&self, role: &str, file: &Path, keeper: Stdio) -> Child {
        self.process(role, file, keeper, USER)
    }

    fn process(&self, role: &str, file: &Path, keeper: Stdio, uid: u32) -> Child {
        let program = self.directory.path().join("program");
        if !program.exists() {
            // By another process: what this one has open for writing, a child that another test starts just now has too,
            // and such a file cannot be run.
            let copied = {
                let mut install = Command::new("install");
                install.args(["-m", "755"]).arg(std::env::current_exe().unwrap()).arg(&program);
                install.status()
            };
            assert!(copied.unwrap().success());
        }
        let mut command = Command::new(program);
        command.env(ROLE, role).env(SERVICE, &self.socket).env(FILE, file).uid(uid).gid(uid);
        command.env(SERVER, self.listener.local_addr().unwrap().to_string());
        command.stdin(keeper).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Others are served, and the service ends when it is told to.
    async fn others_are_served_and_it_ends(&mut self, how: Signal) -> Result<(), &'static str> {
        for _ in 0..4 {
            let client = Client::greeted(&self.socket).await;
            let (left, right) = tcp();
            client.offer(1, &left);
            client.offer(2, &right);
            client.granted().await;
            client.granted().await;
        }
        kill(Pid::from_raw(self.service.0.id().cast_signed()), how).unwrap();
        let begun = Instant::now();
        while self.service.0.try_wait().unwrap().is_none() {
            if begun.elapsed() > WATCHDOG {
                return Err("the service is told to end and does not");
            }
        }
        Ok(())
    }

    /// And another one starts at its place.
    async fn others_are_served_and_it_is_replaced(mut self) -> Result<(), &'static str> {
        let outcome = self.others_are_served_and_it_ends(Signal::SIGKILL).await;
        if outcome.is_err() {
            // Nobody can wait for it before the file system is given up.
            std::mem::forget(self);
        } else {
            drop(started(&self.socket));
        }
        outcome
    }
}

/// Waits until a child says that it is done.
fn done(child: &mut Child) {
    let mut said = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"done\n");
}

async fn flush() {
    let (scene, silent) = (Scene::new(), Silent::new());
    let mut child = scene.attack("flush", &silent.file(), Stdio::piped());
    done(&mut child);
    let outcome = scene.others_are_served_and_it_is_replaced().await;
    drop(silent);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(outcome, Ok(()));
}

async fn race() {
    let (scene, silent) = (Scene::new(), Silent::new());
    let mut child = scene.attack("race", &silent.file(), Stdio::piped());
    done(&mut child);
    let outcome = scene.others_are_served_and_it_is_replaced().await;
    drop(silent);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(outcome, Ok(()));
}

/// Here the wait is one that not even SIGKILL ends.
async fn mapped() {
    let (mut scene, silent) = (Scene::new(), Silent::new());
    let mut child = scene.attack("mapped", &silent.file(), Stdio::piped());
    done(&mut child);
    (0..SESSIONS).for_each(|_| silent.unanswered.recv_timeout(WATCHDOG).expect("nobody waits for the file"));
    let outcome = scene.others_are_served_and_it_ends(Signal::SIGTERM).await;
    if outcome.is_ok() {
        scene.service = started(&scene.socket);
    }
    let outcome = match outcome {
        Ok(()) => scene.others_are_served_and_it_ends(Signal::SIGKILL).await,
        failed => failed,
    };
    if outcome.is_err() {
        // Nobody can wait for it before the file system is given up.
        std::mem::forget(scene);
    }
    drop(silent);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(outcome, Ok(()));
}

async fn exec() {
    let (scene, silent) = (Scene::new(), Silent::new());
    let flags = SocketFlags::CLOEXEC;
    let (here, there) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let mut child = scene.attack("exec", &silent.file(), there.into());
    let hear = || {
        poll(&mut [PollFd::new(&here, PollFlags::IN)], None).unwrap();
        socket::receive::<ToHost>(here.as_fd()).unwrap().expect("the child has ended")
    };
    let session = hear().fds.pop().expect("the control socket");
    let offer = hear().message;
    silent.unanswered.recv().unwrap();
    socket::send(session.as_fd(), &offer, &[]).unwrap();
    // Ended when looking has taken too long, or at once because of the other program.
    while let Ok(Some(_)) = common::hear(&session).await {}
    let outcome = scene.others_are_served_and_it_is_replaced().await;
    drop(silent);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(outcome, Ok(()));
}

async fn stopped() {
    let Scene { service: old, directory, socket, .. } = Scene::new();
    let pid = Pid::from_raw(old.0.id().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    let new = started(&socket);
    kill(pid, Signal::SIGCONT).unwrap();
    assert_eq!(old.stop(Signal::SIGTERM), Some(0));
    Client::greeted(&socket).await;
    assert_eq!(new.stop(Signal::SIGTERM), Some(0));
    assert!(!socket.exists(), "the last one has cleaned up");
    drop(directory);
}

async fn answered() {
    let scene = Scene::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmbc-host"));
    let output = command.args(["run", "--docker", "off", "--socket"]).arg(&scene.socket).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("already running"), "{said}");
    Client::greeted(&scene.socket).await;
}

async fn crowd() {
    let scene = Scene::new();
    let mut users: Vec<_> =
        (0..CROWD).map(|n| scene.process("crowd", Path::new("-"), Stdio::piped(), 20_000 + n)).collect();
    let mut said: Vec<_> = users.iter_mut().map(|user| BufReader::new(user.stdout.take().unwrap()).lines()).collect();
    said.iter_mut().for_each(|lines| assert_eq!(lines.next().unwrap().unwrap(), "done"));
    users.iter_mut().for_each(|user| user.stdin.as_mut().unwrap().write_all(b"g").unwrap());
    let unseen: Vec<_> = said.iter_mut().map(|lines| lines.next().unwrap().unwrap()).collect();
    for mut user in users {
        user.kill().unwrap();
        user.wait().unwrap();
    }
    assert!(unseen.iter().all(|unseen| unseen == "0"), "of {}: {unseen:?}", SESSIONS as u64 * CROWDED);
}

async fn ignored() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("host.sock");
    let mut env = Command::new("env");
    env.args(["--ignore-signal=CHLD", env!("CARGO_BIN_EXE_shmbc-host"), "run", "--docker", "off", "--socket"])
        .arg(&socket);
    drop(Running::answers(env.spawn().unwrap(), &socket));
}

/// Linux has `close_range` since 5.9, and sandboxes forbid what they do not know.
async fn left() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("host.sock");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, "without").env(SERVICE, &socket);
    let service = Running::answers(command.spawn().unwrap(), &socket);
    let (group, own) = (own_children(service.0.id()), service.0.id());
    assert!(!group.is_empty(), "no puller");
    assert_eq!(service.stop(Signal::SIGKILL), None, "{own}");
    let begun = Instant::now();
    while group.iter().any(|pid| lives(*pid)) {
        assert!(begun.elapsed() < WATCHDOG, "of {group:?} some live on");
    }
}

/// The processes that a service has forked: they run its program, and are in its session, but not it.
fn own_children(service: u32) -> Vec<u32> {
    let program = fs::read_link(format!("/proc/{service}/exe")).unwrap();
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let same = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
    let socket = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mine = socket(service);
    all.filter(|pid| *pid != service && same(pid) && socket(*pid) == mine).collect()
}

fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

async fn locked() {
    let directory = tempfile::tempdir().unwrap();
    let opened = File::open(directory.path()).unwrap();
    let lock = Flock::lock(opened, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
    drop(started(&directory.path().join("host.sock")));
    drop(lock);
}
