//! The tests in which somebody means harm, each again and again: they drive the real service and real programs, and each says by
//! itself what must hold. What this machine cannot run they report as ignored.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::outcome::{Budget, Outcome};

/// Package and test program.
const ATTACKS: [(&str, &str); 5] = [
    ("shmbc-host", "hostile"),
    ("shmbc-host", "raised"),
    ("shmbc-host", "stuck"),
    ("shmbc-tests", "hostile"),
    ("shmbc-tests", "identity"),
];

/// Times that a full run does each.
const FULL: u64 = 50;

pub(super) fn run(budget: &Budget) -> Outcome {
    let mut outcome = Outcome::of_full(FULL * ATTACKS.len() as u64);
    let programs: Vec<_> = ATTACKS.into_iter().map(|(package, test)| (test, program(package, test))).collect();
    outcome.rounds(budget, |round| {
        let (test, program) = &programs[(round % programs.len() as u64) as usize];
        let program = program.as_ref().map_err(Clone::clone)?;
        let output = Command::new(program).stdin(Stdio::null()).output().map_err(|e| format!("{test}: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let failed: Vec<_> = said.lines().filter(|line| line.contains("FAILED") || line.contains("panicked")).collect();
        Err(format!("{test}: {}: {}", output.status, failed.join("; ")))
    });
    outcome.figure("programs", ATTACKS.len().to_string());
    outcome
}

/// Has cargo build a test program, and asks it where that is.
fn program(package: &str, test: &str) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").ok_or("attacks needs cargo: run it as `cargo run`")?;
    let mut command = Command::new(cargo);
    command.args(["test", "--quiet", "--no-run", "--message-format=json", "--package", package, "--test", test]);
    let output = command.stderr(Stdio::inherit()).output().map_err(|e| format!("cargo: {e}"))?;
    if !output.status.success() {
        return Err(format!("{package}'s {test} could not be built: {}", output.status));
    }
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let artifacts = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut tests =
        artifacts.filter(|artifact| artifact["target"]["name"] == test && !artifact["executable"].is_null());
    let path = tests.find_map(|artifact| artifact["executable"].as_str().map(PathBuf::from));
    path.ok_or_else(|| format!("cargo does not say where {package}'s {test} is"))
}
