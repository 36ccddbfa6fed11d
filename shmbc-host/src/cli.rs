//! The command line of `shmbc-host`: arguments in, one-line errors out.

pub mod service;

use std::process::ExitCode;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

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
    // A lone word that is no level would be taken for the name of a crate, and silence everything else.
    let understood = filter.contains(['=', ',', '[']) || filter.parse::<LevelFilter>().is_ok();
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|e| e.to_string())
        .and_then(|parsed| if understood { Ok(parsed) } else { Err("no such level".into()) })
        .map_err(|e| format!("log level {filter:?} is not understood ({e}): use error, warn, info, debug or trace"))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}
