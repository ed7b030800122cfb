mod classes;
mod explanation;
mod harness;
mod missing;
mod properties;
mod resume;
mod scenario;

use std::ops::Deref;

use super::{Decision, RuleState, explain, step};
use crate::{
    metric::Observations,
    policy::{OnMissing, Rule},
};

/// A decision with its sentence.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    decision: Decision,
    pub(crate) explanation: String,
}

impl Deref for Told {
    type Target = Decision;

    fn deref(&self) -> &Decision {
        &self.decision
    }
}

/// [`step`], and its sentence.
pub(crate) fn told(
    rule: &Rule,
    on_missing: &OnMissing,
    state: &RuleState,
    observations: &Observations,
    now: jiff::Timestamp,
) -> (RuleState, Told) {
    let (state, decision) = step(rule, on_missing, state.clone(), observations, now);
    let explanation = explain(rule, on_missing, &state, &decision, observations);
    (state, Told { decision, explanation })
}
