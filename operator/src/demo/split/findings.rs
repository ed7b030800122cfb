//! What is measured while the demonstration of a split runs.

use std::{ops::Range, time::Duration};

use super::{Each, arm::Received};
use crate::demo::load::{Summary, TargetReport};

/// Shares that are read this close to a second are in force in all of it.
const AROUND: f64 = 0.3;

/// When what happens; whole seconds from the start of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeline {
    /// All of it.
    pub(super) seconds: usize,
    /// When a version turns bad.
    pub(super) turn: usize,
}

impl Timeline {
    /// At the latest after 20 s: the longer a version was good, the longer it takes to be sure that it no longer is.
    pub(super) fn new(seconds: u64) -> Self {
        let seconds = usize::try_from(seconds).unwrap_or(usize::MAX).max(40);
        Self { seconds, turn: (seconds / 3).min(20) }
    }

    /// While all are well.
    pub(super) fn calm(&self) -> Range<usize> {
        0..self.turn
    }

    /// The last seconds.
    pub(super) fn last(&self) -> Range<usize> {
        self.seconds - 10..self.seconds
    }
}

/// Everything that was seen.
#[derive(Clone, Debug)]
pub(super) struct Findings {
    pub(super) timeline: Timeline,
    /// What the client counted.
    pub(super) client: TargetReport,
    /// What each version received, by second.
    pub(super) received: Each<Vec<Received>>,
    /// The shares that Envoy had, in percent, by seconds since the start of the load.
    pub(super) shares: Vec<(f64, Each<f64>)>,
    /// What Weir said, each time that it said something else.
    pub(super) told: Vec<(f64, String)>,
    /// Whether Envoy's listeners are those that it had before the load, with the times at which they came.
    pub(super) same_listeners: bool,
}

impl Findings {
    /// What a version received in these seconds.
    pub(super) fn received_in(&self, arm: usize, seconds: Range<usize>) -> Received {
        let all = &self.received[arm];
        let end = seconds.end.min(all.len());
        all[seconds.start.min(end)..end].iter().fold(Received::default(), |sum, it| Received {
            requests: sum.requests + it.requests,
            failed: sum.failed + it.failed,
        })
    }

    /// The parts that the versions received in these seconds, in percent. Absent: they received nothing.
    pub(super) fn realised(&self, seconds: Range<usize>) -> Option<Each<f64>> {
        let counts: Each<f64> = std::array::from_fn(|arm| self.received_in(arm, seconds.clone()).requests as f64);
        let sum: f64 = counts.iter().sum();
        (sum > 0.0).then(|| counts.map(|count| 100.0 * count / sum))
    }

    /// What the client saw in these seconds.
    pub(super) fn seen(&self, seconds: Range<usize>) -> Summary {
        self.client.sum(seconds)
    }

    /// The shares at the end.
    pub(super) fn last_shares(&self) -> Each<f64> {
        self.shares.last().map(|(_, shares)| *shares).unwrap_or_default()
    }

    /// From when the version turned bad until its share was at most so much, never to be more again. Absent: it was not.
    pub(super) fn drained_after(&self, arm: usize, most: f64) -> Option<Duration> {
        let turn = self.timeline.turn as f64;
        let before = self.shares.iter().rposition(|(_, shares)| shares[arm] > most);
        let (at, _) = self.shares.get(before.map_or(0, |place| place + 1))?;
        Duration::try_from_secs_f64((at - turn).max(0.0)).ok()
    }

    /// Requests that the versions received while the shares stood still, and how many they should have by those.
    pub(super) fn settled(&self) -> Each<(u64, f64)> {
        let mut sums = Each::<(u64, f64)>::default();
        for second in 0..self.timeline.seconds {
            let Some(shares) = self.steady_shares(second as f64) else { continue };
            let received: Each<u64> = std::array::from_fn(|arm| self.received_in(arm, second..second + 1).requests);
            let all = received.iter().sum::<u64>() as f64;
            for (arm, (count, expected)) in sums.iter_mut().enumerate() {
                *count += received[arm];
                *expected += all * shares[arm] / 100.0;
            }
        }
        sums
    }

    /// The shares in force in the whole of a second.
    fn steady_shares(&self, second: f64) -> Option<Each<f64>> {
        let (begin, end) = (second - AROUND, second + 1.0 + AROUND);
        let mut during = self.shares.iter().filter(|(at, _)| (begin..=end).contains(at)).map(|(_, shares)| *shares);
        let first = during.next()?;
        during.all(|shares| shares == first).then_some(first)
    }
}

/// How likely it is that shares which are carried out as they should be give counts that differ at least so much (a chi-square test of three
/// counts, so with two degrees of freedom). Absent: there is nothing to compare.
pub(super) fn likelihood(counts: &Each<(u64, f64)>) -> Option<f64> {
    let all_expected = counts.iter().all(|(_, expected)| *expected > 5.0);
    let part = |(count, expected): &(u64, f64)| (*count as f64 - expected).powi(2) / expected;
    all_expected.then(|| (-counts.iter().map(part).sum::<f64>() / 2.0).exp())
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::{Findings, Timeline, likelihood};
    use crate::demo::{
        load::{Second, TargetReport},
        split::{Each, arm::Received},
    };

    /// A run as it should be: 200 requests a second; v2 has grown after 15 s, v3 turns bad after 20 and is drained after 26.
    pub(in crate::demo::split) fn fine() -> Findings {
        let shares_at = |second: usize| match second {
            0..15 => [60.0, 20.0, 20.0],
            15..26 => [48.0, 36.0, 16.0],
            _ => [48.5, 48.5, 3.0],
        };
        let timeline = Timeline::new(60);
        let received = std::array::from_fn(|arm| {
            let second = |second: usize| {
                let requests = (2.0 * shares_at(second)[arm]) as u64;
                let failed = if arm == 2 && second >= timeline.turn { requests / 2 } else { 0 };
                Received { requests, failed }
            };
            (0..60).map(second).collect::<Vec<_>>()
        });
        let client = |second: usize| {
            let failed: u64 = received.iter().map(|arm: &Vec<Received>| arm[second].failed).sum();
            let other = [(500, failed)].into_iter().filter(|(_, count)| *count > 0).collect();
            Second { offered: 200, ok: 200 - failed, other, ..Second::default() }
        };
        let client = TargetReport { name: "shop".into(), seconds: (0..60).map(client).collect() };
        let shares = (0..240).map(|quarter| (f64::from(quarter) / 4.0, shares_at(quarter as usize / 4))).collect();
        Findings { timeline, client, received, shares, told: vec![(0.2, "as declared".into())], same_listeners: true }
    }

    #[test]
    fn a_version_turns_bad_early_enough_to_be_drained() {
        assert_eq!(Timeline::new(60), Timeline { seconds: 60, turn: 20 });
        assert_eq!(Timeline::new(40), Timeline { seconds: 40, turn: 13 });
        assert_eq!(Timeline::new(3600).turn, 20);
    }

    #[test]
    fn drained_is_who_stays_so() {
        let mut findings = fine();
        assert_eq!(findings.drained_after(2, 3.1), Some(Duration::from_secs(6)));
        findings.shares[200].1[2] = 5.0;
        assert_eq!(findings.drained_after(2, 3.1), Some(Duration::from_secs_f64(30.25)));
        findings.shares.push((60.0, [0.0, 0.0, 100.0]));
        assert_eq!(findings.drained_after(2, 3.1), None);
        findings.shares.clear();
        assert_eq!(findings.drained_after(2, 3.1), None);
    }

    #[test]
    fn seconds_in_which_the_shares_move_do_not_count() {
        let findings = fine();
        let settled = findings.settled();
        let all: u64 = settled.iter().map(|(count, _)| count).sum();
        assert_eq!(all, 56 * 200, "but those before and after a change");
        assert_eq!(findings.realised(0..15).unwrap(), [60.0, 20.0, 20.0]);
        assert_eq!(findings.realised(70..80), None);
        assert!(likelihood(&settled).unwrap() > 0.9, "{settled:?}");
    }

    #[test]
    fn counts_that_differ_are_unlikely() {
        let of = |counts: Each<u64>| likelihood(&counts.map(|count| (count, 1000.0))).unwrap();
        assert!((of([1000; 3]) - 1.0).abs() < 1e-9);
        assert!((of([1040, 980, 980]) - 0.301).abs() < 0.001);
        assert!(of([1200, 900, 900]) < 1e-9);
        assert_eq!(likelihood(&[(0, 0.0); 3]), None);
    }
}
