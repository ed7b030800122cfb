//! Keeps the newest sample of every source, pod and quantity of a service, and reduces them over its ready pods.
//!
//! Which source counts: the first fresh one of Envoy, scraping, the metrics API and Prometheus. Sources that disagree are never averaged; when
//! one falls silent the next is believed, and where none is fresh the newest is shown, which is stale.
//!
//! Which pods count: a pod whose sample is older than the newest one by more than its freshness is left out, so that one
//! pod that stopped answering neither freezes the others nor drags an old value along. But a few pods must not speak
//! for all: at least half of the ready pods must count. Then the result is as old as the newest of them. Otherwise it
//! carries the time at which half of the pods were last known, which is stale by construction, so that the rule treats
//! the metric as missing. A sum over the pods that count is scaled up to all ready pods: an undercount would read as
//! less load than there is.
//!
//! A mean of `errors` is all failures over all answers, and 0 where nothing was answered; one of a latency is the quantile of
//! all values together, and 0 where there is none: that nothing happens is no missing metric, and lets a rule go.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use limiter::metric::{Metric, Observations, Reduce, Sample, Word};

use super::{Histogram, Kind, Measure, PodSample, Source};
use crate::intent::ServiceKey;

#[derive(Clone, Debug)]
struct Point {
    measure: Measure,
    at: Timestamp,
    fresh_for_ms: u64,
}

impl Point {
    fn is_fresh(&self, now: Timestamp) -> bool {
        let age_ms = now.as_millisecond().saturating_sub(self.at.as_millisecond());
        age_ms <= i64::try_from(self.fresh_for_ms).unwrap_or(i64::MAX)
    }
}

/// What is known of one service: what each source says of each quantity.
type Quantities = BTreeMap<Kind, Vec<Points>>;

/// What one source says of one quantity.
#[derive(Clone, Debug)]
struct Points {
    source: Source,
    /// Of the service as a whole: not reduced.
    whole: Option<Point>,
    pods: BTreeMap<String, Point>,
}

impl Points {
    fn new(source: Source) -> Self {
        Self { source, whole: None, pods: BTreeMap::new() }
    }

    /// Those of a source, among all that speak of a quantity.
    fn of(source: Source, all: &[Self]) -> Option<&Self> {
        all.iter().find(|points| points.source == source)
    }

    fn is_empty(&self) -> bool {
        self.whole.is_none() && self.pods.is_empty()
    }

    fn forget_after(&mut self, now: Timestamp) {
        self.whole.take_if(|point| point.at > now);
        self.pods.retain(|_, point| point.at <= now);
    }
}

/// The most requests per second that were seen of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Traffic {
    /// By all its pods together.
    pub all_pods: f64,
    /// By one of them.
    pub one_pod: f64,
    /// Seen since then.
    pub since: Timestamp,
    looked: Timestamp,
}

/// How often the most is looked for: a look is at every pod of a service.
const LOOK: SignedDuration = SignedDuration::from_secs(1);

/// The newest samples of one service. One owner; plain values.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// Whose samples count.
    pods: Vec<String>,
    quantities: Quantities,
    /// Absent where nobody asks for it.
    traffic: Option<Traffic>,
}

impl Store {
    /// Takes a sample of the service at `now`. One that is of another pod than the service's, older than what is held, or makes
    /// no sense, changes nothing. What is held and lies in the future is from before the clock was set back, and is forgotten. Returns the service if the sample is new.
    pub fn insert(&mut self, sample: PodSample, now: Timestamp) -> Option<Arc<ServiceKey>> {
        let PodSample { service, pod, measure, at, fresh_for_ms, source } = sample;
        if !makes_sense(&measure) {
            return None;
        }
        let sources = self.quantities.entry(measure.kind()).or_default();
        let place = sources.iter().position(|points| points.source == source).unwrap_or_else(|| {
            sources.push(Points::new(source));
            sources.len() - 1
        });
        let points = &mut sources[place];
        let held = pod.as_ref().map_or(points.whole.as_ref(), |pod| points.pods.get(pod));
        match held.map(|held| held.at) {
            Some(held) if held > now => points.forget_after(now),
            Some(held) if held > at => return None,
            // It was under way when its pod went.
            None if pod.as_ref().is_some_and(|pod| !self.pods.contains(pod)) => return None,
            _ => {}
        }
        let point = Point { measure, at, fresh_for_ms };
        match pod {
            Some(pod) => drop(points.pods.insert(pod, point)),
            None => points.whole = Some(point),
        }
        Some(service)
    }

    /// The most that was seen of the service, if it is looked for and its requests are measured.
    #[must_use]
    pub fn traffic(&self) -> Option<&Traffic> {
        self.traffic.as_ref()
    }

    /// Looks for the most requests; to be called after each sample.
    pub fn look_at_traffic(&mut self, now: Timestamp) {
        let recent = |seen: &Traffic| seen.looked <= now && now.duration_since(seen.looked) < LOOK;
        if self.traffic.as_ref().is_some_and(recent) {
            return;
        }
        let Some(requests) = self.quantities.get(&Kind::Number(Word::Requests)) else { return };
        let mut sources = Source::ALL.iter().filter_map(|source| Points::of(*source, requests));
        let Some(points) = sources.find(|points| points.pods.values().any(|point| point.is_fresh(now))) else { return };
        let fresh = points.pods.values().filter(|point| point.is_fresh(now));
        let rates = fresh.filter_map(|point| combined(&Word::Requests, &[point]));
        let (all_pods, one_pod) = rates.fold((0.0, 0.0_f64), |(all, one), rate| (all + rate, one.max(rate)));
        let most = self.traffic.get_or_insert(Traffic { all_pods, one_pod, since: now, looked: now });
        most.all_pods = most.all_pods.max(all_pods);
        most.one_pod = most.one_pod.max(one_pod);
        most.looked = now;
    }

    /// Writes to `seen` what metrics show over `ready_pods` at `now`, each as the metric after it. One that too few of those pods ever gave
    /// is absent.
    pub fn observe(
        &self,
        ready_pods: &[String],
        metrics: &[(Metric, Metric)],
        seen: &mut Observations,
        now: Timestamp,
    ) {
        seen.pods = u32::try_from(ready_pods.len()).unwrap_or(u32::MAX);
        for (metric, name) in metrics {
            // In place: it is the same metrics four times a second.
            match (believed(&self.quantities, metric, ready_pods, now), seen.samples.get_mut(name)) {
                (Some(sample), Some(before)) => *before = sample,
                (Some(sample), None) => drop(seen.samples.insert(name.clone(), sample)),
                (None, Some(_)) => drop(seen.samples.remove(name)),
                (None, None) => {}
            }
        }
    }

    /// The newest number of one pod.
    #[must_use]
    pub fn pod(&self, pod: &str, word: &Word) -> Option<(f64, Timestamp)> {
        let numbers = self.quantities.get(&Kind::Number(word.clone()))?;
        let points = numbers.iter().filter_map(|points| {
            let point = points.pods.get(pod)?;
            Some((combined(word, &[point])?, point.at))
        });
        points.max_by_key(|(_, at)| *at)
    }

    /// These are the service's pods from now on; others are forgotten.
    pub fn set_pods(&mut self, pods: Vec<String>) {
        self.quantities.retain(|_, sources| {
            sources.retain_mut(|points| {
                points.pods.retain(|held, _| pods.contains(held));
                !points.is_empty()
            });
            !sources.is_empty()
        });
        self.pods = pods;
    }
}

pub(crate) fn makes_sense(measure: &Measure) -> bool {
    let is_histogram = |Histogram { buckets }: &Histogram| {
        buckets.iter().all(|(bound, count)| *bound >= 0.0 && *count >= 0.0 && count.is_finite())
    };
    match measure {
        Measure::Number(_, value) => value.is_finite(),
        Measure::Errors { failed, answered } => answered.is_finite() && (0.0..=*answered).contains(failed),
        Measure::Latency(histogram) => is_histogram(histogram),
        Measure::Called { port: _, completed, failed, inflight, latency } => {
            completed.is_finite()
                && (0.0..=*completed).contains(failed)
                && inflight.is_finite()
                && *inflight >= 0.0
                && is_histogram(latency)
        }
    }
}

/// The first fresh sample in the order of sources; else the newest.
fn believed(quantities: &Quantities, metric: &Metric, ready_pods: &[String], now: Timestamp) -> Option<Sample> {
    let parts = match metric.word {
        Word::Errors => Some(Kind::Errors),
        Word::Latency(_) => Some(Kind::Latency),
        _ => None,
    };
    let parts = parts.and_then(|kind| quantities.get(&kind));
    let number = quantities.get(&Kind::Number(metric.word.clone()));
    let is_counted = matches!(metric.word, Word::Demand(_) | Word::Excess(_));
    if parts.is_none() && number.is_none() && !is_counted {
        return None;
    }
    let mut newest: Option<Sample> = None;
    for source in Source::ALL {
        for sources in parts.map(Some).into_iter().chain([number]) {
            let points = sources.and_then(|sources| Points::of(source, sources));
            let zeros = zeros(quantities, metric, points, source, ready_pods, now);
            if points.is_none() && zeros.is_empty() {
                continue;
            }
            for mut sample in samples(points, metric, ready_pods, &zeros) {
                sample.source = source.name().into();
                if sample.is_fresh(now) {
                    return Some(sample);
                }
                if newest.as_ref().is_none_or(|newest| newest.at < sample.at) {
                    newest = Some(sample);
                }
            }
        }
    }
    newest
}

/// What one source says of the service as a whole, and by its ready pods. Where a pod stands in `zeros` that counts.
fn samples(
    points: Option<&Points>,
    metric: &Metric,
    ready_pods: &[String],
    zeros: &BTreeMap<&str, Point>,
) -> impl Iterator<Item = Sample> {
    let whole = points.and_then(|points| points.whole.as_ref()).and_then(|point| reduce(metric, vec![point], 1));
    let of = |pod: &String| zeros.get(pod.as_str()).or_else(|| points?.pods.get(pod));
    let pods = reduce(metric, ready_pods.iter().filter_map(of).collect(), ready_pods.len());
    whole.into_iter().chain(pods)
}

/// Envoy names a counter only once it has counted. Pods that stream and have not named this one: they have counted none.
fn zeros<'a>(
    quantities: &Quantities,
    metric: &Metric,
    named: Option<&Points>,
    source: Source,
    ready_pods: &'a [String],
    now: Timestamp,
) -> BTreeMap<&'a str, Point> {
    let (word @ (Word::Demand(_) | Word::Excess(_)), Source::Envoy) = (&metric.word, source) else {
        return BTreeMap::new();
    };
    let requests = quantities.get(&Kind::Number(Word::Requests));
    let Some(streaming) = requests.and_then(|all| Points::of(source, all)) else { return BTreeMap::new() };
    let zero = |pod: &'a String| {
        let known = named.and_then(|points| points.pods.get(pod)).is_some_and(|point| point.is_fresh(now));
        let requests = streaming.pods.get(pod).filter(|requests| !known && requests.is_fresh(now))?;
        Some((pod.as_str(), Point { measure: Measure::Number(word.clone(), 0.0), ..requests.clone() }))
    };
    ready_pods.iter().filter_map(zero).collect()
}

fn reduce(metric: &Metric, mut points: Vec<&Point>, ready: usize) -> Option<Sample> {
    let quorum = ready.div_ceil(2).max(1);
    if points.len() < quorum {
        return None;
    }
    points.sort_by_key(|point| std::cmp::Reverse(point.at));
    let newest = points[0].at;
    let half = points[quorum - 1].at;
    let at = if points.iter().filter(|point| point.is_fresh(newest)).count() >= quorum {
        points.retain(|point| point.is_fresh(newest));
        newest
    } else {
        half
    };
    let fresh_for_ms = points.iter().map(|point| point.fresh_for_ms).min()?;
    let each = || points.iter().filter_map(|point| combined(&metric.word, std::slice::from_ref(point)));
    let value = match metric.reduce {
        Reduce::Mean => combined(&metric.word, &points)?,
        Reduce::Max => each().fold(f64::NEG_INFINITY, f64::max),
        Reduce::Sum => each().sum::<f64>() * (ready as f64 / points.len() as f64),
    };
    value.is_finite().then_some(Sample { value, at, fresh_for_ms, source: Cow::Borrowed("") })
}

/// Measures of one kind as one value of `word`.
fn combined(word: &Word, points: &[&Point]) -> Option<f64> {
    let measures = points.iter().map(|point| &point.measure);
    match &points.first()?.measure {
        Measure::Number(..) => {
            let numbers = measures.filter_map(|measure| match measure {
                Measure::Number(_, value) => Some(*value),
                _ => None,
            });
            Some(numbers.sum::<f64>() / points.len() as f64)
        }
        Measure::Errors { .. } => {
            let (failed, answered) = measures.fold((0.0, 0.0), |(failed, answered), measure| match measure {
                Measure::Errors { failed: f, answered: a } => (failed + f, answered + a),
                _ => (failed, answered),
            });
            Some(if answered > 0.0 { failed / answered } else { 0.0 })
        }
        Measure::Latency(_) => {
            let Word::Latency(percentile) = word else { return None };
            let histograms = measures.filter_map(|measure| match measure {
                Measure::Latency(histogram) => Some(histogram),
                _ => None,
            });
            Some(Histogram::merged(histograms).quantile(f64::from(*percentile) / 100.0).unwrap_or(0.0))
        }
        // Of what arms are steered by.
        Measure::Called { .. } => None,
    }
}

#[cfg(test)]
mod tests;
