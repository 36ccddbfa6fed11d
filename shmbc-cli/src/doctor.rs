//! `shmbc doctor`: is this place ready? What is missing, and what to do about it.
//!
//! Looks from where it runs, on the host or in a container, as the program there would. Each check is one [`Finding`]; what a
//! check cannot see from here it says. Ends with a connection of its own that goes over to shared memory, or says why not.

mod here;
mod service;
mod upgrade;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use shmbc_tokio::Config;

use crate::list::{Socket, no_color, print_json};

pub(crate) const HELP: &str = "\
Run it where the program runs: on the host, or in its container (docker exec CONTAINER /shmbc doctor).

Exit codes:
  0  ready, perhaps with notes
  1  something stands in the way of shared memory
  2  wrong arguments

Examples:
  shmbc doctor
  shmbc doctor --json | jq '.[] | select(.verdict == \"problem\")'";

/// Arguments of `shmbc doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    socket: Socket,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// Costs something.
    Warning,
    /// Connections stay on TCP.
    Problem,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do.
    fix: Option<String>,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self { check, verdict, found: found.into(), fix: None }
    }

    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, found)
    }

    fn note(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Note, found)
    }

    fn warning(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warning, found)
    }

    fn problem(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Problem, found)
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

pub(crate) fn run(doctor: &Doctor) -> Result<ExitCode, String> {
    let mut findings = here::settings();
    findings.extend(here::kernel());
    findings.push(here::descriptors());
    findings.extend(here::container());
    match doctor.socket.path() {
        Err(wrong) => {
            let off = "unset SHMBC_HOST, or name the socket: SHMBC_HOST=/run/shmbc/host.sock";
            findings.push(Finding::problem("host service", wrong).fix(off));
        }
        Ok(path) => {
            let (told, answers) = service::look(&path);
            findings.extend(told);
            if answers && let Ok(config) = Config::from_env() {
                findings.extend(upgrade::try_one(config.host(path)));
            }
        }
    }
    let worst = findings.iter().map(|finding| finding.verdict).max();
    if doctor.json {
        print_json(&findings)?;
    } else {
        print(&findings)?;
    }
    Ok(if worst == Some(Verdict::Problem) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(findings: &[Finding]) -> Result<(), String> {
    let colours = std::io::stdout().is_terminal() && !no_color();
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for Finding { check, verdict, found, fix } in findings {
        let (word, code) = match verdict {
            Verdict::Ok => ("ok", "32"),
            Verdict::Note => ("note", "36"),
            Verdict::Warning => ("warning", "33"),
            Verdict::Problem => ("problem", "31"),
        };
        let word = format!("{word:<7}");
        let word = if colours { format!("\u{1b}[{code}m{word}\u{1b}[0m") } else { word };
        lines.push(format!("{word}  {check:<width$}  {found}"));
        if let Some(fix) = fix {
            lines.push(format!("{:7}  {:width$}  -> {fix}", "", ""));
        }
    }
    let count = |wanted| findings.iter().filter(|finding| finding.verdict == wanted).count();
    let summary = match (count(Verdict::Problem), count(Verdict::Warning)) {
        (0, 0) => "ready".to_owned(),
        (0, warnings) => format!("ready, with {warnings} warning(s)"),
        (problems, _) => format!("not ready: {problems} problem(s)"),
    };
    lines.push(format!("\n{summary}"));
    crate::print_text(&lines.join("\n"))
}
