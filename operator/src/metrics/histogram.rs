//! Counts of values by upper bound: merged over pods and time, then read as a quantile. Quantiles themselves cannot be averaged.

use serde::{Deserialize, Serialize};

/// Counts by upper bound in seconds, ascending; the last bound is infinite. Not cumulative. A bucket that is empty may be left
/// out where the next one is empty too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Upper bound of a bucket and how many values fell into it, below it and not below the one before.
    #[serde(with = "finite")]
    pub buckets: Vec<(f64, f64)>,
}

/// JSON has no infinity: the last bound is left out.
mod finite {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(buckets: &[(f64, f64)], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(buckets.iter().map(|&(bound, count)| (bound.is_finite().then_some(bound), count)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(f64, f64)>, D::Error> {
        let buckets = Vec::<(Option<f64>, f64)>::deserialize(deserializer)?;
        Ok(buckets.into_iter().map(|(bound, count)| (bound.unwrap_or(f64::INFINITY), count)).collect())
    }
}

impl Histogram {
    /// All values of these. Where their bounds differ, a bucket is taken to begin at the nearest bound of any of them.
    #[must_use]
    pub fn merged<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut buckets: Vec<(f64, f64)> =
            parts.into_iter().flat_map(|part| &part.buckets).filter(|bucket| bucket.1 >= 0.0).copied().collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        buckets.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
            }
            same
        });
        Self { buckets }
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> f64 {
        self.buckets.iter().map(|bucket| bucket.1).sum()
    }

    /// The value that the fraction `quantile` of all values does not exceed, in seconds: values are taken to be spread evenly
    /// over their bucket, and those above the last finite bound to be that bound. `None` without values.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let rank = self.count() * quantile.clamp(0.0, 1.0);
        let (mut below, mut lower) = (0.0, 0.0);
        for &(bound, count) in &self.buckets {
            if count > 0.0 && below + count >= rank {
                let part = ((rank - below) / count).clamp(0.0, 1.0);
                return Some(if bound.is_finite() { lower + (bound - lower) * part } else { lower });
            }
            below += count;
            lower = if bound.is_finite() { bound } else { lower };
        }
        // Only rounding can leave the rank above the sum.
        (below > 0.0).then_some(lower)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Histogram;

    fn histogram(buckets: &[(f64, f64)]) -> Histogram {
        Histogram { buckets: buckets.to_vec() }
    }

    #[test]
    fn a_quantile_lies_inside_its_bucket() {
        let seen = histogram(&[(0.25, 0.0), (0.5, 90.0), (1.0, 0.0), (2.0, 10.0), (f64::INFINITY, 0.0)]);
        for (quantile, expected) in [(0.0, 0.25), (0.45, 0.375), (0.9, 0.5), (0.95, 1.5), (1.0, 2.0)] {
            assert_eq!(seen.quantile(quantile), Some(expected), "{quantile}");
        }
    }

    #[test]
    fn beyond_the_last_bound_it_is_that_bound_and_without_values_nothing() {
        assert_eq!(histogram(&[(60.0, 1.0), (f64::INFINITY, 99.0)]).quantile(0.99), Some(60.0));
        assert_eq!(histogram(&[(60.0, 0.0), (f64::INFINITY, 0.0)]).quantile(0.99), None);
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn merging_adds_counts_and_keeps_bounds_of_empty_buckets() {
        let (fast, slow) = (histogram(&[(0.01, 0.0), (0.02, 99.0)]), histogram(&[(0.3, 0.0), (0.4, 1.0)]));
        let both = Histogram::merged([&fast, &slow, &fast]);
        assert_eq!(both.buckets, [(0.01, 0.0), (0.02, 198.0), (0.3, 0.0), (0.4, 1.0)]);
    }

    fn any_histogram() -> impl Strategy<Value = Histogram> {
        proptest::collection::btree_map(1_u32..200, 0_u32..50, 0..20).prop_map(|buckets| Histogram {
            buckets: buckets.into_iter().map(|(ms, count)| (f64::from(ms) / 1e3, f64::from(count))).collect(),
        })
    }

    proptest! {
        #[test]
        fn a_merged_quantile_rises_with_its_fraction_and_lies_between_the_bounds(
            parts in proptest::collection::vec(any_histogram(), 0..5), a in 0.0..=1.0_f64, b in 0.0..=1.0_f64,
        ) {
            let merged = Histogram::merged(&parts);
            let count: f64 = parts.iter().map(Histogram::count).sum();
            prop_assert_eq!(merged.count(), count);
            let (low, high) = (merged.quantile(a.min(b)), merged.quantile(a.max(b)));
            prop_assert_eq!(low.is_some(), count > 0.0);
            if let (Some(low), Some(high)) = (low, high) {
                prop_assert!(0.0 <= low && low <= high && high <= 0.2);
            }
        }
    }
}
