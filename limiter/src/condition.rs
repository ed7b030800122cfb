//! Evaluates conditions and expressions over observations; keeps how long each held part has been true.
//!
//! Logic has three values (Kleene's): a comparison is [`Truth::Unknown`] when a metric it reads is missing or stale, or
//! when its arithmetic has no finite result. `false and unknown` is false, `true or unknown` is true; everything else
//! with an unknown part is unknown.
//!
//! A held part (`for 10s`) adds up the time for which its inner condition was true, by the samples' own timestamps: each
//! new sample adds the step from the sample before it. False sets the sum to zero. Unknown leaves it as it is. A step
//! longer than the samples stay fresh is a gap and adds nothing, and so do repeated and backward timestamps. A part that
//! reads no metric (literals, `pods`) runs on `now`.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    language::ast::{Comparison, Condition, Expression},
    metric::{Metric, Observations, Sample, Word},
};

#[cfg(test)]
mod tests;

/// A truth value of three-valued logic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Truth {
    True,
    False,
    #[default]
    Unknown,
}

impl Truth {
    /// Kleene's conjunction.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::False, _) | (_, Self::False) => Self::False,
            (Self::True, Self::True) => Self::True,
            _ => Self::Unknown,
        }
    }

    /// Kleene's disjunction.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::True, _) | (_, Self::True) => Self::True,
            (Self::False, Self::False) => Self::False,
            _ => Self::Unknown,
        }
    }

    /// Kleene's negation.
    #[must_use]
    pub fn negated(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            Self::Unknown => Self::Unknown,
        }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// What a condition says now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Its value.
    pub truth: Truth,
    /// Its value if every `for` were already served: tells "not yet long enough" from "not true".
    pub momentary: Truth,
}

/// State of held parts by their id.
pub type Holds = BTreeMap<usize, Hold>;

/// How long something has been true.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Sum of the time for which it was true.
    pub held: Duration,
    /// The newest timestamp counted into `held`; absent unless it was true then.
    pub counted_to: Option<Timestamp>,
}

impl Hold {
    /// Takes note that the value was `truth` at `clock`.
    fn advance(&mut self, truth: Truth, clock: Clock) {
        match truth {
            Truth::False => *self = Self::default(),
            Truth::Unknown => {
                // Newer samples that say nothing break the chain; the same samples grown old do not: the step to the
                // next sample decides whether that was a gap.
                if self.counted_to.is_some_and(|counted_to| clock.at > Some(counted_to)) {
                    self.counted_to = None;
                }
            }
            Truth::True => {
                let Some(at) = clock.at else { return };
                match self.counted_to {
                    None => self.counted_to = Some(at),
                    Some(before) if at > before => {
                        let step = elapsed(before, at);
                        if step <= clock.longest_step {
                            self.held = self.held.saturating_add(step);
                        }
                        self.counted_to = Some(at);
                    }
                    // A source whose clock was set back is followed from its new time; a little jitter is waited out.
                    Some(before) if elapsed(at, before) > clock.longest_step => self.counted_to = Some(at),
                    Some(_) => {}
                }
            }
        }
    }
}

/// The time by which a part is measured.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// Newest timestamp among the metrics that the part reads. Absent: none of them was ever seen.
    at: Option<Timestamp>,
    /// A longer step is a gap.
    longest_step: Duration,
}

impl Clock {
    fn of(metrics: &[&Metric], observations: &Observations, now: Timestamp) -> Self {
        if metrics.iter().all(|metric| metric.word == Word::Pods) {
            return Self { at: Some(now), longest_step: Duration::MAX };
        }
        let samples = || metrics.iter().filter_map(|metric| observations.samples.get(*metric));
        let at = samples().map(|sample| sample.at).max();
        // The strictest of several sources: an hour-long freshness of one must not bridge a gap of another.
        let longest_step = samples().filter(|sample| sample.is_fresh(now)).map(|sample| sample.fresh_for_ms).min();
        Self { at, longest_step: Duration::from_millis(longest_step.unwrap_or(0)) }
    }
}

/// Evaluates `condition` at `now` and brings `holds` up to date. Doing so twice with the same input changes nothing.
pub fn evaluate(condition: &Condition, holds: &mut Holds, observations: &Observations, now: Timestamp) -> Outcome {
    let same = |truth| Outcome { truth, momentary: truth };
    // Every part is visited, also when the value is already clear, so that no held part misses a sample.
    let mut join = |parts: &[Condition], start: Truth, with: fn(Truth, Truth) -> Truth| {
        parts.iter().fold(same(start), |before, part| {
            let outcome = evaluate(part, holds, observations, now);
            Outcome { truth: with(before.truth, outcome.truth), momentary: with(before.momentary, outcome.momentary) }
        })
    };
    match condition {
        Condition::Literal(value) => same(Truth::from(*value)),
        Condition::Compare { comparison, left, right, relax } => {
            same(compare(*comparison, left, right, *relax, observations, now))
        }
        Condition::All(parts) => join(parts, Truth::True, Truth::and),
        Condition::Any(parts) => join(parts, Truth::False, Truth::or),
        Condition::Not(inner) => {
            let outcome = evaluate(inner, holds, observations, now);
            Outcome { truth: outcome.truth.negated(), momentary: outcome.momentary.negated() }
        }
        Condition::Held { id, condition: inner, duration } => {
            let outcome = evaluate(inner, holds, observations, now);
            let hold = holds.entry(*id).or_default();
            hold.advance(outcome.truth, Clock::of(&metrics(inner), observations, now));
            let truth = match outcome.truth {
                Truth::True => Truth::from(hold.held >= *duration),
                other => other,
            };
            Outcome { truth, momentary: outcome.momentary }
        }
    }
}

/// Takes note in `hold` whether `condition` is momentarily true; for telling how long it has been.
pub(crate) fn observe(
    hold: &mut Hold,
    condition: &Condition,
    momentary: Truth,
    observations: &Observations,
    now: Timestamp,
) {
    hold.advance(momentary, Clock::of(&metrics(condition), observations, now));
}

fn compare(
    comparison: Comparison,
    left: &Expression,
    right: &Expression,
    relax: f64,
    observations: &Observations,
    now: Timestamp,
) -> Truth {
    let (Some(left), Some(right)) = (value(left, observations, now), value(right, observations, now)) else {
        return Truth::Unknown;
    };
    let right = relaxed(right, relax);
    if !right.is_finite() {
        return Truth::Unknown;
    }
    Truth::from(match comparison {
        Comparison::Less => left < right,
        Comparison::LessOrEqual => left <= right,
        Comparison::Greater => left > right,
        Comparison::GreaterOrEqual => left >= right,
        Comparison::Equal => left == right,
        Comparison::NotEqual => left != right,
    })
}

/// The right side with its release factor: below zero the factor is turned round, so that it always moves the threshold
/// the same way.
pub(crate) fn relaxed(right: f64, relax: f64) -> f64 {
    if right < 0.0 { right / relax } else { right * relax }
}

/// The value of `expression` in base units; `None` if a metric is missing or stale, or the result is not finite.
#[must_use]
pub fn value(expression: &Expression, observations: &Observations, now: Timestamp) -> Option<f64> {
    expression.evaluate(&|metric| read(metric, observations, now))
}

/// The fresh value of `metric`, if there is one. `pods` is always known.
#[must_use]
pub fn read(metric: &Metric, observations: &Observations, now: Timestamp) -> Option<f64> {
    if metric.word == Word::Pods {
        return Some(f64::from(observations.pods));
    }
    fresh(metric, observations, now).map(|sample| sample.value)
}

/// The sample of `metric`, if it is fresh and its value a number.
pub(crate) fn fresh<'a>(metric: &Metric, observations: &'a Observations, now: Timestamp) -> Option<&'a Sample> {
    observations.samples.get(metric).filter(|sample| sample.is_fresh(now) && sample.value.is_finite())
}

/// The metrics that `condition` reads, in the order of its text, each once.
#[must_use]
pub fn metrics(condition: &Condition) -> Vec<&Metric> {
    let mut found = Vec::new();
    collect(condition, &mut found);
    found
}

/// Adds the metrics that `condition` reads to `found`, unless they are there already.
pub(crate) fn collect<'a>(condition: &'a Condition, found: &mut Vec<&'a Metric>) {
    match condition {
        Condition::Literal(_) => {}
        Condition::Compare { comparison: _, left, right, relax: _ } => {
            collect_expression(left, found);
            collect_expression(right, found);
        }
        Condition::All(parts) | Condition::Any(parts) => parts.iter().for_each(|part| collect(part, found)),
        Condition::Not(inner) | Condition::Held { condition: inner, .. } => collect(inner, found),
    }
}

/// Adds the metrics that `expression` reads to `found`, unless they are there already.
pub(crate) fn collect_expression<'a>(expression: &'a Expression, found: &mut Vec<&'a Metric>) {
    match expression {
        Expression::Number(_) => {}
        Expression::Metric(metric) => {
            if !found.contains(&metric) {
                found.push(metric);
            }
        }
        Expression::Negative(inner) => collect_expression(inner, found),
        Expression::Binary { operator: _, left, right } => {
            collect_expression(left, found);
            collect_expression(right, found);
        }
    }
}

/// When the first part that runs on `now` will have been true for long enough, if nothing else changes.
pub(crate) fn next_hold(condition: &Condition, holds: &Holds) -> Option<Timestamp> {
    match condition {
        Condition::Literal(_) | Condition::Compare { .. } => None,
        Condition::All(parts) | Condition::Any(parts) => parts.iter().filter_map(|part| next_hold(part, holds)).min(),
        Condition::Not(inner) => next_hold(inner, holds),
        Condition::Held { id, condition: inner, duration } => {
            let own = || {
                if metrics(inner).iter().any(|metric| metric.word != Word::Pods) {
                    return None;
                }
                let hold = holds.get(id)?;
                let left = duration.checked_sub(hold.held).filter(|left| !left.is_zero())?;
                hold.counted_to?.checked_add(left).ok()
            };
            own().into_iter().chain(next_hold(inner, holds)).min()
        }
    }
}

/// Time from `earlier` to `later`; zero if they are the other way round.
pub(crate) fn elapsed(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or(Duration::ZERO)
}
