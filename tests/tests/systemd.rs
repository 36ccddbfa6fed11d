//! The systemd units: systemd understands them, and they confine the service as far as the documents say.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use shmbc_tests::{Need, suite, test};

fn main() -> ExitCode {
    let needs = Need::Other("systemd-analyze", || version().is_some());
    // Each version rates by rules of its own.
    let rates = Need::Other("systemd-analyze 252, whose figure is documented", || version().as_deref() == Some("252"));
    suite(vec![
        test("units_when_read_by_systemd_have_no_line_that_it_does_not_know", verified).needs(needs),
        test("service_when_rated_by_systemd_is_exposed_no_more_than_documented", rated).needs(rates),
        test("units_when_read_name_the_socket_and_kind_that_the_service_takes", fitting),
    ])
}

/// The version of systemd-analyze, where it is.
fn version() -> Option<String> {
    let answer =
        Command::new("systemd-analyze").arg("--version").output().ok().filter(|answer| answer.status.success())?;
    String::from_utf8(answer.stdout).ok()?.split_whitespace().nth(1).map(str::to_owned)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn unit(kind: &str) -> String {
    std::fs::read_to_string(root().join(format!("packaging/systemd/shmbc-host.{kind}"))).expect("a unit")
}

/// Both units, with a program that is there.
fn installed(directory: &Path) -> [PathBuf; 2] {
    ["service", "socket"].map(|kind| {
        let path = directory.join(format!("shmbc-host.{kind}"));
        let there = unit(kind).replace("/usr/bin/shmbc-host", "/usr/bin/env");
        std::fs::write(&path, there).expect("write a unit");
        path
    })
}

fn verified() {
    let directory = tempfile::tempdir().expect("a directory");
    let verified =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).args(installed(directory.path())).output();
    let verified = verified.expect("systemd-analyze");
    let said = String::from_utf8_lossy(&verified.stderr);
    let ours: Vec<_> = said.lines().filter(|line| line.contains("shmbc-host")).collect();
    assert!(verified.status.success() && ours.is_empty(), "{said}");
}

fn rated() {
    let document = std::fs::read_to_string(root().join("docs/systemd.md")).expect("the document");
    let documented = document.split("exposure level ").nth(1).and_then(|text| text.split_whitespace().next());
    let documented: f64 = documented.and_then(|figure| figure.parse().ok()).expect("a figure in docs/systemd.md");
    let directory = tempfile::tempdir().expect("a directory");
    let [service, _] = installed(directory.path());
    let rated =
        Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager"]).arg(service).output();
    let rated = String::from_utf8_lossy(&rated.expect("systemd-analyze").stdout).into_owned();
    let figure = rated.split("exposure level for shmbc-host.service: ").nth(1).and_then(|text| text.split(' ').next());
    let figure: f64 = figure.and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("no figure in {rated}"));
    assert!(figure <= documented, "{figure} instead of {documented}:\n{rated}");
}

fn fitting() {
    let (service, socket) = (unit("service"), unit("socket"));
    for (unit, line) in [
        (&socket, format!("ListenSequentialPacket={}", shmbc::control::socket::DEFAULT_PATH)),
        // Any program may ask; what it gets is decided by who it is.
        (&socket, "SocketMode=0666".into()),
        (&service, "Type=notify".into()),
        (&service, "ExecStart=/usr/bin/shmbc-host run".into()),
        (
            &service,
            "CapabilityBoundingSet=CAP_SYS_PTRACE CAP_CHECKPOINT_RESTORE CAP_DAC_READ_SEARCH CAP_SYS_NICE".into(),
        ),
    ] {
        assert!(unit.lines().any(|have| have == line), "{line} is missing in\n{unit}");
    }
    for line in ["ProtectProc=", "ProcSubset=", "PrivateUsers=", "PrivateNetwork="] {
        assert!(!service.lines().any(|have| have.starts_with(line)), "with {line} it cannot see its clients");
    }
}
