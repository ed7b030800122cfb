//! Callers whose proxies have only some destinations: what a `LazyConfig` lists, and what the application has called.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use limiter::{
    lazy::{Fallback, Lazy, Load, UnknownHosts},
    policy::EnforceAt,
};

use super::{Caller, Index, Plan, Troubles, destination, lead, split};
use crate::{
    index::{
        asked::{Loaded, MOST_STREAMS, Reached, lists, may_load},
        model::WayOut,
    },
    intent::{
        Called, Destination, DestinationKey, Hop, Host, Intercepted, LimitShape, Others, Outbound, Partial, Protocol,
        ServiceIntent, ServiceKey, Strays, Stream,
    },
};

/// Envoy closes a connection that is kept for a next request after this.
const IDLE: Duration = Duration::from_secs(60 * 60);

/// Gives `pods`, which listen there for calls, what they have of other services.
pub(super) fn add(
    caller: &Caller<'_, '_>,
    pods: &[(&str, WayOut)],
    intent: &mut ServiceIntent,
    troubles: &mut Troubles,
) {
    let limited = if pods.is_empty() { Vec::new() } else { caller.index.limited_at_callers(&caller.service.namespace) };
    // One request is charged for its Service and for those that it is shared out to.
    let shapes = |service: &ServiceKey| {
        let charged = [service.clone()].into_iter().chain(caller.index.arms_of(service)).collect::<BTreeSet<_>>();
        charged.iter().flat_map(|one| caller.charged(one)).flat_map(|rule| rule.shapes).collect()
    };
    let roots = limited.iter().flat_map(|service| caller.index.roots_of(service));
    let may_take: BTreeSet<&ServiceKey> = limited.iter().chain(roots).collect();
    let may_take: Arc<Vec<Vec<LimitShape>>> = Arc::new(may_take.into_iter().map(shapes).collect());
    let mut known: BTreeMap<DestinationKey, (Arc<Destination>, Plan)> = BTreeMap::new();
    for (pod, WayOut { listener, intercepts }) in pods {
        let Some(lazy) = caller.index.lazy(caller.service, pod) else { continue };
        let Some(pod_intent) = intent.pods.get_mut(*pod) else { continue };
        let Loaded { destinations, leaving, gone, unknown, streams } = caller.index.loaded(caller.service, pod, lazy);
        let fallback = match &lazy.load {
            Load::Learned(Fallback::Service { namespace, name, port }) => {
                let service = ServiceKey { namespace: namespace.clone(), name: name.clone() };
                Some(DestinationKey { service, port: *port })
            }
            _ => None,
        };
        // What is not listed is found where the application found it, which may know another DNS.
        let is_elsewhere = |key: &DestinationKey| *intercepts && key.is_outside() && !lists(lazy, key);
        let mut hosts = Vec::new();
        let mut bounds = Vec::new();
        let mut leads = Vec::new();
        for key in destinations.keys() {
            let (destination, plan) = known.entry(key.clone()).or_insert_with(|| {
                let ports = caller.index.ports_of(&key.service).len();
                (destination(caller.index, key), caller.plan(key, caller.domains(key, ports), troubles))
            });
            // Bytes have no host.
            if is_bytes(caller, key) {
                continue;
            }
            leads.push(if is_elsewhere(key) { original(destination) } else { Arc::clone(destination) });
            let others = plan.destinations().filter(|other| *other != key);
            leads.extend(others.map(|other| self::destination(caller.index, other)));
            bounds.extend(plan.bounds().map(|(key, bounds)| (key.clone(), bounds)));
            hosts.push(plan.of_pod(&caller.service.namespace, pod));
        }
        leads.extend(leaving.iter().chain(&fallback).map(|key| {
            let known = destination(caller.index, key);
            if is_elsewhere(key) { original(&known) } else { known }
        }));
        // Of several ports that are gone the first answers for the name alone.
        let mut taken = BTreeSet::new();
        for key in gone {
            let mut domains = caller.domains(&key, 1);
            domains.retain(|domain| taken.insert(domain.clone()));
            hosts.push(nothing(&Called::Destination(key), domains));
        }
        hosts.extend(unknown.into_iter().map(|host| nothing(&Called::Host(host.clone()), vec![host])));
        let round = caller.index.asked(caller.service, pod).map_or(0, |asked| asked.round);
        let others = others(lazy, fallback);
        if others == Others::Asked {
            hosts.push(nothing(&Called::Host(String::new()), Vec::new()));
        }
        let hold_seconds = u32::try_from(lazy.hold.as_secs()).unwrap_or(u32::MAX).max(1);
        let idle = lazy.forget_after.map_or(IDLE, |after| after.min(IDLE));
        let idle_seconds = u32::try_from(idle.as_secs()).unwrap_or(u32::MAX).max(1);
        let may_take = Arc::clone(&may_take);
        let partial = Some(Partial { round, hold_seconds, idle_seconds, others, may_take });
        let intercepted = intercepts.then(|| Intercepted {
            services: Vec::new(),
            passed_on: api_server(caller.index, lazy),
            others: strays(lazy, streams.len()),
        });
        let place = EnforceAt::Client;
        pod_intent.outbound.push(Outbound { place, listener: *listener, hosts, partial, intercepted });
        if *intercepts {
            pod_intent.streams = streams.into_iter().map(|(called, to)| stream(caller, called, to)).collect();
        }
        lead(pod_intent, leads.into_iter(), bounds.into_iter());
    }
}

/// What becomes of connections that are not HTTP, where `asked` of their names and addresses have been asked for.
fn strays(lazy: &Lazy, asked: usize) -> Strays {
    let passes_on = lazy.unknown_hosts == UnknownHosts::Passthrough;
    match lazy.load {
        Load::Learned(Fallback::Passthrough) => Strays::PassedOn,
        _ if asked < MOST_STREAMS => Strays::Asked,
        _ if passes_on => Strays::PassedOn,
        _ => Strays::Known,
    }
}

/// The API server, which its clients know by its address, so in TLS they name nobody.
fn api_server(index: &Index, lazy: &Lazy) -> Vec<SocketAddr> {
    let service = ServiceKey { namespace: "default".to_owned(), name: "kubernetes".to_owned() };
    let key = DestinationKey { service, port: 443 };
    let addresses = index.addresses_of(&key.service).iter().filter(|_| may_load(lazy, &key));
    addresses.map(|address| SocketAddr::new(*address, key.port)).collect()
}

fn stream(caller: &Caller<'_, '_>, called: Called, to: Reached) -> Stream {
    let index = caller.index;
    let to = match to {
        Reached::Original => Hop::Original,
        Reached::Nowhere => Hop::Nowhere,
        // The cluster has another name than that of requests for the same, so it is one of its own.
        Reached::Destination(key) => {
            let known = index.destination(&key).cloned().unwrap_or_else(|| destination(index, &key));
            Hop::To(split::of_bytes(index, &known, &caller.service.namespace))
        }
    };
    Stream { called, to }
}

/// The same, but where the application wanted to go.
fn original(destination: &Destination) -> Arc<Destination> {
    Arc::new(Destination { dns: None, original: true, ..destination.clone() })
}

fn is_bytes(caller: &Caller<'_, '_>, key: &DestinationKey) -> bool {
    caller.index.destination(key).is_some_and(|known| known.protocol == Protocol::Tcp)
}

/// What becomes of calls to hosts that are not there.
fn others(lazy: &Lazy, fallback: Option<DestinationKey>) -> Others {
    let lists_domains = || lazy.always.iter().any(|callee| matches!(callee, limiter::lazy::Callee::Domains(_)));
    match (&lazy.load, lazy.unknown_hosts) {
        (Load::OnDemand, _) => Others::Asked,
        (Load::Learned(Fallback::Passthrough), _) => Others::PassedOn,
        (Load::Learned(Fallback::Refuse), _) => Others::Refused,
        (Load::Learned(Fallback::Service { .. }), _) => fallback.map_or(Others::Refused, Others::Sent),
        // What exactly is below a domain is known when it is called.
        (Load::Declared, UnknownHosts::Refuse) if lists_domains() => Others::Asked,
        (Load::Declared, UnknownHosts::Refuse) => Others::Refused,
        (Load::Declared, UnknownHosts::Passthrough) => Others::PassedOn,
    }
}

/// A host that is known to be nothing.
fn nothing(called: &Called, domains: Vec<String>) -> Arc<Host> {
    let name = called.to_string();
    Arc::new(Host { name, domains, limits: Vec::new(), routes: Vec::new(), values: Vec::new() })
}
