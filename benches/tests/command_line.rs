//! The program as its users meet it: real processes, a real host service, a real bridge where one can be made.

use std::process::{Command, Output};

fn compare(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmbc-bench"));
    command.arg("compare").args(arguments).args(["--out", env!("CARGO_TARGET_TMPDIR")]);
    command.output().expect("the program starts")
}

#[test]
fn compare_when_asked_for_json_prints_one_object_per_measured_cell() {
    let done = compare(&[
        "--quick",
        "--json",
        "--rounds",
        "1",
        "--placements",
        "unpinned,one-core",
        "--sizes",
        "64",
        "--conns",
        "8",
    ]);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{errors}");
    let lines = String::from_utf8(done.stdout).expect("JSON is UTF-8");
    let cells: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("each line is an object")).collect();
    let count = |measure: &str| cells.iter().filter(|cell| cell["measure"] == measure).count();
    // A machine may refuse the two bridges; then it says so, and nothing else is missing.
    let refused = ["bridge", "docker"].iter().filter(|name| errors.contains(&format!("skipped: {name}: "))).count();
    // Limits are not for one core: there the ring and the copies are missing.
    assert_eq!(
        (count("rtt"), count("stream"), count("oneshot"), count("http1")),
        (10 + 11 - 2 * refused, 10 + 12 - 2 * refused, 2 * (5 - refused), 2 * (7 - refused))
    );
    let find = |contender: &str| cells.iter().find(|cell| cell["contender"] == contender).expect(contender);
    assert_eq!((&find("uds")["runtime"], &find("ring")["runtime"]), (&"current".into(), &serde_json::Value::Null));
    for cell in &cells {
        let number = |field: &str| cell[field].as_f64().unwrap_or_else(|| panic!("{field} of {cell} is no number"));
        assert!(number("min") > 0.0 && number("min") <= number("value") && number("value") <= number("max"), "{cell}");
        assert_eq!(cell["p99"].is_f64(), cell["measure"] == "rtt" || cell["measure"] == "http1", "{cell}");
        assert_eq!(cell["conns"] == 8 && cell["p50"].is_f64(), cell["measure"] == "http1", "{cell}");
    }
}

#[test]
fn compare_when_a_name_is_wrong_lists_the_right_ones() {
    for (option, right) in [
        ("--measures", "rtt, stream, oneshot, http1"),
        ("--contenders", "tcp, bridge, docker, uds, shmipc, iceoryx2-busy, iceoryx2-event, shmbc-off"),
        ("--placements", "two-cores, one-core, unpinned"),
        ("--runtime", "current, multi"),
        ("--sizes", "from 1 to 67108864"),
        ("--conns", "from 1 to 1000"),
    ] {
        let done = compare(&[option, "nonsense"]);
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && errors.contains("nonsense") && errors.contains(right), "{option}: {errors}");
    }
}
