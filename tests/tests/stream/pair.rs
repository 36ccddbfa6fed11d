//! Connected pairs of every kind, and the host service they need.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use shmbc_host::{Docker, Host, HostConfig};
use shmbc_tokio::{Config, Path, ShmListener, ShmStream};
use tokio::net::{TcpListener, TcpStream};

/// How a pair moves its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours, kept on TCP.
    Tcp,
    /// Ours, upgraded before the test begins.
    Shm,
    /// Ours, upgraded while the test runs.
    Switching,
}

pub(crate) const KINDS: [Kind; 3] = [Kind::Tcp, Kind::Shm, Kind::Switching];

/// The host service of this process, started once.
pub(crate) fn host() -> &'static Host {
    static HOST: OnceLock<(tempfile::TempDir, tokio::runtime::Runtime, Host)> = OnceLock::new();
    let (_, _, host) = HOST.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let socket: PathBuf = dir.path().join("host.sock");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut config = HostConfig::at(&socket);
        config.docker = Docker::Off;
        // Small rings: the tests meet full ones, and wrap around, all the time.
        config.ring_capacity = 64 * 1024;
        // Under load an end may come late; the tests want the upgrade, not the time-out.
        config.twin_timeout = Duration::from_secs(20);
        let host = runtime.block_on(Host::start(config)).unwrap();
        Config::from_env().unwrap().host(socket).install().unwrap();
        (dir, runtime, host)
    });
    host
}

/// Runs `test` in a runtime of its own, as one of many in this process, with a watchdog.
pub(crate) fn run(test: impl Future<Output = ()>) {
    run_for(Duration::from_secs(120), test);
}

/// [`run`] where no event can come between two calls that do not wait: the reactor runs only while the test waits.
pub(crate) fn run_on_one_thread(test: impl Future<Output = ()>) {
    run_in(&mut tokio::runtime::Builder::new_current_thread(), Duration::from_secs(120), test);
}

/// [`run`] with another watchdog.
pub(crate) fn run_for(limit: Duration, test: impl Future<Output = ()>) {
    run_in(tokio::runtime::Builder::new_multi_thread().worker_threads(2), limit, test);
}

fn run_in(runtime: &mut tokio::runtime::Builder, limit: Duration, test: impl Future<Output = ()>) {
    host();
    runtime.enable_all().build().unwrap().block_on(async {
        tokio::time::timeout(limit, test).await.expect("the test hangs");
    });
}

/// A connected pair of ours, both ends still on TCP.
pub(crate) async fn fresh() -> (ShmStream, ShmStream) {
    let listener = ShmListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) =
        tokio::join!(ShmStream::connect(listener.local_addr().unwrap()), async { listener.accept().await.unwrap().0 });
    (client.unwrap(), server)
}

/// A connected pair of `kind`.
pub(crate) async fn pair(kind: Kind) -> (ShmStream, ShmStream) {
    let (a, b) = fresh().await;
    match kind {
        Kind::Tcp => {
            a.set_acceleration(false);
            b.set_acceleration(false);
        }
        Kind::Shm => {
            let (up, down) = tokio::join!(a.upgraded(), b.upgraded());
            up.unwrap();
            down.unwrap();
            assert_eq!((a.path(), b.path()), (Path::SharedMemory, Path::SharedMemory));
        }
        // Both have asked when the first poll of `upgraded` returns; nobody waits for the answer.
        Kind::Switching => {
            for stream in [&a, &b] {
                tokio::select! { biased; _ = stream.upgraded() => {}, () = std::future::ready(()) => {} }
            }
        }
    }
    (a, b)
}

/// A connected pair of tokio's own.
pub(crate) async fn tokio_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), async { listener.accept().await.unwrap().0 });
    (client.unwrap(), server)
}
