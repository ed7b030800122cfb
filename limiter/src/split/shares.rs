//! Whole shares of a constant total: what a proxy is told of a split.
//!
//! The total never changes and the arms keep their order, so a request that is hashed onto the total moves to another arm only when the border
//! between two of them passes it: who is sent to an arm that grows stays there.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

/// All of the requests; one share is a hundredth of a percent.
pub const TOTAL: u32 = 10_000;

/// The fewest and the most shares of an arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// At least so many.
    pub least: u32,
    /// At most so many.
    pub most: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { least: 0, most: TOTAL }
    }
}

/// Whole shares in proportion to `weights`, which add up to [`TOTAL`]: the largest remainders get what is left by rounding, of equal ones
/// the first. `None`: nothing has any weight.
#[must_use]
pub fn apportion(weights: &[u64]) -> Option<Vec<u32>> {
    let sum: u128 = weights.iter().copied().map(u128::from).sum();
    if sum == 0 {
        return None;
    }
    let exact = |weight: u64| u128::from(weight) * u128::from(TOTAL);
    // At most TOTAL, as no weight is above their sum.
    let whole = |weight: u64| u32::try_from(exact(weight) / sum).unwrap_or(TOTAL);
    let mut shares: Vec<u32> = weights.iter().map(|weight| whole(*weight)).collect();
    let left = TOTAL - shares.iter().sum::<u32>();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|place| Reverse(exact(weights[*place]) % sum));
    for place in order.into_iter().take(left as usize) {
        shares[place] += 1;
    }
    Some(shares)
}

/// As [`apportion`], where each arm has at least and at most what its bounds say; what one may not have goes to the others in proportion.
/// `None`: nothing has any weight, or no shares are within all bounds.
#[must_use]
pub fn apportion_within(weights: &[u64], bounds: &[Bounds]) -> Option<Vec<u32>> {
    let all = |one: fn(&Bounds) -> u32| bounds.iter().map(|bounds| u64::from(one(bounds))).sum::<u64>();
    let is_possible = weights.len() == bounds.len()
        && bounds.iter().all(|bounds| bounds.least <= bounds.most)
        && all(|bounds| bounds.least) <= u64::from(TOTAL)
        && all(|bounds| bounds.most) >= u64::from(TOTAL);
    if !is_possible {
        return None;
    }
    let mut shares = apportion(weights)?;
    // Moves what is over to those that have room, and what is missing from those that have more than they must: first in proportion, then
    // what is left by rounding one by one.
    for (share, bounds) in shares.iter_mut().zip(bounds) {
        *share = (*share).clamp(bounds.least, bounds.most);
    }
    loop {
        let sum: u32 = shares.iter().sum();
        let grows = sum < TOTAL;
        let room = |share: u32, bounds: &Bounds| if grows { bounds.most - share } else { share - bounds.least };
        let gap = TOTAL.abs_diff(sum);
        if gap == 0 {
            return Some(shares);
        }
        let free: Vec<usize> = (0..shares.len()).filter(|place| room(shares[*place], &bounds[*place]) > 0).collect();
        let weight = |place: usize| weights[place].max(1);
        let sum_of_free: u128 = free.iter().map(|place| u128::from(weight(*place))).sum();
        let mut moved = 0;
        for place in &free {
            let part = u128::from(gap) * u128::from(weight(*place)) / sum_of_free;
            let part = u32::try_from(part).unwrap_or(gap).min(room(shares[*place], &bounds[*place]));
            shares[*place] = if grows { shares[*place] + part } else { shares[*place] - part };
            moved += part;
        }
        if moved == 0 {
            // Fewer than there are arms with room.
            for place in free.into_iter().take(gap as usize) {
                shares[place] = if grows { shares[place] + 1 } else { shares[place] - 1 };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_largest_remainders_get_what_is_left() {
        assert_eq!(apportion(&[1, 1, 1]).unwrap(), [3334, 3333, 3333]);
        assert_eq!(apportion(&[90, 10]).unwrap(), [9000, 1000]);
        assert_eq!(apportion(&[0, 5]).unwrap(), [0, TOTAL]);
        assert_eq!(apportion(&[u64::MAX, u64::MAX]).unwrap(), [5000, 5000]);
        assert_eq!(apportion(&[0, 0]), None);
        assert_eq!(apportion(&[]), None);
    }

    #[test]
    fn what_an_arm_may_not_have_goes_to_the_others() {
        let bounds = |least, most| Bounds { least, most };
        let of = |weights: &[u64], all: &[Bounds]| apportion_within(weights, all);
        assert_eq!(of(&[90, 10], &[bounds(0, 5000), Bounds::default()]).unwrap(), [5000, 5000]);
        assert_eq!(of(&[100, 0], &[Bounds::default(), bounds(300, TOTAL)]).unwrap(), [9700, 300]);
        assert_eq!(of(&[2, 1, 1], &[bounds(0, 2000), bounds(0, 2500), Bounds::default()]).unwrap(), [2000, 2500, 5500]);
        assert_eq!(of(&[1, 1], &[bounds(0, 4000), bounds(0, 4000)]), None, "too little in all");
        assert_eq!(of(&[1, 1], &[bounds(6000, TOTAL), bounds(6000, TOTAL)]), None, "too much in all");
        assert_eq!(of(&[1, 1], &[bounds(6000, 5000), Bounds::default()]), None);
    }

    proptest! {
        #[test]
        fn shares_add_up_and_are_within_one_of_the_exact(weights in prop::collection::vec(0..u64::MAX, 1..40)) {
            let sum: u128 = weights.iter().copied().map(u128::from).sum();
            prop_assume!(sum > 0);
            let shares = apportion(&weights).unwrap();
            prop_assert_eq!(shares.iter().sum::<u32>(), TOTAL);
            for (share, weight) in shares.iter().zip(&weights) {
                let exact = *weight as f64 * f64::from(TOTAL) / sum as f64;
                prop_assert!((f64::from(*share) - exact).abs() < 1.0 + 1e-6, "{share} of {exact}");
            }
        }

        #[test]
        fn bounds_hold(arms in prop::collection::vec((0..1_000_000_u64, 0..=TOTAL, 0..=TOTAL), 1..20)) {
            let weights: Vec<u64> = arms.iter().map(|(weight, ..)| *weight).collect();
            let bounds: Vec<Bounds> =
                arms.iter().map(|(_, a, b)| Bounds { least: *a.min(b), most: *a.max(b) }).collect();
            let Some(shares) = apportion_within(&weights, &bounds) else { return Ok(()) };
            prop_assert_eq!(shares.iter().sum::<u32>(), TOTAL);
            for (share, bounds) in shares.iter().zip(&bounds) {
                prop_assert!((bounds.least..=bounds.most).contains(share));
            }
        }
    }
}
