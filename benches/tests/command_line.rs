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
        (count("rtt"), count("stream"), count("oneshot"), count("http1"), count("grpc"), count("upgrade")),
        (10 + 11 - 2 * refused, 10 + 13 - 2 * refused, 2 * (5 - refused), 2 * (7 - refused), 2 * (7 - refused), 2)
    );
    // In one placement, three aspects of two contenders. `cpu` depends on the program `perf`.
    assert_eq!(count("idle"), 3 * 2);
    assert!(count("cpu") >= 4 * 6 + 3 - 4 * refused, "{}", count("cpu"));
    let find = |contender: &str| cells.iter().find(|cell| cell["contender"] == contender).expect(contender);
    assert_eq!((&find("uds")["runtime"], &find("ring")["runtime"]), (&"current".into(), &serde_json::Value::Null));
    for cell in &cells {
        let number = |field: &str| cell[field].as_f64().unwrap_or_else(|| panic!("{field} of {cell} is no number"));
        // A pair of connections may never sleep, and take memory that was there.
        let may_be_none = ["idle", "cpu"].iter().any(|&measure| cell["measure"] == measure);
        assert!(may_be_none || number("min") > 0.0, "{cell}");
        assert!(number("min") <= number("value") && number("value") <= number("max"), "{cell}");
        let measure = cell["measure"].as_str().expect("a name");
        assert_eq!(cell["p99"].is_f64(), ["rtt", "http1", "grpc", "upgrade"].contains(&measure), "{cell}");
        assert_eq!(cell["conns"] == 8 && cell["p50"].is_f64(), ["http1", "grpc"].contains(&measure), "{cell}");
    }
}

#[test]
fn loads_when_named_are_measured_and_one_that_cannot_be_is_named() {
    let done = compare(&["--quick", "--json", "--rounds", "1", "--measures", "loads", "--placements", "unpinned"]);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{errors}");
    let lines = String::from_utf8(done.stdout).expect("JSON is UTF-8");
    let cells: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("each line is an object")).collect();
    // Who may not make control groups has no quota, and is told.
    let quota = !errors.contains("skipped: load quota: ");
    for (load, here) in [
        ("connections", true),
        ("busy-runtime", true),
        ("busy-cores", true),
        ("quota", quota),
        ("slow-peer-30us", true),
        ("slow-peer-200us", true),
    ] {
        let found: Vec<&str> =
            cells.iter().filter(|cell| cell["load"] == load).filter_map(|cell| cell["contender"].as_str()).collect();
        let all = ["uds", "shmbc-off", "shmbc-adaptive", "shmbc-fixed"];
        assert_eq!(found, if here { all.to_vec() } else { vec![] }, "{load}: {errors}");
    }
    assert!(cells.iter().all(|cell| cell["measure"] == "loads" && cell["p99"].is_f64()), "{lines}");
}

#[test]
fn compare_when_a_name_is_wrong_lists_the_right_ones() {
    for (option, right) in [
        ("--measures", "rtt, stream, oneshot, http1, grpc, upgrade, idle, cpu, loads"),
        ("--contenders", "tcp, bridge, docker, uds, shmipc, iceoryx2-busy, iceoryx2-event, shmbc-off"),
        ("--placements", "two-cores, one-core, unpinned"),
        ("--runtime", "current, multi"),
        ("--sizes", "from 1 to 67108864"),
        ("--loads", "connections, busy-runtime, busy-cores, quota, slow-peer-30us, slow-peer-200us"),
        ("--conns", "from 1 to 20000"),
    ] {
        let done = compare(&[option, "nonsense"]);
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && errors.contains("nonsense") && errors.contains(right), "{option}: {errors}");
    }
}
