//! What a provider measured and the builder has not taken yet: one value for each pod and kind, the newest wins.
//!
//! A builder that is slow thus holds up no provider, and memory stays bounded.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::{Kind, PodSample};
use crate::intent::ServiceKey;

type Key = (ServiceKey, Option<String>, Kind);

/// See the module. Filled by a provider's tasks, emptied by one of them.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Mutex<BTreeMap<Key, PodSample>>,
    filled: Notify,
}

impl Outbox {
    /// Adds samples in the place of those of the same pod and kind.
    pub(super) fn put(&self, samples: impl IntoIterator<Item = PodSample>) {
        let mut waiting = self.waiting.lock();
        for sample in samples {
            waiting.insert((sample.service.clone(), sample.pod.clone(), sample.measure.kind()), sample);
        }
        drop(waiting);
        self.filled.notify_one();
    }

    /// Drops what waits of a pod.
    pub(super) fn forget(&self, service: &ServiceKey, pod: &str) {
        self.waiting.lock().retain(|(held, held_pod, _), _| (held, held_pod.as_deref()) != (service, Some(pod)));
    }

    /// Hands over what waits whenever the receiver can take it; ends when the receiver is gone.
    pub(super) async fn drain(&self, samples: &mpsc::Sender<Vec<PodSample>>) {
        loop {
            self.filled.notified().await;
            let Ok(permit) = samples.reserve().await else { return };
            let batch: Vec<_> = std::mem::take(&mut *self.waiting.lock()).into_values().collect();
            if !batch.is_empty() {
                permit.send(batch);
            }
        }
    }
}
