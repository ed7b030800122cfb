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

use super::{Caller, Plan, Troubles, destination, lead, plan};
use crate::{
    index::asked::Loaded,
    intent::{Called, Destination, DestinationKey, Host, Others, Outbound, Partial, Protocol, ServiceIntent},
};

/// Envoy closes a connection that is kept for a next request after this.
const IDLE: Duration = Duration::from_secs(60 * 60);

/// Gives `pods`, which listen there for calls, what they have of other services.
pub(super) fn add(
    caller: &Caller<'_, '_>,
    pods: &[(&str, SocketAddr)],
    intent: &mut ServiceIntent,
    troubles: &mut Troubles,
) {
    let mut known: BTreeMap<DestinationKey, (Arc<Destination>, Plan)> = BTreeMap::new();
    for (pod, listener) in pods {
        let Some(lazy) = caller.index.lazy(caller.service, pod) else { continue };
        let Some(pod_intent) = intent.pods.get_mut(*pod) else { continue };
        let Loaded { destinations, leaving, gone, unknown } = caller.index.loaded(caller.service, pod, lazy);
        let fallback = match &lazy.load {
            Load::Learned(Fallback::Service { namespace, name, port }) => {
                let service = crate::intent::ServiceKey { namespace: namespace.clone(), name: name.clone() };
                Some(DestinationKey { service, port: *port })
            }
            _ => None,
        };
        let mut hosts = Vec::new();
        let mut bounds = Vec::new();
        let mut leads = Vec::new();
        for key in destinations.keys() {
            let (destination, plan) = known.entry(key.clone()).or_insert_with(|| {
                let rules = caller.charged(&key.service);
                let ports = caller.index.ports_of(&key.service).len();
                (destination(caller.index, key), plan(key, caller.domains(key, ports), &rules, troubles))
            });
            // Bytes have no host.
            if is_bytes(caller, key) {
                continue;
            }
            leads.push(Arc::clone(destination));
            bounds.extend(plan.bounds().map(|(key, bounds)| (key.clone(), bounds)));
            hosts.push(plan.of_pod(&caller.service.namespace, pod));
        }
        leads.extend(leaving.iter().chain(&fallback).map(|key| destination(caller.index, key)));
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
        let partial = Some(Partial { round, hold_seconds, idle_seconds, others });
        pod_intent.outbound.push(Outbound { place: EnforceAt::Client, listener: *listener, hosts, partial });
        lead(pod_intent, leads.into_iter(), bounds.into_iter());
    }
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
