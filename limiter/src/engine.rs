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
//! - A limit that steers itself ([`adapt`](crate::adapt)) begins at its ceiling, moves while the rule limits, and is released like any
//!   other, up to its ceiling. A rule that limits again before its release has ended goes on from the limit that was being released.
//!
//! Cold start: without `when` a rule limits from the first step, otherwise it is idle until its condition has been seen
//! true. `now` may repeat or go backwards; then no time passes.

use std::{borrow::Cow, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::view::View;
pub use self::{
    classes::{FLOOR_SHARE, HEADROOM, SLACK, STILL},
    resume::Mark,
};
use crate::{
    adapt::Steering,
    condition::{self, Hold, Holds, Outcome, Truth, elapsed},
    metric::{Metric, Observations},
    policy::{Action, Limit, OnMissing, Rule},
    quota::Rate,
};

mod classes;
mod explain;
mod resume;
#[cfg(test)]
pub(crate) mod tests;
mod view;

/// A release is looked at each second. More time than this between two steps is a clock that was set forward, or a process that
/// stood still: it must not lift a limit at once.
const LONGEST_STEP: Duration = Duration::from_secs(2);

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
    /// Where a limit that steers itself stands; absent while the rule has no limit.
    pub steering: Option<Steering>,
    /// The limits of the rule's classes.
    pub classes: Vec<Rate>,
    /// The bound in force.
    pub bound: Option<u32>,
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

/// A limit of [`MissingAction::Floor`](crate::policy::MissingAction::Floor) in force.
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

/// What a rule decides now. Serialisable, so that another replica can carry it out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    #[serde(default)]
    pub classes: Vec<Rate>,
    /// When the phase began.
    pub since: Timestamp,
    /// Requests per second over the limit of a rule in shadow mode: what it would refuse, as the proxies count it.
    pub excess: Option<f64>,
    /// Metrics that the rule needs and that are missing or stale now.
    #[serde(default)]
    pub missing: Vec<Metric>,
    /// What else [`explain`] tells of.
    #[serde(skip)]
    pub(crate) reading: Reading,
}

/// How the sentences of a rule read when it was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// The next phase could not be told.
    pub(crate) blind: bool,
    /// What the condition said.
    pub(crate) condition: Outcome,
    /// What `until` said.
    pub(crate) until: Outcome,
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
    pub source: Cow<'static, str>,
}

/// Decides one rule at `now`. Doing so twice with the same input changes nothing.
#[must_use]
pub fn step(
    rule: &Rule,
    on_missing: &OnMissing,
    state: RuleState,
    observations: &Observations,
    now: Timestamp,
) -> (RuleState, Decision) {
    let view = View::new(rule, on_missing, observations, now);
    let (last_rate, stepped_at) = (state.last_rate, state.stepped_at);
    let before = state.stage.unwrap_or(Stage { phase: Phase::Idle, since: now });
    let mut next = state;
    next.stepped_at = Some(now);
    next.stale_at = view.stale_at();
    if let Action::Limit(limit) = &rule.action {
        next.last_rate = rate(limit, observations, now).or(last_rate);
    }

    let mut outcome = view.condition(before.phase, &mut next);
    let until = view.until(before.phase, &mut next);
    let passed = stepped_at.map_or(Duration::ZERO, |stepped_at| elapsed(stepped_at, now).min(LONGEST_STEP));
    let blind = view.is_blind(before.phase, outcome, until);
    view.note_missing(&mut next, before.phase, blind);
    let mut phase = view.transition(&mut next, before.phase, blind, outcome, until, passed);

    if before.phase == Phase::Limiting && next.ramp.is_some_and(|ramp| ramp.cause == Cause::Missing) {
        outcome = view.forget_holds(&mut next, outcome);
    }

    // What is lacking is judged by the phase that now is, so that a second look at the same moment finds the same.
    if phase != before.phase && rule.when.is_none() {
        outcome = view.condition(phase, &mut next);
    }
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

    view.steer(phase, &mut next);

    let lowest = match (view.lowest(&next), floor) {
        (Some(own), Some(floor)) => Some(own.min(floor)),
        (own, floor) => own.or(floor),
    };
    let (shown, in_force) = match (next.floor, phase) {
        (Some(floor), _) => (Stage { phase: Phase::Limiting, since: floor.since }, Some(floor.rate)),
        (None, Phase::Limiting) => (stage, next.last_rate),
        // A policy edit may have raised the lowest limit above the start of the release.
        (None, Phase::Releasing) => {
            (stage, view.ramp_rate(&next).map(|rate| lowest.map_or(rate, |lowest| rate.max(lowest))))
        }
        (None, Phase::Idle | Phase::Pending) => (stage, None),
    };
    next.classes = classes::limits(rule, in_force, &next.classes, observations, now);
    next.bound = view.bound(shown.phase, &next);
    let missing = view.missing();
    let decision = Decision {
        phase: shown.phase,
        limit: in_force,
        lowest,
        bound: next.bound,
        classes: next.classes.clone(),
        excess: excess(rule, observations, now),
        since: shown.since,
        missing: missing.into_iter().cloned().collect(),
        reading: Reading { blind, condition: outcome, until },
    };
    (next, decision)
}

/// One plain sentence with the numbers in it: why a [`step`] with these observations left `state` and gave `decision`.
///
/// Apart from `step`, because far more is decided than anybody reads.
#[must_use]
pub fn explain(
    rule: &Rule,
    on_missing: &OnMissing,
    state: &RuleState,
    decision: &Decision,
    observations: &Observations,
) -> String {
    let view = View::new(rule, on_missing, observations, state.stepped_at.unwrap_or(decision.since));
    explain::sentence(&explain::Facts { view: &view, state, decision })
}

/// What a [`step`] with these observations that left `state` and gave `decision` has looked at, in the order of the sentence.
#[must_use]
pub fn observed(
    rule: &Rule,
    on_missing: &OnMissing,
    state: &RuleState,
    decision: &Decision,
    observations: &Observations,
) -> Vec<Observed> {
    View::new(rule, on_missing, observations, state.stepped_at.unwrap_or(decision.since)).observed()
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

/// Whether the condition keeps a limit whatever `until` says. The `for`s do not matter here: they were served when the
/// limit began, and a limit that ended now would come back as soon as they are served again.
fn stays(condition: Outcome) -> bool {
    condition.truth == Truth::True || condition.momentary == Truth::True
}

/// What a rule in shadow mode would refuse, by its own limit and by those of its classes. A proxy names only what it has
/// counted at least once.
fn excess(rule: &Rule, observations: &Observations, now: Timestamp) -> Option<f64> {
    let counters = rule.excess();
    if counters.is_empty() {
        return None;
    }
    let read = |metric: &Metric| condition::read(metric, observations, now);
    // A request may be over the rule's own limit and over its class's; it would be refused once.
    let classes = counters[1..].iter().filter_map(read).reduce(|one, other| one + other);
    let excess = counters.first().and_then(read).into_iter().chain(classes).reduce(f64::max);
    excess.or_else(|| condition::read(&Rule::offered(), observations, now).map(|_| 0.0))
}

fn rate(limit: &Limit, observations: &Observations, now: Timestamp) -> Option<Rate> {
    Rate::from_requests(condition::value(&limit.amount, observations, now)?, limit.interval)
}
