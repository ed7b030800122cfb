//! Which part of the range of a hash belongs to which arm, so that a user who is told apart by one moves only to an arm that grows.
//!
//! With two arms one border says it all. With more, an arm between two others that only shrinks would have both of its borders moved, and
//! users would go from one that shrinks to another. So an arm may have several parts: who grows takes from those that shrink where they
//! touch it, and otherwise the end of their longest part.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The parts of a range, in order: whose each is, and how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Layout<K>(Vec<(K, u32)>);

impl<K> Default for Layout<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Clone + Ord> Layout<K> {
    /// The parts, in order.
    #[must_use]
    pub fn parts(&self) -> &[(K, u32)] {
        &self.0
    }

    /// The same for arms of other names. None of the new names may be that of two.
    pub fn map<L: Clone + Ord>(&self, name: impl Fn(&K) -> L) -> Layout<L> {
        Layout(self.0.iter().map(|(arm, length)| (name(arm), *length)).collect())
    }

    /// So that each arm has what `shares` says of it, and no part of the range changes hands but from an arm that shrinks to one that grows.
    /// Where this one is of another length altogether, the arms stand in the order of `shares`, each in one part.
    #[must_use]
    pub fn moved(&self, shares: &[(K, u32)]) -> Self {
        let sum = |parts: &[(K, u32)]| parts.iter().map(|(_, length)| u64::from(*length)).sum::<u64>();
        if sum(&self.0) != sum(shares) {
            return Self::joined(shares.to_vec());
        }
        // What each is to get, below zero what it is to give.
        let mut lacks = BTreeMap::<K, i64>::new();
        for (arm, share) in shares {
            *lacks.entry(arm.clone()).or_default() += i64::from(*share);
        }
        for (arm, length) in &self.0 {
            *lacks.entry(arm.clone()).or_default() -= i64::from(*length);
        }
        let mut layout = self.clone();
        while let Some((from, to)) = layout.touching(&lacks).or_else(|| layout.apart(&lacks)) {
            let (giver, taker) = (layout.0[from].0.clone(), layout.0[to].0.clone());
            let length = lacks[&taker].min(-lacks[&giver]).min(layout.0[from].1.into());
            layout.0[from].1 -= length as u32;
            layout.0[to].1 += length as u32;
            lacks.entry(giver).and_modify(|it| *it += length);
            lacks.entry(taker).and_modify(|it| *it -= length);
            layout = Self::joined(layout.0);
        }
        layout
    }

    /// Two neighbours of whom the first is to give and the second to get.
    fn touching(&self, lacks: &BTreeMap<K, i64>) -> Option<(usize, usize)> {
        let lack = |place: usize| lacks.get(&self.0[place].0).copied().unwrap_or_default();
        let pairs = (1..self.0.len()).flat_map(|place| [(place - 1, place), (place, place - 1)]);
        pairs.into_iter().find(|(from, to)| lack(*from) < 0 && lack(*to) > 0)
    }

    /// The longest part of those who are to give, and a new one behind it, of nothing yet, for who is to get the most.
    fn apart(&mut self, lacks: &BTreeMap<K, i64>) -> Option<(usize, usize)> {
        let taker = lacks.iter().filter(|(_, lack)| **lack > 0).max_by_key(|(_, lack)| **lack)?.0.clone();
        let gives = |place: &usize| lacks.get(&self.0[*place].0).is_some_and(|lack| *lack < 0);
        let from = (0..self.0.len()).filter(gives).max_by_key(|place| self.0[*place].1)?;
        self.0.insert(from + 1, (taker, 0));
        Some((from, from + 1))
    }

    /// Without parts of nothing, and neighbours of one arm as one.
    fn joined(parts: Vec<(K, u32)>) -> Self {
        let mut joined: Vec<(K, u32)> = Vec::new();
        for (arm, length) in parts.into_iter().filter(|(_, length)| *length > 0) {
            match joined.last_mut().filter(|(last, _)| *last == arm) {
                Some((_, last)) => *last += length,
                None => joined.push((arm, length)),
            }
        }
        Self(joined)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::split::shares::{TOTAL, apportion};

    fn of(parts: &[(char, u32)]) -> Layout<char> {
        Layout(parts.to_vec())
    }

    /// Whose each place is.
    fn owners(layout: &Layout<usize>) -> Vec<usize> {
        layout.parts().iter().flat_map(|(arm, length)| vec![*arm; *length as usize]).collect()
    }

    #[test]
    fn one_that_grows_takes_where_it_touches_and_from_the_longest_part() {
        let first = Layout::default().moved(&[('a', 50), ('b', 40), ('c', 10)]);
        assert_eq!(first, of(&[('a', 50), ('b', 40), ('c', 10)]));
        let second = first.moved(&[('a', 45), ('b', 35), ('c', 20)]);
        assert_eq!(second, of(&[('a', 45), ('c', 5), ('b', 35), ('c', 15)]));
        // Back: it gives to both what touches them.
        assert_eq!(second.moved(&[('a', 50), ('b', 40), ('c', 10)]), of(&[('a', 50), ('b', 40), ('c', 10)]));
        assert_eq!(second.moved(&[('a', 100)]), of(&[('a', 100)]), "who is named no more has nothing");
        assert_eq!(second.moved(&[('b', 1), ('a', 1)]), of(&[('b', 1), ('a', 1)]), "of another length");
        assert_eq!(first.moved(&[('a', 50), ('b', 40), ('d', 10)]), of(&[('a', 50), ('b', 40), ('d', 10)]));
    }

    proptest! {
        #[test]
        fn nothing_changes_hands_but_to_who_grows(
            steps in (2..8_usize).prop_flat_map(|arms| prop::collection::vec(prop::collection::vec(0..1000_u64, arms), 1..40))
        ) {
            let mut layout = Layout::default();
            let mut before: Option<Vec<u32>> = None;
            for weights in steps {
                let Some(shares) = apportion(&weights) else { continue };
                let wanted: Vec<(usize, u32)> = shares.iter().copied().enumerate().collect();
                let next: Layout<usize> = layout.moved(&wanted);
                for (arm, share) in &wanted {
                    let has: u32 = next.parts().iter().filter(|(of, _)| of == arm).map(|(_, length)| length).sum();
                    prop_assert_eq!(has, *share);
                }
                if let Some(before) = &before {
                    let moves = owners(&layout).into_iter().zip(owners(&next)).filter(|(from, to)| from != to);
                    let mut count = 0;
                    for (from, to) in moves {
                        prop_assert!(shares[from] < before[from] && shares[to] > before[to]);
                        count += 1;
                    }
                    let least: u32 = shares.iter().zip(before).map(|(new, old)| new.saturating_sub(*old)).sum();
                    prop_assert_eq!(count, least);
                }
                // However often they move, a route stays short.
                prop_assert!(next.parts().len() <= shares.len() * shares.len(), "{next:?}");
                (layout, before) = (next, Some(shares));
            }
            let length: u32 = layout.parts().iter().map(|(_, length)| length).sum();
            prop_assert!(before.is_none() || length == TOTAL);
        }
    }
}
