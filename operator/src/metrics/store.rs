//! Keeps the newest sample of every pod and word, and reduces them over a target's ready pods.
//!
//! Which pods count: a pod whose sample is older than the newest one by more than its freshness is left out, so that one
//! pod that stopped answering neither freezes the others nor drags an old value along. But a few pods must not speak
//! for all: at least half of the ready pods must count. Then the result is as old as the newest of them. Otherwise it
//! carries the time at which half of the pods were last known, which is stale by construction, so that the rule treats
//! the metric as missing. A sum over the pods that count is scaled up to all ready pods: an undercount would read as
//! less load than there is.

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
    services: BTreeMap<ServiceKey, BTreeMap<Word, BTreeMap<String, Point>>>,
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
        for PodSample { service, pod, measure, at, fresh_for_ms, source: _ } in samples {
            let (Some(pod), Measure::Number(word, value)) = (pod, measure) else { continue };
            if !value.is_finite() {
                continue;
            }
            let pods = self.services.entry(service.clone()).or_default().entry(word).or_default();
            if pods.get(&pod).is_none_or(|held| held.at <= at) {
                pods.insert(pod, Point { value, at, fresh_for_ms });
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
                let pods = words?.get(&metric.word)?;
                let points: Vec<Point> = ready_pods.iter().filter_map(|pod| pods.get(pod)).copied().collect();
                Some((metric.clone(), reduce(metric.reduce, points, ready_pods.len())?))
            })
            .collect();
        Observations { pods: u32::try_from(ready_pods.len()).unwrap_or(u32::MAX), samples }
    }

    /// The newest value of one pod, for status.
    #[must_use]
    pub fn pod(&self, service: &ServiceKey, pod: &str, word: &Word) -> Option<(f64, Timestamp)> {
        self.services.get(service)?.get(word)?.get(pod).map(|point| (point.value, point.at))
    }

    /// Forgets a service.
    pub fn forget_service(&mut self, service: &ServiceKey) {
        self.services.remove(service);
    }

    /// Forgets a pod of a service.
    pub fn forget_pod(&mut self, service: &ServiceKey, pod: &str) {
        if let Some(words) = self.services.get_mut(service) {
            words.retain(|_, pods| {
                pods.remove(pod);
                !pods.is_empty()
            });
            if words.is_empty() {
                self.services.remove(service);
            }
        }
    }

    /// Forgets every pod of `service` that is not in `pods`.
    pub fn retain_pods(&mut self, service: &ServiceKey, pods: &[String]) {
        if let Some(words) = self.services.get_mut(service) {
            words.retain(|_, held| {
                held.retain(|pod, _| pods.contains(pod));
                !held.is_empty()
            });
            if words.is_empty() {
                self.services.remove(service);
            }
        }
    }
}

fn reduce(how: Reduce, mut points: Vec<Point>, ready: usize) -> Option<Sample> {
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
    value.is_finite().then(|| Sample { value, at, fresh_for_ms, source: Source::Scrape.name().to_owned() })
}

#[cfg(test)]
mod tests;
