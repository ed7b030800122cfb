//! What the pods of a Service are remembered to call: what outlives each of them, and Weir.
//!
//! A destination comes in when a pod has asked for it. It goes when none of the Service's pods has called it for `forgetAfter`, or, of too
//! many, as the one that was called least lately. Whoever keeps memories takes what is new of them with [`Index::take_memories`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Ask, Asks, Why, lists, may_load};
use crate::{
    index::{Dirty, Index},
    intent::{Called, DestinationKey, ServiceKey},
};

/// Destinations by Service; of more, the one that was called least lately is forgotten.
pub const MOST_REMEMBERED: usize = crds::workload_scope::MOST_DESTINATIONS;
/// That something is still called is news after this.
const STILL: SignedDuration = SignedDuration::from_mins(10);

/// One destination that pods of a Service call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Which.
    pub to: DestinationKey,
    /// Why it came to be known.
    pub why: Why,
    /// Since when.
    pub since: Timestamp,
    /// When it was last called, as far as is known.
    pub used: Timestamp,
}

/// What the pods of each Service call; nothing any more where it is `None`.
pub type Memories = BTreeMap<ServiceKey, Option<Arc<Vec<Remembered>>>>;

/// What is known of such a destination.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Why it came to be known.
    pub why: Why,
    /// Since when.
    pub since: Timestamp,
    /// When it was last called, as far as is known.
    pub used: Timestamp,
}

/// Of one Service.
#[derive(Clone, Debug, Default)]
struct Memory {
    destinations: BTreeMap<DestinationKey, Known>,
    /// What was not called since then may be forgotten. `None`: since a proxy is heard again.
    heard: Option<Timestamp>,
    /// When it was last taken, or was as somebody keeps it.
    taken: Option<Timestamp>,
}

/// Of all Services.
#[derive(Clone, Debug, Default)]
pub(super) struct All {
    services: BTreeMap<ServiceKey, Memory>,
    news: BTreeSet<ServiceKey>,
    /// What was forgotten, and pods that share what they call have still.
    lost: BTreeSet<(ServiceKey, DestinationKey)>,
}

impl Memory {
    fn told(&self) -> Option<Arc<Vec<Remembered>>> {
        let one = |(to, known): (&DestinationKey, &Known)| Remembered {
            to: to.clone(),
            why: known.why,
            since: known.since,
            used: known.used,
        };
        (!self.destinations.is_empty()).then(|| Arc::new(self.destinations.iter().map(one).collect()))
    }
}

impl Asks {
    /// A pod of `service` has asked for this.
    pub(super) fn remember(&mut self, service: &ServiceKey, key: &DestinationKey, why: Why, now: Timestamp) {
        let memory = self.memory.services.entry(service.clone()).or_default();
        if let Some(known) = memory.destinations.get_mut(key) {
            known.used = known.used.max(now);
            return;
        }
        memory.destinations.insert(key.clone(), Known { why, since: now, used: now });
        let oldest = match memory.destinations.len() > MOST_REMEMBERED {
            true => memory.destinations.iter().min_by_key(|(_, known)| known.used).map(|(key, _)| key.clone()),
            false => None,
        };
        self.memory.news.insert(service.clone());
        self.count(service, &Called::Destination(key.clone()));
        if let Some(oldest) = oldest {
            self.unlearn(service, &oldest);
        }
    }

    /// Whether it was remembered.
    fn unlearn(&mut self, service: &ServiceKey, key: &DestinationKey) -> bool {
        let memory = self.memory.services.get_mut(service);
        let found = memory.is_some_and(|memory| memory.destinations.remove(key).is_some());
        if found {
            self.memory.news.insert(service.clone());
            self.memory.lost.insert((service.clone(), key.clone()));
            self.discount(service, &Called::Destination(key.clone()));
        }
        found
    }

    /// The hosts of what a pod has go, its cluster stays until nothing is in it.
    fn leave(&mut self, service: &ServiceKey, pod: &str, called: Called, now: Timestamp) {
        let asked = self.pods.entry((service.clone(), pod.to_owned())).or_default();
        asked.round += 1;
        self.forgotten += 1;
        match asked.called.get_mut(&called) {
            Some(ask) => {
                ask.leaving = true;
                ask.used = now;
            }
            None => {
                let ask = Ask { why: Why::OnDemand, since: now, used: now, leaving: true };
                asked.called.insert(called.clone(), ask);
                self.count(service, &called);
            }
        }
    }

    /// Pods of the service that have it, and not only still.
    fn holders<'a>(&'a self, service: &'a ServiceKey, called: &'a Called) -> impl Iterator<Item = &'a str> {
        let has = move |ask: &&Ask| !ask.leaving;
        self.pods_of(service)
            .filter(move |(_, asked)| asked.called.get(called).filter(has).is_some())
            .map(|(pod, _)| pod)
    }
}

impl Index {
    /// Services whose pods have asked for something, or are remembered to.
    #[must_use]
    pub fn asking(&self) -> BTreeSet<&ServiceKey> {
        let asking = self.asks.pods.keys().map(|(service, _)| service);
        asking.chain(self.asks.memory.services.keys()).collect()
    }

    /// What pods of the service call.
    pub fn memory<'a>(
        &'a self,
        service: &ServiceKey,
    ) -> impl Iterator<Item = (&'a DestinationKey, &'a Known)> + use<'a> {
        let memory = self.asks.memory.services.get(service);
        memory.into_iter().flat_map(|memory| &memory.destinations)
    }

    /// Whether it is remembered of the service.
    #[must_use]
    pub fn remembers(&self, service: &ServiceKey, key: &DestinationKey) -> bool {
        self.asks.memory.services.get(service).is_some_and(|memory| memory.destinations.contains_key(key))
    }

    /// Takes over what another run of Weir, or another Weir, remembers of a service. What its pods have now stays.
    pub fn recall(&mut self, service: &ServiceKey, memory: &[Remembered]) -> Dirty {
        let before: BTreeSet<DestinationKey> = self.memory(service).map(|(key, _)| key.clone()).collect();
        let given: BTreeSet<&DestinationKey> = memory.iter().map(|one| &one.to).collect();
        let mut differs = false;
        for key in before.iter().filter(|key| !given.contains(key)) {
            let called = Called::Destination(key.clone());
            if self.asks.holders(service, &called).next().is_none() {
                differs |= self.asks.unlearn(service, key);
            }
        }
        for Remembered { to, why, since, used } in memory.iter().take(MOST_REMEMBERED) {
            differs |= !before.contains(to);
            self.asks.remember(service, to, *why, *used);
            let known = self.asks.memory.services.get_mut(service).and_then(|memory| memory.destinations.get_mut(to));
            if let Some(known) = known {
                (known.why, known.since) = (*why, known.since.min(*since));
            }
        }
        self.wake(service);
        // Whoever told knows it, but for what pods here have beside it.
        if self.memory(service).all(|(key, _)| given.contains(key)) {
            self.asks.memory.news.remove(service);
        }
        if differs { crate::index::dirty([service.clone()]) } else { Dirty::default() }
    }

    /// What is remembered of the service is news once more: whoever keeps it may have been told something else.
    pub fn tell_again(&mut self, service: &ServiceKey) {
        self.asks.memory.news.insert(service.clone());
    }

    /// Remembers of the service only what its pods have now.
    pub fn forget_memory(&mut self, service: &ServiceKey) -> Dirty {
        let dirty = self.recall(service, &[]);
        if self.memory(service).next().is_none() {
            self.asks.memory.services.remove(service);
        }
        self.asks.memory.news.insert(service.clone());
        dirty
    }

    /// Remembers nothing of the service any more.
    pub(in crate::index) fn forget_workload(&mut self, service: &ServiceKey) {
        let all: Vec<DestinationKey> = self.memory(service).map(|(key, _)| key.clone()).collect();
        for key in &all {
            self.asks.unlearn(service, key);
        }
        self.asks.memory.services.remove(service);
    }

    /// Forgets services that are not there, and were not when they last called something before `end`.
    pub fn forget_unseen_memories(&mut self, end: Timestamp) {
        let is_old = |memory: &Memory| memory.destinations.values().all(|known| known.used < end);
        let all = self.asks.memory.services.iter();
        let gone = all.filter(|(service, memory)| !self.services.contains_key(service) && is_old(memory));
        for service in gone.map(|(service, _)| service.clone()).collect::<Vec<_>>() {
            self.forget_workload(&service);
        }
    }

    /// Takes in when pods of the service called something for the last time.
    pub(crate) fn remember_use(
        &mut self,
        service: &ServiceKey,
        now: Timestamp,
        last: impl Fn(&DestinationKey) -> Option<Timestamp>,
    ) {
        let Some(memory) = self.asks.memory.services.get_mut(service) else { return };
        memory.heard.get_or_insert(now);
        let taken = *memory.taken.get_or_insert(now);
        let is_time = now.duration_since(taken) >= STILL;
        for (key, known) in &mut memory.destinations {
            let Some(last) = last(key).filter(|last| *last > known.used) else { continue };
            known.used = last;
            if is_time && last > taken {
                self.asks.memory.news.insert(service.clone());
            }
        }
    }

    /// Forgets what was not called for `after`, unless a pod has it that may call it unseen: one that is not `heard`, or that does not share
    /// what it calls and so forgets it for itself.
    pub(crate) fn forget_remembered(
        &mut self,
        service: &ServiceKey,
        now: Timestamp,
        after: SignedDuration,
        shares: bool,
        heard: impl Fn(&str) -> bool,
    ) -> Dirty {
        let Some(memory) = self.asks.memory.services.get(service) else { return Dirty::default() };
        let Some(heard_since) = memory.heard else { return Dirty::default() };
        let idle = memory.destinations.iter().filter(|(key, known)| {
            let called = Called::Destination((*key).clone());
            now.duration_since(known.used.max(heard_since)) >= after
                && self.asks.holders(service, &called).all(|pod| shares && heard(pod))
        });
        let idle: Vec<DestinationKey> = idle.map(|(key, _)| key.clone()).collect();
        for key in &idle {
            self.asks.unlearn(service, key);
        }
        self.let_go(now)
    }

    /// Pods that share what they call let go of what is not remembered any more, as of what they have asked for themselves. To be called
    /// before anything is published.
    pub fn let_go(&mut self, now: Timestamp) -> Dirty {
        let mut dirty = Dirty::default();
        for (service, key) in std::mem::take(&mut self.asks.memory.lost) {
            if self.remembers(&service, &key) {
                continue;
            }
            let pods: Vec<String> = self.asks.pods_of(&service).map(|(pod, _)| pod.to_owned()).collect();
            for pod in pods {
                if self
                    .lazy(&service, &pod)
                    .is_some_and(|lazy| lazy.prewarm && may_load(lazy, &key) && !lists(lazy, &key))
                {
                    self.asks.leave(&service, &pod, Called::Destination(key.clone()), now);
                    dirty.services.insert(service.clone());
                }
            }
        }
        dirty
    }

    /// A proxy of the service starts, whose application may call what is remembered: nothing is forgotten before it had the time.
    pub(super) fn wake(&mut self, service: &ServiceKey) {
        if let Some(memory) = self.asks.memory.services.get_mut(service) {
            memory.heard = None;
        }
    }

    /// What is remembered of every service.
    #[must_use]
    pub fn memories(&self) -> Memories {
        self.asks.memory.services.iter().map(|(service, memory)| (service.clone(), memory.told())).collect()
    }

    /// Whatever is new since the last time.
    pub fn take_memories(&mut self, now: Timestamp) -> Memories {
        let all = &mut self.asks.memory;
        let mut told = Memories::new();
        for service in std::mem::take(&mut all.news) {
            let memory = all.services.get_mut(&service).and_then(|memory| {
                memory.taken = Some(now);
                memory.told()
            });
            told.insert(service, memory);
        }
        told
    }
}

#[cfg(test)]
mod tests;
