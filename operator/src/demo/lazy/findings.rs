//! What is measured while the demonstration of lazy loading runs.

use std::time::{Duration, Instant};

use super::{CALLERS, caller::Answer};
use crate::demo::load::Summary;

/// Everything that was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    /// Services of the mesh.
    pub(super) services: usize,
    /// Names of those that are called.
    pub(super) called: Vec<String>,
    /// Of `eager`, then of `lazy`.
    pub(super) sides: [Side; CALLERS],
    /// Clusters of the lazy proxy after each first call.
    pub(super) grown: Vec<usize>,
    /// The answer to a call of a host that nothing is known of.
    pub(super) unknown: Answer,
    pub(super) forgetting: Forgetting,
    pub(super) restart: Restart,
    /// When the first service was called.
    pub(super) begun: Option<Instant>,
    /// Clusters of the lazy proxy, by seconds since then.
    pub(super) history: Vec<(f64, usize)>,
}

/// A caller's proxy.
#[derive(Clone, Debug, Default)]
pub(super) struct Side {
    pub(super) name: &'static str,
    /// From its start until it is live, takes requests and has all that it starts with.
    pub(super) ready: Duration,
    pub(super) at_start: Holding,
    pub(super) after_calls: Holding,
    /// Times of the first call of each service.
    pub(super) first: Times,
    /// Times of the calls after those.
    pub(super) later: Times,
    /// What became of the steady calls while others were forgotten.
    pub(super) while_forgetting: Summary,
    /// What became of the steady calls while Weir was killed and came back.
    pub(super) while_restarting: Summary,
}

/// What a proxy holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Holding {
    /// Services that it has clusters of.
    pub(super) clusters: Vec<String>,
    /// Bytes that Envoy says it has allocated.
    pub(super) allocated: u64,
}

/// Times of calls, and those that went wrong.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    sorted: Vec<Duration>,
    /// What was answered instead, in words.
    pub(super) wrong: Vec<String>,
}

/// Seen while what was not called was forgotten.
#[derive(Clone, Debug, Default)]
pub(super) struct Forgetting {
    /// The service that went on being called.
    pub(super) kept: String,
    /// One that was not.
    pub(super) other: String,
    /// From the last of the other calls until only that was left; absent: others were left when it was given up.
    pub(super) after: Option<Duration>,
    /// Services that were left then.
    pub(super) left: Vec<String>,
    /// What a call to the other got then.
    pub(super) again: Answer,
    /// What was there after that.
    pub(super) clusters_again: Vec<String>,
}

/// Seen while Weir was killed and came back.
#[derive(Clone, Debug, Default)]
pub(super) struct Restart {
    /// Resources that the Weir before had sent.
    pub(super) sent_before: f64,
    /// Resources that the one after sent.
    pub(super) sent_after: f64,
    /// Calls of a service through both proxies meanwhile.
    pub(super) calls: Times,
    /// Proxies that hold something else than before, or something that came at another time.
    pub(super) changed: Vec<&'static str>,
}

impl Findings {
    /// Notes how many clusters the lazy proxy has now.
    pub(super) fn note(&mut self, clusters: usize) {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        self.history.push((begun.elapsed().as_secs_f64(), clusters));
    }
}

impl Times {
    /// Notes a call of a service.
    pub(super) fn add(&mut self, service: &str, answer: &Answer) {
        if !answer.is_from(service) {
            self.wrong.push(format!("{service}: {} {}", answer.status, answer.body.trim()));
        }
        let at = self.sorted.partition_point(|other| *other <= answer.after);
        self.sorted.insert(at, answer.after);
    }

    pub(super) fn count(&self) -> usize {
        self.sorted.len()
    }

    pub(super) fn median(&self) -> Duration {
        self.sorted.get(self.sorted.len() / 2).copied().unwrap_or_default()
    }

    pub(super) fn worst(&self) -> Duration {
        self.sorted.last().copied().unwrap_or_default()
    }
}

/// Milliseconds with a decimal.
pub(super) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// Seconds with two decimals.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// Megabytes with a decimal.
pub(super) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// How much less `of` is than `than`, in per cent.
pub(super) fn less(of: u64, than: u64) -> f64 {
    100.0 * (1.0 - of as f64 / than.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Answer, Times, less};

    #[test]
    fn times_are_ordered_and_wrong_answers_are_kept() {
        let mut times = Times::default();
        for (millis, body) in [(3, "s1"), (1, "s1"), (2, "s2")] {
            let after = Duration::from_millis(millis);
            times.add("s1", &Answer { status: 200, body: body.into(), after });
        }
        assert_eq!(
            (times.count(), times.median(), times.worst()),
            (3, Duration::from_millis(2), Duration::from_millis(3))
        );
        assert_eq!(times.wrong, ["s1: 200 s2"]);
        assert!((less(1, 4) - 75.0).abs() < 1e-9 && less(0, 0) > 99.0);
    }
}
