//! Whether requests fall onto the arms of a split as its shares say.
//!
//! Pearson's chi-square test over what was seen lately. Older requests count less, by half each half-life, which makes the sum of squares
//! smaller than that of as many whole ones, so the test errs towards silence.

use super::shares::TOTAL;

/// Below this an arm is expected to have too few requests for the test (Cochran's rule).
const FEWEST: f64 = 5.0;
/// By so much of all requests an arm must be off before it is worth a word.
const WORTH_A_WORD: f64 = 0.05;
/// Above this a standard normal value is with a probability of one in a thousand.
const ONE_IN_A_THOUSAND: f64 = 3.090_2;

/// What was seen of the arms, and what was to be expected.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Realised {
    seen: Vec<f64>,
    expected: Vec<f64>,
}

/// An arm that does not get what it should.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deviation {
    /// Its place.
    pub arm: usize,
    /// Its part of all requests, from 0 to 1.
    pub seen: f64,
    /// What that should be.
    pub expected: f64,
}

impl Realised {
    /// Takes in how many requests each arm had while these were the shares; what was seen before counts `kept` of what it did.
    pub fn take(&mut self, shares: &[u32], requests: &[f64], kept: f64) {
        if self.seen.len() != shares.len() {
            *self = Self { seen: vec![0.0; shares.len()], expected: vec![0.0; shares.len()] };
        }
        let all: f64 = requests.iter().sum();
        let places = self.seen.iter_mut().zip(&mut self.expected);
        for ((seen, expected), (share, requests)) in places.zip(shares.iter().zip(requests)) {
            *seen = *seen * kept + requests;
            *expected = *expected * kept + all * f64::from(*share) / f64::from(TOTAL);
        }
    }

    /// The arm that is the farthest off, if that is not by chance.
    #[must_use]
    pub fn deviation(&self) -> Option<Deviation> {
        let all: f64 = self.seen.iter().sum();
        let pairs = || self.seen.iter().copied().zip(self.expected.iter().copied());
        // An arm without a share has no requests but by those who go around the split.
        let (judged, rest): (Vec<_>, Vec<_>) = pairs().partition(|(_, expected)| *expected >= FEWEST);
        let uninvited = rest.iter().filter(|(_, expected)| *expected == 0.0).map(|(seen, _)| seen).sum::<f64>();
        let square: f64 = judged.iter().map(|(seen, expected)| (seen - expected).powi(2) / expected).sum();
        let is_chance = judged.is_empty() || (uninvited < FEWEST && square <= critical(judged.len().saturating_sub(1)));
        let off = |it: &Deviation| it.seen - it.expected;
        let all_arms = pairs().map(|(seen, expected)| (seen / all, expected / all)).enumerate();
        let farthest = all_arms
            .map(|(arm, (seen, expected))| Deviation { arm, seen, expected })
            // Of two that differ by the same the one that has too much.
            .max_by(|a, b| off(a).abs().total_cmp(&off(b).abs()).then(off(a).total_cmp(&off(b))))?;
        (!is_chance && off(&farthest).abs() >= WORTH_A_WORD).then_some(farthest)
    }
}

/// Above this the sum of squares is with a probability of one in a thousand, for so many degrees of freedom: Wilson and Hilferty's
/// approximation, right within four percent.
fn critical(freedom: usize) -> f64 {
    let freedom = freedom.max(1) as f64;
    let part = 2.0 / (9.0 * freedom);
    freedom * (1.0 - part + ONE_IN_A_THOUSAND * part.sqrt()).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(shares: &[u32], requests: &[f64]) -> Option<usize> {
        let mut realised = Realised::default();
        realised.take(shares, requests, 0.5);
        realised.deviation().map(|it| it.arm)
    }

    #[test]
    fn critical_values_are_those_of_tables() {
        for (freedom, exact) in [(1, 10.828), (2, 13.816), (5, 20.515), (99, 148.230)] {
            assert!((critical(freedom) / exact - 1.0).abs() < 0.04, "{freedom}: {}", critical(freedom));
        }
    }

    #[test]
    fn what_chance_does_is_no_deviation_and_what_it_does_not_is() {
        assert_eq!(of(&[9000, 1000], &[905.0, 95.0]), None);
        assert_eq!(of(&[9000, 1000], &[800.0, 200.0]), Some(1));
        assert_eq!(of(&[9000, 1000], &[8.0, 2.0]), None, "too few to say");
        assert_eq!(of(&[9000, 1000], &[88_000.0, 12_000.0]), None, "sure, and not worth a word");
        assert_eq!(of(&[10_000, 0], &[90.0, 10.0]), Some(1), "somebody goes around it");
        assert_eq!(of(&[5000, 3000, 2000], &[520.0, 100.0, 380.0]), Some(1));
        assert_eq!(of(&[9000, 1000], &[0.0, 0.0]), None);
        assert_eq!(Realised::default().deviation(), None);
    }

    #[test]
    fn what_was_is_forgotten() {
        let mut realised = Realised::default();
        realised.take(&[9000, 1000], &[500.0, 500.0], 0.5);
        assert!(realised.deviation().is_some());
        for _ in 0..8 {
            realised.take(&[9000, 1000], &[900.0, 100.0], 0.5);
        }
        assert_eq!(realised.deviation(), None);
    }
}
