//! Labels of pods. All pods of one template have the same, so each set of them is kept once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Names with values, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels(Arc<[(Box<str>, Box<str>)]>);

impl Labels {
    /// Whether all of `wanted` are there.
    #[must_use]
    pub fn contain(&self, wanted: &BTreeMap<String, String>) -> bool {
        wanted.iter().all(|(name, value)| {
            let place = self.0.binary_search_by(|(own, _)| (**own).cmp(name.as_str()));
            place.ok().and_then(|place| self.0.get(place)).is_some_and(|(_, own)| **own == **value)
        })
    }
}

/// From pairs that are in order, as those of a `BTreeMap` are.
impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(labels: I) -> Self {
        let labels: BTreeMap<_, _> = labels.into_iter().collect();
        Self(labels.into_iter().map(|(name, value)| (name.into_boxed_str(), value.into_boxed_str())).collect())
    }
}

/// Every set of labels that a pod has.
#[derive(Clone, Debug, Default)]
pub(super) struct Interner(BTreeSet<Labels>);

impl Interner {
    /// The one copy of these labels.
    pub(super) fn intern(&mut self, labels: Labels) -> Labels {
        if let Some(kept) = self.0.get(&labels) {
            return kept.clone();
        }
        self.0.insert(labels.clone());
        labels
    }

    /// A pod has them no more.
    pub(super) fn release(&mut self, labels: Labels) {
        // This one and the set's own.
        if Arc::strong_count(&labels.0) <= 2 {
            self.0.remove(&labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn all_that_is_wanted_must_be_there() {
        let have = labels(&[("tier", "web"), ("app", "cart")]);
        let wanted = |pairs: &[(&str, &str)]| {
            have.contain(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        };
        assert!(wanted(&[]) && wanted(&[("app", "cart")]) && wanted(&[("app", "cart"), ("tier", "web")]));
        assert!(!wanted(&[("app", "till")]) && !wanted(&[("ap", "cart")]) && !wanted(&[("app", "cart"), ("zone", "")]));
    }

    #[test]
    fn each_set_is_kept_once_and_only_as_long_as_a_pod_has_it() {
        let mut interner = Interner::default();
        let first = interner.intern(labels(&[("app", "cart")]));
        let second = interner.intern(labels(&[("app", "cart")]));
        assert!(Arc::ptr_eq(&first.0, &second.0));
        assert_eq!(interner.0.len(), 1);
        interner.release(first);
        assert_eq!(interner.0.len(), 1, "the other pod has them");
        interner.release(second);
        assert_eq!(interner.0.len(), 0);
    }
}
