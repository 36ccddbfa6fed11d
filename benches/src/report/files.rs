//! What a run leaves in its directory: tables, figures and raw values for programs, the machine, pictures.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use super::{json, machine, people, plots};
use crate::plan::Plan;
use crate::results::Results;

/// Writes them all over what was there, and returns their names.
pub(crate) fn write(dir: &Path, plan: &Plan, results: &Results, took: Duration) -> Result<Vec<String>, String> {
    fs::create_dir_all(dir).map_err(|e| format!("cannot make the directory {}: {e}", dir.display()))?;
    let mut names = Vec::new();
    let mut file = |name: &str, content: &dyn Fn(&mut BufWriter<File>) -> io::Result<()>| {
        let path = dir.join(name);
        let written = File::create(&path).map(BufWriter::new).and_then(|mut out| {
            content(&mut out)?;
            out.flush()
        });
        names.push(name.to_owned());
        written.map_err(|e| format!("{}: {e}", path.display()))
    };
    file("tables.txt", &|out| people::print(out, plan, results, took))?;
    file("figures.jsonl", &|out| json::print(out, results))?;
    file("rounds.jsonl", &|out| json::print_rounds(out, results))?;
    file("machine.txt", &|out| {
        machine::lines(plan, results, took).iter().try_for_each(|line| writeln!(out, "{line}"))
    })?;
    names.extend(plots::draw(dir, plan, results, &machine::note())?);
    Ok(names)
}
