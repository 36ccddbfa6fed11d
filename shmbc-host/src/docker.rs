//! Keeps the container table in step with Docker. The only file that knows Docker.
//!
//! Events come first: the subscription stands before the list is made, so nothing between the two is missed. Docker
//! forgets events for who reads too slowly, so the list is made again now and then. Docker may be absent, come later, restart: the
//! table keeps what it knew last, and the watcher comes back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::query_parameters::{EventsOptions, InspectContainerOptions, ListContainersOptions, ListNetworksOptions};
use bollard::{API_DEFAULT_VERSION, models};
use futures_util::StreamExt;
use shmbc::control::message::MountRow;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::config::Docker;
use crate::hub::Hub;
use crate::table::containers::{Container, Network, Published};

/// Where Docker listens unless told otherwise.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// How often the whole list is made again.
const RELIST: Duration = Duration::from_secs(30);

/// How long Docker may take for one answer, in seconds. A machine that starts many containers takes some.
const ANSWER_TIMEOUT: u64 = 60;

/// Events that wait to be looked into. When more come at once, the reader waits, Docker leaves some out, and the next list
/// has what they said.
const EVENTS: usize = 1024;

/// First and longest pause between attempts to reach Docker.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Watches Docker for as long as the service runs. `asked` are containers to look at now.
pub(crate) async fn watch(docker: Docker, hub: Arc<Hub>, asked: &mut mpsc::Receiver<String>) {
    let socket = match docker {
        Docker::Off => None,
        Docker::At(path) => Some(path),
        Docker::Auto => match std::env::var("DOCKER_HOST") {
            Ok(host) if !host.is_empty() && !host.starts_with("unix://") => {
                warn!(host, "DOCKER_HOST is no Unix socket; containers are known by their ids only");
                None
            }
            Ok(host) if !host.is_empty() => Some(host),
            _ => Some(DEFAULT_SOCKET.to_owned()),
        },
    };
    let Some(socket) = socket else {
        // The host's own addresses still come and go.
        loop {
            tokio::time::sleep(RELIST).await;
            hub.learn_own();
        }
    };
    let socket = socket.trim_start_matches("unix://");
    let mut pause = BACKOFF.0;
    let mut told = false;
    loop {
        let Err(error) = follow(socket, &hub, asked, &mut pause, &mut told).await;
        hub.set_docker_up(false);
        if told {
            debug!(error = with_cause(&error), socket, "Docker does not answer");
        } else {
            told = true;
            let error = with_cause(&error);
            info!(error, socket, "Docker does not answer; containers are known by their ids only until it does");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
        hub.learn_own();
    }
}

#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Docker(#[from] bollard::errors::Error),
    #[error("its events ended")]
    EventsEnded,
}

/// The error and what is at the bottom of it: the client itself says no more than that it could not connect.
fn with_cause(error: &dyn std::error::Error) -> String {
    let cause = std::iter::successors(error.source(), |cause| cause.source()).last();
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Follows Docker until it goes away.
async fn follow(
    socket: &str,
    hub: &Hub,
    asked: &mut mpsc::Receiver<String>,
    pause: &mut Duration,
    told: &mut bool,
) -> Result<std::convert::Infallible, Lost> {
    let docker = bollard::Docker::connect_with_unix(socket, ANSWER_TIMEOUT, API_DEFAULT_VERSION)?;
    let docker = docker.negotiate_version().await?;
    // Asked for from a moment ago on, so that it does not matter when exactly the request arrives.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let filters = HashMap::from([("type".to_owned(), vec!["container".to_owned(), "network".to_owned()])]);
    let options = EventsOptions { since: Some(since.to_string()), filters: Some(filters), ..EventsOptions::default() };
    let events = docker.events(Some(options));
    let (changed, mut changes) = mpsc::channel(EVENTS);
    // Docker leaves out who takes more than 100 ms for an event, so they are taken at once, and looked into afterwards.
    let mut reader = JoinSet::new();
    reader.spawn(async move {
        let mut events = pin!(events);
        while let Some(event) = events.next().await {
            let Some(id) = concerns(event?) else { continue };
            if changed.send(id).await.is_err() {
                break;
            }
        }
        Ok::<_, bollard::errors::Error>(())
    });
    hub.with_containers_replaced(list(&docker, hub).await?);
    hub.set_docker_up(true);
    info!(socket, "following Docker");
    (*pause, *told) = (BACKOFF.0, false);
    let mut relist = tokio::time::interval(RELIST);
    relist.reset();
    loop {
        tokio::select! {
            Some(id) = changes.recv() => look_again(&docker, hub, &id).await?,
            Some(id) = asked.recv() => look_again(&docker, hub, &id).await?,
            _ = relist.tick() => {
                hub.learn_own();
                hub.with_containers_replaced(list(&docker, hub).await?);
            }
            Some(ended) = reader.join_next() => {
                if let Ok(Err(error)) = ended {
                    return Err(error.into());
                }
                return Err(Lost::EventsEnded);
            }
        }
    }
}

/// The container that an event is about, if it may have changed something that is kept.
fn concerns(event: models::EventMessage) -> Option<String> {
    let action = event.action.unwrap_or_default();
    // `exec_start: sh` and health checks come often and change nothing.
    if action.starts_with("exec_") || action.starts_with("health_status") {
        return None;
    }
    let actor = event.actor?;
    debug!(action, actor = actor.id, "Docker event");
    match event.typ {
        Some(models::EventMessageTypeEnum::NETWORK) => actor.attributes?.remove("container"),
        _ => actor.id,
    }
}

async fn look_again(docker: &bollard::Docker, hub: &Hub, id: &str) -> Result<(), Lost> {
    let container = inspect(docker, id).await?;
    // Its networks first: their labels may forbid what it is about to ask for.
    if container.as_ref().is_some_and(|container| !hub.knows_networks(container)) {
        hub.set_networks(networks(docker).await?);
    }
    // A new network gave the host a new bridge with an address of its own.
    hub.learn_own();
    hub.with_containers(|containers| match container {
        Some(container) => containers.insert(container),
        None => containers.remove(id),
    });
    Ok(())
}

/// The labels of all networks, by id. They are as they were when the network was made.
async fn networks(docker: &bollard::Docker) -> Result<HashMap<String, BTreeMap<String, String>>, Lost> {
    let networks = docker.list_networks(None::<ListNetworksOptions>).await?.into_iter();
    Ok(networks
        .filter_map(|network| Some((network.id?, network.labels.unwrap_or_default().into_iter().collect())))
        .collect())
}

async fn list(docker: &bollard::Docker, hub: &Hub) -> Result<Vec<Container>, Lost> {
    hub.set_networks(networks(docker).await?);
    let mut containers = Vec::new();
    for summary in docker.list_containers(None::<ListContainersOptions>).await? {
        if let Some(id) = summary.id
            && let Some(container) = inspect(docker, &id).await?
        {
            containers.push(container);
        }
    }
    Ok(containers)
}

/// A container that runs, or nothing.
async fn inspect(docker: &bollard::Docker, id: &str) -> Result<Option<Container>, Lost> {
    match docker.inspect_container(id, None::<InspectContainerOptions>).await {
        Ok(answer) => Ok(container(answer)),
        // It has gone meanwhile.
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What is kept of Docker's answer. Only fields that all versions since 1.12 have: newer ones dropped the addresses at the
/// top of `NetworkSettings`.
fn container(answer: models::ContainerInspectResponse) -> Option<Container> {
    let state = answer.state?;
    if state.running != Some(true) {
        return None;
    }
    let config = answer.config.unwrap_or_default();
    let settings = answer.network_settings.unwrap_or_default();
    let id = answer.id?;
    let own = answer.name.unwrap_or_default().trim_start_matches('/').to_owned();
    let mounts = answer.mounts.unwrap_or_default().into_iter().map(|mount| MountRow {
        kind: mount.typ.map_or_else(String::new, |kind| kind.to_string()),
        source: mount.name.or(mount.source).unwrap_or_default(),
        target: mount.destination.unwrap_or_default(),
        writable: mount.rw == Some(true),
    });
    let tcp = |port: &str| port.strip_suffix("/tcp").and_then(|port| port.parse().ok());
    let joined = answer.host_config.and_then(|c| c.network_mode);
    let networks = settings.networks.unwrap_or_default().into_iter().filter_map(|(name, endpoint)| {
        let addresses = [endpoint.ip_address, endpoint.global_ipv6_address].into_iter().flatten();
        let addresses: Vec<IpAddr> = addresses.filter_map(|text| text.parse().ok()).collect();
        // Docker gives some names twice, and the container's id as one.
        let names = [endpoint.aliases, endpoint.dns_names].into_iter().flatten().flatten();
        let aliases: BTreeSet<_> = names.filter(|name| !id.starts_with(name.as_str()) && *name != own).collect();
        (!addresses.is_empty()).then(|| Network {
            id: endpoint.network_id.unwrap_or_default(),
            name,
            addresses,
            aliases: aliases.into_iter().collect(),
        })
    });
    let published = settings.ports.unwrap_or_default().into_iter().flat_map(|(port, bindings)| {
        let port = tcp(&port);
        let bindings = bindings.unwrap_or_default().into_iter();
        bindings.filter_map(move |binding| {
            let ip: IpAddr =
                binding.host_ip.filter(|ip| !ip.is_empty()).as_deref().unwrap_or("0.0.0.0").parse().ok()?;
            Some(Published { host: SocketAddr::new(ip, binding.host_port?.parse().ok()?), port: port? })
        })
    });
    Some(Container {
        image: config.image.unwrap_or_default(),
        mounts: mounts.collect(),
        exposed: config.exposed_ports.unwrap_or_default().iter().filter_map(|port| tcp(port)).collect(),
        pid: state.pid.and_then(|pid| pid.try_into().ok()).unwrap_or_default(),
        state: state.status.map_or_else(String::new, |status| status.to_string()),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        networks: networks.collect(),
        joined: joined.and_then(|mode| mode.strip_prefix("container:").map(str::to_owned)),
        published: published.collect(),
        name: own,
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn error_when_docker_cannot_be_reached_names_the_cause() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("docker.sock");
        // A socket that nobody listens at any more.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        let path = path.to_str().expect("a plain name");
        let docker = bollard::Docker::connect_with_unix(path, ANSWER_TIMEOUT, API_DEFAULT_VERSION).expect("a client");
        let error = Lost::from(docker.version().await.expect_err("nobody answers"));
        assert!(with_cause(&error).contains("Connection refused"), "{}", with_cause(&error));
    }
}
