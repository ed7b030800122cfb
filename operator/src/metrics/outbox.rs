//! What a provider measured and the builder has not taken yet.
//!
//! A builder that is slow holds up no provider, and memory stays bounded: when much waits, of each pod and kind only the newest value is kept.

use std::collections::HashSet;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::{Kind, PodSample};
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
        let mut seen: HashSet<(&ServiceKey, Option<&str>, Kind)> = HashSet::new();
        let newest = self.samples.iter().rev();
        let newest = newest.map(|one| seen.insert((&one.service, one.pod.as_deref(), one.measure.kind())));
        let mut newest = newest.collect::<Vec<bool>>().into_iter().rev();
        self.samples.retain(|_| newest.next() == Some(true));
        self.distinct = self.samples.len();
    }
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
    use crate::metrics::{Measure, Source};

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
}
