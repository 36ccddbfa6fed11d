//! Every integration over connections that are upgraded while they are used, with a host service embedded in the test.

mod common;

use std::sync::OnceLock;

use common::Route;
use shmbc_host::{Docker, Host, HostConfig};
use shmbc_tokio::Config;
use tokio::runtime::Runtime;

/// The host service is a matter of the whole process: it runs until that ends, on a runtime of its own.
fn with_host() -> Route {
    static HOST: OnceLock<(Runtime, Host, tempfile::TempDir)> = OnceLock::new();
    HOST.get_or_init(|| {
        // A test calls this from its own runtime, where another cannot be entered.
        let started = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let dir = tempfile::tempdir().unwrap();
            let mut config = HostConfig::at(dir.path().join("host.sock"));
            config.docker = Docker::Off;
            let host = runtime.block_on(Host::start(config)).unwrap();
            Config::from_env().unwrap().host(host.socket()).install().unwrap();
            (runtime, host, dir)
        });
        started.join().unwrap()
    });
    Route::SharedMemory
}

common::all_scenarios!(with_host());
