//! `scale`, `tables` and `flood` as their users meet them: real processes at a real host service.

use std::collections::BTreeSet;
use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmbc-bench"));
    command.args(arguments).arg("--json").output().expect("the program starts")
}

/// What was measured, and at what.
fn figures(done: &Output) -> BTreeSet<(String, String)> {
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let lines = std::str::from_utf8(&done.stdout).expect("JSON is UTF-8").lines();
    let figure = |line: &str| -> serde_json::Value { serde_json::from_str(line).expect("each line is an object") };
    let found = lines.map(figure).map(|figure| {
        let number = |field: &str| figure[field].as_f64().unwrap_or_else(|| panic!("{field} of {figure}"));
        assert!(number("min") <= number("value") && number("value") <= number("max"), "{figure}");
        (text(&figure["what"]), text(&figure["at"]))
    });
    found.collect()
}

fn has(figures: &BTreeSet<(String, String)>, what: &str, at: &str) -> bool {
    figures.contains(&(what.to_owned(), at.to_owned()))
}

#[test]
fn scale_when_few_connections_are_asked_for_measures_all_of_their_life() {
    let found = figures(&run(&["scale", "--quick", "--connections", "120", "--processes", "5"]));
    for what in [
        "memory of a connection: on TCP, both ends and kernel",
        "upgrades, all processes at once",
        "from offer to switch, quiet, p99",
        "CPU time while nothing happens",
        "all processes killed until all is gone",
    ] {
        assert!(has(&found, what, "120 connections"), "{what}: {found:?}");
    }
    assert!(has(&found, "from offer to switch, quiet, p50", "100 connections"), "{found:?}");
}

#[test]
fn tables_when_quick_measures_upgrades_and_sessions_by_connections_and_containers() {
    let found = figures(&run(&["tables", "--quick"]));
    for at in ["100 connections", "1000 connections", "100 containers", "1000 containers"] {
        for what in ["an upgrade, CPU time of the service", "a session, CPU time of the service"] {
            assert!(has(&found, what, at), "{what}, {at}: {found:?}");
        }
    }
}

#[test]
fn flood_when_root_measures_the_named_attacks_and_else_says_what_it_needs() {
    let done = run(&["flood", "--quick", "--ways", "half-open,never-reads"]);
    if !nix::unistd::geteuid().is_root() {
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && errors.contains("run it as root"), "{errors}");
        return;
    }
    let found = figures(&done);
    let at: BTreeSet<_> = found.iter().map(|(_, at)| at.as_str()).collect();
    assert_eq!(at, BTreeSet::from(["half-open", "never-reads"]));
    assert!(has(&found, "p99 against as much work", "half-open"), "{found:?}");
}
