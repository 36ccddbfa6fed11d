//! Names with wildcards, as the configuration and labels have them.

use std::fmt;

use serde::Deserialize;
use wildmatch::WildMatch;

/// A name, in which `*` stands for any text and `?` for any character.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "String")]
pub struct Pattern {
    matcher: WildMatch,
    text: String,
}

impl Pattern {
    /// Whether `name` is one of those.
    pub fn matches(&self, name: &str) -> bool {
        self.matcher.matches(name)
    }
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self { matcher: WildMatch::new(text), text: text.to_owned() }
    }
}

impl From<String> for Pattern {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
