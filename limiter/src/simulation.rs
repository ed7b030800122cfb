//! A queueing model of one service behind proxies that enforce a rule: what would this policy do under that load?
//!
//! In: a [`Scenario`]. Out: a [`Run`], one [`Row`] per observation and a [`Summary`]. The same scenario gives the same run:
//! events are ordered, randomness comes from the seed, and time is the model's own.
//!
//! ```
//! use limiter::simulation::{Scenario, run};
//! let run = run(&Scenario::surge(2.0).seconds(5, 10, 5));
//! assert!(run.summary.goodput < 0.1, "without a limit a service at twice its capacity answers nobody in time");
//! ```
//!
//! The model: pods with a FIFO queue and workers each; service times are lognormal; requests arrive at random (Poisson, so a
//! slow service does not slow them down), at a random pod, and give up after a time. Each proxy counts requests in flight
//! and keeps token buckets as Envoy does with Weir's classes: the rate limits come first, then the bound. What proxies
//! measure reaches the rule's engine each interval after a delay; its decision is in force at once.
//!
//! Not modelled: the network, the cost of refusing, retries, histogram buckets, and any limit of a second rule.

mod measures;
mod queue;
mod random;
#[cfg(test)]
mod tests;
mod world;

use std::time::Duration;

use serde::Serialize;

use crate::{
    metric::Word,
    policy::{OnMissing, Rule},
};

/// What happens to a service, and what guards it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The service.
    pub service: Service,
    /// Requests per second offered to all pods together, from each time on; in order of time. None before the first.
    pub offered: Vec<(Duration, f64)>,
    /// Part of the workers that work, from each time on; in order of time. All before the first.
    pub working: Vec<(Duration, f64)>,
    /// Part of the requests that belongs to each class of the rule; the rest belongs to the nameless last one.
    pub classes: Vec<f64>,
    /// What stands between clients and pods.
    pub guard: Guard,
    /// The time in which a client wants its answer; later ones count as no goodput.
    pub wanted_within: Duration,
    /// When a client gives up.
    pub timeout: Duration,
    /// How often proxies report.
    pub observe_every: Duration,
    /// How long a report is on its way.
    pub delay: Duration,
    /// Words that nothing measures; those that the model does not know are missing anyway.
    pub unmeasured: Vec<Word>,
    /// The time that the summary looks at, from and to; clean of it before and after.
    pub surge: (Duration, Duration),
    /// When the run ends.
    pub length: Duration,
    /// Where the randomness comes from.
    pub seed: u64,
}

/// A service of equal pods.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Service {
    /// Pods, each with a queue of its own.
    pub pods: u32,
    /// Requests that a pod works on at the same time.
    pub workers: u32,
    /// Mean time to work on a request.
    pub mean: Duration,
    /// Standard deviation of that time over its mean.
    pub variation: f64,
    /// Whether a request that the client has given up is still worked on.
    pub works_on_abandoned: bool,
}

impl Service {
    /// Requests per second that all pods can work on.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        f64::from(self.pods) * f64::from(self.workers) / self.mean.as_secs_f64()
    }
}

/// What stands between clients and pods.
#[derive(Clone, Debug)]
pub enum Guard {
    /// Fixed numbers at each pod, or none.
    Fixed {
        /// Requests per second.
        limit: Option<f64>,
        /// Most requests in flight.
        bound: Option<u32>,
    },
    /// A rule, decided by [`engine::step`](crate::engine::step) on what the proxies report.
    Rule(Box<Rule>, OnMissing),
}

impl Scenario {
    /// The first shape of the benchmark GOV-1: 4 workers of 10 ms, so a capacity of 400 per second; 0.7 of it is offered for
    /// 20 s, `times` as much as the capacity for 40 s, and 0.7 again for 40 s. Answers are wanted within 100 ms.
    #[must_use]
    pub fn surge(times: f64) -> Self {
        let service =
            Service { pods: 1, workers: 4, mean: Duration::from_millis(10), variation: 0.5, works_on_abandoned: false };
        let scenario = Self {
            service,
            offered: vec![(Duration::ZERO, 280.0), (Duration::ZERO, 400.0 * times), (Duration::ZERO, 280.0)],
            working: Vec::new(),
            classes: Vec::new(),
            guard: Guard::Fixed { limit: None, bound: None },
            wanted_within: Duration::from_millis(100),
            timeout: Duration::from_millis(500),
            observe_every: Duration::from_millis(250),
            delay: Duration::from_millis(20),
            unmeasured: Vec::new(),
            surge: (Duration::ZERO, Duration::ZERO),
            length: Duration::ZERO,
            seed: 1,
        };
        scenario.seconds(20, 40, 40)
    }

    /// The second shape: 0.7 of the capacity is offered throughout, and half of the workers stop for 40 s.
    #[must_use]
    pub fn halved() -> Self {
        let mut scenario = Self::surge(0.7);
        scenario.working = vec![(Duration::ZERO, 0.5), (Duration::ZERO, 1.0)];
        scenario.seconds(20, 40, 40)
    }

    /// The same shape with other lengths: before the surge, of it, and after it.
    #[must_use]
    pub fn seconds(mut self, before: u64, during: u64, after: u64) -> Self {
        let (start, end) = (Duration::from_secs(before), Duration::from_secs(before + during));
        self.surge = (start, end);
        self.length = end + Duration::from_secs(after);
        let times = [Duration::ZERO, start, end];
        self.offered.iter_mut().zip(times).for_each(|(step, time)| step.0 = time);
        self.working.iter_mut().zip(&times[1..]).for_each(|(step, time)| step.0 = *time);
        self
    }

    /// The same with another guard.
    #[must_use]
    pub fn guarded(self, guard: Guard) -> Self {
        Self { guard, ..self }
    }

    /// The same with other randomness.
    #[must_use]
    pub fn seeded(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Requests per second that the service can work on at `at`.
    #[must_use]
    pub fn capacity(&self, at: Duration) -> f64 {
        let part = value_at(&self.working, at).unwrap_or(1.0);
        let workers = working(self.service.workers, part);
        f64::from(self.service.pods) * f64::from(workers) / self.service.mean.as_secs_f64()
    }
}

/// The value of a list of steps at `at`.
fn value_at(steps: &[(Duration, f64)], at: Duration) -> Option<f64> {
    steps.iter().take_while(|(from, _)| *from <= at).last().map(|(_, value)| *value)
}

/// How many of a pod's workers work.
fn working(workers: u32, part: f64) -> u32 {
    (f64::from(workers) * part).round().clamp(0.0, f64::from(workers)) as u32
}

/// What happened in one interval, for all pods together; rates per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// End of the interval, in seconds from the start.
    pub t: f64,
    /// What the service could work on.
    pub capacity: f64,
    /// Requests that came.
    pub offered: f64,
    /// Those that were let through to a pod.
    pub admitted: f64,
    /// Those that a rate limit or the bound refused.
    pub refused: f64,
    /// Requests answered before their client gave up.
    pub completed: f64,
    /// Those of them that were answered in the time wanted.
    pub goodput: f64,
    /// Median time to answer in seconds; absent: nothing was answered.
    pub p50: Option<f64>,
    /// 99th percentile of the same.
    pub p99: Option<f64>,
    /// Part of the working workers' time that was used.
    pub cpu: f64,
    /// Limit at the end of the interval, for all pods together.
    pub limit: Option<f64>,
    /// Bound at the end of the interval, for all pods together.
    pub bound: Option<u32>,
    /// By class of the rule, the nameless one last; empty without classes.
    pub classes: Vec<ClassRow>,
}

/// What happened to one class in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ClassRow {
    /// Requests per second that came.
    pub offered: f64,
    /// Those answered in the time wanted.
    pub goodput: f64,
}

/// A run in a few numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Answers in the time wanted, over the smaller of capacity and offer: the surge without its first quarter.
    pub goodput: f64,
    /// 99th percentile of the time to answer in seconds, at the worst, in that time.
    pub worst_p99: f64,
    /// Mean use of the workers in that time.
    pub cpu: f64,
    /// Seconds from the start of the surge until goodput stays at [`CONVERGED`] of what it comes to; absent: never.
    pub convergence: Option<f64>,
    /// Part of the requests that were refused before the surge.
    pub refused_before: f64,
    /// Part of the requests that were refused in the first 20 s after it.
    pub refused_after: f64,
    /// By class: answers in the time wanted, over the requests that came, as in `goodput`.
    pub classes: Vec<f64>,
}

/// From this part of its final goodput on, over 2 s, a run counts as converged.
pub const CONVERGED: f64 = 0.85;

/// What a scenario led to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// One for each interval.
    pub rows: Vec<Row>,
    /// The same in short.
    pub summary: Summary,
}

/// Plays a scenario.
#[must_use]
pub fn run(scenario: &Scenario) -> Run {
    let rows = world::World::new(scenario).play();
    let summary = measures::summary(scenario, &rows);
    Run { rows, summary }
}
