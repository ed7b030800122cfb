//! What the proxies of a service do on the way out: as callers of other services, or as a gateway in front of them.
//!
//! Every listener routes by host. The limits of a service that are enforced here come as shapes and numbers of its own
//! decisions; a total is divided among all pods that enforce it, wherever they are.

mod lazy;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use limiter::policy::{EnforceAt, RequestMatch};

use super::{Report, RuleKey, Trouble, build_routes, decide::Rules, gateway, limited::Limited, routes::Regions, split};
use crate::{
    index::{Enforcer, Index, ServiceView},
    intent::{
        Bounds, Destination, DestinationKey, Forward, Host, Intercepted, LimitShape, LimitValue, Outbound, PodIntent,
        Protocol, ServiceIntent, ServiceKey, Strays,
    },
};

/// Gives the pods of `intent`, which is that of `view`, their listeners for requests to other services. `decided` tells what is
/// decided about a service. Returns reports about rules of those services that could not be carried out here.
#[must_use]
pub fn outbound<'a>(
    view: &ServiceView<'_>,
    index: &'a Index,
    decided: &dyn Fn(&ServiceKey) -> Option<&'a Rules>,
    intent: &mut ServiceIntent,
) -> Vec<Report> {
    let mut troubles = Troubles::default();
    let caller = Caller { service: view.key, index, decided };
    let calling = view.endpoints.iter().filter_map(|(pod, endpoint)| Some((*pod, endpoint.outbound?)));
    let (lazy, eager): (Vec<_>, Vec<_>) = calling.partition(|(pod, _)| index.lazy(view.key, pod).is_some());
    if !eager.is_empty() {
        let all = Listener::new(EnforceAt::Client, caller.calls(&mut troubles), index);
        let intercepted =
            eager.iter().any(|(_, way_out)| way_out.intercepts).then(|| intercepted(index, &view.key.namespace));
        for (pod, way_out) in eager {
            let intercepted = intercepted.as_ref().filter(|_| way_out.intercepts);
            all.add(view.key, pod, way_out.listener, intercepted, intent);
        }
    }
    lazy::add(&caller, &lazy, intent, &mut troubles);
    for (port, hosts) in gateway::listeners(view, index, decided, &mut troubles) {
        let all = Listener::new(EnforceAt::Gateway, hosts, index);
        for (pod, endpoint) in &view.endpoints {
            all.add(view.key, pod, (endpoint.address, port).into(), None, intent);
        }
    }
    troubles.0.into_values().collect()
}

/// A listener with all that leads on from it, the same for several pods but for their numbers.
struct Listener {
    place: EnforceAt,
    hosts: Vec<Plan>,
    destinations: Vec<Arc<Destination>>,
    bounds: BTreeMap<DestinationKey, Bounds>,
}

impl Listener {
    fn new(place: EnforceAt, hosts: Vec<Plan>, index: &Index) -> Self {
        let used: BTreeSet<&DestinationKey> = hosts.iter().flat_map(Plan::destinations).collect();
        let destinations = used.into_iter().map(|key| destination(index, key)).collect();
        let bounds = hosts.iter().flat_map(Plan::bounds).map(|(key, bounds)| (key.clone(), bounds)).collect();
        Self { place, hosts, destinations, bounds }
    }

    /// `intercepted`: with the destinations that it leads to.
    fn add(
        &self,
        service: &ServiceKey,
        pod: &str,
        listener: SocketAddr,
        intercepted: Option<&(Intercepted, Vec<Arc<Destination>>)>,
        intent: &mut ServiceIntent,
    ) {
        let Some(pod_intent) = intent.pods.get_mut(pod) else { return };
        let hosts = self.hosts.iter().map(|plan| plan.of_pod(&service.namespace, pod)).collect();
        let (intercepted, bytes) = intercepted.cloned().unzip();
        pod_intent.outbound.push(Outbound { place: self.place, listener, hosts, partial: None, intercepted });
        let destinations = self.destinations.iter().cloned().chain(bytes.into_iter().flatten());
        lead(pod_intent, destinations, self.bounds.iter().map(|(key, of)| (key.clone(), *of)));
    }
}

/// What happens to connections that are not HTTP, where all Services are known; with the destinations of those.
fn intercepted(index: &Index, callers: &str) -> (Intercepted, Vec<Arc<Destination>>) {
    let mut taken = BTreeSet::new();
    let mut services = Vec::new();
    let mut destinations = Vec::new();
    for (service, ports) in index.destinations() {
        for port in ports.iter().filter(|port| port.protocol == Protocol::Tcp) {
            let mut addresses = index.addresses_of(service).to_vec();
            // Envoy refuses a listener with the same address and port twice.
            addresses.retain(|address| taken.insert((*address, port.key.port)));
            if !addresses.is_empty() {
                services.push((port.key.clone(), addresses));
                destinations.push(split::of_bytes(index, port, callers));
            }
        }
    }
    (Intercepted { services, passed_on: Vec::new(), others: Strays::PassedOn }, destinations)
}

/// Gives a pod these destinations too, and these bounds.
fn lead(
    pod: &mut PodIntent,
    destinations: impl Iterator<Item = Arc<Destination>>,
    bounds: impl Iterator<Item = (DestinationKey, Bounds)>,
) {
    pod.destinations.extend(destinations);
    pod.destinations.sort_by(|one, other| one.key.cmp(&other.key));
    pod.destinations.dedup_by(|one, other| one.key == other.key);
    pod.outbound_bounds.extend(bounds);
    pod.outbound_bounds.sort_by(|(one, _), (other, _)| one.cmp(other));
    // Two places may bound one destination: what both allow.
    pod.outbound_bounds.dedup_by(|(key, bounds), (kept, both)| {
        let same = key == kept;
        if same {
            *both = both.and(*bounds);
        }
        same
    });
}

/// What is behind a destination that a proxy has. Bytes have no proxy of theirs that speaks HTTP: the status says that they are answered 503.
fn destination(index: &Index, key: &DestinationKey) -> Arc<Destination> {
    if key.is_outside() {
        let dns = Some((key.service.name.clone(), key.port));
        return Arc::new(Destination { dns, ..Destination::of(key.clone(), Protocol::Http, Vec::new()) });
    }
    let known = index.destination(key).filter(|known| known.protocol != Protocol::Tcp);
    let known = known.cloned().unwrap_or_else(|| nowhere(key));
    if index.is_arm(&key.service) {
        Arc::new(Destination { is_arm: true, ..Destination::clone(&known) })
    } else {
        known
    }
}

/// A cluster that is named and is not there for HTTP: its requests are answered 503, and the status says which route names it.
fn nowhere(key: &DestinationKey) -> Arc<Destination> {
    Arc::new(Destination::of(key.clone(), Protocol::Http, Vec::new()))
}

/// Rules that could not be carried out here.
#[derive(Default)]
pub(super) struct Troubles(BTreeMap<RuleKey, Report>);

impl Troubles {
    fn too_many(&mut self, key: &RuleKey) {
        let report =
            Report { key: key.clone(), shares: Vec::new(), bound: None, trouble: Some(Trouble::TooManyRoutes) };
        self.0.insert(key.clone(), report);
    }
}

/// A host with what its numbers are for every pod.
pub(super) struct Plan {
    /// Without numbers.
    host: Arc<Host>,
    /// By position in the host's limits.
    numbers: Vec<Numbers>,
    /// Most requests in flight to each service, where a limit that steers itself comes with a bound.
    bounds: BTreeMap<ServiceKey, Bounds>,
}

impl Plan {
    pub(super) fn new(name: String, domains: Vec<String>, rules: &[Charged<'_>], routes: Vec<Forward>) -> Self {
        let limits: Vec<LimitShape> = rules.iter().flat_map(|rule| rule.shapes.clone()).collect();
        let numbers: Vec<Numbers> = rules.iter().flat_map(|rule| rule.numbers.clone()).collect();
        let values = vec![None; limits.len()];
        let mut bounds: BTreeMap<ServiceKey, Bounds> = BTreeMap::new();
        for (rule, (all, below)) in rules.iter().filter_map(|rule| Some((rule, rule.bounds?))) {
            bounds.entry(rule.service().clone()).or_default().tighten(all, below);
        }
        Self { host: Arc::new(Host { name, domains, limits, routes, values }), numbers, bounds }
    }

    /// All that it may lead to.
    pub(super) fn destinations(&self) -> impl Iterator<Item = &DestinationKey> {
        self.host.routes.iter().flat_map(|forward| &forward.to).map(|(destination, _)| destination)
    }

    fn bounds(&self) -> impl Iterator<Item = (&DestinationKey, Bounds)> {
        self.destinations().filter_map(|key| Some((key, *self.bounds.get(&key.service)?)))
    }

    fn of_pod(&self, namespace: &str, pod: &str) -> Arc<Host> {
        if self.numbers.is_empty() {
            return Arc::clone(&self.host);
        }
        let values = self.numbers.iter().map(|numbers| numbers.of_pod(namespace, pod)).collect();
        Arc::new(Host { values, ..Host::clone(&self.host) })
    }
}

/// A limit's numbers, and which pod has which.
#[derive(Clone)]
struct Numbers {
    values: Vec<LimitValue>,
    enforcers: Arc<[Enforcer]>,
}

impl Numbers {
    /// As at a server: a pod that is not ready has the smallest share.
    fn of_pod(&self, namespace: &str, pod: &str) -> Option<LimitValue> {
        let mut ready = self.enforcers.iter().filter(|enforcer| enforcer.ready);
        let place = ready.position(|enforcer| enforcer.namespace == namespace && enforcer.pod == pod);
        place.and_then(|place| self.values.get(place)).or(self.values.last()).copied()
    }
}

/// A rule of another service that is enforced here.
pub(super) struct Charged<'a> {
    limited: Limited<'a>,
    /// Its own limit's, then those of its classes.
    shapes: Vec<LimitShape>,
    /// By shape.
    numbers: Vec<Numbers>,
    /// Most requests in flight at each pod: of all, and of those below the first class.
    bounds: Option<(u32, u32)>,
}

impl Charged<'_> {
    /// The service whose requests it limits.
    pub(super) fn service(&self) -> &ServiceKey {
        &self.limited.key.service
    }
}

/// The rules of `service` that are enforced at `place`.
pub(super) fn charged<'a>(
    service: &ServiceKey,
    place: EnforceAt,
    index: &'a Index,
    decided: &dyn Fn(&ServiceKey) -> Option<&'a Rules>,
) -> Vec<Charged<'a>> {
    let mut enforcers: Option<Arc<[Enforcer]>> = None;
    let mut found = Vec::new();
    for policy in index.enforced_elsewhere(service, place) {
        for rule in &policy.rules {
            let enforcers = enforcers.get_or_insert_with(|| index.enforcers(service, place).into());
            let key = RuleKey { service: service.clone(), policy: policy.key.clone(), rule: rule.name.clone() };
            let decision = decided(service).and_then(|rules| rules.decision(&key));
            let limited = Limited::new(key, policy, rule);
            let ready = enforcers.iter().filter(|enforcer| enforcer.ready).count();
            let mut values =
                decision.and_then(|decision| limited.values(decision, ready)).unwrap_or_default().into_iter();
            let mut shapes: Vec<LimitShape> = limited.shapes().collect();
            // One listener counts for several services.
            shapes.iter_mut().for_each(|shape| shape.bucket = format!("{}/{}", shape.bucket, service.name));
            let numbers = shapes.iter().map(|_| {
                let values = values.next().unwrap_or_default();
                Numbers { values, enforcers: Arc::clone(enforcers) }
            });
            let numbers = numbers.collect();
            let bounds = decision.and_then(|decision| limited.bounds(decision, ready));
            found.push(Charged { limited, shapes, numbers, bounds });
        }
    }
    found
}

/// Routes for the requests that all of `within` fit, charged by those of `rules` that `applies` chooses.
pub(super) fn forwards(
    within: Vec<RequestMatch>,
    rules: &[Charged<'_>],
    applies: impl Fn(&Charged<'_>) -> bool,
    to: &[(DestinationKey, u32)],
    troubles: &mut Troubles,
) -> Vec<Forward> {
    let mut numbered = Vec::new();
    let mut limits = 0;
    for rule in rules {
        if applies(rule) {
            numbered.push((&rule.limited, limits));
        }
        limits += rule.shapes.len();
    }
    let (routes, left_out) = build_routes(Regions::within(within), &numbered, limits);
    left_out.into_iter().for_each(|number| troubles.too_many(&numbered[number].0.key));
    routes.into_iter().map(|route| Forward { route, to: to.to_vec(), sticky: None }).collect()
}

/// The pods of a service, as they call others.
struct Caller<'a, 'd> {
    service: &'d ServiceKey,
    index: &'a Index,
    decided: &'d dyn Fn(&ServiceKey) -> Option<&'a Rules>,
}

impl Caller<'_, '_> {
    /// Hosts for every service that speaks HTTP, as an application may name it.
    fn calls(&self, troubles: &mut Troubles) -> Vec<Plan> {
        let namespace = &self.service.namespace;
        let mut plans = Vec::new();
        // Envoy refuses a domain that two hosts have. The nearer name wins: the caller's own namespace comes first.
        let mut taken = BTreeSet::new();
        let (near, far): (Vec<_>, Vec<_>) =
            self.index.destinations().partition(|(service, _)| service.namespace == *namespace);
        for (_, ports) in near.into_iter().chain(far) {
            for destination in ports.iter().filter(|destination| destination.protocol != Protocol::Tcp) {
                let mut domains = self.domains(&destination.key, ports.len());
                domains.retain(|domain| taken.insert(domain.clone()));
                if !domains.is_empty() {
                    plans.push(self.plan(&destination.key, domains, troubles));
                }
            }
        }
        plans
    }

    /// A host for one destination, or for those that its requests are shared out to.
    fn plan(&self, key: &DestinationKey, domains: Vec<String>, troubles: &mut Troubles) -> Plan {
        let Some(division) = split::division(self.index, key, &self.service.namespace) else {
            let rules = self.charged(&key.service);
            let routes = forwards(Vec::new(), &rules, |_| true, &[(key.clone(), 1)], troubles);
            return Plan::new(key.to_string(), domains, &rules, routes);
        };
        let services: BTreeSet<&ServiceKey> = division.services().chain([&key.service]).collect();
        let rules: Vec<Charged<'_>> = services.into_iter().flat_map(|service| self.charged(service)).collect();
        let mut routes = Vec::new();
        for one in &division.rules {
            // As at a gateway: the limits of an arm apply wherever requests may go to it.
            let applies = |rule: &Charged<'_>| {
                let leads = one.to.iter().any(|(to, share)| *share > 0 && to.service == *rule.service());
                leads || *rule.service() == key.service
            };
            let to = division.laid_out(&one.to);
            for mut forward in forwards(one.within.clone(), &rules, applies, &to, troubles) {
                forward.route.name = format!("{}/{}", one.name, forward.route.name);
                forward.sticky.clone_from(&division.sticky);
                routes.push(forward);
            }
        }
        Plan::new(key.to_string(), domains, &rules, routes)
    }

    /// The rules of `service` that its callers here enforce.
    fn charged(&self, service: &ServiceKey) -> Vec<Charged<'_>> {
        match self.index.limits_callers(service, &self.service.namespace) {
            true => charged(service, EnforceAt::Client, self.index, self.decided),
            false => Vec::new(),
        }
    }

    /// How an application may name a destination, of whose service `ports` carry TCP.
    fn domains(&self, key: &DestinationKey, ports: usize) -> Vec<String> {
        let names = if key.is_outside() {
            let name = &key.service.name;
            vec![if name.contains(':') { format!("[{name}]") } else { name.clone() }]
        } else {
            names(&key.service, key.service.namespace == self.service.namespace)
        };
        // A host without a port means 80, as everywhere in HTTP; with a single port there is no doubt either.
        let without_port = key.port == 80 || (ports == 1 && !key.is_outside());
        let mut domains = Vec::new();
        for name in names {
            let full = format!("{name}:{}", key.port);
            domains.extend(without_port.then_some(name));
            domains.push(full);
        }
        domains
    }
}

/// The names by which cluster DNS knows a Service, shortest first.
fn names(service: &ServiceKey, near: bool) -> Vec<String> {
    let ServiceKey { namespace, name } = service;
    let mut names = Vec::new();
    if near {
        names.push(name.clone());
    }
    names.push(format!("{name}.{namespace}"));
    names.push(format!("{name}.{namespace}.svc"));
    names.push(format!("{name}.{namespace}.svc.cluster.local"));
    names
}

#[cfg(test)]
mod tests;
