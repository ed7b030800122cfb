//! What proxies say of the calls that their applications make, as far as it is kept: when each destination was last called, and whether
//! it is in use now.
//!
//! Bounded by the pods that there are, and by what a proxy may name in its messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use limiter::lazy::{Lazy, Load};

use super::Builder;
use crate::{
    index::{
        Dirty, Index,
        asked::{Ask, Why},
    },
    intent::{Called, DestinationKey, ServiceKey},
    metrics::{calls::Calls, prometheus::calls::Learned},
    xds::{NodeKey, names},
};

/// A proxy that takes a host away has told of all requests to it this much later: several of its flush intervals.
const SETTLES: SignedDuration = SignedDuration::from_secs(2);
/// A pod is looked at for what may be forgotten this often at most.
const LOOK_EVERY: SignedDuration = SignedDuration::from_secs(1);

/// Most destinations that are kept of one pod; those that were called least lately go.
const MOST_DESTINATIONS: usize = 20_000;

/// How one pod uses one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// When it was last seen to be called, or to have a request that had not ended; `None`: not since this Weir hears its proxy.
    pub last: Option<Timestamp>,
    /// Requests and connections when its proxy last told.
    pub active: u64,
}

/// Of one pod.
#[derive(Debug, Default)]
pub struct Uses {
    /// When its proxy last told of all it uses: what it did not name was as told before. `None`: never.
    pub told: Option<Timestamp>,
    /// By [`crate::xds::names::destination_stat_name`].
    pub destinations: BTreeMap<Arc<str>, Use>,
    /// When it was last looked at for what may be forgotten.
    looked: Option<Timestamp>,
}

/// Of all pods.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// It is wanted of every service whom its pods call.
    pub(super) wants_all: bool,
    pods: BTreeMap<NodeKey, Uses>,
}

impl Heard {
    /// Keeps of a service only what `pods` has said, in order.
    pub(super) fn keep(&mut self, service: &ServiceKey, pods: &[String]) {
        // No pod is called "", so this is before all of the service's.
        let from = NodeKey::of(service, "");
        let of_service = |node: &&NodeKey| node.namespace() == service.namespace && node.service() == service.name;
        let held = self.pods.range(from..).map(|(node, _)| node).take_while(of_service);
        let gone = held.filter(|node| pods.binary_search_by(|pod| pod.as_str().cmp(node.pod())).is_err()).cloned();
        for node in gone.collect::<Vec<_>>() {
            self.pods.remove(&node);
        }
    }
}

impl Use {
    fn and(self, other: Self) -> Self {
        Self { last: self.last.max(other.last), active: self.active.saturating_add(other.active) }
    }
}

impl Uses {
    /// How it uses this destination, as far as its proxy has told.
    #[must_use]
    pub fn of(&self, destination: &DestinationKey) -> Option<Use> {
        // One that becomes an arm, or is none any more, is called by both names until the last request by the old one has ended.
        let by_name = [false, true].map(|is_arm| names::destination_stat_name(destination, is_arm));
        let both = by_name.iter().filter_map(|name| self.destinations.get(name.as_str()).copied());
        both.reduce(Use::and)
    }

    /// How it uses any of these.
    fn of_any<'a>(&self, destinations: impl Iterator<Item = &'a DestinationKey>) -> Option<Use> {
        let used = destinations.filter_map(|key| self.of(key));
        used.reduce(Use::and)
    }

    fn take(&mut self, calls: Calls) {
        let Calls { node: _, at: _, used_at, used, unknown: _ } = calls;
        let Some(at) = used_at else { return };
        self.told = self.told.max(used_at);
        for used in used {
            let held = self.destinations.entry(used.stat_name).or_insert(Use { last: None, active: 0 });
            held.active = used.active;
            if used.requests > 0 || used.inflight > 0 {
                held.last = held.last.max(Some(at));
            }
        }
        if self.destinations.len() > MOST_DESTINATIONS {
            let mut lasts: Vec<Option<Timestamp>> = self.destinations.values().map(|held| held.last).collect();
            lasts.sort_unstable();
            let oldest = lasts[lasts.len() - MOST_DESTINATIONS];
            self.destinations.retain(|_, held| held.last >= oldest);
            // Of those that were called at the same time, too.
            while self.destinations.len() > MOST_DESTINATIONS {
                self.destinations.pop_last();
            }
        }
    }
}

impl Builder {
    /// Wants from now on of every service whom its pods call.
    #[must_use]
    pub fn with_calls(mut self) -> Self {
        self.heard.wants_all = true;
        self
    }

    /// Takes in what proxies say of the calls that their applications make: learns from it, and forgets what is not called any more. What
    /// proxies of unknown pods say is left alone.
    pub fn hear_calls(&mut self, calls: Vec<Calls>, now: Timestamp) {
        let mut services = BTreeSet::new();
        for calls in calls {
            let service = calls.node.service_key();
            let Some(built) = self.built.get(&service) else { continue };
            if !built.intent.pods.contains_key(calls.node.pod()) {
                continue;
            }
            let node = calls.node.clone();
            let Some(lazy) = self.index.lazy(&service, node.pod()).cloned() else {
                self.heard.pods.entry(node).or_default().take(calls);
                continue;
            };
            if matches!(lazy.load, Load::Learned(_)) {
                for host in &calls.unknown {
                    let learned = self.index.ask(&service, node.pod(), host, Why::Learned, now);
                    services.extend(learned.into_iter().flat_map(|(_, dirty)| dirty.services));
                }
            }
            let uses = self.heard.pods.entry(node.clone()).or_default();
            uses.take(calls);
            let is_due = uses.looked.is_none_or(|looked| now < looked || now.duration_since(looked) >= LOOK_EVERY);
            if is_due && uses.told.is_some() {
                uses.looked = Some(now);
                services.extend(forget(&mut self.index, &self.heard, &node, &lazy, now).services);
            }
        }
        self.publish_all(&services);
        self.keep_memories(now);
    }

    /// Takes in whom pods of services call, as Prometheus tells it: those that learn have it from now on.
    pub fn learn(&mut self, learned: Vec<Learned>, now: Timestamp) {
        let mut services = BTreeSet::new();
        for Learned { service, host } in learned {
            let Some(built) = self.built.get(&service) else { continue };
            for pod in built.intent.pods.keys() {
                let learns = |lazy: &Arc<Lazy>| matches!(lazy.load, Load::Learned(_));
                if self.index.lazy(&service, pod).is_some_and(learns) {
                    services.extend(self.index.learn(&service, pod, &host, now).services);
                }
            }
        }
        services.extend(self.index.let_go(now).services);
        self.publish_all(&services);
        self.keep_memories(now);
    }

    /// How a pod uses other services; `None`: its proxy has not told since this Weir hears it.
    #[must_use]
    pub fn uses(&self, node: &NodeKey) -> Option<&Uses> {
        self.heard.pods.get(node)
    }
}

/// Of what the pod has called and is shared out among others, those: a proxy counts its requests there.
fn arms_of_called(index: &Index, node: &NodeKey) -> BTreeMap<DestinationKey, Vec<DestinationKey>> {
    let service = &node.service_key();
    let asked = index.asked(service, node.pod()).into_iter().flat_map(|asked| asked.called.keys());
    let called = asked.filter_map(|called| match called {
        Called::Destination(key) => Some(key),
        _ => None,
    });
    let known = index.memory(service).map(|(key, _)| key);
    let arms = |key: &DestinationKey| -> Vec<DestinationKey> {
        let services = index.arms_of(&key.service);
        let ports = services.iter().flat_map(|arm| index.ports_of(arm)).map(|port| port.key.clone());
        ports.filter(|arm| arm != key).collect()
    };
    let all = called.chain(known).map(|key| (key.clone(), arms(key)));
    all.filter(|(_, arms)| !arms.is_empty()).collect()
}

/// Forgets what the application of a pod has not called for as long as `lazy` says, and lets go of the clusters of what was forgotten
/// before once nothing is under way to them.
fn forget(index: &mut Index, heard: &Heard, node: &NodeKey, lazy: &Lazy, now: Timestamp) -> Dirty {
    let service = &node.service_key();
    index.settle(service, node.pod());
    let Some(uses) = heard.pods.get(node) else { return Dirty::default() };
    let arms = arms_of_called(index, node);
    let use_of = |key: &DestinationKey| uses.of_any([key].into_iter().chain(arms.get(key).into_iter().flatten()));
    index.remember_use(service, now, |key| use_of(key)?.last);
    let mut dirty = Dirty::default();
    // Told well since then: what the proxy counted before it took the host away is of the time in which requests still came.
    let told_since = |ask: &Ask| uses.told.is_some_and(|told| told.duration_since(ask.used) >= SETTLES);
    let gone = |called: &Called, ask: &Ask| match called {
        Called::Destination(key) if ask.leaving && told_since(ask) => {
            use_of(key).is_none_or(|seen| seen.active == 0).then(|| key.clone())
        }
        _ => None,
    };
    let asked = index.asked(service, node.pod()).into_iter().flat_map(|asked| &asked.called);
    for key in asked.filter_map(|(called, ask)| gone(called, ask)).collect::<Vec<_>>() {
        dirty.services.extend(index.left(service, node.pod(), &key).services);
    }
    let Some(after) = lazy.forget_after.and_then(|after| SignedDuration::try_from(after).ok()) else { return dirty };
    let shared: BTreeSet<DestinationKey> = match lazy.prewarm {
        // The workload forgets it as one.
        true => index.memory(service).map(|(key, _)| key.clone()).collect(),
        false => BTreeSet::new(),
    };
    let idle = |called: &Called, ask: &Ask| {
        let last = match called {
            Called::Destination(key) if shared.contains(key) => return false,
            Called::Destination(key) => use_of(key).and_then(|seen| seen.last),
            Called::Host(_) | Called::Address(_) | Called::Name(..) => None,
        };
        now.duration_since(last.map_or(ask.used, |last| last.max(ask.used))) >= after
    };
    dirty.services.extend(index.forget(service, node.pod(), now, idle).services);
    let is_heard = |pod: &str| heard.pods.get(&NodeKey::of(service, pod)).is_some_and(|uses| uses.told.is_some());
    dirty.services.extend(index.forget_remembered(service, now, after, lazy.prewarm, is_heard).services);
    dirty
}

#[cfg(test)]
mod tests;
