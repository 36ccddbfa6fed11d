//! `shmbc completions` and `shmbc man`: what shells and `man` know about the tool, made of the same description that reads
//! its arguments, so that neither can say anything else.

use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

pub(crate) const COMPLETIONS_HELP: &str = "\
Examples:
  shmbc completions bash >/etc/bash_completion.d/shmbc
  shmbc completions zsh >/usr/local/share/zsh/site-functions/_shmbc
  shmbc completions fish >~/.config/fish/completions/shmbc.fish";

/// Arguments of `shmbc completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell: bash, zsh, fish, elvish or powershell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `shmbc man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The directory to write the pages to; made if it is not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Prints the script for a shell.
pub(crate) fn completions(completions: &Completions, mut tool: Command) -> Result<(), String> {
    let mut script = Vec::new();
    clap_complete::generate(completions.shell, &mut tool, "shmbc", &mut script);
    crate::print_text(String::from_utf8_lossy(&script).trim_end())
}

/// Writes `shmbc.1`, and `shmbc-COMMAND.1` for each command.
pub(crate) fn man(man: &Man, tool: Command) -> Result<(), String> {
    let failed = |what: &Path, error| format!("cannot write {}: {error}", what.display());
    std::fs::create_dir_all(&man.out).map_err(|e| failed(&man.out, e))?;
    // `help` has no page of its own.
    let tool = tool.disable_help_subcommand(true);
    clap_mangen::generate_to(tool, &man.out).map_err(|e| failed(&man.out, e))
}
