//! `SHMBC_UPGRADE=eager`: connections that upgrade as soon as there are two ends. The settings are a process's own, so
//! this is one.

use shmbc_host::{Docker, Host, HostConfig};
use shmbc_tests::sockets::wait_until;
use shmbc_tokio::{Config, ShmListener, ShmStream, When};

#[test]
fn streams_when_eager_upgrade_without_a_byte_of_traffic() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("host.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut config = HostConfig::at(&socket);
    config.docker = Docker::Off;
    let host = runtime.block_on(Host::start(config)).unwrap();
    Config::default().host(&socket).upgrade(When::Eager).install().unwrap();
    runtime.block_on(async {
        let listener = ShmListener::bind("127.0.0.1:0").await.unwrap();
        let client = ShmStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        // Nobody has asked for it.
        wait_until("both ends are told to go", || host.counts().established == 1);
        let (up, down) = tokio::join!(client.upgraded(), server.upgraded());
        assert_eq!((up, down), (Ok(()), Ok(())));
    });
}
