//! The configuration file: TOML, each key with a default. What is wrong in it is told with its line.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use shmbc::layout::Sizes;

use super::{Docker, HostConfig, size};
use crate::cli::LogFormat;
use crate::huge_pages::HugePages;
use crate::metrics::MetricsAddress;
use crate::policy::{Accelerate, Policy, Rule};
use crate::quota::Limits;

/// Most bytes of a file. A thousand rules take a tenth of it.
const MAX_BYTES: u64 = 1 << 20;

/// What a file says; a key that it leaves out is nothing here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct File {
    #[serde(deserialize_with = "absolute")]
    pub(crate) socket: Option<PathBuf>,
    #[serde(deserialize_with = "text")]
    pub(crate) docker: Option<Docker>,
    pub(crate) log: Option<String>,
    pub(crate) log_format: Option<LogFormat>,
    #[serde(deserialize_with = "text")]
    pub(crate) metrics: Option<MetricsAddress>,
    blocks: Blocks,
    timeouts: Timeouts,
    limits: Limits,
    policy: PolicyTable,
    rule: Vec<Rule>,
}

/// `[blocks]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Blocks {
    #[serde(deserialize_with = "capacity")]
    ring_capacity: Option<u64>,
    #[serde(deserialize_with = "text")]
    huge_pages: Option<HugePages>,
    stock: Option<usize>,
    #[serde(deserialize_with = "size::deserialize_some")]
    memory: Option<u64>,
}

/// `[timeouts]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Timeouts {
    #[serde(deserialize_with = "duration")]
    twin: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    ready: Option<Duration>,
}

/// `[policy]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PolicyTable {
    accelerate: Accelerate,
}

impl File {
    /// Reads `path`.
    ///
    /// # Errors
    ///
    /// One line: the file, the line and column, what is wrong there and what would be right.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let failed = |why: String| format!("{}: {why}", path.display());
        let size = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
        if size > MAX_BYTES {
            return Err(failed(format!("it has {size} bytes, more than the {MAX_BYTES} that are read")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        Self::parse(&text).map_err(|(line, column, why)| format!("{}:{line}:{column}: {why}", path.display()))
    }

    /// # Errors
    ///
    /// Line and column, from 1, of what is wrong, and what it is.
    fn parse(text: &str) -> Result<Self, (usize, usize, String)> {
        let place = |at: usize| {
            let before = text.get(..at).unwrap_or(text);
            let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
            (before.matches('\n').count() + 1, column)
        };
        let file: Self = toml::from_str(text).map_err(|error| {
            let (line, column) = place(error.span().map_or(0, |span| span.start));
            // Some messages name alternatives on lines of their own.
            (line, column, error.message().lines().collect::<Vec<_>>().join(" "))
        })?;
        if let Some((number, why)) = file.policy().fault() {
            let at = text.match_indices("[[rule]]").nth(number - 1).map_or(0, |(at, _)| at);
            let (line, column) = place(at);
            return Err((line, column, why));
        }
        Ok(file)
    }

    /// What it says about what may be accelerated.
    fn policy(&self) -> Policy {
        Policy { accelerate: self.policy.accelerate, rules: self.rule.clone(), limits: self.limits }
    }

    /// The defaults, and over them what the file says.
    pub(crate) fn config(&self, default_socket: &str) -> HostConfig {
        let mut config = HostConfig::at(self.socket.clone().unwrap_or_else(|| default_socket.into()));
        config.policy = self.policy();
        config.memory = self.blocks.memory;
        config.metrics = self.metrics.clone();
        config.docker = self.docker.clone().unwrap_or(config.docker);
        config.ring_capacity = self.blocks.ring_capacity.unwrap_or(config.ring_capacity);
        config.huge_pages = self.blocks.huge_pages.unwrap_or(config.huge_pages);
        config.stock = self.blocks.stock.unwrap_or(config.stock);
        config.twin_timeout = self.timeouts.twin.unwrap_or(config.twin_timeout);
        config.ready_timeout = self.timeouts.ready.unwrap_or(config.ready_timeout);
        config
    }
}

fn text<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(from: D) -> Result<Option<T>, D::Error> {
    String::deserialize(from)?.parse().map(Some).map_err(D::Error::custom)
}

fn absolute<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(from)?;
    match path.is_absolute() {
        true => Ok(Some(path)),
        false => Err(D::Error::custom(format!("{} is no absolute path", path.display()))),
    }
}

fn capacity<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let bytes = size::deserialize(from)?;
    Sizes::new([bytes; 2]).map(|_| Some(bytes)).map_err(D::Error::custom)
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    humantime::parse_duration(&String::deserialize(from)?)
        .map(Some)
        .map_err(|e| D::Error::custom(format!("{e}: write a time with its unit, such as \"2s\" or \"500ms\"")))
}

#[cfg(test)]
mod tests;
