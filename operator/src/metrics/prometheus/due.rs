//! When a text is asked next, and what a text that takes the place of another knows of that.
//!
//! Pure. A query that names `$pods` becomes another text with every pod that comes or goes. Were each of them asked at a moment of its
//! own, a service whose pods change more often than an interval would never be asked.

use std::{collections::BTreeMap, sync::Arc};

use limiter::metric::Word;
use tokio::time::Instant;

use super::answer::Asker;
use crate::intent::ServiceKey;

/// When a text is asked next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) at: Instant,
    /// How often in a row it was asked in vain.
    pub(super) failures: u32,
}

/// What is known of texts that nobody asks any longer, by what they were asked for.
#[derive(Debug, Default)]
pub(super) struct Dropped(BTreeMap<(Arc<ServiceKey>, Word), Due>);

impl Dropped {
    /// Notes a text that was asked for `askers`.
    pub(super) fn note(&mut self, askers: &[Asker], due: Due) {
        for Asker { service, word, .. } in askers {
            let known = self.0.entry((service.clone(), word.clone())).or_insert(due);
            if due.at < known.at {
                *known = due;
            }
        }
    }

    /// What they were asked for.
    pub(super) fn purposes(&self) -> impl Iterator<Item = &(Arc<ServiceKey>, Word)> {
        self.0.keys()
    }

    /// When a new text is asked first that is for `askers`: as early as any of those whose place it takes, but not after `latest`:
    /// it may be a query that was mended, for which the pause after failures does not count. `None`: it takes no place.
    pub(super) fn heir(&self, askers: &[Asker], latest: Instant) -> Option<Due> {
        let before =
            askers.iter().filter_map(|Asker { service, word, .. }| self.0.get(&(service.clone(), word.clone())));
        before.min_by_key(|due| due.at).map(|due| Due { at: due.at.min(latest), ..*due })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn asker(service: &str, pods: &[&str]) -> Asker {
        Asker {
            service: ServiceKey { namespace: "shop".to_owned(), name: service.to_owned() }.into(),
            word: Word::Named("queue".to_owned()),
            pods: pods.iter().map(|pod| (*pod).to_owned()).collect(),
            amounts: BTreeMap::new(),
            by: None,
        }
    }

    #[test]
    fn a_text_that_changes_ten_times_in_an_interval_is_asked_at_its_end() {
        let end = Instant::now() + Duration::from_secs(5);
        let mut due = Due { at: end, failures: 2 };
        for change in 0..10 {
            let mut dropped = Dropped::default();
            dropped.note(&[asker("cart", &[&format!("cart-{change}")])], due);
            due = dropped.heir(&[asker("cart", &[&format!("cart-{}", change + 1)])], end).unwrap();
        }
        assert_eq!(due, Due { at: end, failures: 2 });
    }

    #[test]
    fn the_earliest_of_those_whose_place_is_taken_counts_and_no_other() {
        let now = Instant::now();
        let due = |seconds| Due { at: now + Duration::from_secs(seconds), failures: u32::try_from(seconds).unwrap() };
        let mut dropped = Dropped::default();
        dropped.note(&[asker("cart", &["a"]), asker("shop", &["b"])], due(3));
        dropped.note(&[asker("cart", &["c"])], due(2));
        dropped.note(&[asker("cart", &["d"])], due(4));
        let heir = |askers: &[Asker]| dropped.heir(askers, due(5).at);
        assert_eq!(heir(&[asker("cart", &["e"])]), Some(due(2)));
        assert_eq!(heir(&[asker("shop", &["e"]), asker("cart", &["e"])]), Some(due(2)));
        assert_eq!(heir(&[asker("shop", &["e"])]), Some(due(3)));
        assert_eq!(heir(&[asker("pay", &["e"])]), None);
        let mended = dropped.heir(&[asker("shop", &["e"])], due(1).at).map(|due| due.at);
        assert_eq!(mended, Some(due(1).at), "a pause is not for a query that was mended");
        assert_eq!(dropped.purposes().count(), 2);
    }
}
