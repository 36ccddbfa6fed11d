//! Where the settings of `shmbc-host` come from: the command line, else a variable, else the configuration file, else the
//! default. An empty variable counts as unset.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use shmbc::control::client::socket_path;
use shmbc::control::socket::DEFAULT_PATH;

use super::LogFormat;
use super::sandbox::Sandbox;
use crate::config::file::File;
use crate::config::size;
use crate::{Docker, HostConfig, HugePages, MetricsAddress};

/// The configuration file that is read if it is there and no other is named.
pub(super) const DEFAULT_FILE: &str = "/etc/shmbc/host.toml";

/// What is logged unless something else is asked for.
const DEFAULT_LOG: &str = "info";

/// Arguments of the commands that take settings. Each goes before its variable, and that before the configuration file.
#[derive(Clone, Debug, Args)]
pub(super) struct Settings {
    /// The configuration file. Default /etc/shmbc/host.toml, if it is there.
    #[arg(long, env = "SHMBC_HOST_CONFIG", value_name = "FILE", default_value = "", hide_default_value = true, value_parser = path())]
    config: Given<PathBuf>,
    /// The control socket. Default /run/shmbc/host.sock.
    #[arg(long, env = "SHMBC_HOST", value_name = "PATH", default_value = "", hide_default_value = true, value_parser = path())]
    socket: Given<PathBuf>,
    /// Where containers are known from: auto, off, or the path of Docker's socket. Default auto.
    #[arg(long, env = "SHMBC_HOST_DOCKER", default_value = "", hide_default_value = true, value_parser = given::<Docker>)]
    docker: Given<Docker>,
    /// Bytes of ring for each direction of a connection, such as 1MiB; a power of two. Default 4 MiB.
    #[arg(long, env = "SHMBC_HOST_RING_CAPACITY", value_name = "BYTES", default_value = "", hide_default_value = true, value_parser = bytes)]
    ring_capacity: Given<u64>,
    /// Huge pages for connections: transparent (the same as no word), hugetlb (of the kernel's pool, 2 MiB each), or off.
    /// Default off.
    #[arg(long, env = "SHMBC_HOST_HUGE_PAGES", value_name = "PAGES", default_value = "", hide_default_value = true, num_args = 0..=1, default_missing_value = "transparent", value_parser = given::<HugePages>)]
    huge_pages: Given<HugePages>,
    /// Fresh blocks kept ready. Default 32.
    #[arg(long, env = "SHMBC_HOST_STOCK", value_name = "N", default_value = "", hide_default_value = true, value_parser = given::<usize>)]
    stock: Given<usize>,
    /// Most bytes of all blocks together, such as 64GiB. Default without a limit.
    #[arg(long, env = "SHMBC_HOST_MEMORY", value_name = "BYTES", default_value = "", hide_default_value = true, value_parser = bytes)]
    memory: Given<u64>,
    /// How long a lone offer waits for the other end's, in milliseconds. Default 2000.
    #[arg(long, env = "SHMBC_HOST_TWIN_TIMEOUT", value_name = "MS", default_value = "", hide_default_value = true, value_parser = given::<u64>)]
    twin_timeout: Given<u64>,
    /// Serve metrics for Prometheus at ADDRESS:PORT or unix:/PATH. To everybody who can reach it.
    #[arg(long, env = "SHMBC_HOST_METRICS", value_name = "ADDRESS", default_value = "", hide_default_value = true, value_parser = given::<MetricsAddress>)]
    metrics: Given<MetricsAddress>,
    /// Give up capabilities and system calls that are not needed: auto (as far as the kernel lets it), strict (or do not start), off.
    #[arg(long, env = "SHMBC_HOST_SANDBOX", value_enum, default_value_t = Sandbox::Auto)]
    pub(super) sandbox: Sandbox,
    /// What is logged to stderr: error, warn, info, debug, trace, or a tracing filter. Default info.
    #[arg(long, env = "SHMBC_LOG", value_name = "LEVEL", default_value = "", hide_default_value = true, value_parser = given::<String>)]
    log: Given<String>,
    /// How a line of the log looks: text, or json (one object a line). Default text.
    #[arg(long, env = "SHMBC_LOG_FORMAT", value_name = "FORMAT", default_value = "", hide_default_value = true, value_parser = log_format)]
    log_format: Given<LogFormat>,
}

/// What is logged, and how.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) level: String,
    pub(super) format: LogFormat,
}

/// A setting, or nothing for an empty text.
#[derive(Clone, Debug)]
struct Given<T>(Option<T>);

impl<T> Given<T> {
    fn by(text: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Self, String> {
        let value = if text.is_empty() { None } else { Some(parse(text)?) };
        Ok(Self(value))
    }
}

fn given<T: FromStr<Err: Display>>(text: &str) -> Result<Given<T>, String> {
    Given::by(text, |text| text.parse().map_err(|e: T::Err| e.to_string()))
}

fn log_format(text: &str) -> Result<Given<LogFormat>, String> {
    Given::by(text, |text| LogFormat::from_str(text, false).map_err(|_| "it is text or json".into()))
}

fn bytes(text: &str) -> Result<Given<u64>, String> {
    Given::by(text, size::parse)
}

fn path() -> impl TypedValueParser<Value = Given<PathBuf>> {
    OsStringValueParser::new().map(|text| Given((!text.is_empty()).then(|| text.into())))
}

impl Settings {
    /// The configuration file that counts, if there is one.
    pub(super) fn file(&self) -> Option<&Path> {
        match &self.config.0 {
            Some(named) => Some(named),
            None => Some(Path::new(DEFAULT_FILE)).filter(|path| path.exists()),
        }
    }

    /// All settings, and what is logged.
    ///
    /// # Errors
    ///
    /// One line that says what is wrong, where, and what would be right.
    pub(super) fn read(&self) -> Result<(HostConfig, Log), String> {
        let file = self.file().map_or_else(|| Ok(File::default()), File::read)?;
        let mut config = file.config(DEFAULT_PATH);
        config.socket = self.socket.0.clone().unwrap_or(config.socket);
        config.socket = socket_path(&config.socket).map_err(|e| e.to_string())?;
        config.docker = self.docker.0.clone().unwrap_or(config.docker);
        config.ring_capacity = self.ring_capacity.0.unwrap_or(config.ring_capacity);
        config.huge_pages = self.huge_pages.0.unwrap_or(config.huge_pages);
        config.stock = self.stock.0.unwrap_or(config.stock);
        config.memory = self.memory.0.or(config.memory);
        config.twin_timeout = self.twin_timeout.0.map_or(config.twin_timeout, Duration::from_millis);
        config.metrics = self.metrics.0.clone().or(config.metrics);
        let log = self.log.0.clone().or(file.log).unwrap_or_else(|| DEFAULT_LOG.into());
        let format = self.log_format.0.or(file.log_format).unwrap_or_default();
        Ok((config, Log { level: log, format }))
    }
}
