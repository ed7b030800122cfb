//! Limits that steer themselves: one move of one `adapt` rule, `(rule, steering, observations, now) -> steering`.
//!
//! Two things are steered, both in the rule's scope: a *rate*, which a [`Law`] moves between floor and ceiling, and a *queue
//! bound*, the most requests in flight, which follows Little's law whatever the law is: completions per second times the
//! time that a request may spend in the system. The bound acts in the proxy on each request, so it is what saves the
//! service in the first moments; a rate that is a few percent too high lets the queue grow without end.
//!
//! - A move needs a new sample of a goal: the same evidence never counts twice, and without evidence nothing moves.
//! - A miss counts at once when it is large, else when it lasts an interval of its source: a quantile over a short window
//!   is nearly its maximum.
//! - One cut of the rate per drain: what a queue shows while it drains is no reason to cut again. The bound may drop at
//!   any miss; it never drops below what the application needs when it is not loaded.
//! - Growth waits for `cooldown` after a cut and for `every` after another growth. While limits refuse requests the rate
//!   takes steps and the bound probes; when nothing is refused any more, both are let go of, doubling.
//! - Only what `now` and the samples say counts. A clock that is set back stops nothing: no remembered time is later than
//!   `now`.

mod aimd;
mod completion_rate;
mod reading;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use self::reading::{Verdict, supporting_metrics, verdict};
use self::{aimd::Aimd, completion_rate::CompletionRate, reading::Reading};
use crate::{
    condition::elapsed,
    language::ast::Adapt,
    metric::{Observations, Word},
    policy::{LawKind, Rule, Scope},
    quota::Rate,
};

/// Shortest time between two steps up, when the sentence names none.
pub const EVERY: Duration = Duration::from_secs(1);
/// Shortest time from a cut or a refused request to a step up, when the sentence names none.
pub const COOLDOWN: Duration = Duration::from_secs(2);

/// A miss by this factor is no noise (source: `simulation`, windows of 250 ms with 100 requests).
const SURE: f64 = 1.3;
/// The bound probes upwards only while the worst goal is this far from missed.
const ROOM: f64 = 0.8;
/// Part of the latency goal that a request may spend in the system on average; the 99th percentile then lies near 0.7
/// (source: `simulation`).
const MEAN_PART: f64 = 0.5;
/// Time in the system that the bound allows when no goal is a latency.
const DEFAULT_TIME: Duration = Duration::from_millis(100);
/// A request may spend this many times as long in the system as it does when all goals are kept.
const USUAL_FACTOR: f64 = 2.0;
/// Requests that each pod may always have in flight.
const LEAST_BOUND: f64 = 4.0;
/// Requests in flight that are never refused at a pod while all goals are kept.
const GENEROUS: f64 = 16.0;
/// Refused requests, as a part of the offered ones, from which a limit counts as binding.
const BINDING: f64 = 0.01;
/// Longest time that a draining queue is waited for.
const LONGEST_DRAIN: Duration = Duration::from_secs(5);

/// How a limit that steers itself moves. What decides when it moves is common to all laws.
trait Law {
    /// The rate after a miss that has been confirmed.
    fn cut(&self, reading: &Reading) -> f64;

    /// The rate after a step up: all goals are kept, and the limits refuse requests.
    fn grow(&self, reading: &Reading) -> f64;

    /// The rate after a step up: all goals are kept, and nothing has been refused for a while.
    fn relax(&self, reading: &Reading) -> f64;
}

fn law(kind: LawKind) -> &'static dyn Law {
    match kind {
        LawKind::CompletionRate => &CompletionRate,
        LawKind::Aimd => &Aimd,
    }
}

/// What a rule that steers itself remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Steering {
    /// The limit, in the rule's scope; always within its range.
    pub limit: Rate,
    /// The bound in requests in flight, in the rule's scope. Absent: as generous as it gets.
    #[serde(default)]
    pub bound: Option<u32>,
    /// The last cut.
    #[serde(default)]
    pub cut: Option<Cut>,
    /// When a step up was last taken.
    #[serde(default)]
    pub grown_at: Option<Timestamp>,
    /// When the limits were last seen to refuse requests.
    #[serde(default)]
    pub refused_at: Option<Timestamp>,
    /// The time, by the source's clock, since when a goal has been missed.
    #[serde(default)]
    pub missed_since: Option<Timestamp>,
    /// The time of the newest sample of each goal that has been looked at.
    #[serde(default)]
    pub seen: Vec<Option<Timestamp>>,
    /// Completions of all pods, in thousandths of a request per second: about the last twenty requests.
    #[serde(default)]
    pub answers: Option<u64>,
    /// Mean time that a request spends in the system while all goals are kept and nothing is refused.
    #[serde(default)]
    pub usual: Option<Duration>,
}

/// A cut of the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cut {
    /// When.
    pub at: Timestamp,
    /// The limit before it.
    pub from: Rate,
    /// When the queue of that moment has been worked off: older samples are no reason to cut again.
    pub settled_at: Timestamp,
}

/// The numbers of the sentence, per second, with what it leaves out filled in.
#[derive(Clone, Copy, Debug)]
struct Range {
    floor: f64,
    ceiling: f64,
    step: f64,
    every: Duration,
    cooldown: Duration,
}

impl Range {
    fn of(adapt: &Adapt) -> Self {
        let interval = adapt.interval.as_secs_f64();
        Self {
            floor: adapt.floor / interval,
            ceiling: adapt.ceiling / interval,
            step: adapt.pace.step.unwrap_or_else(|| adapt.law.default_step()),
            every: adapt.pace.every.unwrap_or(EVERY),
            cooldown: adapt.pace.cooldown.unwrap_or(COOLDOWN),
        }
    }
}

impl LawKind {
    /// Largest step up when the sentence names none: a part of the limit, for `Aimd` of the range.
    #[must_use]
    pub fn default_step(self) -> f64 {
        match self {
            Self::CompletionRate => 0.2,
            Self::Aimd => 0.05,
        }
    }
}

/// The lowest limit of `adapt`.
pub(crate) fn lowest(adapt: &Adapt) -> Option<Rate> {
    Rate::from_requests(adapt.floor, adapt.interval)
}

/// `limit`, or the end of the range of `adapt` beyond which it lies.
pub(crate) fn within(adapt: &Adapt, limit: Rate) -> Rate {
    let Some((floor, ceiling)) = lowest(adapt).zip(Rate::from_requests(adapt.ceiling, adapt.interval)) else {
        return limit;
    };
    limit.max(floor).min(ceiling)
}

/// One move at `now`. Without a new sample of a goal nothing moves.
pub(crate) fn steer(
    rule: &Rule,
    adapt: &Adapt,
    before: Option<&Steering>,
    observations: &Observations,
    now: Timestamp,
) -> Option<Steering> {
    let range = Range::of(adapt);
    let mut next = match before {
        Some(before) => before.clone().kept_within(adapt, range, now),
        None => Steering::start(adapt)?,
    };
    let seen: Vec<_> = adapt.goals.iter().map(|goal| reading::sampled_at(&goal.metric, observations, now)).collect();
    if next.seen == seen {
        return Some(next);
    }
    next.seen = seen;
    next.count_answers(observations, now);
    let reading = Reading::new(rule, adapt, range, &next, observations, now);
    match verdict(adapt, observations, now) {
        Verdict::Unknown => {}
        Verdict::Missed => next.on_miss(adapt, &reading, now),
        Verdict::Kept => next.on_kept(adapt, &reading, now),
    }
    Some(next)
}

impl Steering {
    fn start(adapt: &Adapt) -> Option<Self> {
        Some(Self {
            limit: Rate::from_requests(adapt.ceiling, adapt.interval)?,
            bound: None,
            cut: None,
            grown_at: None,
            refused_at: None,
            missed_since: None,
            seen: Vec::new(),
            answers: None,
            usual: None,
        })
    }

    /// The policy may have been edited, and the clock set back.
    fn kept_within(mut self, adapt: &Adapt, range: Range, now: Timestamp) -> Self {
        if !(range.floor..=range.ceiling).contains(&self.limit.per_second()) || self.limit.interval != adapt.interval {
            self.limit = rate(adapt, range, self.limit.per_second()).unwrap_or(self.limit);
        }
        for at in [&mut self.grown_at, &mut self.refused_at] {
            *at = at.map(|at| at.min(now));
        }
        if let Some(cut) = &mut self.cut
            && cut.at > now
        {
            cut.settled_at = add(now, elapsed(cut.at, cut.settled_at));
            cut.at = now;
        }
        self
    }

    /// Completions are smoothed over about twenty requests, so that a slow service does not look stopped when a short
    /// window has none.
    fn count_answers(&mut self, observations: &Observations, now: Timestamp) {
        let Some(sample) = reading::total(Word::Answers, observations, now) else {
            self.answers = None;
            return;
        };
        let counted = sample.value * sample.interval.as_secs_f64();
        let weight = (counted / 20.0).clamp(0.05, 1.0);
        let before = self.answers.map_or(sample.value, |milli| milli as f64 / 1000.0);
        // Saturates: a value beyond any service becomes a large number, never none.
        self.answers = Some(((before + weight * (sample.value - before)) * 1000.0).round() as u64);
    }

    fn on_miss(&mut self, adapt: &Adapt, reading: &Reading, now: Timestamp) {
        let Some(worst) = reading.worst() else { return };
        let since = *self.missed_since.get_or_insert(worst.at);
        // A source whose clock was set back begins anew.
        let since = since.min(worst.at);
        self.missed_since = Some(since);
        let lasting = elapsed(since, worst.at) >= worst.interval.mul_f64(0.9) && worst.at > since;
        if !lasting && worst.severity < SURE {
            return;
        }
        if let Some(target) = reading.least_bound() {
            self.bound = Some(self.bound.map_or(target, |bound| bound.min(target)));
        }
        let settled = |cut: Cut| reading.missed().any(|goal| goal.at >= cut.settled_at);
        if !self.cut.is_none_or(settled) {
            return;
        }
        let Some(limit) = rate(adapt, reading.range, law(adapt.law).cut(reading)) else { return };
        if limit.per_second() < self.limit.per_second() {
            let settled_at = add(now, reading.drain().min(LONGEST_DRAIN).saturating_add(worst.interval));
            self.cut = Some(Cut { at: now, from: self.limit, settled_at });
            self.limit = limit;
        }
    }

    fn on_kept(&mut self, adapt: &Adapt, reading: &Reading, now: Timestamp) {
        self.missed_since = None;
        if reading.binds() {
            self.refused_at = Some(now);
        } else if self.bound.is_none() {
            self.learn_usual(reading);
        }
        let since = |at: Option<Timestamp>| at.map_or(Duration::MAX, |at| elapsed(at, now));
        let range = reading.range;
        if since(self.grown_at) < range.every || since(self.cut.map(|cut| cut.at)) < range.cooldown {
            return;
        }
        let free = since(self.refused_at) >= range.cooldown;
        if !reading.binds() && !free {
            return;
        }
        let law = law(adapt.law);
        let target = if free { law.relax(reading) } else { law.grow(reading) };
        let before = (self.limit, self.bound);
        if target > self.limit.per_second()
            && let Some(limit) = rate(adapt, range, target)
        {
            self.limit = limit;
        }
        self.bound = if free { reading.relaxed_bound() } else { reading.probed_bound() };
        if before != (self.limit, self.bound) {
            self.grown_at = Some(now);
        }
    }

    /// A running mean over about the last twenty samples.
    fn learn_usual(&mut self, reading: &Reading) {
        let Some(time) = reading.time_in_system() else { return };
        let before = self.usual.map_or(time, |usual| usual.as_secs_f64());
        self.usual = Some(Duration::from_micros(((before + 0.05 * (time - before)) * 1e6) as u64));
    }

    /// The bound to enforce, in the rule's scope. `None` when there is none.
    pub(crate) fn bound_in_force(
        &self,
        rule: &Rule,
        adapt: &Adapt,
        observations: &Observations,
        now: Timestamp,
    ) -> Option<u32> {
        let reading = Reading::new(rule, adapt, Range::of(adapt), self, observations, now);
        match self.bound {
            Some(bound) if reading.bounded => Some(reading.generous_bound().map_or(bound, |most| bound.min(most))),
            _ => reading.generous_bound(),
        }
    }
}

/// `per_second` within the range, to three digits: a change that nobody would notice is not sent to every proxy.
fn rate(adapt: &Adapt, range: Range, per_second: f64) -> Option<Rate> {
    let requests = match per_second {
        low if low <= range.floor => adapt.floor,
        high if high >= range.ceiling => adapt.ceiling,
        within => {
            let requests = within * adapt.interval.as_secs_f64();
            format!("{requests:.2e}").parse().unwrap_or(requests).clamp(adapt.floor, adapt.ceiling)
        }
    };
    Rate::from_requests(requests, adapt.interval)
}

fn add(at: Timestamp, duration: Duration) -> Timestamp {
    at.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// How many times the rule's number all pods have together.
fn scale(scope: Scope, observations: &Observations) -> f64 {
    match scope {
        Scope::PerPod => f64::from(observations.pods.max(1)),
        Scope::AcrossAllPods => 1.0,
    }
}
