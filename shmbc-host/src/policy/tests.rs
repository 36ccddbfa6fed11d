//! What labels and rules decide, and what they say.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use shmbc::control::message::OfferId;

use super::*;
use crate::identity::Client;
use crate::quota::Resource;
use crate::table::connections::{EndKey, Scope, SessionId};

/// Two containers, `web` and `db`, in the networks `front` (10.0.1.0) and `back` (10.0.2.0).
struct Scene {
    containers: Containers,
    labels: [Vec<(&'static str, &'static str)>; 2],
    policy: Policy,
}

const NAMES: [&str; 2] = ["web", "db"];

impl Scene {
    fn new() -> Self {
        Self { containers: Containers::default(), labels: [const { Vec::new() }; 2], policy: Policy::default() }
    }

    fn with(labels: [&[(&'static str, &'static str)]; 2]) -> Self {
        Self { labels: labels.map(<[_]>::to_vec), ..Self::new() }
    }

    fn network(mut self, id: &str, labels: &[(&str, &str)]) -> Self {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.containers.set_networks([(id.to_owned(), labels)].into());
        self
    }

    fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    fn address(network: u8, n: usize) -> IpAddr {
        [10, 0, network, 1 + n as u8].into()
    }

    fn filled(mut self) -> Self {
        for (n, name) in NAMES.iter().enumerate() {
            let networks = [("front", 1), ("back", 2)].map(|(name, network)| Network {
                id: format!("{name}-id"),
                name: name.to_owned(),
                addresses: vec![Self::address(network, n)],
                aliases: Vec::new(),
            });
            let labels = self.labels[n].iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            self.containers.insert(Container {
                id: format!("{name}-id"),
                name: (*name).to_owned(),
                networks: networks.into(),
                labels: labels.collect(),
                ..Container::default()
            });
        }
        self
    }

    /// What the policy says of a connection from `web` to `db` over the network of this number, 1 or 2.
    fn over(self, network: u8) -> Result<(), String> {
        let scene = self.filled();
        let clients = NAMES.map(|name| Client::pretended(0, Some(&format!("{name}-id"))));
        scene.check(network, clients)
    }

    fn check(&self, network: u8, clients: [Arc<Client>; 2]) -> Result<(), String> {
        let addresses = [0, 1].map(|n| SocketAddr::new(Self::address(network, n), 80));
        let [web, db] = [0, 1].map(|n| End {
            key: EndKey { session: SessionId(n as u64), offer: OfferId(1) },
            client: Arc::clone(&clients[n]),
            local: addresses[n],
            peer: addresses[1 - n],
            scope: Scope::Netns(1),
            socket: None,
            cpu: 0,
            announced: None,
        });
        self.policy.check([&web, &db], &self.containers)
    }
}

fn says(result: Result<(), String>, words: &str) {
    let said = result.expect_err(words);
    assert!(said.contains(words), "{said:?} does not say {words:?}");
}

#[test]
fn connection_when_nothing_speaks_of_it_is_accelerated() {
    Scene::new().over(1).unwrap();
}

#[test]
fn rule_for_a_user_when_he_may_be_in_a_container_only_takes() {
    let key = ClientKey::Unknown(Stranger { uid: 1000, within: None });
    let rule = |accelerate| Rule {
        uid: Some(1000),
        accelerate: Some(accelerate),
        limits: SomeLimits { connections: Some(1), sessions: Some(u32::MAX), ..SomeLimits::default() },
        ..Rule::default()
    };
    let policy = |accelerate, says| Policy { accelerate, rules: vec![rule(says)], ..Policy::default() };
    let bounds = policy(Accelerate::All, true).bounds(&key, &Containers::default());
    assert_eq!(bounds[Resource::Connections as usize], Bound { most: 1, by: By::Rule(1) });
    assert_eq!(bounds[Resource::Sessions as usize].by, By::Limits, "not raised");
    let check = |policy: Policy| {
        let scene = Scene::new().policy(policy);
        let mut client = Arc::into_inner(Client::pretended(1000, None)).unwrap();
        client.key = key.clone();
        scene.check(1, [Arc::new(client), Client::pretended(1000, None)])
    };
    check(policy(Accelerate::All, true)).unwrap();
    says(
        check(policy(Accelerate::All, false)),
        "rule 1 of the host service keeps an unknown container of uid 1000 on TCP",
    );
    says(check(policy(Accelerate::None, true)), "what it knows, not an unknown container of uid 1000");
    says(check(policy(Accelerate::Labelled, true)), "what it knows, not an unknown container of uid 1000");
    let mut narrowed = policy(Accelerate::All, true);
    narrowed.rules[0].peers = Some(vec![Pattern::from("db")]);
    says(check(narrowed), "go over to shared memory with db only");
}

#[test]
fn container_when_its_label_says_no_stays_on_tcp_whichever_end_it_is() {
    says(
        Scene::with([&[("io.shmbc.enable", "false")], &[]]).over(1),
        "container web has the label io.shmbc.enable=false",
    );
    says(
        Scene::with([&[], &[("io.shmbc.enable", " Off ")]]).over(1),
        "container db has the label io.shmbc.enable=false",
    );
    Scene::with([&[("io.shmbc.enable", "true")], &[]]).over(1).unwrap();
}

#[test]
fn network_when_its_label_says_no_keeps_on_tcp_what_goes_over_it_and_nothing_else() {
    let scene = || Scene::new().network("front-id", &[("io.shmbc.enable", "no")]);
    says(scene().over(1), "network front has the label io.shmbc.enable=false");
    scene().over(2).unwrap();
}

#[test]
fn label_when_it_is_not_understood_keeps_the_connection_on_tcp_and_says_what_is_right() {
    for (label, words) in [
        (("io.shmbc.enable", "maybe"), "io.shmbc.enable=maybe: it is true or false"),
        (("io.shmbc.enabel", "false"), "none of io.shmbc.enable"),
        (("io.shmbc.limit.speed", "9"), "it limits connections"),
        (("io.shmbc.limit.connections", "few"), "whole number"),
    ] {
        says(Scene::with([&[], &[label]]).over(1), words);
    }
    says(Scene::new().network("front-id", &[("io.shmbc.enable", "maybe")]).over(1), "network front has the label");
    Scene::with([&[("io.shmbcx", "false"), ("io.shm", "x")], &[]]).over(1).unwrap();
}

#[test]
fn labels_when_they_narrow_let_through_what_they_name_only() {
    let peers = |names| Scene::with([&[("io.shmbc.peers", names)], &[]]);
    peers("cache, d*").over(1).unwrap();
    says(peers("cache").over(1), "its labels let container web go over to shared memory with cache only, not with db");
    let networks = || Scene::with([&[], &[("io.shmbc.networks", "back")]]);
    networks().over(2).unwrap();
    says(networks().over(1), "on networks back only, not on front");
}

fn rule(container: &str) -> Rule {
    Rule { container: Some(container.into()), ..Rule::default() }
}

#[test]
fn rule_when_it_is_the_first_that_matches_decides() {
    let rules = |rules: Vec<Rule>| Scene::new().policy(Policy { rules, ..Policy::default() });
    let no = || Rule { accelerate: Some(false), ..rule("w*") };
    says(rules(vec![rule("other"), no()]).over(1), "rule 2 of the host service keeps container web on TCP");
    rules(vec![rule("web"), no()]).over(1).unwrap();
    let narrowed = Rule { peers: Some(vec!["cache".into()]), ..rule("db") };
    says(
        rules(vec![narrowed]).over(1),
        "rule 1 of the host service lets container db go over to shared memory with cache",
    );
    let labelled = Rule { label: Some("tier=b*".into()), accelerate: Some(false), ..Rule::default() };
    let scene = Scene::with([&[("tier", "batch")], &[]]);
    says(scene.policy(Policy { rules: vec![labelled], ..Policy::default() }).over(1), "keeps container web");
}

#[test]
fn connection_when_only_what_is_labelled_is_accelerated_needs_a_label_at_both_ends_or_on_the_network() {
    let policy = || Policy { accelerate: Accelerate::Labelled, ..Policy::default() };
    let yes = ("io.shmbc.enable", "true");
    says(Scene::new().policy(policy()).over(1), "give container web or its network the label io.shmbc.enable=true");
    says(Scene::with([&[yes], &[]]).policy(policy()).over(1), "give container db");
    Scene::with([&[yes], &[yes]]).policy(policy()).over(1).unwrap();
    Scene::new().network("front-id", &[yes]).policy(policy()).over(1).unwrap();
    says(Scene::new().network("front-id", &[yes]).policy(policy()).over(2), "give container web");
    let with_rule = Policy { rules: vec![Rule { accelerate: Some(true), ..rule("*") }], ..policy() };
    Scene::new().policy(with_rule.clone()).over(1).unwrap();
    says(Scene::with([&[("io.shmbc.enable", "0")], &[]]).policy(with_rule).over(1), "io.shmbc.enable=false");
}

#[test]
fn process_outside_of_containers_when_nothing_is_accelerated_needs_a_rule_for_its_user() {
    let policy = |rules| Policy { accelerate: Accelerate::None, rules, ..Policy::default() };
    let clients = || [Client::pretended(1000, None), Client::pretended(1000, None)];
    let scene = Scene::new().policy(policy(Vec::new())).filled();
    says(scene.check(1, clients()), "no rule of the host service accelerates uid 1000 outside of containers");
    let rule = Rule { uid: Some(1000), accelerate: Some(true), ..Rule::default() };
    Scene::new().policy(policy(vec![rule])).filled().check(1, clients()).unwrap();
}

#[test]
fn limit_when_a_rule_or_a_label_sets_it_is_explained_by_its_own_name() {
    let policy = Policy {
        rules: vec![Rule {
            limits: SomeLimits { connections: Some(7), sessions: Some(2), ..SomeLimits::default() },
            ..rule("web")
        }],
        ..Policy::default()
    };
    let labels = [("io.shmbc.limit.connections", "9"), ("io.shmbc.limit.block-bytes", "1 MiB")];
    let scene = Scene::with([&labels, &[]]).policy(policy).filled();
    let explain = |name: &str, resource: Resource| {
        let key = ClientKey::Container(name.into());
        let bound = scene.policy.bounds(&key, &scene.containers)[resource as usize];
        scene.policy.explain(&key, &scene.containers, Exceeded { resource, used: Some(bound.most), bound })
    };
    for (name, resource, sentence) in [
        (
            "web-id",
            Resource::Connections,
            "container web has 7 of at most 7 connections: raise limits.connections of rule 1 of the host service",
        ),
        (
            "web-id",
            Resource::BlockBytes,
            "container web has 1048576 of at most 1048576 bytes of blocks: raise its label io.shmbc.limit.block-bytes",
        ),
        (
            "db-id",
            Resource::Sessions,
            "container db has 1024 of at most 1024 sessions: raise limits.sessions of the host service",
        ),
    ] {
        assert_eq!(explain(name, resource), sentence);
    }
}
