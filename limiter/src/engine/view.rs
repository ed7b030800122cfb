//! The input of one step, and what is asked of it: whether the rule holds, what it lacks, what was looked at.

use std::time::Duration;

use jiff::Timestamp;

use super::{Cause, Observed, Phase, Ramp, RuleState, explain, stays};
use crate::{
    adapt::{self, Verdict},
    condition::{self, Hold, Holds, Outcome, Truth},
    metric::{Metric, Observations, Word},
    policy::{Action, MissingAction, OnMissing, Rule, Scope},
    quota::Rate,
};

/// Doublings after which a limit that is being released vanishes (source: design, 64 times is no limit in practice).
const DOUBLINGS: u64 = 6;

/// Requests per second above which a limit that is being released vanishes: the most that a proxy can be told.
const VANISHES_ABOVE: f64 = 100_000.0;

/// The input of one step, with what is asked of it more than once.
pub(super) struct View<'a> {
    pub(super) rule: &'a Rule,
    on_missing: &'a OnMissing,
    pub(super) observations: &'a Observations,
    pub(super) now: Timestamp,
    /// All metrics that the rule needs, in the order of its sentences.
    metrics: Vec<&'a Metric>,
    /// The amount of the limit, or a goal that could say where it goes, reads a metric that is missing.
    amount_missing: bool,
}

impl<'a> View<'a> {
    pub(super) fn new(
        rule: &'a Rule,
        on_missing: &'a OnMissing,
        observations: &'a Observations,
        now: Timestamp,
    ) -> Self {
        let mut metrics = Vec::new();
        if let Some(when) = &rule.when {
            condition::collect(&when.condition, &mut metrics);
            condition::collect(&when.until, &mut metrics);
        }
        let amount_missing = match &rule.action {
            Action::Limit(limit) => {
                condition::collect_expression(&limit.amount, &mut metrics);
                let mut of_amount = Vec::new();
                condition::collect_expression(&limit.amount, &mut of_amount);
                of_amount.iter().any(|metric| condition::read(metric, observations, now).is_none())
            }
            Action::Adapt(adapt) => {
                for goal in &adapt.goals {
                    if !metrics.contains(&&goal.metric) {
                        metrics.push(&goal.metric);
                    }
                }
                adapt::verdict(adapt, observations, now) == Verdict::Unknown
            }
        };
        Self { rule, on_missing, observations, now, metrics, amount_missing }
    }

    /// What the condition says. A rule without one holds always, as far as its amount is known; one that steers itself
    /// begins before its goals are known, but when it has let go for want of them it waits for them.
    pub(super) fn condition(&self, phase: Phase, next: &mut RuleState) -> Outcome {
        let Some(when) = &self.rule.when else {
            next.holds.clear();
            next.streak = Hold::default();
            let unknown = match self.rule.action {
                Action::Limit(_) => self.amount_missing,
                Action::Adapt(_) => {
                    let at_once =
                        matches!(self.on_missing.action, MissingAction::Release) && self.on_missing.after.is_zero();
                    self.amount_missing && phase != Phase::Limiting && (next.stage.is_some() || at_once)
                }
            };
            let truth = if unknown { Truth::Unknown } else { Truth::True };
            return Outcome { truth, momentary: truth };
        };
        let outcome = condition::evaluate(&when.condition, &mut next.holds, self.observations, self.now);
        condition::observe(&mut next.streak, &when.condition, outcome.momentary, self.observations, self.now);
        outcome
    }

    /// After a release for want of metrics each `for` has to be served anew: what was held dates from before the absence.
    pub(super) fn forget_holds(&self, next: &mut RuleState, before: Outcome) -> Outcome {
        let Some(when) = &self.rule.when else { return before };
        let mut holds = Holds::new();
        let outcome = condition::evaluate(&when.condition, &mut holds, self.observations, self.now);
        if outcome.truth == Truth::True {
            // `not (… for …)`: forgetting would bring the limit back at once.
            return before;
        }
        next.holds = holds;
        outcome
    }

    /// What `until` says; false unless limiting.
    pub(super) fn until(&self, phase: Phase, next: &mut RuleState) -> Outcome {
        match (&self.rule.when, phase) {
            (Some(when), Phase::Limiting) => {
                condition::evaluate(&when.until, &mut next.until_holds, self.observations, self.now)
            }
            _ => {
                next.until_holds.clear();
                Outcome { truth: Truth::False, momentary: Truth::False }
            }
        }
    }

    /// Whether the next phase cannot be told.
    pub(super) fn is_blind(&self, phase: Phase, condition: Outcome, until: Outcome) -> bool {
        match (&self.rule.when, phase) {
            (Some(_), Phase::Limiting) => until.truth == Truth::Unknown && !stays(condition),
            (None, Phase::Limiting) => self.amount_missing,
            _ => condition.truth == Truth::Unknown,
        }
    }

    /// Keeps the time since when the rule has lacked a metric that it needs in this phase.
    pub(super) fn note_missing(&self, next: &mut RuleState, phase: Phase, blind: bool) {
        let lacking = blind || (phase == Phase::Limiting && self.amount_missing);
        // Not after `now`: a clock that is set back must not put off what the policy says.
        next.missing_since = lacking.then(|| next.missing_since.map_or(self.now, |since| since.min(self.now)));
        next.missing_deadline = next.missing_since.and_then(|since| since.checked_add(self.on_missing.after).ok());
    }

    pub(super) fn overdue(&self, state: &RuleState) -> bool {
        state.missing_deadline.is_some_and(|deadline| deadline <= self.now)
    }

    pub(super) fn lets_go(&self, state: &RuleState) -> bool {
        matches!(self.on_missing.action, MissingAction::Release) && self.overdue(state)
    }

    /// The one transition of a step, with the release that it begins, continues or ends.
    pub(super) fn transition(
        &self,
        next: &mut RuleState,
        phase: Phase,
        blind: bool,
        condition: Outcome,
        until: Outcome,
        passed: Duration,
    ) -> Phase {
        let waiting = if condition.momentary == Truth::True { Phase::Pending } else { Phase::Idle };
        let to = match phase {
            Phase::Limiting if blind && self.lets_go(next) => Phase::Releasing,
            _ if blind => phase,
            Phase::Limiting if until.truth == Truth::True && !stays(condition) => Phase::Releasing,
            Phase::Limiting => phase,
            _ if condition.truth == Truth::True => Phase::Limiting,
            Phase::Releasing => phase,
            Phase::Idle | Phase::Pending => waiting,
        };
        if to != Phase::Releasing {
            return to;
        }
        let begun = || {
            let cause = if blind { Cause::Missing } else { Cause::Until };
            Ramp { cause, from: None, run: Duration::ZERO, paused: false }
        };
        let mut ramp = next.ramp.filter(|_| phase == Phase::Releasing).unwrap_or_else(begun);
        if phase == Phase::Releasing && !ramp.paused && (!blind || self.lets_go(next)) {
            ramp.run = ramp.run.saturating_add(passed);
        }
        next.ramp = Some(ramp);
        match self.ramp_rate(next) {
            Some(_) => Phase::Releasing,
            None => waiting,
        }
    }

    /// The limit of [`MissingAction::Floor`] in the rule's scope.
    pub(super) fn floor(&self) -> Option<Rate> {
        let MissingAction::Floor(floor) = &self.on_missing.action else { return None };
        let requests = condition::value(&floor.amount, self.observations, self.now)?;
        let pods = f64::from(self.observations.pods.max(1));
        let requests = match (floor.scope, self.rule.action.scope()) {
            (Scope::PerPod, Scope::AcrossAllPods) => requests * pods,
            (Scope::AcrossAllPods, Scope::PerPod) => requests / pods,
            _ => requests,
        };
        let rate = Rate::from_requests(requests, floor.interval)?;
        Some(match &self.rule.action {
            Action::Limit(_) => rate,
            Action::Adapt(adapt) => adapt::within(adapt, rate),
        })
    }

    /// Moves a limit that steers itself. It begins anew when the rule begins to limit, and goes on when a release is broken off.
    pub(super) fn steer(&self, phase: Phase, next: &mut RuleState) {
        let Action::Adapt(adapt) = &self.rule.action else {
            next.steering = None;
            return;
        };
        match phase {
            Phase::Limiting => {
                next.steering = adapt::steer(self.rule, adapt, next.steering.as_ref(), self.observations, self.now);
                next.last_rate = next.steering.as_ref().map(|steering| steering.limit);
            }
            Phase::Releasing => {}
            Phase::Idle | Phase::Pending => next.steering = None,
        }
    }

    /// The bound in force in a phase.
    pub(super) fn bound(&self, phase: Phase, state: &RuleState) -> Option<u32> {
        let (Action::Adapt(adapt), Some(steering)) = (&self.rule.action, &state.steering) else { return None };
        let bound = || steering.bound_in_force(self.rule, adapt, self.observations, self.now);
        match phase {
            Phase::Limiting => bound(),
            Phase::Releasing => {
                let doublings = state.ramp.map_or(0, |ramp| ramp.run.as_secs().min(DOUBLINGS));
                bound().map(|bound| bound.saturating_mul(1 << doublings))
            }
            Phase::Idle | Phase::Pending => None,
        }
    }

    /// The lowest limit that the rule's own sentence leads to.
    pub(super) fn lowest(&self, state: &RuleState) -> Option<Rate> {
        match &self.rule.action {
            Action::Limit(_) => state.last_rate,
            Action::Adapt(adapt) => adapt::lowest(adapt),
        }
    }

    /// The limit of a release under way; `None` when it has ended, or there is nothing to release.
    pub(super) fn ramp_rate(&self, state: &RuleState) -> Option<Rate> {
        let ramp = state.ramp?;
        let doublings = ramp.run.as_secs();
        if doublings >= DOUBLINGS {
            return None;
        }
        let rate = (0..doublings).fold(ramp.from.or(state.last_rate)?, |rate, _| rate.doubled());
        let vanishes_above = match &self.rule.action {
            Action::Limit(_) => VANISHES_ABOVE,
            Action::Adapt(adapt) => adapt.ceiling / adapt.interval.as_secs_f64(),
        };
        (rate.per_second() <= vanishes_above).then_some(rate)
    }

    pub(super) fn missing(&self) -> Vec<&'a Metric> {
        let unread = |metric: &&&Metric| condition::read(metric, self.observations, self.now).is_none();
        self.metrics.iter().filter(unread).copied().collect()
    }

    pub(super) fn observed(&self) -> Vec<Observed> {
        let look = |metric: &Metric| {
            let name = explain::spelling(metric);
            if metric.word == Word::Pods {
                let value = f64::from(self.observations.pods);
                return Some(Observed { metric: name, value, at: self.now, source: "endpoints".into() });
            }
            let sample = condition::fresh(metric, self.observations, self.now)?;
            Some(Observed { metric: name, value: sample.value, at: sample.at, source: sample.source.clone() })
        };
        let supporting: Vec<Metric> = match &self.rule.action {
            Action::Limit(_) => Vec::new(),
            Action::Adapt(_) => adapt::supporting_metrics().collect(),
        };
        self.metrics.iter().copied().chain(&supporting).filter_map(look).collect()
    }

    /// When the first of the samples that are fresh now becomes stale.
    pub(super) fn stale_at(&self) -> Option<Timestamp> {
        let stale = self.metrics.iter().filter_map(|metric| {
            let sample = condition::fresh(metric, self.observations, self.now)?;
            let fresh_for = i64::try_from(sample.fresh_for_ms).unwrap_or(i64::MAX);
            // One more than its freshness: a sample counts up to and with that millisecond.
            let at = sample.at.as_millisecond().saturating_add(fresh_for).saturating_add(1);
            Timestamp::from_millisecond(at).ok()
        });
        stale.min()
    }
}
