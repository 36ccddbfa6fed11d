//! `shmbc`, the tool of SHMBC: `ss` and `ps` show what the host service knows, `query` where an address is, `doctor` what keeps
//! connections from shared memory; `proxy` forwards for programs that cannot be changed. Arguments in, one-line errors out.

mod doctor;
mod list;
mod pages;
mod proxy;
mod ps;
mod query;
mod rows;
mod ss;
mod top;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Shows what the host service of SHMBC knows, and forwards for programs that do not speak SHMBC.
#[derive(Debug, Parser)]
#[command(name = "shmbc", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List connections: who talks to whom, by which path and why, and how much.
    #[command(after_help = ss::HELP)]
    Ss(ss::Ss),
    /// Show live who talks to whom, how fast and by which path.
    #[command(after_help = top::HELP)]
    Top(top::Top),
    /// List containers.
    #[command(after_help = ps::HELP)]
    Ps(ps::Ps),
    /// Forward connections between TCP or a Unix socket and shared memory, for programs that cannot be changed.
    #[command(after_help = proxy::HELP)]
    Proxy(proxy::Proxy),
    /// Say where an address is, and what a stream to it would do and why.
    #[command(after_help = query::HELP)]
    Query(query::Query),
    /// Say whether this machine, container and kernel are ready, and what to do about what is missing.
    #[command(after_help = doctor::HELP)]
    Doctor(doctor::Doctor),
    /// Print the completions of a shell.
    #[command(after_help = pages::COMPLETIONS_HELP)]
    Completions(pages::Completions),
    /// Write the manual pages.
    #[command(hide = true)]
    Man(pages::Man),
}

/// The whole program. An error is one line on stderr and exit code 1; wrong arguments are 2. `query` and `doctor` have
/// codes of their own, which their help lists.
pub fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let result = match Arguments::parse().command {
        Command::Ss(ss) => ss::run(&ss).map(done),
        Command::Top(top) => top::run(&top).map(done),
        Command::Ps(ps) => ps::run(&ps).map(done),
        Command::Proxy(proxy) => proxy::run(proxy).map(done),
        Command::Query(query) => query::run(&query),
        Command::Doctor(doctor) => doctor::run(&doctor),
        Command::Completions(completions) => pages::completions(&completions, Arguments::command()).map(done),
        Command::Man(man) => pages::man(&man, Arguments::command()).map(done),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("shmbc: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a text and the end of its last line.
fn print_text(text: &str) -> Result<(), String> {
    match writeln!(std::io::stdout(), "{text}") {
        // Whoever reads has seen enough (`shmbc ss | head`).
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| format!("cannot write: {e}")),
    }
}
