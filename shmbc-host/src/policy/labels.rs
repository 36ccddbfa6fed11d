//! The labels `io.shmbc.*` of containers and networks. One that is not understood is an error, never ignored: whoever wrote
//! it wanted to forbid something.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::Pattern;
use crate::quota::SomeLimits;
use crate::table::containers::cut;

const PREFIX: &str = "io.shmbc.";

/// `false` keeps all connections of a container, or over a network, on TCP; `true` matters where only what is labelled is
/// accelerated.
pub(super) const ENABLE: &str = "io.shmbc.enable";

/// The containers that a container's connections are accelerated with: names, separated by commas.
const PEERS: &str = "io.shmbc.peers";

/// The networks over which they are.
const NETWORKS: &str = "io.shmbc.networks";

/// Before the name of a limit.
pub(super) const LIMIT: &str = "io.shmbc.limit.";

/// What the labels of one container or network say.
#[derive(Debug, Default)]
pub(super) struct Labels {
    pub(super) enable: Option<bool>,
    pub(super) peers: Option<Vec<Pattern>>,
    pub(super) networks: Option<Vec<Pattern>>,
    pub(super) limits: SomeLimits,
}

impl Labels {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// The first that is not understood: goes on from "has the label ".
    pub(super) fn read(all: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut labels = Self::default();
        let ours = all.range::<str, _>((Bound::Included(PREFIX), Bound::Unbounded));
        for (name, value) in ours.take_while(|(name, _)| name.starts_with(PREFIX)) {
            let wrong = |right: &str| Err(format!("{}={}: {right}", cut(name), cut(value)));
            let value = value.trim();
            match name.as_str() {
                ENABLE => match value.to_ascii_lowercase().as_str() {
                    "true" | "1" | "yes" | "on" => labels.enable = Some(true),
                    "false" | "0" | "no" | "off" => labels.enable = Some(false),
                    _ => return wrong("it is true or false"),
                },
                PEERS => labels.peers = Some(patterns(value)),
                NETWORKS => labels.networks = Some(patterns(value)),
                _ => match name.strip_prefix(LIMIT) {
                    Some(limit) => {
                        if let Err(right) = labels.limits.set(&limit.replace('-', "_"), value) {
                            return wrong(&right);
                        }
                    }
                    None => {
                        return wrong("it is none of io.shmbc.enable, .peers, .networks and .limit.*");
                    }
                },
            }
        }
        Ok(labels)
    }
}

fn patterns(text: &str) -> Vec<Pattern> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(Pattern::from).collect()
}
