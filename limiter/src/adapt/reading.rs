//! What a law sees: the goals, and the traffic in the rule's scope.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    DEFAULT_TIME, GENEROUS, LEAST_BOUND, LONGEST_INTERVAL, MEAN_PART, QUIET, ROOM, Range, SLOW, SPARE, Steering,
    USUAL_FACTOR, scale,
};
use crate::{
    adapt::BINDING,
    condition,
    language::ast::Adapt,
    metric::{Metric, Observations, Reduce, Word},
    policy::Rule,
};

/// Sums over all pods that tell what the traffic is. A rule works without any of them, only less well.
const SUPPORTING: [Word; 4] = [Word::Requests, Word::Answers, Word::Refused, Word::Inflight];

/// The metrics besides its goals that an `adapt` rule reads, and does not miss.
pub(crate) fn supporting_metrics() -> impl Iterator<Item = Metric> {
    SUPPORTING.into_iter().map(|word| Metric { word, reduce: Reduce::Sum })
}

/// Whether the goals are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All of them.
    Kept,
    /// One of them is not.
    Missed,
    /// None is known to be missed, and one of them is not known.
    Unknown,
}

/// What the goals say together.
pub(crate) fn verdict(adapt: &Adapt, observations: &Observations, now: Timestamp) -> Verdict {
    let mut verdict = Verdict::Kept;
    for goal in &adapt.goals {
        match condition::read(&goal.metric, observations, now) {
            Some(value) if value > goal.below => return Verdict::Missed,
            Some(_) => {}
            None => verdict = Verdict::Unknown,
        }
    }
    verdict
}

/// When the fresh sample of `metric` was taken.
pub(super) fn sampled_at(metric: &Metric, observations: &Observations, now: Timestamp) -> Option<Timestamp> {
    if metric.word == Word::Pods {
        return Some(now);
    }
    condition::fresh(metric, observations, now).map(|sample| sample.at)
}

/// A sum over all pods.
pub(super) struct Total {
    /// Never negative.
    pub(super) value: f64,
    /// How often its source measures.
    pub(super) interval: Duration,
}

/// The fresh sum of `word` over all pods.
pub(super) fn total(word: Word, observations: &Observations, now: Timestamp) -> Option<Total> {
    let metric = Metric { word, reduce: Reduce::Sum };
    let sample = condition::fresh(&metric, observations, now)?;
    Some(Total { value: sample.value.max(0.0), interval: interval(sample.fresh_for_ms) })
}

/// A sample is fresh for three intervals of its source.
fn interval(fresh_for_ms: u64) -> Duration {
    Duration::from_millis((fresh_for_ms / 3).clamp(1, LONGEST_INTERVAL.as_millis() as u64))
}

/// A goal with what was measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    /// Which of the goals.
    pub(super) position: usize,
    /// Measured value over the goal's; more than 1: missed.
    pub(super) severity: f64,
    /// The goal is a latency, which a shorter queue mends; others follow the rate.
    pub(super) is_latency: bool,
    /// When it was measured, by the source's clock.
    pub(super) at: Timestamp,
    /// How often it is measured.
    pub(super) interval: Duration,
}

impl Sight {
    pub(super) fn thousandths(&self) -> u32 {
        (self.severity * 1000.0).round() as u32
    }
}

/// Goals and traffic at one moment; numbers in the rule's scope, per second.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) range: Range,
    /// The limit so far.
    pub(super) limit: f64,
    /// The bound so far.
    pub(super) bound: Option<u32>,
    /// Whether the rule bounds the queue: not if it concerns only some requests, because the bound would refuse others.
    pub(super) bounded: bool,
    /// Completions; not known for a rule that concerns only some requests.
    pub(super) answers: Option<f64>,
    /// The last completions that were known.
    last_answers: Option<f64>,
    /// Requests before any limit; as above.
    pub(super) offered: Option<f64>,
    refused: Option<f64>,
    inflight: Option<f64>,
    usual: Option<f64>,
    goals: Vec<Sight>,
    /// The strictest latency goal, in seconds.
    latency: Option<f64>,
    /// How many pods share the rule's number.
    sharing: f64,
}

impl Reading {
    pub(super) fn new(
        rule: &Rule,
        adapt: &Adapt,
        range: Range,
        steering: &Steering,
        observations: &Observations,
        now: Timestamp,
    ) -> Self {
        let scale = scale(adapt.scope, observations);
        // What is measured is measured for the whole service.
        let whole = rule.matches.is_empty();
        let scoped = |word| Some(total(word, observations, now).filter(|_| whole)?.value / scale);
        let goals = adapt.goals.iter().enumerate().filter_map(|(position, goal)| {
            let value = condition::read(&goal.metric, observations, now)?;
            let sample = condition::fresh(&goal.metric, observations, now);
            Some(Sight {
                position,
                severity: value.max(0.0) / goal.below,
                is_latency: matches!(goal.metric.word, Word::Latency(_)),
                at: sample.map_or(now, |sample| sample.at),
                interval: interval(sample.map_or(0, |sample| sample.fresh_for_ms)),
            })
        });
        let last_answers = steering.answers.filter(|_| whole).map(|milli| milli as f64 / 1000.0 / scale);
        let latencies = adapt.goals.iter().filter(|goal| matches!(goal.metric.word, Word::Latency(_)));
        Self {
            range,
            limit: steering.limit.per_second(),
            bound: steering.bound,
            bounded: whole,
            answers: last_answers.filter(|_| total(Word::Answers, observations, now).is_some()),
            last_answers,
            offered: scoped(Word::Requests),
            refused: scoped(Word::Refused),
            inflight: scoped(Word::Inflight),
            usual: steering.usual.map(|usual| usual.as_secs_f64()),
            goals: goals.collect(),
            latency: latencies.map(|goal| goal.below).min_by(f64::total_cmp),
            sharing: f64::from(observations.pods.max(1)) / scale,
        }
    }

    /// The goal that is missed most, or nearest to it.
    pub(super) fn worst(&self) -> Option<Sight> {
        self.goals.iter().copied().max_by(|one, other| one.severity.total_cmp(&other.severity))
    }

    /// Whether no goal is near to being missed.
    pub(super) fn has_room(&self) -> bool {
        self.worst().is_some_and(|worst| worst.severity <= ROOM)
    }

    pub(super) fn missed(&self) -> impl Iterator<Item = Sight> {
        self.goals.iter().copied().filter(|goal| goal.severity > 1.0)
    }

    /// The worst goal that is no latency.
    pub(super) fn worst_of_rate(&self) -> Option<f64> {
        self.goals.iter().filter(|goal| !goal.is_latency).map(|goal| goal.severity).max_by(f64::total_cmp)
    }

    /// Whether the limits refuse requests. Without any measurement they are taken to.
    pub(super) fn binds(&self) -> bool {
        match (self.refused, self.offered) {
            (Some(refused), Some(offered)) => refused > BINDING * offered,
            (Some(refused), None) => refused > 0.0,
            (None, Some(offered)) => offered > 0.95 * self.limit,
            (None, None) => true,
        }
    }

    /// Mean time that a request spends in the system, in seconds, by Little's law.
    pub(super) fn time_in_system(&self) -> Option<f64> {
        let (inflight, answers) = (self.inflight?, self.answers?);
        (answers > 0.0).then(|| inflight / answers).filter(|time| time.is_finite() && *time < 3600.0)
    }

    /// Time in which the requests in flight are worked off.
    pub(super) fn drain(&self) -> Option<Duration> {
        self.time_in_system().map(Duration::from_secs_f64)
    }

    /// Whether requests take longer than allowed although the bound leaves no queue that could be the reason: a bound in
    /// proportion to the completions makes the time what is allowed, unless the completions shrink with the bound.
    pub(super) fn is_slow_by_itself(&self) -> bool {
        let allowed = self.allowed_time().unwrap_or(f64::INFINITY);
        self.queue_fits() && self.time_in_system().is_some_and(|time| time > SLOW * allowed)
    }

    /// Whether no more requests are in flight than the bound allows; not, if that is not known.
    pub(super) fn queue_fits(&self) -> bool {
        self.bound.zip(self.inflight).is_some_and(|(bound, inflight)| inflight <= f64::from(bound))
    }

    /// The longest mean time in the system that the goals allow, in seconds.
    fn allowed_time(&self) -> Option<f64> {
        let usual = self.usual.map(|usual| USUAL_FACTOR * usual);
        match (self.latency, usual) {
            (Some(goal), usual) => Some(usual.map_or(0.0, |usual| usual.min(0.9 * goal)).max(MEAN_PART * goal)),
            (None, Some(usual)) => Some(usual.max(MEAN_PART * DEFAULT_TIME.as_secs_f64())),
            (None, None) => None,
        }
    }

    /// The bound after a miss. A limit is the best guess at completions that are not measured; a queue that nothing is
    /// known about must at least not grow.
    pub(super) fn least_bound(&self) -> Option<u32> {
        if !self.bounded {
            return None;
        }
        let completions = self.answers.unwrap_or(self.limit);
        let requests = match (self.allowed_time(), self.inflight) {
            (Some(time), _) => completions * time,
            (None, Some(inflight)) => inflight,
            (None, None) => return None,
        };
        Some(self.whole(requests))
    }

    /// The bound while all goals are kept and nothing is refused: so many that only a step of the load which also makes
    /// requests slow is refused, and what piles up before the first cut is soon worked off. What the ceiling would need
    /// is too much wherever the ceiling is a guess. It stands on what is remembered alone, so that a sample that is missing
    /// does not move it. A power of two, so that it stands still while the traffic does not.
    pub(super) fn generous_bound(&self) -> Option<u32> {
        if !self.bounded {
            return None;
        }
        let time = match self.latency {
            Some(goal) => goal.max(self.usual.unwrap_or(0.0)),
            None => (2.0 * USUAL_FACTOR * self.usual?).max(DEFAULT_TIME.as_secs_f64()),
        };
        let most = (self.range.ceiling * time).max(GENEROUS * self.sharing);
        let grown =
            self.last_answers.map_or(f64::INFINITY, |answers| (SPARE * answers * time).max(QUIET * self.sharing));
        let grown = if grown < most { f64::from(self.whole(grown).next_power_of_two()) } else { most };
        Some(self.whole(grown.min(most)))
    }

    /// The bound after a step up while requests are refused: follows the completions, else probes by one.
    pub(super) fn probed_bound(&self) -> Option<u32> {
        let bound = self.bound?;
        if !self.has_room() {
            return Some(bound);
        }
        let followed = self.least_bound().unwrap_or(0).min(bound.saturating_mul(2));
        self.unless_generous(followed.max(bound.saturating_add(1)))
    }

    /// The bound after a step up while nothing is refused.
    pub(super) fn relaxed_bound(&self) -> Option<u32> {
        self.unless_generous(self.bound?.saturating_mul(2))
    }

    fn unless_generous(&self, bound: u32) -> Option<u32> {
        Some(bound).filter(|bound| self.generous_bound().is_none_or(|most| *bound < most))
    }

    fn whole(&self, requests: f64) -> u32 {
        requests.max(LEAST_BOUND * self.sharing).ceil() as u32
    }
}
