//! What may be required of a peer whose identity is proven. Pure.

use std::fmt;

use shmbc_tokio::Identity;

/// What a peer must be. Everything in here is about its container: what a process says of itself does not count.
///
/// ```
/// use shmbc_http::Requirement;
///
/// let billing = Requirement::any_of([
///     Requirement::label("com.docker.compose.service", "billing"),
///     Requirement::container("billing-by-hand"),
/// ]);
/// assert_eq!(
///     billing.to_string(),
///     r#"the label "com.docker.compose.service"="billing", or the container named "billing-by-hand""#
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Requirement {
    /// Its container was started with this label, with exactly this value.
    ///
    /// The host service tells of at most [`MAX_LABELS`](shmbc_tokio::MAX_LABELS) labels of a container, the first in order of their names, and
    /// leaves out those with a name or value longer than [`MAX_TEXT`](shmbc_tokio::MAX_TEXT) bytes: what it does not tell is not there.
    Label {
        /// The label's name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Its container was started with this label, whatever its value.
    HasLabel(String),
    /// Its container has this name, without the slash that Docker puts before it. Whoever may rename containers may take any
    /// name that is free.
    Container(String),
    /// Its container has this id, of 64 hexadecimal digits.
    ContainerId(String),
    /// One of these holds.
    AnyOf(Vec<Self>),
}

impl Requirement {
    /// A label with a value.
    pub fn label(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self::Label { name: name.into(), value: value.into() }
    }

    /// A label, whatever its value.
    pub fn has_label(name: impl Into<String>) -> Self {
        Self::HasLabel(name.into())
    }

    /// A container by name.
    pub fn container(name: impl Into<String>) -> Self {
        Self::Container(name.into())
    }

    /// A container by its whole id.
    pub fn container_id(id: impl Into<String>) -> Self {
        Self::ContainerId(id.into())
    }

    /// One of several.
    pub fn any_of(requirements: impl IntoIterator<Item = Self>) -> Self {
        Self::AnyOf(requirements.into_iter().collect())
    }

    /// Whether a proven identity is what is required.
    pub fn met_by(&self, identity: &Identity) -> bool {
        if let Self::AnyOf(requirements) = self {
            return requirements.iter().any(|requirement| requirement.met_by(identity));
        }
        let Some(container) = &identity.container else { return false };
        match self {
            Self::Label { name, value } => container.labels.get(name) == Some(value),
            Self::HasLabel(name) => container.labels.contains_key(name),
            // Empty while the host service does not know it.
            Self::Container(name) => !name.is_empty() && container.name == *name,
            Self::ContainerId(id) => !id.is_empty() && container.id == *id,
            Self::AnyOf(_) => unreachable!("answered above"),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label { name, value } => write!(f, "the label {name:?}={value:?}"),
            Self::HasLabel(name) => write!(f, "the label {name:?}"),
            Self::Container(name) => write!(f, "the container named {name:?}"),
            Self::ContainerId(id) => write!(f, "the container with the id {id}"),
            Self::AnyOf(requirements) => {
                for (n, requirement) in requirements.iter().enumerate() {
                    f.write_str(if n > 0 { ", or " } else { "" })?;
                    requirement.fmt(f)?;
                }
                if requirements.is_empty() { f.write_str("nobody") } else { Ok(()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use shmbc_tokio::ContainerIdentity;

    use super::*;

    fn identity(name: &str, labels: &[(&str, &str)]) -> Identity {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let container = ContainerIdentity { id: "a".repeat(64), name: name.to_owned(), labels };
        Identity { container: Some(container), ..Identity::default() }
    }

    #[test]
    fn requirement_when_compared_wants_name_and_value_exactly() {
        let web = identity("web", &[("role", "web"), ("empty", "")]);
        for met in [
            Requirement::label("role", "web"),
            Requirement::label("empty", ""),
            Requirement::has_label("empty"),
            Requirement::container("web"),
            Requirement::container_id("a".repeat(64)),
            Requirement::any_of([Requirement::container("other"), Requirement::has_label("role")]),
        ] {
            assert!(met.met_by(&web), "{met}");
        }
        for not in [
            Requirement::label("role", "we"),
            Requirement::label("role", "web "),
            Requirement::label("Role", "web"),
            Requirement::label("none", ""),
            Requirement::has_label("rol"),
            Requirement::container("WEB"),
            Requirement::container_id("a"),
            Requirement::any_of([]),
        ] {
            assert!(!not.met_by(&web), "{not}");
        }
    }

    #[test]
    fn requirement_when_the_peer_is_in_no_known_container_is_not_met() {
        let process = Identity { pid: 1, ..Identity::default() };
        let unnamed = identity("", &[]);
        for requirement in [Requirement::container(""), Requirement::container_id(""), Requirement::has_label("")] {
            assert!(!requirement.met_by(&process), "{requirement}");
            assert!(!requirement.met_by(&unnamed), "{requirement}");
        }
    }
}
