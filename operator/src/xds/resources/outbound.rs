//! What a pod needs for requests to other services: a listener and a route configuration for each way out, a cluster and a
//! load assignment for each destination.
//!
//! Each host is encoded by itself, as one virtual host: it can also be sent by itself once it is asked for.

mod intercepted;
mod lazy;
mod sticky;

use std::sync::Arc;

use envoy_types::pb::{
    envoy::config::{
        core::v3::{DataSource, data_source::Specifier},
        route::v3::{
            DirectResponseAction, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
            route,
            route_action::ClusterSpecifier,
            route_match::PathSpecifier,
            weighted_cluster::{ClusterWeight, RandomValueSpecifier},
        },
    },
    google::protobuf::{BoolValue, Duration, UInt32Value},
};
use prost::Message;

use ::limiter::{policy::EnforceAt, split::Sticky};

use super::{GENERATOR, Old, Resource, cluster, endpoint, listener, route as routes, slots::Slots, version};
use crate::{
    intent::{
        self, Destination, DestinationKey, Forward, Host, LimitShape, Others, Outbound, Partial, PodIntent, Priority,
    },
    xds::{NodeKey, ResourceType, names},
};

/// Sum of the weights of a route's clusters: constant, so that a moved weight moves nothing else. Gateway API's largest weight.
const TOTAL_WEIGHT: u64 = 1_000_000;

/// What pods share, computed when first needed.
#[derive(Default)]
pub(super) struct Builder {
    filters: Vec<(Slots, listener::Filters)>,
}

impl Builder {
    /// Adds the pod's resources for the way out; `old` are those it had.
    pub(super) fn pod(&mut self, node: &NodeKey, pod: &PodIntent, old: Vec<Resource>, resources: &mut Vec<Resource>) {
        let mut old = Old::new(old);
        let idle = pod.outbound.iter().filter_map(|outbound| Some(outbound.partial.as_ref()?.idle_seconds)).min();
        for destination in &pod.destinations {
            let name: Arc<str> = names::destination(node, &destination.key).into();
            let of_cluster = match (&destination.dns, idle) {
                (dns, idle) if destination.is_arm => {
                    let Destination { protocol, original, shares, .. } = &**destination;
                    version(&(GENERATOR, "arm", protocol, dns, idle, original, !shares.is_empty()))
                }
                _ if destination.original => version(&(GENERATOR, "original", idle)),
                _ if !destination.shares.is_empty() => version(&(GENERATOR, "shared destination", idle)),
                (None, None) => version(&(GENERATOR, "destination", destination.protocol)),
                (dns, idle) => version(&(GENERATOR, "destination", destination.protocol, dns, idle)),
            };
            resources.push(old.or_encode(ResourceType::Cluster, node, &name, of_cluster, &mut || {
                cluster::destination(&name, destination, idle).encode_to_vec()
            }));
            if destination.dns.is_some() || destination.original {
                continue;
            }
            resources.push(assignment(node, &name, destination, &mut old));
        }
        intercepted::add(node, pod, &mut old, resources);
        let by_name = pod.outbound.iter().filter(|outbound| outbound.intercepted.is_none());
        if by_name.filter_map(|outbound| outbound.partial.as_ref()).any(Partial::passes_on) {
            let name: Arc<str> = names::PASSTHROUGH_CLUSTER.into();
            let of_cluster = version(&(GENERATOR, "passthrough"));
            resources.push(old.or_encode(ResourceType::Cluster, node, &name, of_cluster, &mut || {
                cluster::passthrough(&name).encode_to_vec()
            }));
        }
        for outbound in &pod.outbound {
            let Outbound { place, listener, hosts, partial, intercepted } = outbound;
            let name: Arc<str> = names::outbound(node, outbound).into();
            let of_hosts = hosts
                .iter()
                .flat_map(|host| host.routes.iter().map(|forward| (host.limits.as_slice(), &forward.route)));
            let may_take = partial.iter().flat_map(|partial| partial.may_take.iter());
            let of_others: Vec<_> = may_take.map(|limits| (limits.as_slice(), taking_all(limits))).collect();
            let slots = Slots::needed_by(of_hosts.chain(of_others.iter().map(|(limits, route)| (*limits, route))));
            let held = partial.as_ref();
            let held = held.map(|partial| (partial.hold_seconds, partial.passes_on(), partial.others == Others::Asked));
            let of_listener = match intercepted {
                None if held.is_none() => version(&(GENERATOR, "outbound", place, listener, &slots)),
                None => version(&(GENERATOR, "outbound", place, listener, &slots, held)),
                Some(intercepted) => version(&(GENERATOR, "intercepted", listener, &slots, held, intercepted)),
            };
            resources.push(old.or_encode(ResourceType::Listener, node, &name, of_listener, &mut || {
                listener::outbound(&name, node, outbound, self.filters(&slots)).encode_to_vec()
            }));
            match partial {
                None => {
                    let of_routes = match intercepted {
                        None => version(&(GENERATOR, "outbound", place, hosts)),
                        Some(_) => version(&(GENERATOR, "intercepted", hosts)),
                    };
                    resources.push(old.or_encode(ResourceType::Route, node, &name, of_routes, &mut || {
                        configuration(&name, node, outbound)
                    }));
                }
                Some(partial) => lazy::add(node, &name, partial, intercepted.is_some(), hosts, &mut old, resources),
            }
        }
    }

    fn filters(&mut self, slots: &Slots) -> &listener::Filters {
        let known = self.filters.iter().position(|(of, _)| of == slots);
        let position = known.unwrap_or_else(|| {
            self.filters.push((slots.clone(), listener::Filters::outbound(slots)));
            self.filters.len() - 1
        });
        &self.filters[position].1
    }
}

/// Who is behind a destination.
fn assignment(node: &NodeKey, name: &Arc<str>, destination: &Destination, old: &mut Old) -> Resource {
    let Destination { endpoints, shares, .. } = destination;
    let version = match shares.as_slice() {
        [] if endpoints.is_empty() => endpoint::EMPTY_VERSION.into(),
        [] => version(&(GENERATOR, "endpoints", endpoints)),
        shares => version(&(GENERATOR, "shares", shares)),
    };
    old.or_encode(ResourceType::Endpoints, node, name, version, &mut || match shares.as_slice() {
        [] => endpoint::build(name, endpoints).encode_to_vec(),
        shares => endpoint::shared(name, shares).encode_to_vec(),
    })
}

/// A route that takes all of `limits`.
fn taking_all(limits: &[LimitShape]) -> intent::Route {
    intent::Route {
        name: String::new(),
        matches: Vec::new(),
        limits: (0..limits.len()).collect(),
        priority: Priority::Default,
        classes: Vec::new(),
    }
}

fn configuration(name: &str, node: &NodeKey, outbound: &Outbound) -> Vec<u8> {
    let hosts = outbound.hosts.iter().map(|host| virtual_host(node, outbound.place, host));
    let takes_all = outbound.hosts.iter().flat_map(|host| &host.domains).any(|domain| domain == "*");
    let unknown = (!takes_all).then(|| {
        let route = match outbound.intercepted {
            // As without the proxy.
            Some(_) => all_to(names::ORIGINAL_CLUSTER.into()),
            None => refusal(names::UNKNOWN_HOST, 404, unknown_host(outbound.place)),
        };
        let name = route.name.clone();
        let host = VirtualHost { name, domains: vec!["*".into()], routes: vec![route], ..VirtualHost::default() };
        host.encode_to_vec()
    });
    let empty = RouteConfiguration {
        name: name.into(),
        // Clients of a gateway may write any port, as one in front of it maps them; callers choose a Service's port by it.
        ignore_port_in_host_matching: outbound.place == EnforceAt::Gateway,
        ..RouteConfiguration::default()
    };
    routes::configuration(empty, hosts.chain(unknown))
}

const fn unknown_host(place: EnforceAt) -> &'static str {
    match place {
        EnforceAt::Gateway => "weir: no HTTPRoute of this Gateway takes this host\n",
        EnforceAt::Client | EnforceAt::Server => {
            "weir: no Service is known by this host; expected <service> (of the caller's namespace), <service>.<namespace> or \
             <service>.<namespace>.svc.cluster.local, with the Service's port unless it is 80 or the only one; TCP ports are \
             not reachable here\n"
        }
    }
}

fn virtual_host(node: &NodeKey, place: EnforceAt, host: &Host) -> Vec<u8> {
    let head = VirtualHost { name: host.name.clone(), domains: host.domains.clone(), ..VirtualHost::default() };
    named(head, node, place, host, None)
}

/// `idle`: how long a request may be silent, whatever the listener says.
fn named(head: VirtualHost, node: &NodeKey, place: EnforceAt, host: &Host, idle: Option<Duration>) -> Vec<u8> {
    let shared = routes::Shared::new(&host.limits, host.routes.iter().map(|forward| &forward.route), &host.values);
    let mut routes: Vec<(&[u8], Vec<u8>)> = Vec::new();
    for (route, forward) in shared.iter().zip(&host.routes) {
        let mut action = action(node, forward);
        if let route::Action::Route(to) = &mut action {
            to.idle_timeout = idle;
        }
        let is_shared = forward.to.len() > 1;
        match &forward.sticky {
            Some(Sticky::Cookie(cookie)) if is_shared => {
                routes.extend(sticky::by_cookie(cookie, action).map(|rest| (route, rest.encode_to_vec())));
            }
            _ => routes.push((route, routes::action(action))),
        }
    }
    let unknown =
        refusal(names::UNKNOWN_PATH, 404, "weir: no rule of an HTTPRoute matches this request\n").encode_to_vec();
    if place == EnforceAt::Gateway {
        routes.push((&unknown, Vec::new()));
    }
    routes::virtual_host(head, routes.iter().map(|(route, action)| (*route, action.as_slice())))
}

fn action(node: &NodeKey, forward: &Forward) -> route::Action {
    let Forward { route: intent::Route { priority, .. }, to, sticky } = forward;
    let cluster = |key: &DestinationKey| names::destination(node, key);
    match to.as_slice() {
        [(only, 1..)] => route::Action::Route(routes::to(ClusterSpecifier::Cluster(cluster(only)), *priority)),
        _ if to.iter().all(|(_, weight)| *weight == 0) => {
            route::Action::DirectResponse(direct(500, "weir: the HTTPRoute sends these requests nowhere\n"))
        }
        _ => {
            let weights = scaled(to);
            let clusters = to.iter().zip(weights).map(|((key, _), weight)| ClusterWeight {
                name: cluster(key),
                weight: Some(UInt32Value { value: weight }),
                ..ClusterWeight::default()
            });
            let by_hash = sticky.as_ref().map(|_| RandomValueSpecifier::UseHashPolicy(BoolValue { value: true }));
            let weighted = WeightedCluster {
                clusters: clusters.collect(),
                random_value_specifier: by_hash,
                ..WeightedCluster::default()
            };
            let to = routes::to(ClusterSpecifier::WeightedClusters(weighted), *priority);
            route::Action::Route(RouteAction { hash_policy: sticky.iter().map(sticky::policy).collect(), ..to })
        }
    }
}

/// The weights in the same proportions, with a sum of exactly [`TOTAL_WEIGHT`]: what rounding leaves goes to the first ones
/// that have any. The sum of `to` is above zero.
fn scaled(to: &[(DestinationKey, u32)]) -> Vec<u32> {
    let sum: u64 = to.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>().max(1);
    let mut weights: Vec<u64> = to.iter().map(|(_, weight)| u64::from(*weight) * TOTAL_WEIGHT / sum).collect();
    let left = TOTAL_WEIGHT.saturating_sub(weights.iter().sum());
    let some = weights.iter_mut().zip(to).filter(|(_, (_, weight))| *weight > 0).map(|(scaled, _)| scaled);
    // Less is left than there are weights.
    some.zip(0..left).for_each(|(scaled, _)| *scaled += 1);
    weights.into_iter().map(|weight| u32::try_from(weight).unwrap_or(u32::MAX)).collect()
}

/// A route of every request that is answered at once.
fn refusal(name: &str, status: u32, body: &str) -> Route {
    Route {
        name: name.into(),
        r#match: Some(RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..RouteMatch::default() }),
        action: Some(route::Action::DirectResponse(direct(status, body))),
        ..Route::default()
    }
}

/// A route of every request to one cluster.
fn all_to(cluster: String) -> Route {
    let to = routes::to(ClusterSpecifier::Cluster(cluster), Priority::Default);
    Route { action: Some(route::Action::Route(to)), ..refusal(names::FALLBACK, 404, "") }
}

fn direct(status: u32, body: &str) -> DirectResponseAction {
    let body = DataSource { specifier: Some(Specifier::InlineString(body.into())), ..DataSource::default() };
    DirectResponseAction { status, body: Some(body), ..DirectResponseAction::default() }
}

#[cfg(test)]
mod tests;
