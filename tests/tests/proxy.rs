//! `shmbc proxy` between programs that know nothing of SHMBC: real processes, plain sockets at both outer ends.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use shmbc_tests::process::program;
use shmbc_tests::raw::dies_with_us;
use shmbc_tests::sockets::wait_until;
use shmbc_tests::{HostProcess, Pattern};

/// Longer than anything takes; a test that runs into it has failed.
const WATCHDOG: Duration = Duration::from_secs(60);

/// More than both rings and every socket buffer hold.
const LONG: usize = 48 << 20;

/// A running proxy; killed when dropped.
struct Proxy {
    child: Child,
    address: String,
    log: Receiver<Value>,
}

impl Proxy {
    /// `host`: the control socket, or `off`.
    fn start(host: &str, listen: &str, target: &str, more: &[&str]) -> Self {
        let mut command = Command::new(program("shmbc-under-test"));
        command
            .args(["proxy", "--json", "--log", "shmbc_cli=debug", "--socket", host])
            .args(more)
            .args([listen, target]);
        let mut child = dies_with_us(command.stdin(Stdio::null()).stderr(Stdio::piped())).spawn().expect("start shmbc");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let (say, log) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // Whoever listened may have gone.
                let _ = say.send(serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}")));
            }
        });
        let mut proxy = Self { child, address: String::new(), log };
        proxy.address = proxy.says("forwarding")["listen"].as_str().expect("its address").to_owned();
        proxy
    }

    /// Waits for a message in its log.
    fn says(&self, message: &str) -> Value {
        loop {
            let entry = self.log.recv_timeout(WATCHDOG).unwrap_or_else(|e| panic!("never says {message:?}: {e}"));
            if entry["message"].as_str().is_some_and(|said| said.contains(message)) {
                return entry;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("kill");
    }

    fn ends(&mut self) -> ExitStatus {
        wait_until("the proxy ends", || self.child.try_wait().expect("wait").is_some());
        self.child.wait().expect("wait")
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("connect to the proxy");
        stream.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
        stream.set_write_timeout(Some(WATCHDOG)).expect("a timeout");
        stream
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that knows nothing of SHMBC.
fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("its address").to_string();
    (listener, address)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("accept");
    stream.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
    stream.set_write_timeout(Some(WATCHDOG)).expect("a timeout");
    stream
}

/// Program, proxy, proxy, program; the two proxies reach the host service at `host`.
fn chain(host: &str) -> (TcpListener, [Proxy; 2]) {
    let (listener, server) = listen();
    let far = Proxy::start(host, "127.0.0.1:0", &server, &[]);
    let near = Proxy::start(host, "127.0.0.1:0", &far.address, &[]);
    (listener, [near, far])
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Pattern::new(seed).fill(0, &mut bytes);
    bytes
}

/// Both ends write and read at once; what each got.
fn exchange(client: &TcpStream, server: &TcpStream, there: &[u8], back: &[u8]) -> (Vec<u8>, Vec<u8>) {
    fn write(mut stream: &TcpStream, bytes: &[u8]) {
        stream.write_all(bytes).expect("write");
        stream.shutdown(Shutdown::Write).expect("shutdown");
    }
    fn read(mut stream: &TcpStream) -> Vec<u8> {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("read");
        all
    }
    thread::scope(|scope| {
        scope.spawn(|| write(client, there));
        scope.spawn(|| write(server, back));
        let at_server = scope.spawn(|| read(server));
        (at_server.join().expect("the reader"), read(client))
    })
}

#[test]
fn bytes_when_two_proxies_forward_them_go_whole_both_ways_through_shared_memory() {
    let host = HostProcess::start();
    let (listener, proxies) = chain(host.socket().to_str().expect("a plain path"));
    let (mut client, mut server) = (proxies[0].connect(), accept(&listener));

    // Turn about, until the two proxies have found that their connection lives on.
    let pids = proxies.each_ref().map(|proxy| u64::from(proxy.child.id()));
    wait_until("the connection between the proxies is upgraded", || {
        let mut byte = [7];
        client.write_all(&byte).and_then(|()| server.read_exact(&mut byte)).expect("there");
        server.write_all(&byte).and_then(|()| client.read_exact(&mut byte)).expect("and back");
        host.connections().iter().any(|row| {
            let ends: Vec<_> =
                row["ends"].as_array().expect("ends").iter().filter_map(|end| end["pid"].as_u64()).collect();
            row["path"] == "shared-memory" && pids.iter().all(|pid| ends.contains(pid))
        })
    });

    let (there, back) = (bytes(1, LONG), bytes(2, LONG));
    let (at_server, at_client) = exchange(&client, &server, &there, &back);
    assert!(at_server == there && at_client == back, "bytes are missing, or others");
    drop((client, server));
    let ended = [proxies[0].says("ended"), proxies[1].says("ended")];
    assert_eq!(ended[0]["path_to"], "shared memory", "{}", ended[0]);
    assert_eq!(ended[1]["path"], "shared memory", "{}", ended[1]);
}

#[test]
fn bytes_when_there_is_no_host_service_go_whole_by_tcp() {
    let (listener, proxies) = chain("off");
    let (client, server) = (proxies[0].connect(), accept(&listener));
    let (there, back) = (bytes(3, LONG), bytes(4, 1));
    let (at_server, at_client) = exchange(&client, &server, &there, &back);
    assert!(at_server == there && at_client == back, "bytes are missing, or others");
    drop((client, server));
    assert!(proxies[0].says("ended")["path_to"].as_str().expect("a path").starts_with("TCP"));
}

#[test]
fn half_close_when_it_passes_leaves_the_other_direction_open() {
    let host = HostProcess::start();
    for host in [host.socket().to_str().expect("a plain path"), "off"] {
        let (listener, proxies) = chain(host);
        // Either end may be the one that closes first.
        for client_first in [true, false] {
            let (client, server) = (proxies[0].connect(), accept(&listener));
            let (mut first, mut second) = if client_first { (client, server) } else { (server, client) };
            first.write_all(b"the last").expect("write");
            first.shutdown(Shutdown::Write).expect("shutdown");
            let mut heard = String::new();
            second.read_to_string(&mut heard).expect("read to the end");
            assert_eq!(heard, "the last");
            // Turn after turn the other way, long after the end of the first.
            for turn in 0..100_u8 {
                second.write_all(&[turn]).expect("write");
                let mut byte = [0];
                first.read_exact(&mut byte).expect("read");
                assert_eq!(byte, [turn]);
            }
            drop(second);
            assert_eq!(first.read(&mut [0]).expect("the end"), 0);
        }
    }
}

#[test]
fn writer_when_nobody_reads_is_held_up_and_nothing_is_lost() {
    let (listener, proxies) = chain("off");
    let (mut client, mut server) = (proxies[0].connect(), accept(&listener));
    client.set_nonblocking(true).expect("non-blocking");
    let all = bytes(5, 128 << 20);
    let mut written = 0;
    // Full only when it stays full: proxies and kernel move bytes on for a while.
    let mut full_since = None;
    loop {
        match client.write(&all[written..]) {
            Ok(n) => (written, full_since) = (written + n, None),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let since = *full_since.get_or_insert_with(std::time::Instant::now);
                if since.elapsed() > Duration::from_secs(1) {
                    break;
                }
                thread::sleep(Duration::from_millis(5));
            }
            Err(e) => panic!("write: {e}"),
        }
        assert!(written < all.len(), "the proxies take everything and nobody reads");
    }
    client.shutdown(Shutdown::Write).expect("shutdown");
    let mut read = Vec::new();
    server.read_to_end(&mut read).expect("read");
    assert!(read == all[..written], "bytes are missing, or others");
}

#[test]
fn reset_when_one_end_sends_it_reaches_the_other() {
    let (listener, proxies) = chain("off");
    let (client, mut server) = (proxies[0].connect(), accept(&listener));
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(client);
    let seen = server.read(&mut [0]).expect_err("a reset");
    assert_eq!(seen.kind(), io::ErrorKind::ConnectionReset);
    proxies[0].says("broken");
}

#[test]
fn target_when_it_is_absent_closes_the_connection_and_is_named() {
    let (listener, target) = listen();
    drop(listener);
    let directory = tempfile::tempdir().expect("tempdir");
    let socket = format!("unix:{}", directory.path().join("nobody").display());
    for (target, why) in [(target.as_str(), "refused"), (&socket, "No such file")] {
        let proxy = Proxy::start("off", "127.0.0.1:0", target, &[]);
        // Again and again: a target that is away does not end the proxy.
        for _ in 0..3 {
            assert_eq!(proxy.connect().read(&mut [0]).expect("the end"), 0);
            let said = proxy.says("the target cannot be reached");
            assert_eq!(said["to"], *target);
            assert!(said["error"].as_str().is_some_and(|error| error.contains(why)), "{said}");
            assert_eq!(said["level"], "WARN");
        }
    }
}

#[test]
fn connections_when_there_are_many_do_not_disturb_each_other() {
    let host = HostProcess::start();
    let (listener, proxies) = chain(host.socket().to_str().expect("a plain path"));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept");
            thread::spawn(move || io::copy(&mut stream.try_clone().expect("clone"), &mut stream));
        }
    });
    let mut open: Vec<_> = (0..100).map(|_| proxies[0].connect()).collect();
    for round in 0..20 {
        for (i, stream) in open.iter_mut().enumerate() {
            let sent = bytes(round * 1000 + i as u64, 100 + i);
            stream.write_all(&sent).expect("write");
            let mut got = vec![0; sent.len()];
            stream.read_exact(&mut got).expect("read");
            assert_eq!(got, sent);
        }
    }
}

fn socket_in(directory: &tempfile::TempDir, name: &str) -> (PathBuf, String) {
    let path = directory.path().join(name);
    let address = format!("unix:{}", path.display());
    (path, address)
}

#[test]
fn unix_sockets_when_at_both_outer_ends_carry_bytes_and_half_closes() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (server_path, server) = socket_in(&directory, ".s.PGSQL.5432");
    let (client_path, client) = socket_in(&directory, "in.sock");
    let listener = UnixListener::bind(server_path).expect("bind");
    let far = Proxy::start("off", "127.0.0.1:0", &server, &[]);
    let mut near = Proxy::start("off", &client, &far.address, &["--mode", "0620"]);
    assert_eq!(client_path.metadata().expect("the socket").permissions().mode() & 0o777, 0o620);

    let mut stream = UnixStream::connect(&client_path).expect("connect");
    stream.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
    let (mut served, _) = listener.accept().expect("accept");
    stream.write_all(b"there").expect("write");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    let mut heard = String::new();
    served.read_to_string(&mut heard).expect("read");
    served.write_all(b"and back").expect("write");
    drop(served);
    stream.read_to_string(&mut heard).expect("read");
    assert_eq!(heard, "thereand back");

    near.signal(Signal::SIGTERM);
    assert!(near.ends().success());
    assert!(!client_path.exists(), "the file goes with the proxy");
}

#[test]
fn socket_file_when_nobody_answers_is_replaced_and_else_left() {
    fn refused(listen: &str) -> String {
        let mut command = Command::new(program("shmbc-under-test"));
        command.args(["proxy", "--socket", "off", listen, "127.0.0.1:1"]).stderr(Stdio::piped());
        let mut child = dies_with_us(&mut command).spawn().expect("start shmbc");
        wait_until("it is refused", || child.try_wait().expect("wait").is_some());
        let output = child.wait_with_output().expect("its output");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("text")
    }
    fn answers(path: &Path) -> bool {
        UnixStream::connect(path).is_ok()
    }
    let directory = tempfile::tempdir().expect("tempdir");
    let (path, address) = socket_in(&directory, "s");

    // Left behind by one that was killed.
    let mut killed = Proxy::start("off", &address, "127.0.0.1:1", &[]);
    killed.signal(Signal::SIGKILL);
    killed.ends();
    assert!(path.exists() && !answers(&path));
    let mut second = Proxy::start("off", &address, "127.0.0.1:1", &[]);
    assert!(answers(&path));

    let said = refused(&address);
    assert!(said.contains("somebody answers there already") && said.contains(&address), "{said}");
    assert!(answers(&path), "the one that answers is not disturbed");

    // Somebody else's file at the path outlives the proxy.
    std::fs::remove_file(&path).expect("remove");
    let other = UnixListener::bind(&path).expect("bind");
    second.signal(Signal::SIGINT);
    assert!(second.ends().success());
    assert!(answers(&path));
    drop(other);
}

#[test]
fn proxy_when_told_to_stop_ends_with_its_last_connection() {
    let (listener, server) = listen();
    let mut proxy = Proxy::start("off", "127.0.0.1:0", &server, &[]);
    let (mut client, mut served) = (proxy.connect(), accept(&listener));
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.says("stopping")["open"], 1);
    let address: SocketAddr = proxy.address.parse().expect("an address");
    assert_eq!(TcpStream::connect(address).expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
    // What is open goes on to its end.
    let mut byte = [0];
    client.write_all(b"x").and_then(|()| served.read_exact(&mut byte)).expect("there");
    served.write_all(&byte).and_then(|()| client.read_exact(&mut byte)).expect("and back");
    assert!(proxy.child.try_wait().expect("wait").is_none(), "it waits for its last connection");
    drop((client, served));
    assert!(proxy.ends().success());
}

#[test]
fn proxy_when_told_twice_cuts_off_what_is_open() {
    let (listener, server) = listen();
    let mut proxy = Proxy::start("off", "127.0.0.1:0", &server, &[]);
    let (mut client, _served) = (proxy.connect(), accept(&listener));
    proxy.signal(Signal::SIGTERM);
    proxy.says("stopping");
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.says("cut off")["open"], 1);
    assert!(proxy.ends().success());
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));

    // And when it has waited long enough.
    let mut impatient = Proxy::start("off", "127.0.0.1:0", &server, &["--drain", "0"]);
    let (_client, _served) = (impatient.connect(), accept(&listener));
    impatient.signal(Signal::SIGINT);
    impatient.says("cut off");
    assert!(impatient.ends().success());
}
