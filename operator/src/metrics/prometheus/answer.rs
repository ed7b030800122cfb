//! From an answer of Prometheus to samples, for each of those who share the question. Pure.

use std::{borrow::Cow, collections::BTreeMap};

use foldhash::HashMap;
use jiff::Timestamp;
use limiter::metric::Word;
use prometheus_http_query::response::Sample;
use serde::Deserialize;

use super::words::By;
use crate::{
    intent::ServiceKey,
    metrics::{Measure, PodSample, Source},
};

/// So far Prometheus's clock may be ahead of ours, in milliseconds, before it is worth a word.
const MOST_AHEAD_MS: i64 = 2_000;

/// Most series that an answer may have.
pub const MAX_SERIES: usize = 10_000;

/// Someone who waits for the answer to a question.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asker {
    /// The service that the answer is for.
    pub service: ServiceKey,
    /// What the answer becomes.
    pub word: Word,
    /// The service's ready pods, in order.
    pub pods: Vec<String>,
    /// What each of them may use, which the answer is a fraction of; empty: the answer is the value.
    pub amounts: BTreeMap<String, f64>,
    /// For a query of many services at once, how its own series are told; absent: the query is its own.
    pub by: Option<By>,
}

/// What one asker gets of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reading {
    /// The samples.
    pub samples: Vec<PodSample>,
    /// Why there are none, or less than there could be.
    pub trouble: Option<String>,
}

/// An answer as the server gives it.
#[derive(Debug)]
pub(super) enum Data<'a> {
    /// One value.
    Scalar(Sample),
    /// A value of each series.
    Vector(Vec<Series<'a>>),
    /// Values over a time, which have no use here.
    Matrix,
}

/// A series: of its labels those that tell whom it speaks of.
#[derive(Debug, Deserialize)]
pub(super) struct Series<'a> {
    #[serde(borrow)]
    metric: Labels<'a>,
    value: Sample,
}

#[derive(Debug, Deserialize)]
struct Labels<'a> {
    #[serde(borrow)]
    pod: Option<Label<'a>>,
    /// The label [`SERVICE`](super::words::SERVICE).
    #[serde(borrow, rename = "destination_service_name")]
    service: Option<Label<'a>>,
}

/// Borrowed from the answer, unless it is escaped there.
#[derive(Debug, Deserialize)]
struct Label<'a>(#[serde(borrow)] Cow<'a, str>);

/// An answer with its series by whom they speak of.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    /// By the label [`SERVICE`](super::words::SERVICE).
    services: HashMap<Cow<'a, str>, Found>,
    /// By the label `pod`.
    pods: HashMap<Cow<'a, str>, Found>,
    /// Without a label `pod`.
    whole: Option<Found>,
    count: usize,
    /// Longest time that samples of it count, in milliseconds.
    fresh_for_ms: u64,
    now: Timestamp,
}

/// The sample of a series, and how many series there are in its place.
#[derive(Clone, Copy, Debug)]
struct Found {
    sample: Sample,
    count: usize,
}

impl<'a> Answer<'a> {
    /// Sorts an answer that came at `now`.
    ///
    /// # Errors
    ///
    /// When it is of a kind that has no value per pod or service, or too large.
    pub(super) fn new(data: Data<'a>, fresh_for_ms: u64, now: Timestamp) -> Result<Self, String> {
        let (services, pods) = (HashMap::default(), HashMap::default());
        let mut answer = Self { services, pods, whole: None, count: 0, fresh_for_ms, now };
        match data {
            Data::Scalar(sample) => {
                answer.whole = Some(Found { sample, count: 1 });
                answer.count = 1;
            }
            Data::Vector(vector) => {
                answer.count = vector.len();
                if answer.count > MAX_SERIES {
                    return Err(format!(
                        "the query gives {} series, more than {MAX_SERIES}: choose fewer by their labels, or aggregate them",
                        answer.count
                    ));
                }
                let add = |to: &mut HashMap<_, _>, Label(name): Label<'a>, sample| {
                    to.entry(name)
                        .and_modify(|found: &mut Found| found.count += 1)
                        .or_insert(Found { sample, count: 1 });
                };
                for Series { metric: Labels { pod, service }, value } in vector {
                    if let Some(service) = service {
                        add(&mut answer.services, service, value);
                    }
                    match (pod, &mut answer.whole) {
                        (Some(pod), _) => add(&mut answer.pods, pod, value),
                        (None, Some(whole)) => whole.count += 1,
                        (None, whole) => *whole = Some(Found { sample: value, count: 1 }),
                    }
                }
            }
            Data::Matrix => {
                return Err("the query gives ranges, not values: take a function over the range, such as \
                            rate(…[1m]) or max_over_time(…[1m])"
                    .to_owned());
            }
        }
        Ok(answer)
    }

    /// The part of one asker.
    #[must_use]
    pub(super) fn read(&self, asker: &Asker) -> Reading {
        if self.count == 0 {
            return Reading { samples: Vec::new(), trouble: Some("the query gives no series".to_owned()) };
        }
        let mut reading = Reading::default();
        match asker.by {
            Some(By::Service) => self.whole(asker, self.services.get(asker.service.name.as_str()), &mut reading),
            Some(By::Pod) => self.pods(asker, &mut reading),
            None => match &self.whole {
                None => self.pods(asker, &mut reading),
                Some(whole) if whole.count < self.count => {
                    reading.trouble = Some(format!(
                        "{} of {} series have no label `pod`: give it to all, as with `sum by (pod) (…)`, or to none",
                        whole.count, self.count
                    ));
                }
                whole => self.whole(asker, whole.as_ref(), &mut reading),
            },
        }
        reading
    }

    fn whole(&self, asker: &Asker, found: Option<&Found>, reading: &mut Reading) {
        match found {
            None => reading.trouble = Some(format!("none of the {} series speaks of this service", self.count)),
            Some(Found { sample, count: 1 }) => self.sample(asker, None, sample, reading),
            Some(Found { count, .. }) => {
                reading.trouble = Some(format!(
                    "the query gives {count} series without a label `pod`: aggregate them to one, as with `sum(…)`, or to one for \
                     each pod, as with `sum by (pod) (…)`"
                ));
            }
        }
    }

    fn pods(&self, asker: &Asker, reading: &mut Reading) {
        for pod in &asker.pods {
            match self.pods.get(pod.as_str()) {
                None => {}
                Some(Found { sample, count: 1 }) => self.sample(asker, Some(pod), sample, reading),
                Some(Found { count, .. }) => {
                    let message = format!(
                        "the query gives {count} series for pod {pod}: aggregate them, as with `sum by (pod) (…)`"
                    );
                    reading.trouble.get_or_insert(message);
                }
            }
        }
        if reading.samples.is_empty() && reading.trouble.is_none() {
            let message = format!("none of the {} series is of a ready pod of this service (label `pod`)", self.count);
            reading.trouble = Some(message);
        }
    }

    fn sample(&self, asker: &Asker, pod: Option<&String>, sample: &Sample, reading: &mut Reading) {
        let amount = pod.and_then(|pod| asker.amounts.get(pod)).unwrap_or(&1.0);
        let value = sample.value() / amount;
        if !value.is_finite() {
            let of = pod.map(|pod| format!(" for pod {pod}")).unwrap_or_default();
            let zero = if value.is_nan() { " (as 0/0 does)" } else { "" };
            reading.trouble.get_or_insert(format!("the query gives {value}{of}, which is no number{zero}"));
            return;
        }
        // Prometheus gives seconds with three decimals. Out of range is as good as very old.
        let at = Timestamp::from_millisecond((sample.timestamp() * 1000.0).round() as i64).unwrap_or(Timestamp::MIN);
        let age_ms = self.now.as_millisecond().saturating_sub(at.as_millisecond());
        if age_ms > i64::try_from(self.fresh_for_ms).unwrap_or(i64::MAX) {
            let age = age_ms as f64 / 1000.0;
            let message = format!(
                "the answer was evaluated {age:.0} s ago by its own clock: a cache stands before Prometheus, or a clock is wrong"
            );
            reading.trouble.get_or_insert(message);
        } else if age_ms < -MOST_AHEAD_MS {
            let ahead = age_ms.saturating_neg() as f64 / 1000.0;
            let message =
                format!("the answer was evaluated {ahead:.0} s from now by its own clock: one of the two is wrong");
            reading.trouble.get_or_insert(message);
        }
        reading.samples.push(PodSample {
            service: asker.service.clone(),
            pod: pod.cloned(),
            measure: Measure::Number(asker.word.clone(), value),
            // From the future it would be fresh for longer than it may be.
            at: at.min(self.now),
            fresh_for_ms: self.fresh_for_ms,
            source: Source::Prometheus,
        });
    }
}

#[cfg(test)]
mod tests;
