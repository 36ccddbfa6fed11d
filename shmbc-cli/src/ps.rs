//! `shmbc ps`: containers; with a name everything about one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use clap::Args;
use serde::Serialize;
use shmbc::control::message::ContainerRow;

use crate::list::{List, print_json, print_table};
use crate::rows::{is_meant, short};

pub(crate) const HELP: &str = "\
Examples:
  shmbc ps
  shmbc ps api
  shmbc ps --json | jq '.[] | {name, listening}'";

/// Arguments of `shmbc ps`.
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Everything about one container: its name, or the beginning of its id.
    container: Option<String>,
    #[command(flatten)]
    list: List,
}

pub(crate) fn run(ps: &Ps) -> Result<(), String> {
    let mut rows = ps.list.client()?.containers().map_err(|e| e.to_string())?;
    if let Some(wanted) = &ps.container {
        let all = rows.len();
        rows.retain(|row| is_meant(wanted, Some(&row.id), Some(&row.name)));
        if rows.is_empty() {
            return Err(format!("no container {wanted:?} among the {all} that the host service knows: see `shmbc ps`"));
        }
    }
    if ps.list.json {
        return print_json(&rows.iter().map(ContainerJson::of).collect::<Vec<_>>());
    }
    if ps.container.is_some() {
        let all: Vec<_> = rows.iter().map(details).collect();
        return crate::print_text(&all.join("\n\n"));
    }
    let header = vec!["CONTAINER", "NAME", "STATE", "IMAGE", "SERVICE", "ADDRESSES", "LISTENING", "CONNECTIONS"];
    print_table(
        header,
        rows.iter().map(|row| {
            let addresses: Vec<_> = row.networks.iter().flat_map(|n| &n.addresses).map(IpAddr::to_string).collect();
            let ports: Vec<_> = row.listening.iter().map(|address| address.port().to_string()).collect();
            vec![
                short(&row.id).to_owned(),
                row.name.clone(),
                row.state.clone(),
                row.image.clone(),
                service(row).unwrap_or_else(|| "-".into()),
                or_dash(addresses.join(" ")),
                or_dash(ports.join(" ")),
                row.connections.to_string(),
            ]
        }),
        &[],
    )
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

/// Compose's project and service.
fn service(row: &ContainerRow) -> Option<String> {
    let label = |name: &str| row.labels.get(&format!("com.docker.compose.{name}"));
    Some(format!("{}/{}", label("project")?, label("service")?))
}

/// Everything about one, a line each.
fn details(row: &ContainerRow) -> String {
    let mut lines = vec![format!("{} ({})", row.name, row.id)];
    let mut add = |title: &str, values: Vec<String>| {
        for (n, value) in values.into_iter().enumerate() {
            lines.push(format!("  {:<12}{value}", if n == 0 { title } else { "" }));
        }
    };
    add("state", vec![row.state.clone()]);
    add("image", vec![row.image.clone()]);
    add("service", service(row).into_iter().collect());
    let network = |network: &shmbc::control::message::NetworkRow| {
        let addresses: Vec<_> = network.addresses.iter().map(IpAddr::to_string).collect();
        let aliases =
            if network.aliases.is_empty() { String::new() } else { format!(" as {}", network.aliases.join(", ")) };
        format!("{} {}{aliases}", network.name, addresses.join(" "))
    };
    add("networks", row.networks.iter().map(network).collect());
    add("listening", row.listening.iter().map(SocketAddr::to_string).collect());
    add("exposed", row.exposed.iter().map(u16::to_string).collect());
    add("published", row.published.iter().map(|(host, port)| format!("{host} -> {port}")).collect());
    let mount = |mount: &shmbc::control::message::MountRow| {
        let access = if mount.writable { "" } else { ", read-only" };
        format!("{} -> {} ({}{access})", mount.source, mount.target, mount.kind)
    };
    add("mounts", row.mounts.iter().map(mount).collect());
    add("labels", row.labels.iter().map(|(name, value)| format!("{name}={value}")).collect());
    add("connections", vec![row.connections.to_string()]);
    lines.join("\n")
}

/// One container in `shmbc ps --json`.
#[derive(Serialize)]
struct ContainerJson<'a> {
    id: &'a str,
    name: &'a str,
    state: &'a str,
    image: &'a str,
    networks: Vec<NetworkJson<'a>>,
    /// Where its programs listen, as they say.
    listening: &'a [SocketAddr],
    /// TCP ports that its image or its start names.
    exposed: &'a [u16],
    published: Vec<PublishedJson>,
    mounts: Vec<MountJson<'a>>,
    labels: &'a BTreeMap<String, String>,
    /// Established ones.
    connections: u32,
}

#[derive(Serialize)]
struct NetworkJson<'a> {
    name: &'a str,
    addresses: &'a [IpAddr],
    aliases: &'a [String],
}

#[derive(Serialize)]
struct PublishedJson {
    host: SocketAddr,
    port: u16,
}

#[derive(Serialize)]
struct MountJson<'a> {
    kind: &'a str,
    source: &'a str,
    target: &'a str,
    writable: bool,
}

impl<'a> ContainerJson<'a> {
    fn of(row: &'a ContainerRow) -> Self {
        let networks = row.networks.iter();
        let mounts = row.mounts.iter();
        Self {
            id: &row.id,
            name: &row.name,
            state: &row.state,
            image: &row.image,
            networks: networks
                .map(|n| NetworkJson { name: &n.name, addresses: &n.addresses, aliases: &n.aliases })
                .collect(),
            listening: &row.listening,
            exposed: &row.exposed,
            published: row.published.iter().map(|&(host, port)| PublishedJson { host, port }).collect(),
            mounts: mounts
                .map(|m| MountJson { kind: &m.kind, source: &m.source, target: &m.target, writable: m.writable })
                .collect(),
            labels: &row.labels,
            connections: row.connections,
        }
    }
}
