//! The command line of `shmbc-host`: arguments in, one-line errors out.

mod sandbox;
pub mod service;
mod settings;

use std::io::IsTerminal;
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

/// What is logged.
fn filter(filter: &str) -> Result<EnvFilter, String> {
    // A lone word that is no level would be taken for the name of a crate, and silence everything else.
    let understood = filter.contains(['=', ',', '[']) || filter.parse::<LevelFilter>().is_ok();
    EnvFilter::builder()
        .parse(filter)
        .map_err(|e| e.to_string())
        .and_then(|parsed| if understood { Ok(parsed) } else { Err("no such level".into()) })
        .map_err(|e| format!("log level {filter:?} is not understood ({e}): use error, warn, info, debug or trace"))
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Logs to stderr at the level that was asked for.
fn log(level: &str, format: LogFormat) -> Result<(), String> {
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(ansi).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
