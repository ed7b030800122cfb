//! What callers tell of one arm, from one step to the next.

use std::collections::BTreeMap;

use jiff::Timestamp;
use limiter::split::steer::{Law, Seen};

use crate::metrics::{Histogram, Measure, PodSample};

/// What was seen of an arm since the last step.
#[derive(Debug, Default)]
pub(super) struct Tally {
    completed: f64,
    failed: f64,
    latency: Histogram,
    /// Requests that have not ended, by caller.
    pub(super) inflight: BTreeMap<String, (Timestamp, f64)>,
    heard: bool,
}

impl Tally {
    pub(super) fn take(&mut self, sample: &PodSample) {
        let Measure::Called { completed, failed, inflight, latency, .. } = &sample.measure else { return };
        self.heard = true;
        self.completed += completed;
        self.failed += failed;
        self.latency = Histogram::merged([&self.latency, latency]);
        if let Some(caller) = &sample.pod {
            self.inflight.insert(caller.clone(), (sample.at, *inflight));
        }
    }

    pub(super) fn seen(&mut self, law: &Law, now: Timestamp) -> Option<Seen> {
        let lately = now.checked_sub(law.expiry).unwrap_or(Timestamp::MIN);
        self.inflight.retain(|_, (at, _)| *at >= lately);
        if !std::mem::take(&mut self.heard) {
            return None;
        }
        let latency = std::mem::take(&mut self.latency);
        Some(Seen {
            requests: std::mem::take(&mut self.completed),
            bad: std::mem::take(&mut self.failed),
            latency_ms: latency.quantile(f64::from(law.percentile) / 100.0).map(|seconds| seconds * 1e3),
        })
    }
}
