//! Rates, and their division among pods.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A rate in thousandths of a request per interval, exact in the unit that the policy used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rate {
    /// Thousandths of a request per `interval`.
    pub milli_requests: u64,
    /// The policy's own unit of time: a second, a minute, an hour, a day, or an article's `fill_interval`.
    pub interval: Duration,
}

impl Rate {
    /// Requests per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.milli_requests as f64 / 1000.0 / self.interval.as_secs_f64()
    }
}

/// Divides `total` among `pods` (at least one) so that the parts add up to exactly `total`; larger parts first.
/// The parts differ by at most 1/1000 of a request per interval.
#[must_use]
pub fn shares(total: Rate, pods: u32) -> Vec<Rate> {
    let _ = (total, pods);
    Vec::new() // contract only
}
