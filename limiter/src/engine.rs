//! One step of one rule: `(rule, state, observations, now) -> (state, decision)`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    metric::{Metric, Observations},
    policy::{OnMissing, Rule},
    quota::Rate,
};

/// What a rule remembers between steps. Serialisable, so that a checkpoint can carry it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleState {}

/// Where a rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The condition does not hold; no limit.
    Idle,
    /// The condition is true but not yet for long enough; no limit.
    Pending,
    /// The limit is in force.
    Limiting,
    /// The condition has ended; the limit doubles each second until it vanishes.
    Releasing,
}

/// What a rule decides now.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Where the rule stands.
    pub phase: Phase,
    /// The limit in the rule's own scope (the total for `across all pods`). Absent: no limit.
    pub limit: Option<Rate>,
    /// The lowest value that `limit` may take while the rule is as it is; fixes the size of Envoy's bucket.
    pub lowest: Option<Rate>,
    /// When the phase began.
    pub since: Timestamp,
    /// What was looked at, in the order of the sentence.
    pub observed: Vec<Observed>,
    /// Metrics that the rule needs and that are missing or stale now.
    pub missing: Vec<Metric>,
    /// One plain sentence with the numbers in it.
    pub explanation: String,
}

/// A value that a decision rests on.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// The metric as the sentence spells it: `cpu`, `p99 latency`, `cpu.max`.
    pub metric: String,
    /// Its value in base units.
    pub value: f64,
    /// When it was measured.
    pub at: Timestamp,
    /// Which provider gave it.
    pub source: String,
}

/// Decides one rule at `now`.
#[must_use]
pub fn step(
    rule: &Rule,
    on_missing: &OnMissing,
    state: &RuleState,
    observations: &Observations,
    now: Timestamp,
) -> (RuleState, Decision) {
    let _ = (rule, on_missing, observations);
    (
        state.clone(),
        Decision {
            phase: Phase::Idle,
            limit: None,
            lowest: None,
            since: now,
            observed: Vec::new(),
            missing: Vec::new(),
            explanation: String::new(),
        },
    )
}
