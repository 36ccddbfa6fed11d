//! Settings of this process: from the environment, or from the program before its first stream.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::control::socket::DEFAULT_PATH;

use crate::wait::Wait;

/// Settings of this process.
///
/// ```
/// use shmbc::{Config, Wait};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// Config::from_env()?.wait(Wait::Off).install()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Path of the control socket; nothing when acceleration is off.
    pub(crate) host: Option<PathBuf>,
    pub(crate) wait: Wait,
    pub(crate) when: When,
}

impl Default for Config {
    /// The host service at `/run/shmbc/host.sock`, adaptive wait, upgrades when the traffic shows that they are worth it.
    fn default() -> Self {
        Self { host: Some(DEFAULT_PATH.into()), wait: Wait::Adaptive, when: When::Traffic }
    }
}

/// When a stream offers its connection for an upgrade. (Waiting for the upgrade offers it at once.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum When {
    /// When it has turned around twice between writing and reading, or moved 256 KiB one way: a connection for one request
    /// is not worth it.
    #[default]
    Traffic,
    /// As soon as it is connected or accepted: for programs whose connections live long. The first bytes still go by
    /// TCP, without waiting.
    Eager,
    /// As `Eager`, and nothing is read or written before the host service has decided: to run a program's tests over shared
    /// memory from the first byte to the last. A stream whose peer does not speak SHMBC waits for the host service's
    /// `twin_timeout`, so set that to 50 ms or so there. Waiting calls are pending meanwhile; `try_` calls block their thread, and mio's streams, which never do, say
    /// `WouldBlock` and report an event.
    Await,
}

impl When {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "traffic" => Self::Traffic,
            "eager" => Self::Eager,
            "await" => Self::Await,
            _ => return None,
        })
    }
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// `SHMBC_HOST` is neither `off` nor an absolute path that fits a socket address.
    #[error("SHMBC_HOST={0:?}: expected `off`, or the absolute path of the host service's socket (at most 107 bytes)")]
    Host(OsString),
    /// `SHMBC_WAIT` is none of its values.
    #[error("SHMBC_WAIT={0:?}: expected `adaptive`, `off`, `fixed`, or `fixed:<n>us` with n from 1 to 1000000")]
    Wait(OsString),
    /// `SHMBC_UPGRADE` is none of its values.
    #[error("SHMBC_UPGRADE={0:?}: expected `traffic`, `eager`, or `await`")]
    Upgrade(OsString),
}

/// The settings are fixed once the first stream or listener exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("settings are already in use: install them before the first stream or listener")]
pub struct AlreadyInstalled;

static INSTALLED: OnceLock<Config> = OnceLock::new();

impl Config {
    /// The settings that the environment asks for. A variable that is empty counts as unset.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the variable, its value and what would be right.
    pub fn from_env() -> Result<Self, ConfigError> {
        let [host, wait, when] = ["SHMBC_HOST", "SHMBC_WAIT", "SHMBC_UPGRADE"].map(std::env::var_os);
        Self::parse(host.as_deref(), wait.as_deref(), when.as_deref())
    }

    fn parse(host: Option<&OsStr>, wait: Option<&OsStr>, when: Option<&OsStr>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        // Empty is unset: compose files pass on what they have.
        let [host, wait, when] = [host, wait, when].map(|value| value.filter(|value| !value.is_empty()));
        match host {
            None => {}
            Some(off) if off == "off" => config.host = None,
            Some(path) if path.as_encoded_bytes().starts_with(b"/") && path.len() <= MAX_SOCKET_PATH => {
                config.host = Some(path.into());
            }
            Some(other) => return Err(ConfigError::Host(other.into())),
        }
        if let Some(value) = wait {
            let parsed = value.to_str().and_then(Wait::parse);
            config.wait = parsed.ok_or_else(|| ConfigError::Wait(value.into()))?;
        }
        if let Some(value) = when {
            let parsed = value.to_str().and_then(When::parse);
            config.when = parsed.ok_or_else(|| ConfigError::Upgrade(value.into()))?;
        }
        Ok(config)
    }

    /// Talks to the host service at `path`.
    #[must_use]
    pub fn host(mut self, path: impl Into<PathBuf>) -> Self {
        self.host = Some(path.into());
        self
    }

    /// Talks to no host service: every stream stays on TCP.
    #[must_use]
    pub fn host_off(mut self) -> Self {
        self.host = None;
        self
    }

    /// How streams wait unless told otherwise.
    #[must_use]
    pub const fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// When streams offer their connection for an upgrade.
    #[must_use]
    pub const fn upgrade(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    /// Makes these the settings of the process.
    ///
    /// # Errors
    ///
    /// [`AlreadyInstalled`] when a stream or listener exists, or settings were installed before.
    pub fn install(self) -> Result<(), AlreadyInstalled> {
        INSTALLED.set(self).map_err(|_| AlreadyInstalled)
    }

    /// The settings in use. Without [`install`](Self::install), the environment's; where that makes no sense, acceleration is
    /// off and the log says why, since a stream that works is worth more than one that is fast.
    pub(crate) fn current() -> &'static Self {
        INSTALLED.get_or_init(|| {
            Self::from_env().unwrap_or_else(|error| {
                tracing::error!(%error, "acceleration is off");
                Self::default().host_off()
            })
        })
    }
}

/// `sun_path` has 108 bytes, the last of them 0.
const MAX_SOCKET_PATH: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn parse(host: Option<&str>, wait: Option<&str>) -> Result<Config, ConfigError> {
        Config::parse(host.map(OsStr::new), wait.map(OsStr::new), None)
    }

    fn parse_when(when: &str) -> Result<When, ConfigError> {
        Config::parse(None, None, Some(OsStr::new(when))).map(|config| config.when)
    }

    #[test]
    fn environment_when_sensible_is_taken_over() {
        assert_eq!(parse(None, None).unwrap(), Config::default());
        assert_eq!(parse(Some(""), Some("")).unwrap(), Config::default());
        assert_eq!(parse(Some("off"), None).unwrap().host, None);
        assert_eq!(parse(Some("/x/y.sock"), None).unwrap().host, Some("/x/y.sock".into()));
        assert_eq!(parse(None, Some("off")).unwrap().wait, Wait::Off);
        assert_eq!(parse(None, Some("fixed:7us")).unwrap().wait, Wait::Fixed(Duration::from_micros(7)));
        assert_eq!(parse_when("traffic"), Ok(When::Traffic));
        assert_eq!(parse_when("eager"), Ok(When::Eager));
        assert_eq!(parse_when("await"), Ok(When::Await));
    }

    #[test]
    fn environment_when_it_makes_no_sense_is_refused_by_name() {
        for host in ["on", "run/shmbc", &format!("/{}", "x".repeat(107))] {
            let error = parse(Some(host), None).unwrap_err().to_string();
            assert!(error.contains("SHMBC_HOST") && error.contains("absolute path"), "{error}");
        }
        for wait in ["yes", "fixed:", "fixed:0us", "fixed:5", "fixed:-1us", "fixed:9999999us", "Off"] {
            let error = parse(None, Some(wait)).unwrap_err().to_string();
            assert!(error.contains("SHMBC_WAIT") && error.contains("adaptive"), "{error}");
        }
        let error = parse_when("always").unwrap_err().to_string();
        assert!(error.contains("SHMBC_UPGRADE") && error.contains("eager"), "{error}");
    }
}
