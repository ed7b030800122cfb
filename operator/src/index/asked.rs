//! What proxies have asked for, where a `LazyConfig` has them start with nothing.
//!
//! Kept by pod, since each proxy has what it alone has called. A host is looked up again whenever what is known of it changes, so
//! one that was unknown becomes real with its Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::Timestamp;
use limiter::lazy::{Callee, Lazy, Load, UnknownHosts};
use serde::{Deserialize, Serialize};

use super::{Dirty, Index};
use crate::intent::{Called, DestinationKey, Protocol, ServiceKey};

mod memory;
mod streams;

pub use self::{
    memory::{Known, MOST_REMEMBERED, Memories, Remembered},
    streams::{MOST_STREAMS, Reached},
};

/// Hosts that nothing is known of, by pod: of more the oldest half is forgotten at once, since each time the proxy asks again for
/// all that it called before.
pub const MOST_UNKNOWN: usize = 1_000;
/// Destinations by pod; of more the one that was not used for longest is forgotten.
pub const MOST_LOADED: usize = 2_000;
/// Longest host that is kept: the longest name of DNS with a port.
const LONGEST_HOST: usize = 259;

/// Why something is at a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Why {
    /// The `LazyConfig` lists it under `always`.
    Declared,
    /// The proxy has asked for it.
    OnDemand,
    /// It was called while requests for it went elsewhere.
    Learned,
}

/// One thing that a pod has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Why it is there.
    pub why: Why,
    /// Since when.
    pub since: Timestamp,
    /// When it was asked for last, or was forgotten. That it is called is told elsewhere.
    pub used: Timestamp,
    /// It is forgotten; its cluster stays until the proxy has said that nothing is in it.
    pub leaving: bool,
}

/// All that one pod has asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Counts how often something was forgotten.
    pub round: u32,
    /// What, and what is known of its use.
    pub called: BTreeMap<Called, Ask>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Asks {
    pods: BTreeMap<(ServiceKey, String), Asked>,
    /// How many pods have asked for something of a service, by the service that is called, whether it is there or not, and their own.
    callers: BTreeMap<ServiceKey, BTreeMap<ServiceKey, usize>>,
    /// The same by address.
    callers_at: BTreeMap<IpAddr, BTreeMap<ServiceKey, usize>>,
    /// What pods of each service call, those that are gone among them. Counts as one of them.
    memory: memory::All,
    /// How often something was forgotten, whatever for.
    forgotten: u64,
}

/// What is there for a pod.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// What it may call, and why it is there.
    pub destinations: BTreeMap<DestinationKey, Why>,
    /// Of those, or gone from them, what has no host any more but is still in use.
    pub leaving: BTreeSet<DestinationKey>,
    /// What it has called and is not there any more.
    pub gone: BTreeSet<DestinationKey>,
    /// Hosts that it has called and that are nothing.
    pub unknown: BTreeSet<String>,
    /// Connections that it has asked about, and where they go.
    pub streams: BTreeMap<Called, Reached>,
}

impl Index {
    /// Takes in that the proxy of a pod asks for `host`, as a request names it. Returns what that is now, and the services touched.
    /// `None`: the pod has everything, or is none that calls.
    pub fn ask(
        &mut self,
        service: &ServiceKey,
        pod: &str,
        host: &str,
        why: Why,
        now: Timestamp,
    ) -> Option<(Called, Dirty)> {
        let lazy = self.lazy(service, pod)?.clone();
        if !is_name(host) {
            return Some((Called::Host(String::new()), Dirty::default()));
        }
        let called = match self.resolve(service, &lazy, host) {
            Some(key) => Called::Destination(key),
            None => Called::Host(host.to_owned()),
        };
        let dirty = self.load(service, pod, called.clone(), why, now);
        Some((called, dirty))
    }

    /// Takes in that the application of a pod calls `host`, as somebody else has seen. What is nothing here is left alone.
    pub fn learn(&mut self, service: &ServiceKey, pod: &str, host: &str, now: Timestamp) -> Dirty {
        let known = self.lazy(service, pod).and_then(|lazy| self.resolve(service, lazy, host));
        known.map_or_else(Dirty::default, |key| self.load(service, pod, Called::Destination(key), Why::Learned, now))
    }

    /// Takes in that the proxy of a pod has something, from another Weir or another run. What it may not have is not taken in.
    pub fn holds(&mut self, service: &ServiceKey, pod: &str, called: Called, now: Timestamp) -> Dirty {
        let Some(lazy) = self.lazy(service, pod).cloned() else { return Dirty::default() };
        let may = match &called {
            Called::Destination(key) => may_load(&lazy, key),
            Called::Host(host) => is_name(host),
            Called::Address(_) | Called::Name(..) => return self.ask_stream(service, pod, called, now),
        };
        // What is listed is there in any case; a destination that was deleted meanwhile stays, as it would have without a restart.
        match may && lazy.load != Load::Declared {
            true => self.load(service, pod, called, Why::OnDemand, now),
            false => Dirty::default(),
        }
    }

    /// Takes in that the proxy of a pod has started, and so has nothing: what the one before it had called is called again, or not.
    pub fn starts(&mut self, service: &ServiceKey, pod: &str) -> Dirty {
        let Some(lazy) = self.lazy(service, pod) else { return Dirty::default() };
        if lazy.prewarm {
            self.wake(service);
            // What it has from the start is known by this.
            self.asks.pods.entry((service.clone(), pod.to_owned())).or_default();
            return Dirty::default();
        }
        let Some(asked) = self.asks.pods.remove(&(service.clone(), pod.to_owned())) else { return Dirty::default() };
        asked.called.keys().for_each(|called| self.asks.discount(service, called));
        super::dirty([service.clone()])
    }

    /// Takes in that a proxy does not have something any more.
    pub fn dropped(&mut self, service: &ServiceKey, pod: &str, called: &Called) -> Dirty {
        self.drop_ask(service, pod, called);
        super::dirty([service.clone()])
    }

    /// Takes in how often a proxy has been told to ask again.
    pub fn holds_round(&mut self, service: &ServiceKey, pod: &str, round: u32) -> Dirty {
        if self.lazy(service, pod).is_none() {
            return Dirty::default();
        }
        let asked = self.asks.pods.entry((service.clone(), pod.to_owned())).or_default();
        // A proxy that is behind is told to ask again, as it should have been.
        if asked.round >= round {
            return Dirty::default();
        }
        asked.round = round;
        super::dirty([service.clone()])
    }

    fn load(&mut self, service: &ServiceKey, pod: &str, called: Called, why: Why, now: Timestamp) -> Dirty {
        if let Called::Destination(key) = &called {
            self.asks.remember(service, key, why, now);
        }
        let asked = self.asks.pods.entry((service.clone(), pod.to_owned())).or_default();
        if let Some(known) = asked.called.get_mut(&called) {
            known.used = known.used.max(now);
            let came_back = std::mem::take(&mut known.leaving);
            return if came_back { super::dirty([service.clone()]) } else { Dirty::default() };
        }
        let is_host = matches!(called, Called::Host(_));
        let alike = |other: &Called| !other.is_stream() && matches!(other, Called::Host(_)) == is_host;
        let count = asked.called.iter().filter(|(other, ask)| alike(other) && !ask.leaving).count();
        let too_many = match is_host {
            true if count >= MOST_UNKNOWN => MOST_UNKNOWN / 2,
            false if count >= MOST_LOADED => 1,
            _ => 0,
        };
        let mut oldest: Vec<_> = match too_many {
            0 => Vec::new(),
            _ => {
                let staying = asked.called.iter().filter(|(other, ask)| alike(other) && !ask.leaving);
                staying.map(|(other, ask)| (ask.used, other.clone())).collect()
            }
        };
        oldest.sort();
        oldest.truncate(too_many);
        if !oldest.is_empty() {
            asked.round += 1;
            self.asks.forgotten += oldest.len() as u64;
        }
        asked.called.insert(called.clone(), Ask { why, since: now, used: now, leaving: false });
        self.asks.count(service, &called);
        for (_, other) in oldest {
            match &other {
                Called::Destination(_) => self.leave(service, pod, &other, now),
                _ => self.drop_ask(service, pod, &other),
            }
        }
        super::dirty([service.clone()])
    }

    /// Its host goes, its cluster stays until [`Self::left`].
    fn leave(&mut self, service: &ServiceKey, pod: &str, called: &Called, now: Timestamp) {
        let asked = self.asks.pods.get_mut(&(service.clone(), pod.to_owned()));
        if let Some(ask) = asked.and_then(|asked| asked.called.get_mut(called)) {
            ask.leaving = true;
            ask.used = now;
        }
    }

    /// Hosts that were unknown when the pod called them and are something now are kept as that, whose use is told.
    pub fn settle(&mut self, service: &ServiceKey, pod: &str) {
        let Some(lazy) = self.lazy(service, pod).cloned() else { return };
        let known = |called: &Called| {
            let Called::Host(host) = called else { return None };
            Some((called.clone(), Called::Destination(self.resolve(service, &lazy, host)?)))
        };
        let settled: Vec<_> =
            self.asked(service, pod).into_iter().flat_map(|it| it.called.keys()).filter_map(known).collect();
        for (host, destination) in settled {
            let Some(asked) = self.asks.pods.get_mut(&(service.clone(), pod.to_owned())) else { return };
            let Some(ask) = asked.called.remove(&host) else { continue };
            let is_new = !asked.called.contains_key(&destination);
            let ask = asked.called.entry(destination.clone()).or_insert(ask);
            ask.leaving = false;
            let (why, used) = (ask.why, ask.used);
            if let Called::Destination(key) = &destination {
                self.asks.remember(service, key, why, used);
            }
            self.asks.discount(service, &host);
            if is_new {
                self.asks.count(service, &destination);
            }
        }
    }

    /// Forgets what `which` says of all that the pod has asked for: its hosts at once, its cluster when [`Self::left`] says so.
    pub fn forget(
        &mut self,
        service: &ServiceKey,
        pod: &str,
        now: Timestamp,
        which: impl Fn(&Called, &Ask) -> bool,
    ) -> Dirty {
        let Some(asked) = self.asks.pods.get_mut(&(service.clone(), pod.to_owned())) else { return Dirty::default() };
        let forgotten =
            asked.called.iter_mut().filter(|(called, ask)| !called.is_stream() && !ask.leaving && which(called, ask));
        let mut hosts = Vec::new();
        let mut count = 0;
        for (called, ask) in forgotten {
            count += 1;
            match called {
                Called::Host(_) => hosts.push(called.clone()),
                Called::Destination(_) => {
                    ask.leaving = true;
                    ask.used = now;
                }
                Called::Address(_) | Called::Name(..) => {}
            }
        }
        if count == 0 {
            return Dirty::default();
        }
        asked.round += 1;
        self.asks.forgotten += count;
        for host in hosts {
            self.drop_ask(service, pod, &host);
        }
        super::dirty([service.clone()])
    }

    /// Nothing is under way any more to a destination that was forgotten.
    pub fn left(&mut self, service: &ServiceKey, pod: &str, key: &DestinationKey) -> Dirty {
        let called = Called::Destination(key.clone());
        let asked = self.asks.pods.get(&(service.clone(), pod.to_owned()));
        match asked.and_then(|asked| asked.called.get(&called)) {
            Some(Ask { leaving: true, .. }) => {
                self.drop_ask(service, pod, &called);
                super::dirty([service.clone()])
            }
            _ => Dirty::default(),
        }
    }

    /// A service or one of its pods is gone.
    pub fn forget_asks_of(&mut self, service: &ServiceKey, is_there: impl Fn(&str) -> bool) {
        let pods = self.asks_of(service).map(|(pod, _)| pod);
        let gone: Vec<String> = pods.filter(|pod| !is_there(pod)).map(str::to_owned).collect();
        for pod in gone {
            let asked = self.asks.pods.remove(&(service.clone(), pod));
            for called in asked.iter().flat_map(|asked| asked.called.keys()) {
                self.asks.discount(service, called);
            }
        }
    }

    fn drop_ask(&mut self, service: &ServiceKey, pod: &str, called: &Called) {
        let asked = self.asks.pods.get_mut(&(service.clone(), pod.to_owned()));
        if asked.is_some_and(|asked| asked.called.remove(called).is_some()) {
            self.asks.discount(service, called);
        }
    }

    /// What the pod has asked for.
    #[must_use]
    pub fn asked(&self, service: &ServiceKey, pod: &str) -> Option<&Asked> {
        self.asks.pods.get(&(service.clone(), pod.to_owned()))
    }

    /// The service's pods that have asked for something.
    pub fn asks_of<'a>(&'a self, service: &'a ServiceKey) -> impl Iterator<Item = (&'a str, &'a Asked)> {
        self.asks.pods_of(service)
    }

    /// How often something was forgotten at a proxy: it was not called for long, or others took its place.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.asks.forgotten
    }

    /// What is there for the pod, for which `lazy` holds.
    #[must_use]
    pub fn loaded(&self, service: &ServiceKey, pod: &str, lazy: &Lazy) -> Loaded {
        let mut loaded = Loaded::default();
        for callee in &lazy.always {
            self.expand(callee, &mut |key| {
                loaded.destinations.insert(key, Why::Declared);
            });
        }
        for (called, ask) in self.asked(service, pod).into_iter().flat_map(|asked| &asked.called) {
            let key = match called {
                Called::Destination(key) => Some(key.clone()),
                Called::Host(host) => self.resolve(service, lazy, host),
                Called::Address(_) | Called::Name(..) => {
                    loaded.streams.insert(called.clone(), self.reach(service, lazy, called));
                    continue;
                }
            };
            match (key, called) {
                // What it may not have any more.
                (Some(key), _) if !may_load(lazy, &key) => {}
                (Some(key), _) if ask.leaving => drop(loaded.leaving.insert(key)),
                (Some(key), _) if !key.is_outside() && self.destination(&key).is_none() => {
                    loaded.gone.insert(key);
                }
                (Some(key), _) => drop(loaded.destinations.entry(key).or_insert(ask.why)),
                (None, Called::Host(host)) => drop(loaded.unknown.insert(host.clone())),
                (None, _) => {}
            }
        }
        if lazy.prewarm {
            let there = |key: &DestinationKey| key.is_outside() || self.destination(key).is_some();
            for (key, known) in self.memory(service).filter(|(key, _)| may_load(lazy, key) && there(key)) {
                loaded.destinations.entry(key.clone()).or_insert(known.why);
            }
        }
        loaded.destinations.retain(|key, _| {
            !lazy.never.iter().any(|callee| callee.covers(&key.service.namespace, &key.service.name, key.port))
        });
        loaded.leaving.retain(|key| !loaded.destinations.contains_key(key));
        loaded
    }

    /// Every destination that `callee` means now.
    fn expand(&self, callee: &Callee, take: &mut dyn FnMut(DestinationKey)) {
        match callee {
            Callee::Service { namespace, name, port } => {
                let service = ServiceKey { namespace: namespace.clone(), name: name.clone() };
                let ports = self.ports_of(&service).iter().map(|destination| &destination.key);
                ports.filter(|key| port.is_none_or(|port| port == key.port)).cloned().for_each(take);
            }
            Callee::Namespace(namespace) => {
                let all = self.destinations().filter(|(service, _)| service.namespace == *namespace);
                all.flat_map(|(_, ports)| ports).for_each(|destination| take(destination.key.clone()));
            }
            Callee::Everything => {
                self.destinations().flat_map(|(_, ports)| ports).for_each(|destination| take(destination.key.clone()));
            }
            Callee::Domain { name, port } => take(DestinationKey::outside(name, port.unwrap_or(80))),
            Callee::Domains(_) => {} // not before one of them is called
        }
    }

    /// What an application of `service`'s pods means by `host`, if `lazy` lets it have that.
    fn resolve(&self, service: &ServiceKey, lazy: &Lazy, host: &str) -> Option<DestinationKey> {
        // Bytes have no host.
        self.resolve_of(service, lazy, host, |protocol| protocol != Protocol::Tcp)
    }

    /// As [`Self::resolve`], of what speaks a protocol that `fits`.
    fn resolve_of(
        &self,
        service: &ServiceKey,
        lazy: &Lazy,
        host: &str,
        fits: impl Fn(Protocol) -> bool,
    ) -> Option<DestinationKey> {
        if !is_name(host) {
            return None;
        }
        let (name, port) = split(host);
        if let Some(called) = of_cluster(&service.namespace, name) {
            let ports = self.ports_of(&called);
            // A host without a port means 80, as everywhere in HTTP; with a single port there is no doubt either.
            let found = match (port, ports) {
                (Some(port), _) => ports.iter().find(|destination| destination.key.port == port),
                (None, [only]) => Some(only),
                (None, _) => ports.iter().find(|destination| destination.key.port == 80),
            };
            let found = found.filter(|found| fits(found.protocol));
            if let Some(found) = found.filter(|found| may_load(lazy, &found.key)) {
                return Some(found.key.clone());
            }
        }
        let name = name.trim_matches(['[', ']']);
        let key = DestinationKey::outside(name, port.unwrap_or(80));
        let is_outside = name.contains('.') || name.parse::<IpAddr>().is_ok();
        let allowed = is_outside && (lazy.unknown_hosts == UnknownHosts::Passthrough || lists(lazy, &key));
        (allowed && may_load(lazy, &key)).then_some(key)
    }

    /// Services with a pod that has something of `service` or would, if it were there.
    pub(super) fn lazy_callers(&self, service: &ServiceKey) -> impl Iterator<Item = &ServiceKey> {
        self.asks.callers.get(service).into_iter().flat_map(BTreeMap::keys)
    }

    /// Services with a pod that has asked about connections to this address.
    pub(super) fn lazy_callers_at(&self, address: IpAddr) -> impl Iterator<Item = &ServiceKey> {
        self.asks.callers_at.get(&address).into_iter().flat_map(BTreeMap::keys)
    }
}

impl Asks {
    fn pods_of<'a>(&'a self, service: &'a ServiceKey) -> impl Iterator<Item = (&'a str, &'a Asked)> {
        let first = (service.clone(), String::new());
        let pods = self.pods.range(first..).take_while(move |((of, _), _)| of == service);
        pods.map(|((_, pod), asked)| (pod.as_str(), asked))
    }

    fn count(&mut self, caller: &ServiceKey, called: &Called) {
        if let Called::Address(address) = called {
            count(&mut self.callers_at, address.ip(), caller);
        } else if let Some(service) = service_of(caller, called) {
            count(&mut self.callers, service, caller);
        }
    }

    fn discount(&mut self, caller: &ServiceKey, called: &Called) {
        if let Called::Address(address) = called {
            discount(&mut self.callers_at, &address.ip(), caller);
        } else if let Some(service) = service_of(caller, called) {
            discount(&mut self.callers, &service, caller);
        }
    }
}

fn count<K: Ord>(by: &mut BTreeMap<K, BTreeMap<ServiceKey, usize>>, key: K, caller: &ServiceKey) {
    *by.entry(key).or_default().entry(caller.clone()).or_default() += 1;
}

fn discount<K: Ord>(by: &mut BTreeMap<K, BTreeMap<ServiceKey, usize>>, key: &K, caller: &ServiceKey) {
    let Some(callers) = by.get_mut(key) else { return };
    if let Some(count) = callers.get_mut(caller) {
        *count -= 1;
        if *count == 0 {
            callers.remove(caller);
        }
    }
    if callers.is_empty() {
        by.remove(key);
    }
}

/// The service whose coming and going matters for what was called.
fn service_of(caller: &ServiceKey, called: &Called) -> Option<ServiceKey> {
    match called {
        Called::Destination(key) => (!key.is_outside()).then(|| key.service.clone()),
        Called::Host(host) => of_cluster(&caller.namespace, split(host).0),
        Called::Name(name, _) => of_cluster(&caller.namespace, name),
        Called::Address(_) => None,
    }
}

/// Whether `lazy` lists this under `always`.
#[must_use]
pub fn lists(lazy: &Lazy, key: &DestinationKey) -> bool {
    lazy.always.iter().any(|callee| callee.covers(&key.service.namespace, &key.service.name, key.port))
}

/// Whether `lazy` lets a proxy have this at all.
#[must_use]
pub fn may_load(lazy: &Lazy, key: &DestinationKey) -> bool {
    let of = |callees: &[Callee]| {
        callees.iter().any(|callee| callee.covers(&key.service.namespace, &key.service.name, key.port))
    };
    !of(&lazy.never) && (lazy.load != Load::Declared || of(&lazy.always))
}

/// Name and port of a host. An IPv6 address stands in brackets.
fn split(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() => match port.parse() {
            Ok(port) if port > 0 && (!name.contains(':') || name.ends_with(']')) => (name, Some(port)),
            _ => (host, None),
        },
        _ => (host, None),
    }
}

/// The Service that cluster DNS knows by this name, for a caller of `namespace`.
fn of_cluster(namespace: &str, name: &str) -> Option<ServiceKey> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let short = name.strip_suffix(".svc.cluster.local").or_else(|| name.strip_suffix(".svc"));
    let (name, namespace) = match (short.unwrap_or(name).split_once('.'), short) {
        (Some((name, of)), _) => (name, of),
        (None, None) => (name, namespace),
        (None, Some(_)) => return None,
    };
    let is_label = |text: &str| !text.is_empty() && !text.contains('.');
    (is_label(name) && is_label(namespace))
        .then(|| ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Whether a host of a request can be kept as one: what else a client may write there, Envoy would take for a pattern, or it is no name
/// of anything.
#[must_use]
pub fn is_name(host: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    let (name, port) = split(host);
    !host.is_empty()
        && host.len() <= LONGEST_HOST
        && host.chars().all(fits)
        && !host.contains(|c: char| c.is_ascii_uppercase())
        && (port.is_some() || !name.contains(':') || name.starts_with('['))
}

#[cfg(test)]
mod tests;
