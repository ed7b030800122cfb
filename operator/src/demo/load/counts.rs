//! What a load run counts: per target and second of arrival.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use hdrhistogram::Histogram;

/// One second of one target, by the time at which requests were due.
#[derive(Clone, Debug)]
pub struct Second {
    /// Requests that were due.
    pub offered: u64,
    /// Answered 2xx.
    pub ok: u64,
    /// Of these, as fast as the plan's `slo` asks.
    pub good: u64,
    /// Answered 429.
    pub limited: u64,
    /// Other answers, by status.
    pub other: BTreeMap<u16, u64>,
    /// Not answered within the timeout.
    pub timeouts: u64,
    /// Connection refused, reset or broken.
    pub errors: u64,
    /// Not sent, because too many requests were waiting already.
    pub dropped: u64,
    /// Kept connections that the server had closed when they were needed again, or at the end. No request fails by that.
    pub closed: u64,
    /// Latency of the 2xx answers in microseconds, from the moment they were due.
    pub latency_us: Histogram<u32>,
}

impl Default for Second {
    fn default() -> Self {
        let latency_us = Histogram::new_with_bounds(1, 120_000_000, 3).expect("the bounds are valid");
        Self {
            offered: 0,
            ok: 0,
            good: 0,
            limited: 0,
            other: BTreeMap::new(),
            timeouts: 0,
            errors: 0,
            dropped: 0,
            closed: 0,
            latency_us,
        }
    }
}

/// Sums over a stretch of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Requests that were due.
    pub offered: u64,
    /// Answered 2xx.
    pub ok: u64,
    /// Of these, as fast as the plan's `slo` asks.
    pub good: u64,
    /// Answered 429.
    pub limited: u64,
    /// Other answers, timeouts, broken connections and requests that were not sent.
    pub failed: u64,
    /// Of these, not answered within the timeout.
    pub timeouts: u64,
    /// Of these, other answers.
    pub other: u64,
    /// Of these, 503: what an Envoy says that sheds load without a rate limit.
    pub unavailable: u64,
    /// Kept connections that the server closed.
    pub closed: u64,
    /// Median latency of 2xx answers.
    pub p50: Option<Duration>,
    /// 99th percentile of the latency of 2xx answers.
    pub p99: Option<Duration>,
}

impl Summary {
    /// Requests that the proxy let pass, as far as the client can tell: all that were sent and not answered 429.
    #[must_use]
    pub fn admitted(&self) -> u64 {
        self.ok + self.timeouts + self.other
    }
}

/// What one target did.
#[derive(Clone, Debug, Default)]
pub struct TargetReport {
    /// Its name.
    pub name: String,
    /// By second of arrival, from the start of the run.
    pub seconds: Vec<Second>,
}

impl TargetReport {
    /// Sums over seconds of arrival; a range that goes too far is cut.
    #[must_use]
    pub fn sum(&self, seconds: Range<usize>) -> Summary {
        let end = seconds.end.min(self.seconds.len());
        summarise(&self.seconds[seconds.start.min(end)..end])
    }

    /// Sums over the whole run.
    #[must_use]
    pub fn total(&self) -> Summary {
        summarise(&self.seconds)
    }
}

/// What a run counted.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the plan's order.
    pub targets: Vec<TargetReport>,
}

impl Report {
    /// Sums over all targets.
    #[must_use]
    pub fn sum(&self, seconds: Range<usize>) -> Summary {
        let all: Vec<Second> = self
            .targets
            .iter()
            .flat_map(|target| {
                let end = seconds.end.min(target.seconds.len());
                target.seconds[seconds.start.min(end)..end].to_vec()
            })
            .collect();
        summarise(&all)
    }

    /// Length of the run in seconds.
    #[must_use]
    pub fn seconds(&self) -> usize {
        self.targets.iter().map(|target| target.seconds.len()).max().unwrap_or(0)
    }
}

pub(super) fn summarise(seconds: &[Second]) -> Summary {
    let mut latency = Second::default().latency_us;
    let mut sum = Summary::default();
    for Second { offered, ok, good, limited, other, timeouts, errors, dropped, closed, latency_us } in seconds {
        sum.unavailable += other.get(&503).copied().unwrap_or(0);
        let other: u64 = other.values().sum();
        sum.offered += offered;
        sum.ok += ok;
        sum.good += good;
        sum.limited += limited;
        sum.timeouts += timeouts;
        sum.other += other;
        sum.failed += other + timeouts + errors + dropped;
        sum.closed += closed;
        latency.add(latency_us).expect("all histograms have the same bounds");
    }
    if sum.ok > 0 {
        sum.p50 = Some(Duration::from_micros(latency.value_at_quantile(0.5)));
        sum.p99 = Some(Duration::from_micros(latency.value_at_quantile(0.99)));
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Report, Second, TargetReport};

    #[test]
    fn sums_merge_histograms_and_cut_ranges() {
        let mut second = Second { offered: 3, ok: 1, limited: 1, timeouts: 1, ..Second::default() };
        second.latency_us.record(2000).unwrap();
        let mut slow = Second { offered: 1, ok: 1, ..Second::default() };
        slow.latency_us.record(500_000).unwrap();
        let target = TargetReport { name: "a".into(), seconds: vec![second, slow] };
        let sum = target.sum(0..99);
        assert_eq!((sum.offered, sum.ok, sum.limited, sum.failed, sum.admitted()), (4, 2, 1, 1, 3));
        assert!(sum.p99.unwrap() >= Duration::from_millis(499));
        assert!(target.sum(0..1).p99.unwrap() < Duration::from_millis(3));
        assert_eq!(target.sum(7..9).p99, None);
        let report = Report { targets: vec![target.clone(), target] };
        assert_eq!(report.sum(0..2).offered, 8);
        assert_eq!(report.seconds(), 2);
    }
}
