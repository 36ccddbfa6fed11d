//! What Prometheus is told: the real program's answer, read over a plain socket.

mod common;

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;

use common::*;
use shmbc::control::message::*;
use shmbc_host::MetricsAddress;

/// One request, and everything that comes back.
fn ask(path: &std::path::Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

const SCRAPE: &str = "GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n";

/// The values of a scrape, by name and labels.
async fn scrape(path: &std::path::Path) -> HashMap<String, f64> {
    let path = path.to_owned();
    let answer = tokio::task::spawn_blocking(move || ask(&path, SCRAPE)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/openmetrics-text"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.into(), value.parse().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_when_connections_come_and_go_follow_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metrics.sock");
    let service = start_with(|config| config.metrics = Some(MetricsAddress::Unix(path.clone()))).await;
    let before = scrape(&path).await;
    assert_eq!(before["shmbc_connections{state=\"established\"}"], 0.0);
    assert_eq!(before[&format!("shmbc_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))], 1.0);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let b = listener.accept().unwrap().0;
    let [one, other] = [service.client().await, service.client().await];
    one.offer(1, &a);
    other.offer(1, &b);
    one.granted().await;
    other.granted().await;
    one.say(&ToHost::Ready(OfferId(1)));
    other.say(&ToHost::Ready(OfferId(1)));
    one.told_to_go(1).await;
    other.told_to_go(1).await;
    // Nobody's twin, and no connection at all.
    one.offer_as(2, -1, "127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
    assert_eq!(one.refused(2).await, Refusal::NotProven);

    let now = scrape(&path).await;
    let (sessions, fds) = (now["shmbc_sessions"], now["shmbc_open_fds"]);
    assert_eq!((sessions, now["shmbc_connections{state=\"established\"}"], now["shmbc_blocks"]), (2.0, 1.0, 1.0));
    assert!(fds > before["shmbc_open_fds"] && now["shmbc_block_bytes"] > 0.0, "{now:?}");
    assert_eq!((now["shmbc_offers_total"], now["shmbc_grants_total"], now["shmbc_upgrades_total"]), (3.0, 1.0, 1.0));
    assert_eq!(now["shmbc_refusals_total{reason=\"not-proven\"}"], 1.0);

    assert_eq!(now["shmbc_upgrade_time_seconds_count"], 1.0);
    assert_eq!((now["shmbc_moved_bytes_total"], now["shmbc_panics_total"]), (0.0, 0.0), "{now:?}");

    drop((one, other));
    service.until("both are gone", |counts| counts.sessions == 0).await;
    let after = scrape(&path).await;
    assert_eq!((after["shmbc_sessions"], after["shmbc_upgrades_total"]), (0.0, 1.0), "gauges fall and counters stay");
    assert_eq!(after["shmbc_sessions_ended_total{how=\"closed\"}"], 2.0);
    service.host.shutdown().await;
    assert!(!path.exists(), "the socket's file is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_when_it_is_for_something_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metrics.sock");
    let _service = start_with(|config| config.metrics = Some(MetricsAddress::Unix(path.clone()))).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "404"),
        ("DELETE /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "405"),
        ("no HTTP at all\r\n\r\n", "400"),
    ] {
        let path = path.clone();
        let answer = tokio::task::spawn_blocking(move || ask(&path, request)).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {answer}");
    }
    assert!(scrape(&path).await.contains_key("shmbc_sessions"), "others are served");
}

#[test]
fn address_when_it_makes_no_sense_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    for (address, says) in [
        ("9187", "such as 127.0.0.1:9187"),
        ("unix:metrics.sock", "no absolute path"),
        ("unix:/nowhere/at/all", "No such file"),
        (port.as_str(), "Address already in use"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_shmbc-host"))
            .args(["run", "--docker", "off", "--metrics", address, "--socket"])
            .arg(directory.path().join("host.sock"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(says) && said.contains(address), "{address}: {said}");
    }
}

/// Names of metrics in a text, without what Prometheus adds to those of a histogram.
fn names(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c| !is_name(c)).filter(|word| word.starts_with("shmbc_"));
    let plain = |word: &str| {
        let plain = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
        plain.unwrap_or(word).to_owned()
    };
    words.map(plain).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_when_named_in_dashboard_alerts_or_documents_are_those_that_there_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metrics.sock");
    let _service = start_with(|config| config.metrics = Some(MetricsAddress::Unix(path.clone()))).await;
    let request = "GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let answer = tokio::task::spawn_blocking(move || ask(&path, request)).await.unwrap();
    // `# TYPE name kind`: a counter's samples have `_total` behind the name.
    let types = answer.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let exported: BTreeSet<_> = types
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        })
        .collect();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for file in ["packaging/grafana/shmbc.json", "packaging/prometheus/shmbc.rules.yml", "docs/metrics.md"] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let unknown: Vec<_> = names(&text).difference(&exported).cloned().collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}; there are {exported:?}");
        if file.ends_with(".json") {
            serde_json::from_str::<serde_json::Value>(&text).expect("a dashboard is JSON");
        }
        if file.ends_with(".md") {
            let missing: Vec<_> = exported.difference(&names(&text)).cloned().collect();
            assert!(missing.is_empty(), "{file} lacks {missing:?}");
        }
    }
}
