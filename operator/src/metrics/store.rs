//! Keeps the newest sample of every pod and word, and reduces them over a target's ready pods.
//!
//! Which pods count: a pod whose sample is older than the newest one by more than its freshness is left out, so that one
//! pod that stopped answering neither freezes the others nor drags an old value along. But a few pods must not speak
//! for all: at least half of the ready pods must count. Then the result is as old as the newest of them. Otherwise it
//! carries the time at which half of the pods were last known, which is stale by construction, so that the rule treats
//! the metric as missing. A sum over the pods that count is scaled up to all ready pods: an undercount would read as
//! less load than there is. A sample of the service as a whole stands for all of them.
//!
//! Of several sources the most direct one is believed whose value is fresh at the time of the newest.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use limiter::metric::{Metric, Observations, Reduce, Sample, Word};

use super::{Measure, PodSample, Source};
use crate::intent::ServiceKey;

#[derive(Clone, Copy, Debug)]
struct Point {
    value: f64,
    at: Timestamp,
    fresh_for_ms: u64,
}

/// The newest samples. One owner; plain values.
#[derive(Clone, Debug, Default)]
pub struct Store {
    services: BTreeMap<ServiceKey, BTreeMap<Word, BTreeMap<Source, Points>>>,
}

/// What one source says of one word.
#[derive(Clone, Debug, Default)]
struct Points {
    pods: BTreeMap<String, Point>,
    whole: Option<Point>,
}

impl Store {
    /// Nothing measured yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes samples. One that is older than what is held, or not finite, changes nothing. Returns the services that
    /// have something new.
    pub fn insert(&mut self, samples: impl IntoIterator<Item = PodSample>) -> BTreeSet<ServiceKey> {
        let mut touched = BTreeSet::new();
        for PodSample { service, pod, measure, at, fresh_for_ms, source } in samples {
            let Measure::Number(word, value) = measure else { continue };
            if !value.is_finite() {
                continue;
            }
            let sources = self.services.entry(service.clone()).or_default().entry(word).or_default();
            let points = sources.entry(source).or_default();
            let held = match &pod {
                Some(pod) => points.pods.get(pod),
                None => points.whole.as_ref(),
            };
            if held.is_none_or(|held| held.at <= at) {
                let point = Point { value, at, fresh_for_ms };
                match pod {
                    Some(pod) => drop(points.pods.insert(pod, point)),
                    None => points.whole = Some(point),
                }
                touched.insert(service);
            }
        }
        touched
    }

    /// What `metrics` show over `ready_pods`. A metric that too few of those pods ever gave is absent.
    #[must_use]
    pub fn observe(&self, service: &ServiceKey, ready_pods: &[String], metrics: &BTreeSet<Metric>) -> Observations {
        let words = self.services.get(service);
        let samples = metrics
            .iter()
            .filter_map(|metric| {
                let sources = words?.get(&metric.word)?;
                let samples =
                    sources.iter().filter_map(|(source, points)| points.sample(*source, metric.reduce, ready_pods));
                Some((metric.clone(), believed(samples.collect())?))
            })
            .collect();
        Observations { pods: u32::try_from(ready_pods.len()).unwrap_or(u32::MAX), samples }
    }

    /// The newest value of one pod, for status.
    #[must_use]
    pub fn pod(&self, service: &ServiceKey, pod: &str, word: &Word) -> Option<(f64, Timestamp)> {
        let sources = self.services.get(service)?.get(word)?.values();
        sources
            .filter_map(|points| points.pods.get(pod))
            .max_by_key(|point| point.at)
            .map(|point| (point.value, point.at))
    }

    /// Forgets a service.
    pub fn forget_service(&mut self, service: &ServiceKey) {
        self.services.remove(service);
    }

    /// Forgets a pod of a service.
    pub fn forget_pod(&mut self, service: &ServiceKey, pod: &str) {
        self.retain(service, |held| held != pod);
    }

    /// Forgets every pod of `service` that is not in `pods`.
    pub fn retain_pods(&mut self, service: &ServiceKey, pods: &[String]) {
        self.retain(service, |held| pods.iter().any(|pod| pod == held));
    }

    fn retain(&mut self, service: &ServiceKey, stays: impl Fn(&str) -> bool) {
        if let Some(words) = self.services.get_mut(service) {
            words.retain(|_, sources| {
                sources.retain(|_, points| {
                    points.pods.retain(|pod, _| stays(pod));
                    !points.pods.is_empty() || points.whole.is_some()
                });
                !sources.is_empty()
            });
            if words.is_empty() {
                self.services.remove(service);
            }
        }
    }
}

impl Points {
    /// What the source says now: of the pods, or of the service as a whole when that is newer.
    fn sample(&self, source: Source, how: Reduce, ready_pods: &[String]) -> Option<Sample> {
        let pods: Vec<Point> = ready_pods.iter().filter_map(|pod| self.pods.get(pod)).copied().collect();
        let (value, at, fresh_for_ms) = match (reduce(how, pods, ready_pods.len()), self.whole) {
            (Some(pods), Some(whole)) if whole.at <= pods.1 => pods,
            (_, Some(Point { value, at, fresh_for_ms })) => (value, at, fresh_for_ms),
            (pods, None) => pods?,
        };
        Some(Sample { value, at, fresh_for_ms, source: source.name().to_owned() })
    }
}

/// The first of the samples, most direct source first, that is fresh at the time of the newest.
fn believed(samples: Vec<Sample>) -> Option<Sample> {
    let newest = samples.iter().map(|sample| sample.at).max()?;
    samples.into_iter().find(|sample| sample.is_fresh(newest))
}

fn reduce(how: Reduce, mut points: Vec<Point>, ready: usize) -> Option<(f64, Timestamp, u64)> {
    let quorum = ready.div_ceil(2).max(1);
    if points.len() < quorum {
        return None;
    }
    points.sort_by_key(|point| std::cmp::Reverse(point.at));
    let newest = points[0].at;
    let counts = |point: &Point| {
        let age_ms = newest.as_millisecond().saturating_sub(point.at.as_millisecond());
        age_ms <= i64::try_from(point.fresh_for_ms).unwrap_or(i64::MAX)
    };
    let fresh: Vec<Point> = points.iter().copied().filter(counts).collect();
    let (counted, at) = if fresh.len() >= quorum { (fresh, newest) } else { (points.clone(), points[quorum - 1].at) };
    let fresh_for_ms = counted.iter().map(|point| point.fresh_for_ms).min()?;
    let number = counted.len() as f64;
    let sum: f64 = counted.iter().map(|point| point.value).sum();
    let value = match how {
        Reduce::Mean => sum / number,
        Reduce::Max => counted.iter().map(|point| point.value).fold(f64::NEG_INFINITY, f64::max),
        Reduce::Sum => sum * (ready as f64 / number),
    };
    value.is_finite().then_some((value, at, fresh_for_ms))
}

#[cfg(test)]
mod tests;
