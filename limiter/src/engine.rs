//! One step of one rule: `(rule, state, observations, now) -> (state, decision)`.
//!
//! ```text
//!            condition, but its `for` not served            condition
//!      Idle <-----------------------------------> Pending ------------> Limiting
//!       ^                                                                |   ^
//!       |  64 times the limit reached                   `until` (and not |   | condition
//!       +------------------------------- Releasing <--- the condition) --+   |
//!                                            +-------------------------------+
//! ```
//!
//! - The condition is evaluated in every phase; `until` only while limiting, from the moment the limit began. If both are
//!   true at once, the limit stays.
//! - Releasing: the limit doubles at each full second, and vanishes where it would have reached 64 times its start, or
//!   100,000 requests per second. Whole steps keep the number of pushes to the proxies small and the sentence readable.
//! - What cannot be evaluated (see [`condition`]) changes nothing: phase, limit and ramp stand still.
//!   Only after `on_missing.after` may its action change something, and only what the author asked for.
//! - A limit whose amount cannot be computed keeps the last good one.
//!
//! Cold start: without `when` a rule limits from the first step, otherwise it is idle until its condition has been seen
//! true. `now` may repeat or go backwards; then no time passes.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    condition::{self, Hold, Holds, Outcome, Truth, elapsed},
    metric::{Metric, Observations, Word},
    policy::{Action, Limit, MissingAction, OnMissing, Rule, Scope},
    quota::Rate,
};

mod explain;
mod resume;
#[cfg(test)]
mod tests;

/// Doublings after which a limit that is being released vanishes (source: design, 64 times is no limit in practice).
const DOUBLINGS: u64 = 6;

/// Requests per second above which a limit that is being released vanishes: the most that a proxy can be told.
const VANISHES_ABOVE: f64 = 100_000.0;

/// What a rule remembers between steps. Serialisable, so that a checkpoint can carry it; a missing field has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RuleState {
    /// Where the rule stands and since when; absent before the first step.
    pub stage: Option<Stage>,
    /// Held parts of the condition.
    pub holds: Holds,
    /// Held parts of `until`; empty unless limiting.
    pub until_holds: Holds,
    /// How long the condition, its `for`s left aside, has been true.
    pub streak: Hold,
    /// The last limit that could be computed from the amount.
    pub last_rate: Option<Rate>,
    /// The release, while releasing.
    pub ramp: Option<Ramp>,
    /// Since when the rule has lacked a metric that it needs.
    pub missing_since: Option<Timestamp>,
    /// When `on_missing` acts, or acted, on that.
    pub missing_deadline: Option<Timestamp>,
    /// The limit in force instead of the rule's own while metrics are missing.
    pub floor: Option<Floor>,
    /// When the first sample that is fresh now becomes stale.
    pub stale_at: Option<Timestamp>,
    /// `now` of the last step.
    pub stepped_at: Option<Timestamp>,
}

/// A phase with its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// The phase.
    pub phase: Phase,
    /// When it began.
    pub since: Timestamp,
}

/// A release under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ramp {
    /// Why it began.
    pub cause: Cause,
    /// What is doubled; absent: the rule's own limit.
    pub from: Option<Rate>,
    /// Time in the release, without the time for which it stood still.
    pub run: Duration,
    /// Whether it stands still because a metric is missing.
    pub paused: bool,
}

/// Why a release began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// `until` became true.
    Until,
    /// A metric was missing for too long, and the policy says to let go.
    Missing,
    /// Metrics came back, and the floor that was in force meanwhile is no longer needed.
    Floor,
}

/// A limit of [`MissingAction::Floor`] in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// The limit, in the rule's scope.
    pub rate: Rate,
    /// When it came into force.
    pub since: Timestamp,
}

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
    /// Most requests in flight, in the rule's own scope. Absent: no bound.
    pub bound: Option<u32>,
    /// The limit of each of the rule's classes and of the nameless last one; empty without classes or limit. A request
    /// must pass its class's limit, all of them together `limit`.
    pub classes: Vec<Rate>,
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

/// Decides one rule at `now`. Doing so twice with the same input changes nothing.
#[must_use]
pub fn step(
    rule: &Rule,
    on_missing: &OnMissing,
    state: &RuleState,
    observations: &Observations,
    now: Timestamp,
) -> (RuleState, Decision) {
    let limit = match &rule.action {
        Action::Limit(limit) => limit,
        Action::Adapt(adapt) => return not_carried_out(rule, &adapt.text, state, now),
    };
    let view = View::new(rule, limit, on_missing, observations, now);
    let mut next = state.clone();
    next.stepped_at = Some(now);
    next.stale_at = stale_at(&view.metrics, observations, now);
    next.last_rate = rate(limit, observations, now).or(state.last_rate);

    let before = state.stage.unwrap_or(Stage { phase: Phase::Idle, since: now });
    let mut outcome = view.condition(&mut next);
    let until = view.until(before.phase, &mut next);
    let passed = state.stepped_at.map_or(Duration::ZERO, |stepped_at| elapsed(stepped_at, now));
    let blind = view.is_blind(before.phase, outcome, until);
    view.note_missing(&mut next, before.phase, blind);
    let mut phase = view.transition(&mut next, before.phase, blind, outcome, until, passed);

    if before.phase == Phase::Limiting && next.ramp.is_some_and(|ramp| ramp.cause == Cause::Missing) {
        outcome = view.forget_holds(&mut next, outcome);
    }

    // What is lacking is judged by the phase that now is, so that a second look at the same moment finds the same.
    let until = if phase == before.phase { until } else { view.until(phase, &mut next) };
    let blind = view.is_blind(phase, outcome, until);
    view.note_missing(&mut next, phase, blind);
    let floor = view.floor();
    if let Some(rate) = floor.filter(|_| view.overdue(&next)) {
        next.floor = Some(Floor { rate, since: next.floor.map_or(now, |floor| floor.since) });
    } else if let Some(floor) = next.floor.take()
        && phase != Phase::Limiting
    {
        // The floor was a limit like any other: it goes with a ramp, too.
        phase = Phase::Releasing;
        next.ramp = Some(Ramp { cause: Cause::Floor, from: Some(floor.rate), run: Duration::ZERO, paused: false });
    }
    if phase == Phase::Releasing {
        let paused = blind && !view.lets_go(&next);
        next.ramp = next.ramp.map(|ramp| Ramp { paused, ..ramp });
    } else {
        next.ramp = None;
    }
    let stage = if phase == before.phase { before } else { Stage { phase, since: now } };
    next.stage = Some(stage);

    let lowest = match (next.last_rate, floor) {
        (Some(own), Some(floor)) => Some(own.min(floor)),
        (own, floor) => own.or(floor),
    };
    let (shown, in_force) = match (next.floor, phase) {
        (Some(floor), _) => (Stage { phase: Phase::Limiting, since: floor.since }, Some(floor.rate)),
        (None, Phase::Limiting) => (stage, next.last_rate),
        // A policy edit may have raised the lowest limit above the start of the release.
        (None, Phase::Releasing) => {
            (stage, ramp_rate(&next).map(|rate| lowest.map_or(rate, |lowest| rate.max(lowest))))
        }
        (None, Phase::Idle | Phase::Pending) => (stage, None),
    };
    let missing = view.missing();
    let facts = explain::Facts { view: &view, state: &next, shown, in_force, blind, missing: &missing, outcome, until };
    let explanation = explain::sentence(&facts);
    let decision = Decision {
        phase: shown.phase,
        limit: in_force,
        lowest,
        bound: None,
        classes: Vec::new(),
        since: shown.since,
        observed: view.observed(),
        missing: missing.into_iter().cloned().collect(),
        explanation,
    };
    (next, decision)
}

/// When the decision can change by time alone, after a [`step`] that left `state`: the next doubling of a release, the
/// end of a `for` that runs on the clock, a sample growing stale, or the time at which `on_missing` acts. `None`: not
/// before a sample, the pods or the policy change. A time that has passed already is given as `now`.
#[must_use]
pub fn next_change(rule: &Rule, state: &RuleState, now: Timestamp) -> Option<Timestamp> {
    let stepped_at = state.stepped_at?;
    let doubling = state.ramp.filter(|ramp| !ramp.paused).and_then(|ramp| {
        let into_second = Duration::from_nanos(u64::from(ramp.run.subsec_nanos()));
        stepped_at.checked_add(Duration::from_secs(1).saturating_sub(into_second)).ok()
    });
    let deadline = state.missing_deadline.filter(|deadline| *deadline > stepped_at);
    let holds = rule.when.as_ref().and_then(|when| {
        let condition = condition::next_hold(&when.condition, &state.holds);
        condition.into_iter().chain(condition::next_hold(&when.until, &state.until_holds)).min()
    });
    [doubling, deadline, state.stale_at, holds].into_iter().flatten().min().map(|at| at.max(now))
}

/// The input of one step, with what is asked of it more than once.
struct View<'a> {
    rule: &'a Rule,
    limit: &'a Limit,
    on_missing: &'a OnMissing,
    observations: &'a Observations,
    now: Timestamp,
    /// All metrics of the rule, in the order of its sentences.
    metrics: Vec<&'a Metric>,
    /// The amount of the limit reads a metric that is missing.
    amount_missing: bool,
}

impl<'a> View<'a> {
    fn new(
        rule: &'a Rule,
        limit: &'a Limit,
        on_missing: &'a OnMissing,
        observations: &'a Observations,
        now: Timestamp,
    ) -> Self {
        let mut metrics = Vec::new();
        if let Some(when) = &rule.when {
            condition::collect(&when.condition, &mut metrics);
            condition::collect(&when.until, &mut metrics);
        }
        condition::collect_expression(&limit.amount, &mut metrics);
        let mut of_amount = Vec::new();
        condition::collect_expression(&limit.amount, &mut of_amount);
        let amount_missing = of_amount.iter().any(|metric| condition::read(metric, observations, now).is_none());
        Self { rule, limit, on_missing, observations, now, metrics, amount_missing }
    }

    /// What the condition says. A rule without one holds always, as far as its amount is known.
    fn condition(&self, next: &mut RuleState) -> Outcome {
        let Some(when) = &self.rule.when else {
            next.holds.clear();
            next.streak = Hold::default();
            let truth = if self.amount_missing { Truth::Unknown } else { Truth::True };
            return Outcome { truth, momentary: truth };
        };
        let outcome = condition::evaluate(&when.condition, &mut next.holds, self.observations, self.now);
        condition::observe(&mut next.streak, &when.condition, outcome.momentary, self.observations, self.now);
        outcome
    }

    /// After a release for want of metrics each `for` has to be served anew: what was held dates from before the absence.
    fn forget_holds(&self, next: &mut RuleState, before: Outcome) -> Outcome {
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
    fn until(&self, phase: Phase, next: &mut RuleState) -> Outcome {
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
    fn is_blind(&self, phase: Phase, condition: Outcome, until: Outcome) -> bool {
        match (&self.rule.when, phase) {
            (Some(_), Phase::Limiting) => until.truth == Truth::Unknown && !stays(condition),
            _ => condition.truth == Truth::Unknown,
        }
    }

    /// Keeps the time since when the rule has lacked a metric that it needs in this phase.
    fn note_missing(&self, next: &mut RuleState, phase: Phase, blind: bool) {
        let lacking = blind || (phase == Phase::Limiting && self.amount_missing);
        // Not after `now`: a clock that is set back must not put off what the policy says.
        next.missing_since = lacking.then(|| next.missing_since.map_or(self.now, |since| since.min(self.now)));
        next.missing_deadline = next.missing_since.and_then(|since| since.checked_add(self.on_missing.after).ok());
    }

    fn overdue(&self, state: &RuleState) -> bool {
        state.missing_deadline.is_some_and(|deadline| deadline <= self.now)
    }

    fn lets_go(&self, state: &RuleState) -> bool {
        matches!(self.on_missing.action, MissingAction::Release) && self.overdue(state)
    }

    /// The one transition of a step, with the release that it begins, continues or ends.
    fn transition(
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
        match ramp_rate(next) {
            Some(_) => Phase::Releasing,
            None => waiting,
        }
    }

    /// The limit of [`MissingAction::Floor`] in the rule's scope.
    fn floor(&self) -> Option<Rate> {
        let MissingAction::Floor(floor) = &self.on_missing.action else { return None };
        let requests = condition::value(&floor.amount, self.observations, self.now)?;
        let pods = f64::from(self.observations.pods.max(1));
        let requests = match (floor.scope, self.limit.scope) {
            (Scope::PerPod, Scope::AcrossAllPods) => requests * pods,
            (Scope::AcrossAllPods, Scope::PerPod) => requests / pods,
            _ => requests,
        };
        Rate::from_requests(requests, floor.interval)
    }

    fn missing(&self) -> Vec<&'a Metric> {
        let unread = |metric: &&&Metric| condition::read(metric, self.observations, self.now).is_none();
        self.metrics.iter().filter(unread).copied().collect()
    }

    fn observed(&self) -> Vec<Observed> {
        let look = |metric: &&Metric| {
            let name = explain::spelling(metric);
            if metric.word == Word::Pods {
                let value = f64::from(self.observations.pods);
                return Some(Observed { metric: name, value, at: self.now, source: "endpoints".to_owned() });
            }
            let sample = condition::fresh(metric, self.observations, self.now)?;
            Some(Observed { metric: name, value: sample.value, at: sample.at, source: sample.source.clone() })
        };
        self.metrics.iter().filter_map(look).collect()
    }
}

/// Whether the condition keeps a limit whatever `until` says. The `for`s do not matter here: they were served when the
/// limit began, and a limit that ended now would come back as soon as they are served again.
fn stays(condition: Outcome) -> bool {
    condition.truth == Truth::True || condition.momentary == Truth::True
}

fn rate(limit: &Limit, observations: &Observations, now: Timestamp) -> Option<Rate> {
    Rate::from_requests(condition::value(&limit.amount, observations, now)?, limit.interval)
}

/// The limit of a release under way; `None` when it has ended, or there is nothing to release.
fn ramp_rate(state: &RuleState) -> Option<Rate> {
    let ramp = state.ramp?;
    let doublings = ramp.run.as_secs();
    if doublings >= DOUBLINGS {
        return None;
    }
    let rate = (0..doublings).fold(ramp.from.or(state.last_rate)?, |rate, _| rate.doubled());
    (rate.per_second() <= VANISHES_ABOVE).then_some(rate)
}

/// When the first of the samples that are fresh at `now` becomes stale.
fn stale_at(metrics: &[&Metric], observations: &Observations, now: Timestamp) -> Option<Timestamp> {
    let stale = metrics.iter().filter_map(|metric| {
        let sample = condition::fresh(metric, observations, now)?;
        let fresh_for = i64::try_from(sample.fresh_for_ms).unwrap_or(i64::MAX);
        // One more than its freshness: a sample counts up to and with that millisecond.
        let at = sample.at.as_millisecond().saturating_add(fresh_for).saturating_add(1);
        Timestamp::from_millisecond(at).ok()
    });
    stale.min()
}

fn not_carried_out(rule: &Rule, text: &str, state: &RuleState, now: Timestamp) -> (RuleState, Decision) {
    let stage =
        state.stage.filter(|stage| stage.phase == Phase::Idle).unwrap_or(Stage { phase: Phase::Idle, since: now });
    let decision = Decision {
        phase: Phase::Idle,
        limit: None,
        lowest: None,
        bound: None,
        classes: Vec::new(),
        since: stage.since,
        observed: Vec::new(),
        missing: Vec::new(),
        explanation: explain::in_mode(rule.mode, format!("no limit: this version does not carry out `adapt` ({text})")),
    };
    (RuleState { stage: Some(stage), stepped_at: Some(now), ..RuleState::default() }, decision)
}
