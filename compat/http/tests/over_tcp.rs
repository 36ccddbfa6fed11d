//! Every integration over connections that stay on TCP: this process has acceleration turned off.

mod common;

use common::Route;
use shmbc_tokio::Config;

/// Acceleration is a matter of the whole process, so it is turned off once for all tests of this file.
fn acceleration_off() -> Route {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        Config::from_env().expect("environment").host_off().install().expect("nothing ran before");
    });
    Route::Tcp
}

common::all_scenarios!(acceleration_off());
