//! What one watch knows: which objects there are, and whether its first list is complete.
//!
//! Pure. A watch that begins anew lists everything again; whatever is not listed then is gone.

use std::collections::BTreeSet;

use crate::index::ObjectKey;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Listing {
    known: BTreeSet<ObjectKey>,
    /// What was listed since the watch began anew.
    listed: Option<BTreeSet<ObjectKey>>,
    /// The first list is complete, or was refused.
    complete: bool,
}

impl Listing {
    pub(super) fn begin(&mut self) {
        self.listed = Some(BTreeSet::new());
    }

    /// An object is there.
    pub(super) fn saw(&mut self, key: ObjectKey) {
        if let Some(listed) = &mut self.listed {
            listed.insert(key.clone());
        }
        self.known.insert(key);
    }

    /// An object is gone.
    pub(super) fn lost(&mut self, key: &ObjectKey) {
        if let Some(listed) = &mut self.listed {
            listed.remove(key);
        }
        self.known.remove(key);
    }

    /// The list is at its end; gives the objects that have gone meanwhile.
    pub(super) fn end(&mut self) -> Vec<ObjectKey> {
        self.complete = true;
        let Some(listed) = self.listed.take() else { return Vec::new() };
        let known = std::mem::replace(&mut self.known, listed);
        known.difference(&self.known).cloned().collect()
    }

    /// The API server does not let us list, so there is nothing to wait for.
    pub(super) fn refused(&mut self) {
        self.complete = true;
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::ObjectKind;

    fn key(name: &str) -> ObjectKey {
        ObjectKey { kind: ObjectKind::Service, namespace: "a".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn a_list_from_the_start_removes_nothing() {
        let mut listing = Listing::default();
        listing.begin();
        listing.saw(key("cart"));
        assert!(!listing.is_complete());
        assert_eq!(listing.end(), []);
        assert!(listing.is_complete());
        assert_eq!(listing.len(), 1);
    }

    #[test]
    fn a_list_anew_removes_what_it_does_not_have() {
        let mut listing = Listing::default();
        listing.begin();
        listing.saw(key("cart"));
        listing.saw(key("gone"));
        listing.end();
        listing.saw(key("came"));
        listing.lost(&key("left"));
        listing.begin();
        listing.saw(key("cart"));
        listing.saw(key("new"));
        assert_eq!(listing.end(), [key("came"), key("gone")]);
        assert_eq!(listing.len(), 2);
    }

    #[test]
    fn a_list_that_breaks_off_removes_nothing() {
        let mut listing = Listing::default();
        listing.begin();
        listing.saw(key("cart"));
        listing.end();
        listing.begin(); // and breaks off before the first object
        listing.begin();
        listing.saw(key("cart"));
        assert_eq!(listing.end(), []);
    }

    #[test]
    fn what_may_not_be_listed_is_not_waited_for() {
        let mut listing = Listing::default();
        listing.refused();
        assert!(listing.is_complete());
        assert_eq!(listing.end(), []);
    }
}
