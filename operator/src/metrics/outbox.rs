//! What a provider measured and the builder has not taken yet.
//!
//! A builder that is slow holds up no provider, and memory stays bounded: when much waits, of each pod and kind only the newest value is kept, into
//! which the counts of older ones are added.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::{Histogram, Kind, Measure, PodSample};
use crate::intent::ServiceKey;

/// So many samples wait before older ones of the same pod and kind are looked for: a builder that keeps up never has them compared.
const FEW: usize = 1 << 12;

/// See the module. Filled by a provider's tasks, emptied by one of them.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// In the order in which they came.
    samples: Vec<PodSample>,
    /// Of the first so many, each is the newest of its pod and kind among them.
    distinct: usize,
}

impl Waiting {
    fn put(&mut self, samples: impl IntoIterator<Item = PodSample>) {
        self.samples.extend(samples);
        if self.samples.len() > FEW.max(2 * self.distinct) {
            self.keep_newest();
        }
    }

    fn keep_newest(&mut self) {
        let mut newest: HashMap<(&ServiceKey, Option<&str>, Kind, u16), usize> = HashMap::new();
        let mut places: Vec<usize> = Vec::with_capacity(self.samples.len());
        for (at, one) in self.samples.iter().enumerate().rev() {
            let of = (&*one.service, one.pod.as_deref(), one.measure.kind(), port(&one.measure));
            places.push(*newest.entry(of).or_insert(at));
        }
        let mut samples: Vec<_> = std::mem::take(&mut self.samples).into_iter().map(Some).collect();
        for (at, place) in places.into_iter().rev().enumerate().filter(|(at, place)| at != place) {
            if let Some(older) = samples[at].take()
                && let Some(newer) = &mut samples[place]
            {
                add_older(&mut newer.measure, older.measure);
            }
        }
        self.samples.extend(samples.into_iter().flatten());
        self.distinct = self.samples.len();
    }
}

/// Of what is measured by port; 0 elsewhere.
const fn port(measure: &Measure) -> u16 {
    match measure {
        Measure::Called { port, .. } => *port,
        Measure::Number(..) | Measure::Errors { .. } | Measure::Latency(_) => 0,
    }
}

/// Adds the counts that are told once, which an older sample of the same holds; of the rest the newer is all there is to say.
fn add_older(newer: &mut Measure, older: Measure) {
    let Measure::Called { port: _, completed, failed, inflight: _, latency } = newer else { return };
    let Measure::Called { completed: more, failed: more_failed, latency: before, .. } = older else { return };
    *completed += more;
    *failed += more_failed;
    *latency = Histogram::merged([&before, &*latency]);
}

impl Outbox {
    /// Adds samples, which are newer than those of the same pod and kind.
    pub(crate) fn put(&self, samples: impl IntoIterator<Item = PodSample>) {
        self.waiting.lock().put(samples);
        self.filled.notify_one();
    }

    /// Drops what waits of a pod.
    pub(crate) fn forget(&self, service: &ServiceKey, pod: &str) {
        let mut waiting = self.waiting.lock();
        waiting.samples.retain(|held| (&*held.service, held.pod.as_deref()) != (service, Some(pod)));
        waiting.distinct = 0;
    }

    /// Hands over what waits whenever the receiver can take it; ends when the receiver is gone.
    pub(crate) async fn drain(&self, samples: &mpsc::Sender<Vec<PodSample>>) {
        loop {
            self.filled.notified().await;
            let Ok(permit) = samples.reserve().await else { return };
            let Waiting { samples: batch, .. } = std::mem::take(&mut *self.waiting.lock());
            if !batch.is_empty() {
                permit.send(batch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use limiter::metric::Word;

    use super::*;
    use crate::metrics::Source;

    fn sample(pod: usize, value: f64) -> PodSample {
        PodSample {
            service: ServiceKey { namespace: "shop".to_owned(), name: "cart".to_owned() }.into(),
            pod: Some(pod.to_string()),
            measure: Measure::Number(Word::Requests, value),
            at: Timestamp::UNIX_EPOCH,
            fresh_for_ms: 750,
            source: Source::Scrape,
        }
    }

    #[test]
    fn what_nobody_takes_stays_bounded_and_is_the_newest() {
        let mut waiting = Waiting::default();
        for turn in 0..100 {
            waiting.put((0..1000).map(|pod| sample(pod, f64::from(turn))));
            assert!(waiting.samples.len() <= FEW, "{}", waiting.samples.len());
        }
        waiting.keep_newest();
        let expected: Vec<_> = (0..1000).map(|pod| sample(pod, 99.0)).collect();
        assert_eq!(waiting.samples, expected);
    }

    #[test]
    fn counts_that_nobody_takes_add_up_by_port() {
        let called = |caller: usize, port, completed: f64, inflight| PodSample {
            measure: Measure::Called {
                port,
                completed,
                failed: completed / 2.0,
                inflight,
                latency: Histogram { buckets: vec![(1.0, completed)] },
            },
            ..sample(caller, 0.0)
        };
        let mut waiting = Waiting::default();
        for turn in 0..20_i32 {
            waiting.put((0..1000).map(|caller| called(caller, 80, 2.0, f64::from(turn))));
            waiting.put([called(7, 81, 4.0, 0.0), sample(7, f64::from(turn))]);
            assert!(waiting.samples.len() <= FEW, "{}", waiting.samples.len());
        }
        waiting.keep_newest();
        let mut expected: Vec<_> = (0..1000).map(|caller| called(caller, 80, 40.0, 19.0)).collect();
        expected.extend([called(7, 81, 80.0, 0.0), sample(7, 19.0)]);
        assert_eq!(waiting.samples, expected);
    }
}
