//! `shmbc`, the tool of SHMBC: `ss` and `ps` show what the host service knows, `proxy` forwards for programs that cannot be
//! changed. Arguments in, one-line errors out.

mod list;
mod proxy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    Ss(list::List),
    /// List containers.
    Ps(list::List),
    /// Forward connections between TCP or a Unix socket and shared memory, for programs that cannot be changed.
    #[command(after_help = proxy::HELP)]
    Proxy(proxy::Proxy),
}

/// The whole program. An error is one line on stderr and exit code 1.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Ss(list) => list::connections(&list),
        Command::Ps(list) => list::containers(&list),
        Command::Proxy(proxy) => proxy::run(proxy),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shmbc: {error}");
            ExitCode::FAILURE
        }
    }
}
