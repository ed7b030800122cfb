//! What the demonstration of a limit plays: a load that rises above capacity and falls again.

use std::{ops::Range, time::Duration};

use super::{cast::Cast, load::Phase};

/// Replicas, each with a proxy.
pub const REPLICAS: usize = 3;
/// CPU time of one request.
pub const COST: Duration = Duration::from_millis(4);
/// Cores of each replica; the manifests say the same.
pub const CPU: f64 = 0.2;
/// Requests per second that the policy lets through in all; the manifest says the same.
pub const LIMIT_PER_SECOND: f64 = 90.0;
/// Requests that a replica's share of the limit lets through at once (the default burst of such a limit).
pub const BURST: f64 = 5.0;

const WORKLOAD: &str = include_str!("../../../examples/demo/workload.yaml");
const LIMIT: &str = include_str!("../../../examples/demo/limit.yaml");

/// Who plays.
pub const CAST: Cast =
    Cast { service: "burner", replicas: REPLICAS as u8, arguments, workload: WORKLOAD, policy: ("limit.yaml", LIMIT) };

fn arguments() -> Vec<String> {
    vec!["--cpu".into(), CPU.to_string(), "--cost".into(), format!("{}us", COST.as_micros())]
}

/// The load over time. All ranges are in whole seconds from its start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timeline {
    /// Seconds of normal load at first.
    pub before: usize,
    /// Seconds of load above capacity.
    pub surge: usize,
    /// Seconds of normal load again.
    pub after: usize,
    /// Requests per second to each replica, normally.
    pub normal_per_second: f64,
    /// Requests per second to each replica in the surge.
    pub surge_per_second: f64,
}

impl Timeline {
    /// Divides `seconds` (at least 40).
    #[must_use]
    pub fn new(seconds: u64) -> Self {
        let seconds = usize::try_from(seconds).unwrap_or(usize::MAX).max(40);
        let (before, after) = (seconds / 6, (seconds / 3).max(18));
        Self { before, surge: seconds - before - after, after, normal_per_second: 15.0, surge_per_second: 100.0 }
    }

    /// Its length in seconds.
    #[must_use]
    pub fn seconds(&self) -> usize {
        self.before + self.surge + self.after
    }

    /// The load generator's phases.
    #[must_use]
    pub fn phases(&self) -> Vec<Phase> {
        let phase = |name: &str, seconds: usize, per_second| Phase {
            name: name.to_owned(),
            per_second,
            duration: Duration::from_secs(seconds as u64),
        };
        vec![
            phase("before", self.before, self.normal_per_second),
            phase("surge", self.surge, self.surge_per_second),
            phase("after", self.after, self.normal_per_second),
        ]
    }

    /// Normal load, when everything has warmed up.
    #[must_use]
    pub fn calm(&self) -> Range<usize> {
        2..self.before
    }

    /// The surge, when the limit has come into force and the queue from before it has drained.
    #[must_use]
    pub fn settled_surge(&self) -> Range<usize> {
        let end = self.before + self.surge;
        self.before + 10.min(self.surge / 2)..end
    }

    /// The last seconds, when the limit must be gone.
    #[must_use]
    pub fn recovered(&self) -> Range<usize> {
        self.seconds() - 5..self.seconds()
    }

    /// Name of the phase at a second.
    #[must_use]
    pub fn phase_at(&self, second: usize) -> &'static str {
        if second < self.before {
            "before"
        } else if second < self.before + self.surge {
            "surge"
        } else {
            "after"
        }
    }
}

/// A share of the limit, for one replica, in requests per second.
#[must_use]
pub fn share_per_second() -> f64 {
    LIMIT_PER_SECOND / REPLICAS as f64
}

#[cfg(test)]
mod tests {
    use super::{BURST, CAST, CPU, LIMIT, LIMIT_PER_SECOND, REPLICAS, Timeline, WORKLOAD, share_per_second};

    #[test]
    fn the_phases_fill_the_time_and_their_windows_hold_something() {
        for seconds in [40, 60, 61, 3600] {
            let timeline = Timeline::new(seconds);
            assert_eq!(timeline.seconds() as u64, seconds);
            for window in [timeline.calm(), timeline.settled_surge(), timeline.recovered()] {
                assert!(window.len() >= 4 && window.end <= timeline.seconds(), "{seconds}: {window:?}");
            }
            assert_eq!(timeline.phase_at(timeline.settled_surge().start), "surge");
            assert_eq!(timeline.phase_at(timeline.recovered().start), "after");
        }
    }

    #[test]
    fn the_manifests_say_what_the_constants_say() {
        assert!(LIMIT.contains(&format!("limit: {LIMIT_PER_SECOND} requests per second across all pods")));
        assert_eq!(WORKLOAD.matches(&format!("cpu: {}m", CPU * 1000.0)).count(), REPLICAS);
        for replica in 0..REPLICAS {
            let address = format!("addresses: [127.0.1.{}]", replica + 1);
            let line = WORKLOAD.lines().find(|line| line.contains(&address)).unwrap();
            assert!(line.contains(&format!("name: {}", CAST.pod(replica))), "{line}");
        }
        let rate = limiter::quota::Rate {
            milli_requests: (share_per_second() * 1000.0) as u64,
            interval: std::time::Duration::from_secs(1),
        };
        assert!((f64::from(limiter::policy::default_burst(rate)) - BURST).abs() < f64::EPSILON);
    }
}
