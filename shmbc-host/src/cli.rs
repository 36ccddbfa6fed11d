//! The command lines of `shmbc-host` (the service) and `shmbc` (the tool): arguments in, one-line errors out.

pub mod service;
pub mod tool;

mod client;

use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

/// Runs a command and turns an error into one line on stderr and exit code 1.
fn exit<E: std::fmt::Display>(program: &str, result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Logs to stderr at the level that was asked for.
fn log(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|e| format!("log level {filter:?} is not understood ({e}): use error, warn, info, debug or trace"))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}
