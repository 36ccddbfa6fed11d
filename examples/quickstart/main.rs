//! The main job of SHMBC from one command: two processes, a host service, real files, and what it brings.
//!
//! `cargo run --release --example quickstart [DIR] [--json]`
//!
//! This process embeds a host service and starts two more of itself, a server and a client. The client reads DIR's
//! files into memory and moves them to the server over three streams in turn: a `ShmStream` upgraded to shared memory,
//! a `ShmStream` kept on TCP loopback, and a tokio `UnixStream`. Files: `main.rs` starts and reports; `files.rs` what is
//! moved; `wire.rs` the protocol; `server.rs` and `client.rs` the two ends; `table.rs` the result for people.

mod client;
mod files;
mod server;
mod table;
mod wire;

use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use shmbc_host::{Docker, Host, HostConfig};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use client::{Event, Report};

/// Moves real files between two processes through shared memory, TCP loopback and a Unix socket, and compares.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    /// Directory whose files are moved [default: the source tree this example was built from]
    dir: Option<PathBuf>,
    /// Print one JSON object as the last line of standard output instead of a table
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What the started processes are.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true, name = "__server")]
    Server { dir: PathBuf },
    #[command(hide = true, name = "__client")]
    Client { dir: PathBuf, addresses: String },
}

/// Why there is no result, in one sentence.
#[derive(Debug)]
enum Failure {
    /// The command line asks for something that cannot be.
    Usage(String),
    /// It went wrong on the way.
    Failed(String),
    /// The user has had enough.
    Interrupted,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match args.role {
        Some(Role::Server { dir }) => server::run(&dir).await.map_err(|error| failed("server", &*error)),
        Some(Role::Client { dir, addresses }) => match serde_json::from_str(&addresses) {
            Ok(addresses) => {
                client::run(&dir, &addresses).await;
                Ok(())
            }
            Err(error) => Err(failed("addresses", &error)),
        },
        None => tokio::select! {
            outcome = parent(args.dir, args.json) => outcome,
            _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
        },
    };
    let (why, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(why)) => (why, 2),
        Err(Failure::Failed(why)) => (why, 1),
        Err(Failure::Interrupted) => ("interrupted".into(), 130),
    };
    eprintln!("quickstart: {why}");
    ExitCode::from(code)
}

async fn parent(dir: Option<PathBuf>, json: bool) -> Result<(), Failure> {
    let dir = match dir {
        Some(dir) => dir,
        None => own_tree()?,
    };
    files::survey(&dir).map_err(Failure::Usage)?;

    let temp = tempfile::tempdir().map_err(|error| failed("cannot make a temporary directory", &error))?;
    let mut config = HostConfig::at(temp.path().join("host.sock"));
    config.docker = Docker::Off;
    let host = Host::start(config).await.map_err(|error| failed("cannot start the host service", &error))?;
    let report = compare(&host, temp.path(), &dir).await;
    host.shutdown().await;
    let mut report = report?;

    if json {
        report.volume = None;
        println!("{}", serde_json::to_string(&report).map_err(|error| failed("report", &error))?);
    } else {
        println!("{}", table::render(&report));
    }
    if !report.digests_ok {
        return Err(Failure::Failed("a file arrived changed: its digest is not the one it was sent with".into()));
    }
    Ok(())
}

/// Runs the two processes and follows the client until it has finished.
async fn compare(host: &Host, temp: &Path, dir: &Path) -> Result<Report, Failure> {
    let program = std::env::current_exe().map_err(|error| failed("cannot find this program", &error))?;
    let start = |role: &str, what: &Path| {
        let mut command = Command::new(&program);
        command.arg(role).arg(what).env("SHMBC_HOST", host.socket()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    };
    let (mut server, mut lines) = spawn(start("__server", temp).stdin(Stdio::piped()))?;
    let addresses = next_line(&mut lines, "server").await?;
    let (mut client, mut lines) = spawn(start("__client", dir).arg(addresses).stdin(Stdio::null()))?;

    let bar = ProgressBar::no_length().with_message("reading files");
    loop {
        let line = next_line(&mut lines, "client").await?;
        match serde_json::from_str(&line).map_err(|error| failed("client", &error))? {
            Event::Loaded { files, bytes, unreadable, cut, rounds } => {
                note(&format!("{}, {} from {}", table::files(files), table::size(bytes), dir.display()));
                if unreadable > 0 {
                    note(&format!("{unreadable} files or directories could not be read and are left out"));
                }
                if cut {
                    let most = table::size(files::BYTES_MAX);
                    note(&format!("the rest of the directory is left out: at most {most} of files are kept in memory"));
                }
                bar.set_length(rounds as u64);
                bar.set_style(ProgressStyle::with_template("{msg} {bar:40} {pos}/{len}").expect("a valid template"));
                bar.set_message("rounds");
                if !stderr().is_terminal() {
                    note(&format!("measuring, {rounds} rounds"));
                }
            }
            Event::Round => bar.inc(1),
            Event::NotUpgraded { path } => {
                return Err(Failure::Failed(format!("the stream did not reach shared memory, its path is {path}")));
            }
            Event::Failed(why) => return Err(Failure::Failed(why)),
            Event::Done(report) => {
                bar.finish_and_clear();
                // The client has closed its connections by the time it ends, and with them the server has nothing to do.
                let ended = async { tokio::try_join!(client.wait(), server.wait()) };
                ended.await.map_err(|error| failed("waiting for the two processes", &error))?;
                return Ok(report);
            }
        }
    }
}

type Output = Lines<BufReader<ChildStdout>>;

fn spawn(command: &mut Command) -> Result<(Child, Output), Failure> {
    let mut child = command.spawn().map_err(|error| failed("cannot start a process", &error))?;
    let stdout = child.stdout.take().expect("it was asked for");
    Ok((child, BufReader::new(stdout).lines()))
}

async fn next_line(lines: &mut Output, who: &str) -> Result<String, Failure> {
    match lines.next_line().await {
        Ok(Some(line)) => Ok(line),
        Ok(None) => Err(Failure::Failed(format!("the {who} process ended early"))),
        Err(error) => Err(failed(who, &error)),
    }
}

/// The checkout this was built from, or where the program is run when that is gone.
fn own_tree() -> Result<PathBuf, Failure> {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).parent().filter(|tree| tree.is_dir());
    built_from.map_or_else(
        || std::env::current_dir().map_err(|error| failed("there is no current directory", &error)),
        |tree| Ok(tree.to_owned()),
    )
}

/// For people who watch; a bar would hide it otherwise.
fn note(what: &str) {
    eprintln!("quickstart: {what}");
}

fn failed<E: std::fmt::Display + ?Sized>(what: &str, error: &E) -> Failure {
    Failure::Failed(format!("{what}: {error}"))
}
