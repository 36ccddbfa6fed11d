//! Who belongs together, and above all who does not.

use std::sync::Arc;

use shmbc::control::message::OfferId;

use super::*;
use crate::identity::Client;
use crate::table::connections::{EndKey, SessionId};
use crate::table::containers::{Container, Published};

const OWN: Scope = Scope::Netns(1);

fn end(client: &Arc<Client>, scope: Scope, local: &str, peer: &str) -> End {
    let (local, peer) = (plain(local.parse().unwrap()), plain(peer.parse().unwrap()));
    let key = EndKey { session: SessionId(1), offer: OfferId(1) };
    End { key, client: Arc::clone(client), local, peer, scope, socket: None, cpu: 0, announced: None }
}

fn network(id: &str, address: &str) -> Network {
    Network { id: id.into(), name: id.into(), addresses: vec![address.parse().unwrap()], aliases: Vec::new() }
}

/// web and db on one network, alone on another; web's port 80 is the host's 8080.
fn containers() -> Containers {
    let container = |id: &str, networks| Container { id: id.into(), networks, ..Container::default() };
    let published = |host: &str| Published { host: host.parse().unwrap(), port: 80 };
    let mut web = container("web", vec![network("one", "172.18.0.2")]);
    web.published = vec![published("0.0.0.0:8080"), published("10.0.0.1:9090")];
    let mut sidecar = container("sidecar", vec![]);
    sidecar.joined = Some("web".into());
    let mut containers = Containers::default();
    containers.replace(vec![
        web,
        container("db", vec![network("one", "172.18.0.3")]),
        container("alone", vec![network("two", "172.19.0.2")]),
        container("hostnet", vec![]),
        sidecar,
    ]);
    containers.set_host(["10.0.0.1".parse().unwrap(), "172.18.0.1".parse().unwrap()]);
    containers
}

struct People {
    web: Arc<Client>,
    db: Arc<Client>,
    alone: Arc<Client>,
    hostnet: Arc<Client>,
    sidecar: Arc<Client>,
    unknown: Arc<Client>,
    root: Arc<Client>,
    user: Arc<Client>,
    other_user: Arc<Client>,
}

fn people() -> People {
    People {
        web: Client::pretended(0, Some("web")),
        db: Client::pretended(0, Some("db")),
        alone: Client::pretended(0, Some("alone")),
        hostnet: Client::pretended(0, Some("hostnet")),
        sidecar: Client::pretended(0, Some("sidecar")),
        unknown: Client::pretended(0, Some("unknown")),
        root: Client::pretended(0, None),
        user: Client::pretended(1000, None),
        other_user: Client::pretended(1001, None),
    }
}

fn both_ways(a: &End, b: &End) -> Option<Twin> {
    let containers = containers();
    let found = twin(a, b, &containers, OWN);
    assert_eq!(found, twin(b, a, &containers, OWN), "the order of offers does not matter");
    found
}

#[test]
fn mirrored_ends_when_the_network_could_have_joined_them_are_twins() {
    let p = people();
    let (web, db) = ("172.18.0.2:80", "172.18.0.3:4000");
    let netns = Scope::Netns;
    let cases = [
        ("one network", end(&p.web, netns(2), web, db), end(&p.db, netns(3), db, web)),
        ("v4-mapped", end(&p.web, netns(2), "[::ffff:172.18.0.2]:80", db), end(&p.db, netns(3), db, web)),
        ("joined namespace", end(&p.sidecar, netns(2), web, db), end(&p.db, netns(3), db, web)),
        (
            "loopback",
            end(&p.user, OWN, "127.0.0.1:1", "127.0.0.1:2"),
            end(&p.other_user, OWN, "127.0.0.1:2", "127.0.0.1:1"),
        ),
        ("from the host", end(&p.root, OWN, "172.18.0.1:5", web), end(&p.web, netns(2), web, "172.18.0.1:5")),
        (
            "from an ordinary user of the host",
            end(&p.user, OWN, "172.18.0.1:5", web),
            end(&p.web, netns(2), web, "172.18.0.1:5"),
        ),
        (
            "from a container on the host's network",
            end(&p.hostnet, OWN, "172.18.0.1:5", web),
            end(&p.web, netns(2), web, "172.18.0.1:5"),
        ),
        (
            "containers of another engine",
            end(&p.unknown, netns(7), "10.9.0.1:1", "10.9.0.2:2"),
            end(&p.unknown, netns(8), "10.9.0.2:2", "10.9.0.1:1"),
        ),
        (
            "root's own namespaces",
            end(&p.root, netns(7), "10.9.0.1:1", "10.9.0.2:2"),
            end(&p.root, netns(8), "10.9.0.2:2", "10.9.0.1:1"),
        ),
        (
            "a user's own namespaces",
            end(&p.user, netns(7), "10.9.0.1:1", "10.9.0.2:2"),
            end(&p.user, netns(8), "10.9.0.2:2", "10.9.0.1:1"),
        ),
        (
            "not to be proven",
            end(&p.user, Scope::Unproven, "127.0.0.1:1", "127.0.0.1:2"),
            end(&p.user, Scope::Unproven, "127.0.0.1:2", "127.0.0.1:1"),
        ),
    ];
    for (what, a, b) in cases {
        assert_eq!(both_ways(&a, &b), Some(Twin::Mirrored), "{what}");
    }
}

#[test]
fn ends_when_they_only_look_like_one_connection_are_no_twins() {
    let p = people();
    let (web, db, alone) = ("172.18.0.2:80", "172.18.0.3:4000", "172.19.0.2:4000");
    let netns = Scope::Netns;
    let cases = [
        ("other port", end(&p.web, netns(2), web, db), end(&p.db, netns(3), "172.18.0.3:4001", web)),
        (
            "loopback of two namespaces",
            end(&p.web, netns(2), "127.0.0.1:1", "127.0.0.1:2"),
            end(&p.db, netns(3), "127.0.0.1:2", "127.0.0.1:1"),
        ),
        ("no common network", end(&p.web, netns(2), web, alone), end(&p.alone, netns(4), alone, web)),
        ("an address that is another container's", end(&p.alone, netns(4), db, web), end(&p.web, netns(2), web, db)),
        (
            "an address that is a container's, by root of a namespace",
            end(&p.root, netns(9), db, web),
            end(&p.web, netns(2), web, db),
        ),
        (
            "an address that no container has",
            end(&p.db, netns(3), "172.18.0.9:1", web),
            end(&p.web, netns(2), web, "172.18.0.9:1"),
        ),
        (
            "a user's namespace against a container",
            end(&p.user, netns(9), "10.0.0.9:1", web),
            end(&p.web, netns(2), web, "10.0.0.9:1"),
        ),
        (
            "namespaces of two users",
            end(&p.user, netns(9), "10.9.0.1:1", "10.9.0.2:2"),
            end(&p.other_user, netns(8), "10.9.0.2:2", "10.9.0.1:1"),
        ),
    ];
    for (what, a, b) in cases {
        assert_eq!(both_ways(&a, &b), None, "{what}");
    }
    let mut twice = end(&p.user, OWN, "127.0.0.1:1", "127.0.0.1:1");
    twice.socket = Some(5);
    assert_eq!(both_ways(&twice, &twice.clone()), None, "one socket offered twice");
}

#[test]
fn rewritten_destination_when_docker_says_that_it_leads_there_is_a_twin_and_else_not() {
    let p = people();
    let netns = Scope::Netns;
    let server = |peer| end(&p.web, netns(2), "172.18.0.2:80", peer);
    let dial = |client: &Arc<Client>, scope, local, dialled| end(client, scope, local, dialled);
    let from = "10.0.0.1:5000";
    assert_eq!(both_ways(&dial(&p.root, OWN, from, "10.0.0.1:8080"), &server(from)), Some(Twin::Published));
    assert_eq!(both_ways(&dial(&p.root, OWN, from, "10.0.0.1:9090"), &server(from)), Some(Twin::Published));
    let alone = "172.19.0.2:5000";
    assert_eq!(both_ways(&dial(&p.alone, netns(4), alone, "10.0.0.1:8080"), &server(alone)), Some(Twin::Published));
    for (what, client, server) in [
        ("another port of the host", dial(&p.root, OWN, from, "10.0.0.1:8081"), server(from)),
        ("published on another address", dial(&p.root, OWN, from, "172.18.0.1:9090"), server(from)),
        ("an address that is not the host's", dial(&p.root, OWN, from, "192.0.2.7:8080"), server(from)),
        ("another client", dial(&p.root, OWN, from, "10.0.0.1:8080"), server("10.0.0.1:5001")),
        (
            "a port that is not published",
            dial(&p.root, OWN, from, "10.0.0.1:8080"),
            end(&p.web, netns(2), "172.18.0.2:81", from),
        ),
        (
            "a container that publishes nothing",
            dial(&p.root, OWN, from, "10.0.0.1:8080"),
            end(&p.db, netns(3), "172.18.0.3:80", from),
        ),
        ("a user's own namespace", dial(&p.user, netns(9), from, "10.0.0.1:8080"), server(from)),
        (
            "somebody with a container's address",
            dial(&p.root, netns(9), "172.18.0.3:7", "10.0.0.1:8080"),
            server("172.18.0.3:7"),
        ),
        ("loopback", dial(&p.root, OWN, "127.0.0.1:7", "10.0.0.1:8080"), server("127.0.0.1:7")),
    ] {
        assert_eq!(both_ways(&client, &server), None, "{what}");
    }
}
