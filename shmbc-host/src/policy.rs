//! What may be accelerated, and how much of it. A proven TCP connection is the permission, for the network itself let it be
//! made; rules of the configuration and labels can only forbid more. Pure; asked by the broker for each offer and grant.
//!
//! Every refusal is a sentence for the people who run the containers: it names the container, and the label or rule to change.

mod labels;
mod pattern;

use serde::Deserialize;

use self::labels::Labels;
pub use self::pattern::Pattern;
use crate::identity::stranger::Stranger;
use crate::quota::{Bound, Bounds, By, ClientKey, Exceeded, Limits, SomeLimits};
use crate::table::connections::End;
use crate::table::containers::{Container, Containers, Network, cut};

/// Most rules. They are walked for each offer; a thousand take some microseconds.
const MAX_RULES: usize = 1_000;

/// What is accelerated that no rule speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerate {
    /// Everything, but for what a label forbids.
    #[default]
    All,
    /// Containers that have the label `io.shmbc.enable=true`, or talk over a network that has it. Processes outside of
    /// containers have no labels.
    Labelled,
    /// Nothing.
    None,
}

/// Exceptions for some containers, or for a user outside of containers. Counts if all that it names is so.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Containers with such a name.
    pub container: Option<Pattern>,
    /// Containers with this label: `name`, or `name=pattern`.
    pub label: Option<String>,
    /// This user's processes outside of containers.
    pub uid: Option<u32>,
    /// Whether they are accelerated, whatever [`Policy::accelerate`] says.
    pub accelerate: Option<bool>,
    /// Only with containers of such names.
    pub peers: Option<Vec<Pattern>>,
    /// Only over networks of such names.
    pub networks: Option<Vec<Pattern>>,
    /// Limits of their own.
    pub limits: SomeLimits,
}

impl Rule {
    fn matches(&self, key: &ClientKey, container: Option<&Container>) -> bool {
        let uid = self.uid.is_none_or(|uid| match key {
            // What may be a container is only narrowed by it (`Policy::bounds`, `Policy::check_side`).
            ClientKey::Uid(its) | ClientKey::Unknown(Stranger { uid: its, .. }) => *its == uid,
            ClientKey::Container(_) => false,
        });
        let name = self.container.as_ref().is_none_or(|name| container.is_some_and(|c| name.matches(&c.name)));
        let label = self.label.as_ref().is_none_or(|label| container.is_some_and(|c| has_label(c, label)));
        uid && name && label
    }

    /// What is wrong with it, and what would be right.
    fn fault(&self) -> Option<&'static str> {
        if self.container.is_none() && self.label.is_none() && self.uid.is_none() {
            return Some("a rule names whom it is for: add `container`, `label` or `uid`");
        }
        if self.uid.is_some() && (self.container.is_some() || self.label.is_some()) {
            return Some("`uid` is for processes outside of containers: a rule has it or `container` and `label`");
        }
        None
    }
}

fn has_label(container: &Container, wanted: &str) -> bool {
    match wanted.split_once('=') {
        None => container.labels.contains_key(wanted),
        Some((name, value)) => container.labels.get(name).is_some_and(|is| Pattern::from(value).matches(is)),
    }
}

/// What may be accelerated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// What is accelerated that no rule speaks of.
    pub accelerate: Accelerate,
    /// The first that counts for a container or user decides.
    pub rules: Vec<Rule>,
    /// What one container, or one user outside of containers, may use.
    pub limits: Limits,
}

impl Policy {
    /// The first rule that makes no sense, counted from 1, and why.
    pub(crate) fn fault(&self) -> Option<(usize, String)> {
        if self.rules.len() > MAX_RULES {
            return Some((MAX_RULES + 1, format!("there are more than {MAX_RULES} rules")));
        }
        let faults = self.rules.iter().enumerate();
        faults.filter_map(|(n, rule)| Some((n + 1, rule.fault()?.to_owned()))).next()
    }

    fn rule(&self, key: &ClientKey, container: Option<&Container>) -> Option<(usize, &Rule)> {
        self.rules.iter().enumerate().find(|(_, rule)| rule.matches(key, container)).map(|(n, rule)| (n + 1, rule))
    }

    /// What this client may use: as the limits say, or its rule; its labels can only take from it.
    pub(crate) fn bounds(&self, key: &ClientKey, containers: &Containers) -> Bounds {
        let container = containers.of_client(key);
        let mut bounds = self.limits.bounds();
        if let Some((n, rule)) = self.rule(key, container) {
            for (bound, most) in bounds.iter_mut().zip(rule.limits.each()) {
                if let Some(most) = most
                    && (!is_unknown(key) || most < bound.most)
                {
                    *bound = Bound { most, by: By::Rule(n) };
                }
            }
        }
        // Labels that make no sense keep the container on TCP: see `check`.
        if let Some(Ok(labels)) = container.map(|c| Labels::read(&c.labels)) {
            for (bound, most) in bounds.iter_mut().zip(labels.limits.each()) {
                if let Some(most) = most
                    && most < bound.most
                {
                    *bound = Bound { most, by: By::Label };
                }
            }
        }
        bounds
    }

    /// The sentence about a limit that is reached.
    pub(crate) fn explain(&self, key: &ClientKey, containers: &Containers, exceeded: Exceeded) -> String {
        let Exceeded { resource, used, bound } = exceeded;
        let who = who(key, containers);
        let used = match used {
            Some(used) => format!("{who} has {used} of at most {} {}", bound.most, resource.words()),
            None => format!("{who} offers more than {} {}", bound.most, resource.words()),
        };
        let setting = resource.setting();
        match bound.by {
            By::Limits => format!("{used}: raise limits.{setting} of the host service"),
            By::Rule(n) => format!("{used}: raise limits.{setting} of rule {n} of the host service"),
            By::Label => format!("{used}: raise its label {}{}", labels::LIMIT, setting.replace('_', "-")),
        }
    }

    /// Whether the connection between these ends may be upgraded, or the sentence that says why not.
    pub(crate) fn check(&self, ends: [&End; 2], containers: &Containers) -> Result<(), String> {
        let sides = ends.map(|end| Side::of(end, containers));
        for (side, other) in [(&sides[0], &sides[1]), (&sides[1], &sides[0])] {
            self.check_side(side, other, containers)?;
        }
        Ok(())
    }

    fn check_side(&self, side: &Side<'_>, other: &Side<'_>, containers: &Containers) -> Result<(), String> {
        let who = || who(side.key, containers);
        let mut asked = false;
        if let Some(network) = side.network {
            let labels = containers.network_labels(&network.id).map_or_else(|| Ok(Labels::default()), Labels::read);
            let labels = labels.map_err(|wrong| format!("network {} has the label {wrong}", cut(&network.name)))?;
            if labels.enable == Some(false) {
                return Err(format!("network {} has the label {}=false", cut(&network.name), labels::ENABLE));
            }
            asked |= labels.enable == Some(true);
        }
        let rule = self.rule(side.key, side.container);
        if let Some((n, rule)) = rule {
            let of_rule = format!("rule {n} of the host service");
            if rule.accelerate == Some(false) {
                return Err(format!("{of_rule} keeps {} on TCP", who()));
            }
            let [peers, networks] = [&rule.peers, &rule.networks].map(Option::as_deref);
            side.check_narrowed(other, peers, networks).map_err(|why| format!("{of_rule} lets {} {why}", who()))?;
        }
        if let Some(container) = side.container {
            let labels = Labels::read(&container.labels).map_err(|wrong| format!("{} has the label {wrong}", who()))?;
            if labels.enable == Some(false) {
                return Err(format!("{} has the label {}=false", who(), labels::ENABLE));
            }
            asked |= labels.enable == Some(true);
            let [peers, networks] = [&labels.peers, &labels.networks].map(Option::as_deref);
            side.check_narrowed(other, peers, networks).map_err(|why| format!("its labels let {} {why}", who()))?;
        }
        if rule.is_some_and(|(_, rule)| rule.accelerate == Some(true)) && !is_unknown(side.key) {
            return Ok(());
        }
        match self.accelerate {
            Accelerate::All => Ok(()),
            Accelerate::Labelled if asked => Ok(()),
            Accelerate::Labelled if side.container.is_some() => Err(format!(
                "the host service accelerates what is labelled: give {} or its network the label {}=true",
                who(),
                labels::ENABLE
            )),
            Accelerate::Labelled | Accelerate::None if is_unknown(side.key) => {
                Err(format!("the host service accelerates what it knows, not {}", who()))
            }
            Accelerate::Labelled | Accelerate::None => {
                Err(format!("no rule of the host service accelerates {}: add one with accelerate = true", who()))
            }
        }
    }
}

/// One end, as rules see it.
struct Side<'a> {
    key: &'a ClientKey,
    container: Option<&'a Container>,
    /// The network that the connection goes over, where Docker says which has its address.
    network: Option<&'a Network>,
}

impl<'a> Side<'a> {
    fn of(end: &'a End, containers: &'a Containers) -> Self {
        let key = &end.client.key;
        let container = containers.of_client(key);
        let networks = container.map_or(&[][..], |container| containers.networks(&container.id));
        let here = end.local.ip().to_canonical();
        let network = networks.iter().find(|n| n.addresses.iter().any(|address| address.to_canonical() == here));
        Self { key, container, network }
    }

    /// Goes on from "a rule lets this container ..".
    fn check_narrowed(
        &self,
        other: &Self,
        peers: Option<&[Pattern]>,
        networks: Option<&[Pattern]>,
    ) -> Result<(), String> {
        let among = |patterns: &[Pattern], name: &str| patterns.iter().any(|pattern| pattern.matches(name));
        if let Some(peers) = peers
            && !among(peers, other.container.map_or("", |c| &c.name))
        {
            let with = other.container.map_or_else(|| "a process in no known container".into(), |c| cut(&c.name));
            return Err(format!("go over to shared memory with {} only, not with {with}", list(peers)));
        }
        if let Some(networks) = networks
            && !among(networks, self.network.map_or("", |network| &network.name))
        {
            let over = self.network.map_or_else(|| "one that Docker does not name".into(), |n| cut(&n.name));
            return Err(format!("go over to shared memory on networks {} only, not on {over}", list(networks)));
        }
        Ok(())
    }
}

fn list(patterns: &[Pattern]) -> String {
    let words: Vec<_> = patterns.iter().map(ToString::to_string).collect();
    cut(&words.join(","))
}

/// Whether this may be a container: what is allowed outside of containers is not meant for it, what is forbidden is.
const fn is_unknown(key: &ClientKey) -> bool {
    matches!(key, ClientKey::Unknown(_))
}

fn who(key: &ClientKey, containers: &Containers) -> String {
    match (key, containers.of_client(key)) {
        (_, Some(container)) => format!("container {}", cut(&container.name)),
        (ClientKey::Container(id), None) => format!("container {}", id.get(..12).unwrap_or(id)),
        (ClientKey::Uid(uid), None) => format!("uid {uid} outside of containers"),
        (ClientKey::Unknown(Stranger { uid, .. }), None) => format!("an unknown container of uid {uid}"),
    }
}

#[cfg(test)]
mod tests;
