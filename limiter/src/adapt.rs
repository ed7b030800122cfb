//! Limits that steer themselves: one move of one `adapt` rule, `(rule, steering, observations, now) -> steering`.
//!
//! Two things are steered, both in the rule's scope: a *rate*, which a law moves between floor and ceiling, and a *queue
//! bound*, the most requests in flight, which follows Little's law whatever the law is: completions per second times the
//! time that a request may spend in the system. The bound acts in the proxy on each request, so it is what saves the
//! service in the first moments; a rate that is a few percent too high lets the queue grow without end.
//!
//! - A move needs a new sample of a goal: the same evidence never counts twice, and without evidence nothing moves.
//! - A large miss counts at once, a small one when it lasts: a quantile over a short window is nearly its maximum.
//! - One cut of the rate per drain: what a queue shows while it drains is no reason to cut again. The bound may drop at
//!   any miss; it never drops below what the application needs when it is not loaded.
//! - A cut for the sake of a latency that does not shorten it is taken back: the application is slow by itself.
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
use self::{
    aimd::Aimd,
    completion_rate::CompletionRate,
    reading::{Reading, Sight},
};
use crate::{
    condition::elapsed,
    language::ast::{Adapt, Goal},
    metric::{Observations, Word},
    policy::{LawKind, Rule, Scope},
    quota::Rate,
};

/// Shortest time between two steps up, when the sentence names none.
pub const EVERY: Duration = Duration::from_secs(1);
/// Shortest time from a cut or a refused request to a step up, when the sentence names none.
pub const COOLDOWN: Duration = Duration::from_secs(2);

/// A miss counts when the misses of samples in a row add up to so many thousandths of the goal (source: `simulation`, windows of
/// 250 ms with 100 requests): one sample of 130 %, or three of 110 %.
const SURE: u32 = 300;
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
/// As many times the completions may be in flight, each as long as the latency goal, while all goals are kept (source: GOV-1
/// on real Envoys: with the ceiling's 400 a tenfold load took 1.2 s to drain, with this a quarter of a second).
const SPARE: f64 = 2.0;
/// Requests in flight at a pod that nearly idles from which on completions count.
const QUIET: f64 = 64.0;
/// Refused requests, as a part of the offered ones, from which a limit counts as binding.
const BINDING: f64 = 0.01;
/// Cuts have failed when only this part of the completions is left, and requests still take longer than allowed, without
/// a queue that could be the reason.
const FAILED: f64 = 0.7;
/// From this multiple of the allowed time in the system on, an application without a queue is slow by itself.
const SLOW: f64 = 1.1;
/// How long cuts that did not help are not tried again.
const FUTILE_FOR: Duration = Duration::from_secs(60);
/// So long after cuts were taken back their effect on the completions may still show.
const TAKEN_BACK: Duration = Duration::from_secs(2);
/// Longest interval of a source.
const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);
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
    /// How far, in thousandths, the goals have been missed lately: what samples miss by is added up, what they keep them
    /// by is taken off.
    #[serde(default)]
    pub evidence: u32,
    /// The time of the newest sample of each goal that has been looked at.
    #[serde(default)]
    pub seen: Vec<Option<Timestamp>>,
    /// A cut for the sake of a latency whose effect is not clear yet.
    #[serde(default)]
    pub trial: Option<Trial>,
    /// Cuts that did not help.
    #[serde(default)]
    pub futile: Option<Futile>,
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

/// What cuts for the sake of a latency are judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// By how much the goal was missed at the worst: measured over wanted, in thousandths.
    pub severity: u32,
    /// Completions before, in thousandths of a request per second.
    pub answers: u64,
    /// The limit before.
    pub limit: Rate,
    /// The bound before.
    pub bound: Option<u32>,
    /// When they began, or were last seen to need more time.
    #[serde(default)]
    pub at: Timestamp,
    /// When the effect of the bound shows.
    pub settled_at: Timestamp,
    /// The time of the last sample that they were judged by: another goal's report does not make it count again.
    #[serde(default)]
    pub judged: Option<Timestamp>,
    /// Samples in a row since then that speak against the cuts.
    pub failed: u8,
}

/// Cuts that did not help: the application is slow without a queue, and refusing requests only adds to the harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Futile {
    /// By how much the goal is missed nevertheless, in thousandths. Overload on top of it shows as half as much again.
    pub severity: u32,
    /// Completions without the cuts, in thousandths of a request per second. A loss of capacity on top of it shows as far fewer.
    #[serde(default)]
    pub answers: u64,
    /// When cutting is tried again.
    pub until: Timestamp,
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
    let seen = next.newest_seen(adapt, observations, now);
    if next.seen == seen {
        return Some(next);
    }
    let before = std::mem::replace(&mut next.seen, seen);
    let is_missed = match verdict(adapt, observations, now) {
        Verdict::Unknown => return Some(next),
        Verdict::Missed => true,
        Verdict::Kept => false,
    };
    next.count_answers(observations, now);
    let reading = Reading::new(rule, adapt, range, &next, observations, now);
    let evidence = next.weigh(&reading, &before);
    if !is_missed {
        next.on_kept(adapt, &reading, now);
    } else if evidence >= SURE {
        next.on_miss(adapt, &reading, now);
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
            evidence: 0,
            trial: None,
            futile: None,
            seen: Vec::new(),
            answers: None,
            usual: None,
        })
    }

    /// The policy may have been edited, and the clock set back.
    fn kept_within(mut self, adapt: &Adapt, range: Range, now: Timestamp) -> Self {
        for limit in [&mut self.limit].into_iter().chain(self.trial.as_mut().map(|trial| &mut trial.limit)) {
            if !(range.floor..=range.ceiling).contains(&limit.per_second()) || limit.interval != adapt.interval {
                *limit = rate(adapt, range, limit.per_second()).unwrap_or(*limit);
            }
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
        if let Some(trial) = &mut self.trial
            && trial.at > now
        {
            trial.settled_at = add(now, elapsed(trial.at, trial.settled_at));
            (trial.at, trial.judged) = (now, None);
        }
        self.futile = self.futile.map(|futile| Futile { until: futile.until.min(add(now, FUTILE_FOR)), ..futile });
        self
    }

    /// The time of the newest sample of each goal. One that is older than what was seen is no news, unless a clock was set
    /// back.
    fn newest_seen(&self, adapt: &Adapt, observations: &Observations, now: Timestamp) -> Vec<Option<Timestamp>> {
        let newest = |(position, goal): (usize, &Goal)| {
            let seen = self.seen.get(position).copied().flatten();
            let Some(at) = reading::sampled_at(&goal.metric, observations, now) else { return seen };
            Some(seen.filter(|seen| *seen <= now).map_or(at, |seen| seen.max(at)))
        };
        adapt.goals.iter().enumerate().map(newest).collect()
    }

    /// Completions are smoothed over about twenty requests, so that a slow service does not look stopped when a short
    /// window has none. While they are missing the last ones stay, for the bound.
    fn count_answers(&mut self, observations: &Observations, now: Timestamp) {
        let Some(sample) = reading::total(Word::Answers, observations, now) else { return };
        let before = self.answers.map_or(sample.value, |milli| milli as f64 / 1000.0);
        // Counted by what is offered: a weight that moved with the value would draw the mean towards the large ones.
        let traffic = reading::total(Word::Requests, observations, now).map_or(before, |offered| offered.value);
        let weight = (traffic * sample.interval.as_secs_f64() / 20.0).clamp(0.05, 1.0);
        // Saturates: a value beyond any service becomes a large number, never none.
        self.answers = Some(((before + weight * (sample.value - before)) * 1000.0).round() as u64);
    }

    /// Adds what the worst goal says to the evidence (a cumulative sum); a sample that came early counts in part, because
    /// many pods report more often than one.
    fn weigh(&mut self, reading: &Reading, seen: &[Option<Timestamp>]) -> u32 {
        let Some(worst) = reading.worst() else { return self.evidence };
        let passed = match seen.get(worst.position).copied().flatten() {
            Some(seen) if seen <= worst.at => elapsed(seen, worst.at).min(worst.interval),
            _ => worst.interval,
        };
        let weight = passed.as_secs_f64() / worst.interval.as_secs_f64();
        let sum = f64::from(self.evidence) + weight * (worst.severity - 1.0) * 1000.0;
        self.evidence = (sum.round().max(0.0) as u32).min(SURE);
        self.evidence
    }

    fn on_miss(&mut self, adapt: &Adapt, reading: &Reading, now: Timestamp) {
        let Some(worst) = reading.worst() else { return };
        let only_latency = reading.bounded && reading.missed().all(|goal| goal.is_latency);
        if only_latency && (self.is_futile(reading, worst.thousandths(), now) || self.fails(reading, worst, now)) {
            return;
        }
        let before = (self.limit, self.bound);
        if let Some(target) = reading.least_bound() {
            self.bound = Some(self.bound.map_or(target, |bound| bound.min(target)));
        }
        let settled_at =
            add(now, reading.drain().unwrap_or_default().min(LONGEST_DRAIN).saturating_add(worst.interval));
        let settled = |cut: Cut| reading.missed().any(|goal| goal.at >= cut.settled_at);
        if self.cut.is_none_or(settled)
            && let Some(limit) = rate(adapt, reading.range, law(adapt.law).cut(reading))
            && limit.per_second() < self.limit.per_second()
        {
            self.cut = Some(Cut { at: now, from: self.limit, settled_at });
            self.limit = limit;
        }
        if only_latency
            && self.trial.is_none()
            && before != (self.limit, self.bound)
            && let Some(answers) = self.answers
        {
            let (severity, (limit, bound)) = (worst.thousandths(), before);
            self.trial = Some(Trial { severity, answers, limit, bound, at: now, settled_at, judged: None, failed: 0 });
        }
    }

    /// Whether it is known that cutting does not help against a miss as bad as this, and nothing has become worse since.
    fn is_futile(&mut self, reading: &Reading, severity: u32, now: Timestamp) -> bool {
        let recent = |futile: &Futile| elapsed(now, futile.until) > FUTILE_FOR.saturating_sub(TAKEN_BACK);
        let fewer = |futile: &Futile| {
            let left = self.answers.unwrap_or(u64::MAX) as f64;
            !recent(futile) && reading.binds() && left < FAILED * futile.answers as f64
        };
        let worse = |futile: &Futile| severity >= futile.severity.saturating_mul(3) / 2;
        self.futile = self.futile.filter(|futile| now < futile.until && !fewer(futile));
        self.futile.is_some_and(|futile| !worse(&futile))
    }

    /// Judges the cuts on trial by a sample that still misses the goal. What twice did harm without help is taken back.
    fn fails(&mut self, reading: &Reading, worst: Sight, now: Timestamp) -> bool {
        let Some(trial) = &mut self.trial else { return false };
        if !reading.queue_fits() {
            // What is answered now came when the queue was longer.
            trial.settled_at = add(worst.at, reading.drain().unwrap_or(LONGEST_DRAIN).saturating_add(worst.interval));
            trial.at = now;
        }
        trial.severity = trial.severity.max(worst.thousandths());
        if worst.at < trial.settled_at {
            return false;
        }
        if trial.judged.is_some_and(|judged| worst.at <= judged) {
            return trial.failed > 0;
        }
        trial.judged = Some(worst.at);
        let left = self.answers.unwrap_or(0) as f64;
        if left > FAILED * trial.answers as f64 || !reading.is_slow_by_itself() {
            trial.failed = 0;
            return false;
        }
        trial.failed += 1;
        if trial.failed < 2 {
            return true;
        }
        (self.limit, self.bound) = (trial.limit, trial.bound);
        self.futile = Some(Futile { severity: trial.severity, answers: trial.answers, until: add(now, FUTILE_FOR) });
        self.usual = reading.time_in_system().map(|time| Duration::from_micros((time * 1e6) as u64));
        (self.trial, self.cut) = (None, None);
        true
    }

    fn on_kept(&mut self, adapt: &Adapt, reading: &Reading, now: Timestamp) {
        self.trial = None;
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

    /// A running mean that falls faster than it rises: while a queue builds up, all goals may still be kept.
    fn learn_usual(&mut self, reading: &Reading) {
        let Some(time) = reading.time_in_system().filter(|_| reading.has_room()) else { return };
        let before = self.usual.map_or(time, |usual| usual.as_secs_f64());
        let weight = if time < before { 0.05 } else { 0.01 };
        self.usual = Some(Duration::from_micros(((before + weight * (time - before)) * 1e6) as u64));
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
