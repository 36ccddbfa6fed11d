//! What the commands that list things share: where they ask, and how they print.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use comfy_table::{Table, presets};
use serde::Serialize;
use shmbc::control::client::{Client, socket_path};
use shmbc::control::socket::DEFAULT_PATH;

/// Where a command asks.
#[derive(Clone, Debug, Args)]
pub(crate) struct Socket {
    /// The control socket of the service.
    // Not the parser for paths, which refuses an empty variable: that counts as unset.
    #[arg(long, env = "SHMBC_HOST", default_value = DEFAULT_PATH, value_parser = OsStringValueParser::new().map(PathBuf::from))]
    socket: PathBuf,
}

/// Arguments of a command that lists a table of the host service.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    socket: Socket,
    /// Print one JSON array.
    #[arg(long)]
    pub(crate) json: bool,
}

impl List {
    pub(crate) fn client(&self) -> Result<Client, String> {
        self.socket.client()
    }
}

impl Socket {
    /// Its path.
    pub(crate) fn path(&self) -> Result<PathBuf, String> {
        socket_path(&self.socket).map_err(|e| e.to_string())
    }

    pub(crate) fn client(&self) -> Result<Client, String> {
        Client::connect(&self.path()?).map_err(|e| e.to_string())
    }
}

/// Prints a table for people, a line each row, and below a line what `below` has for it.
pub(crate) fn print_table(
    header: Vec<&str>,
    rows: impl Iterator<Item = Vec<String>>,
    below: &[Option<String>],
) -> Result<(), String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    let mut lines: Vec<_> = table.trim_fmt().lines().map(str::to_owned).collect();
    // The header is a line, too.
    for (n, text) in below.iter().enumerate().rev() {
        if let Some(text) = text {
            lines.insert(n + 2, format!("    {text}"));
        }
    }
    crate::print_text(&lines.join("\n"))
}

/// Prints something for programs, in one line.
pub(crate) fn print_json(what: &(impl Serialize + ?Sized)) -> Result<(), String> {
    crate::print_text(&serde_json::to_string(what).map_err(|e| e.to_string())?)
}

/// Whether a person wants no colours, by the variable `NO_COLOR`. An empty one counts as unset.
pub(crate) fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
