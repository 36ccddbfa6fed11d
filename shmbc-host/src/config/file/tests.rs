//! What a file may say, and how it is told what is wrong.

use super::*;
use crate::quota::SomeLimits;

fn wrong(text: &str) -> (usize, usize, String) {
    File::parse(text).expect_err(text)
}

#[test]
fn file_when_empty_means_the_defaults() {
    let (file, default) = (File::parse("").unwrap().config("/s"), HostConfig::at("/s"));
    assert_eq!(format!("{file:?}"), format!("{default:?}"));
}

#[test]
fn file_when_it_names_everything_is_taken_word_for_word() {
    let file = File::parse(
        r#"
        socket = "/run/other/host.sock"
        docker = "/run/podman/podman.sock"
        log = "debug"
        metrics = "unix:/run/shmbc/metrics.sock"
        [blocks]
        ring_capacity = "1 MiB"
        huge_pages = "transparent"
        stock = 4
        memory = "8 GiB"
        [timeouts]
        twin = "500ms"
        ready = "1s"
        [limits]
        connections = 1
        block_bytes = 2
        offers_per_second = 3
        sessions = 4
        descriptors = 5
        [policy]
        accelerate = "labelled"
        [[rule]]
        container = "batch-*"
        label = "tier=batch"
        accelerate = false
        peers = ["db"]
        networks = ["back"]
        limits.block_bytes = "1 GiB"
        [[rule]]
        uid = 1000
        limits = { connections = 9 }
        "#,
    );
    let file = file.unwrap();
    assert_eq!(file.log.as_deref(), Some("debug"));
    let config = file.config("/s");
    assert_eq!(config.socket, PathBuf::from("/run/other/host.sock"));
    assert_eq!(config.docker, Docker::At("/run/podman/podman.sock".into()));
    assert_eq!(config.metrics, Some(MetricsAddress::Unix("/run/shmbc/metrics.sock".into())));
    assert_eq!((config.ring_capacity, config.stock, config.memory), (1 << 20, 4, Some(8 << 30)));
    assert_eq!(config.huge_pages, HugePages::Transparent);
    assert_eq!((config.twin_timeout, config.ready_timeout), (Duration::from_millis(500), Duration::from_secs(1)));
    let limits = Limits { connections: 1, block_bytes: 2, offers_per_second: 3, sessions: 4, descriptors: Some(5) };
    let batch = Rule {
        container: Some("batch-*".into()),
        label: Some("tier=batch".into()),
        accelerate: Some(false),
        peers: Some(vec!["db".into()]),
        networks: Some(vec!["back".into()]),
        limits: SomeLimits { block_bytes: Some(1 << 30), ..SomeLimits::default() },
        ..Rule::default()
    };
    let limited = SomeLimits { connections: Some(9), ..SomeLimits::default() };
    let user = Rule { uid: Some(1000), limits: limited, ..Rule::default() };
    assert_eq!(config.policy, Policy { accelerate: Accelerate::Labelled, rules: vec![batch, user], limits });
}

#[test]
fn file_when_wrong_is_told_the_line_and_what_would_be_right() {
    for (text, line, words) in [
        ("socket = \"here\"", 1, "no absolute path"),
        ("docker = \"off\"\nmetrics = \"nine\"", 2, "127.0.0.1:9187"),
        ("\n[limits]\nconnections = \"many\"", 3, "invalid type"),
        ("[limits]\nconections = 5", 2, "unknown field `conections`, expected one of `connections`"),
        ("[limits]\nblock_bytes = \"lots\"", 2, "64 GiB"),
        ("[limits]\n\nblock_bytes = -1", 3, "a number of bytes"),
        ("[blocks]\nring_capacity = 5000", 2, "power of two"),
        ("[blocks]\nhuge_pages = \"big\"", 2, "hugetlb"),
        ("[timeouts]\ntwin = \"2\"", 2, "2s"),
        ("[policy]\naccelerate = \"some\"", 2, "unknown variant `some`, expected one of `all`, `labelled`, `none`"),
        ("[[rule]]\nuid = 0\n[[rule]]\naccelerate = false", 3, "add `container`, `label` or `uid`"),
        ("[[rule]]\nuid = 0\ncontainer = \"a\"", 1, "outside of containers"),
        ("[[rule]]\nuid = 0\n[rule.limits]\nspeed = 9", 4, "unknown field `speed`"),
        ("log = \"info\nx = 1", 1, ""),
    ] {
        let (at, column, said) = wrong(text);
        assert!(at == line && said.contains(words), "{text:?}: {at}:{column}: {said:?} does not say {words:?}");
        assert_eq!(said.lines().count(), 1, "{said:?}");
    }
}

#[test]
fn packaged_file_when_its_defaults_are_uncommented_still_means_the_defaults() {
    let packaged = include_str!("../../../../packaging/host.toml");
    let default = format!("{:?}", HostConfig::at("/run/shmbc/host.sock"));
    assert_eq!(format!("{:?}", File::parse(packaged).unwrap().config("/run/shmbc/host.sock")), default);
    // Those that are off by default are written as `...`.
    let set =
        |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.contains(" = ") && !line.contains("...");
    let lines = packaged.lines().map(|line| if set(line) { &line[1..] } else { line });
    let uncommented = lines.collect::<Vec<_>>().join("\n");
    assert_ne!(uncommented, packaged.trim_end());
    let file = File::parse(&uncommented).unwrap();
    assert_eq!(file.log.as_deref(), Some("info"));
    assert_eq!(format!("{:?}", file.config("/elsewhere")), default);
    let rules: Vec<_> = packaged.lines().skip_while(|line| *line != "# [[rule]]").collect();
    let rules = rules.iter().map(|line| line.trim_start_matches("# ")).collect::<Vec<_>>().join("\n");
    assert_eq!(File::parse(&rules.replace("\n#\n", "\n")).unwrap().rule.len(), 3);
}
