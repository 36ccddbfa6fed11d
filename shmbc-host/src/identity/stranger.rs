//! Who is charged for what the service does not recognise.
//!
//! In a container in the machine's own user namespace a process is any user it likes, so its number says nothing: all in
//! the same namespaces are one. Only root can make such. Elsewhere the user is certain: the owner of the user namespace,
//! or who is in no namespace of another kind.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::namespaces::Namespaces;

/// A user in something that is no container which the service recognises, and not proven to be outside of one.
#[derive(Clone, Debug)]
pub(crate) struct Stranger {
    /// For rules and people. Not compared between those in the same namespaces.
    pub(crate) uid: u32,
    /// Where its user may be any.
    pub(crate) within: Option<Arc<Namespaces>>,
}

impl Stranger {
    /// What makes it another than others.
    fn distinct(&self) -> Result<&Namespaces, u32> {
        self.within.as_deref().ok_or(self.uid)
    }
}

impl PartialEq for Stranger {
    fn eq(&self, other: &Self) -> bool {
        self.distinct() == other.distinct()
    }
}

impl Eq for Stranger {}

impl Hash for Stranger {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.distinct().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn strangers_when_in_the_same_namespaces_are_one_whatever_their_users_and_else_are_their_users() {
        let own = Namespaces::own().map(Arc::new);
        assert!(own.is_some());
        let all = [(1, &own), (2, &own), (1, &None), (1, &None), (2, &None)];
        let all = all.map(|(uid, within)| Stranger { uid, within: within.clone() });
        assert_eq!(all.into_iter().collect::<HashSet<_>>().len(), 3);
    }
}
