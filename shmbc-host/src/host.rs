//! Puts a host service together and takes it apart. Wiring only.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shmbc::layout::Sizes;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::info;

use crate::config::{HostConfig, HostError};
use crate::docker;
use crate::hub::{Counts, Hub};
use crate::huge_pages::HugePages;
use crate::hugetlb::{self, Maker};
use crate::metrics::Exporter;
use crate::numa;
use crate::pool::Pool;
use crate::server::{self, Listener};
use crate::supervise::supervise;

/// Containers that the Docker watcher may be asked to look at, at once. More are found by its next list.
const ASKS: usize = 64;

/// How long connections that are granted when the service is told to stop may take to be established. It takes them tens of
/// microseconds, unless one end is stopped.
const GRACE: Duration = Duration::from_secs(1);

/// A running host service. Ends when dropped; [`Host::shutdown`] also tells clients that are waiting.
///
/// Connections that are established go on without it.
#[derive(Debug)]
pub struct Host {
    hub: Arc<Hub>,
    socket: PathBuf,
    stop: watch::Sender<bool>,
    server: Option<JoinHandle<()>>,
    helpers: Vec<JoinHandle<()>>,
}

impl Host {
    /// Starts a service on the runtime of the caller, which must have I/O and time enabled. It accepts clients
    /// when this returns.
    ///
    /// # Errors
    ///
    /// [`HostError`] says what stands in the way, and what to do.
    pub async fn start(config: HostConfig) -> Result<Self, HostError> {
        Self::begin(config, None).await
    }

    /// Starts a service on a control socket that somebody else made, listens on and keeps, such as systemd; the path in `config`
    /// is not used. Otherwise as [`Host::start`].
    ///
    /// # Errors
    ///
    /// As [`Host::start`]; [`HostError::Inherited`] for a socket of another kind.
    pub async fn start_on(socket: OwnedFd, config: HostConfig) -> Result<Self, HostError> {
        Self::begin(config, Some(socket)).await
    }

    async fn begin(config: HostConfig, inherited: Option<OwnedFd>) -> Result<Self, HostError> {
        config.check()?;
        let sizes = Sizes::new([config.ring_capacity; 2])?;
        config.huge_pages.tell_whether_there_are_some();
        let (pool, taken_back) = Pool::new(sizes, config.stock);
        pool.fill().map_err(HostError::io("making the first blocks"))?;
        let (asks, asked) = mpsc::channel(ASKS);
        let (maker, orders) = (config.huge_pages == HugePages::Hugetlb).then(Maker::new).unzip();
        let hub = Arc::new(Hub::new(&config, sizes, Arc::clone(&pool), maker, asks));
        hub.learn_own();
        // Before there is much that a fork would copy.
        hub.pullers.begin().await.map_err(HostError::io("starting a process that looks at sockets"))?;
        let exporter = match &config.metrics {
            Some(address) => Some(Exporter::bind(address).await?),
            None => None,
        };
        let listener = match inherited {
            Some(socket) => Listener::inherit(socket)?,
            None => Listener::bind(&config.socket).await?,
        };
        let socket = listener.path().to_owned();
        let (stop, stopping) = watch::channel(false);
        info!(socket = %socket.display(), ring = config.ring_capacity, "host service ready");

        let panics = hub.panics.clone();
        /// A task that gets clones of these each time it is started.
        macro_rules! task {
            ($name:literal, |$($shared:ident),*| $task:expr) => {{
                $(let $shared = $shared.clone();)*
                tokio::spawn(supervise($name, panics.clone(), move || {
                    $(let $shared = $shared.clone();)*
                    async move { $task.await; }
                }))
            }};
        }
        // What only one task has outlives it.
        let (taken_back, asked) = (Arc::new(Mutex::new(taken_back)), Arc::new(Mutex::new(asked)));
        let (orders, exporter) = (orders.map(|orders| Arc::new(Mutex::new(orders))), exporter.map(Arc::new));
        let (listener, source) = (Arc::new(Mutex::new(Some(listener))), config.docker);
        let mut helpers = vec![
            task!("pool", |pool, taken_back| pool.keep(&mut *taken_back.lock().await)),
            task!("deadlines", |hub| hub.keep_deadlines()),
            task!("numa", |hub| numa::keep(hub)),
            task!("docker", |hub, source, asked| docker::watch(source, hub, &mut *asked.lock().await)),
        ];
        if let Some(exporter) = exporter {
            helpers.push(task!("metrics", |exporter, hub| exporter.serve(hub)));
        }
        if let Some(orders) = orders {
            helpers.push(task!("hugetlb", |hub, orders| hugetlb::keep(hub, &mut *orders.lock().await)));
        }
        let server =
            task!("server", |listener, hub, stopping| server::serve(&mut *listener.lock().await, hub, stopping));
        Ok(Self { hub, socket, stop, server: Some(server), helpers })
    }

    /// Where clients find it.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Takes over what can change while a service runs: the policy with its limits, the budget of memory, and the timeouts. What is
    /// established stays so. The rest of `config` is not looked at.
    ///
    /// # Errors
    ///
    /// Those of [`HostConfig::check`]; nothing has changed then.
    pub fn reload(&self, config: &HostConfig) -> Result<(), HostError> {
        config.check()?;
        self.hub.reload(config);
        Ok(())
    }

    /// What it holds now.
    pub fn counts(&self) -> Counts {
        self.hub.counts()
    }

    /// Tells clients that wait that their connections stay on TCP, lets those that are granted come through, ends all sessions and
    /// removes the socket's file unless it was inherited.
    pub async fn shutdown(mut self) {
        self.hub.drain(GRACE).await;
        let _ = self.stop.send(true);
        if let Some(server) = self.server.take() {
            let _ = server.await;
        }
        for helper in self.helpers.drain(..) {
            helper.abort();
            let _ = helper.await;
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
        for helper in &self.helpers {
            helper.abort();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
