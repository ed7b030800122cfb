//! Live metrics: providers bring samples of pods, `store` turns them into the observations that rules ask for.

use jiff::Timestamp;

use crate::intent::ServiceKey;

/// One measured value of one pod, as a provider brings it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodSample {
    /// The target.
    pub service: ServiceKey,
    /// The pod.
    pub pod: String,
    /// What was measured (before any reduction over pods).
    pub word: limiter::metric::Word,
    /// Value in the word's base unit; finite.
    pub value: f64,
    /// When it was true.
    pub at: Timestamp,
    /// How long it counts, in milliseconds: three intervals of the provider.
    pub fresh_for_ms: u64,
}
