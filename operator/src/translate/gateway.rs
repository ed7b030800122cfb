//! A Gateway's listeners and the HTTPRoutes that attach to them, to hosts.
//!
//! Gateway API's order is made explicit: of all matches for one host the most precise stands first. The limits of a Service
//! apply on every route that leads to it, whatever its weight there.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use limiter::policy::{EnforceAt, PathMatch, RequestMatch};

use super::{
    decide::Rules,
    outbound::{Charged, Plan, Troubles, charged, forwards},
    split,
};
use crate::{
    index::{
        Index, ObjectKey, ServiceView,
        gateway::{GatewayModel, ListenerModel, RouteModel, RouteRule},
    },
    intent::ServiceKey,
};

/// One match of one rule of a route.
pub(super) struct Entry<'a> {
    namespace: &'a str,
    name: &'a str,
    route: &'a RouteModel,
    /// Position of the rule, and of the match in it.
    place: (usize, usize),
    pub(super) rule: &'a RouteRule,
    pub(super) matched: &'a RequestMatch,
}

impl Entry<'_> {
    /// Unique among those of routes of one kind.
    pub(super) fn name(&self) -> String {
        let (rule, at) = self.place;
        format!("{}/{}/{rule}.{at}", self.namespace, self.name)
    }
}

/// The hosts of every port of the pods on which the Gateway of `view`, if it is one, listens.
pub(super) fn listeners<'a>(
    view: &ServiceView<'_>,
    index: &'a Index,
    decided: &dyn Fn(&ServiceKey) -> Option<&'a Rules>,
    troubles: &mut Troubles,
) -> Vec<(u16, Vec<Plan>)> {
    let listeners = view.gateway.map_or(&[][..], |gateway| &gateway.listeners);
    let mut by_port: BTreeMap<u16, Vec<&ListenerModel>> = BTreeMap::new();
    for listener in listeners {
        // Two of the Gateway's ports may be one of the pods'; its listener then has the hosts of both.
        by_port.entry(GatewayModel::pod_port(listener.port, &view.pod_ports)).or_default().push(listener);
    }
    let mut all = Vec::new();
    for (port, listeners) in by_port {
        let mut hosts: BTreeMap<String, Vec<Entry<'_>>> = BTreeMap::new();
        for listener in &listeners {
            for (key, route) in index.routes(view.key) {
                if route.attaches(&key.namespace, view.key, listener) {
                    for host in hostnames(listener, route, &listeners) {
                        hosts.entry(host).or_default().extend(entries_of(&key.namespace, &key.name, route));
                    }
                }
            }
        }
        let plans = hosts.into_iter().map(|(host, entries)| plan(host, entries, index, decided, troubles)).collect();
        all.push((port, plans));
    }
    all
}

/// The matches of a route.
pub(super) fn entries<'a>(key: &'a ObjectKey, route: &'a RouteModel) -> impl Iterator<Item = Entry<'a>> {
    entries_of(&key.namespace, &key.name, route)
}

fn entries_of<'a>(namespace: &'a str, name: &'a str, route: &'a RouteModel) -> impl Iterator<Item = Entry<'a>> {
    route.rules.iter().enumerate().flat_map(move |(position, rule)| {
        let matches = rule.matches.iter().enumerate();
        matches.map(move |(at, matched)| Entry { namespace, name, route, place: (position, at), rule, matched })
    })
}

/// The most precise match first; of equal ones that of the oldest route. Equal matches of one route keep the order of its rules.
pub(super) fn ordered(mut entries: Vec<Entry<'_>>) -> Vec<Entry<'_>> {
    entries.sort_by_cached_key(|entry| {
        let named = (entry.namespace.to_owned(), entry.name.to_owned());
        (precision(entry.matched), entry.route.created.is_none(), entry.route.created, named, entry.place)
    });
    entries.dedup_by(|one, other| (one.namespace, one.name, one.place) == (other.namespace, other.name, other.place));
    entries
}

fn plan<'a>(
    host: String,
    entries: Vec<Entry<'_>>,
    index: &'a Index,
    decided: &dyn Fn(&ServiceKey) -> Option<&'a Rules>,
    troubles: &mut Troubles,
) -> Plan {
    let entries = ordered(entries);
    let services: BTreeSet<&ServiceKey> = entries.iter().flat_map(|entry| entry.route.services()).collect();
    let rules: Vec<Charged<'_>> =
        services.into_iter().flat_map(|service| charged(service, EnforceAt::Gateway, index, decided)).collect();
    let mut routes = Vec::new();
    for entry in &entries {
        let leads_to = |rule: &Charged<'_>| {
            let backends = entry.rule.backends.iter();
            backends.filter(|(_, weight)| *weight > 0).any(|(to, _)| to.service == *rule.service())
        };
        let to = split::behind_gateway(index, &entry.rule.backends);
        let mut found = forwards(vec![entry.matched.clone()], &rules, leads_to, &to, troubles);
        for forward in &mut found {
            forward.route.name = format!("{}/{}", entry.name(), forward.route.name);
        }
        routes.extend(found);
    }
    let domains = vec![host.clone()];
    Plan::new(host, domains, &rules, routes)
}

/// Gateway API's order of matches, the most precise first: exact path, expression (its place is ours to choose), longest
/// prefix, method, number of headers, number of query parameters.
fn precision(matched: &RequestMatch) -> impl Ord {
    let path = match &matched.path {
        Some(PathMatch::Exact(path)) => (0, Reverse(path.len())),
        Some(PathMatch::Regex(regex)) => (1, Reverse(regex.len())),
        Some(PathMatch::Prefix(prefix)) => (2, Reverse(prefix.len())),
        None => (2, Reverse(1)),
    };
    let (headers, queries) = (Reverse(matched.headers.len()), Reverse(matched.query_params.len()));
    (path, matched.method.is_none(), headers, queries)
}

/// Hosts that the route has on this listener, out of `all` of the same port: of two listeners that take a host, the more
/// precise one has it.
fn hostnames(listener: &ListenerModel, route: &RouteModel, all: &[&ListenerModel]) -> Vec<String> {
    let of_listener = listener.hostname.as_deref().unwrap_or(ANY);
    let wanted: Vec<&str> = match route.hostnames.as_slice() {
        [] => vec![of_listener],
        names => names.iter().filter_map(|name| both(of_listener, name)).collect(),
    };
    let nearer = |host: &str| {
        let others = all.iter().filter_map(|other| other.hostname.as_deref());
        others.into_iter().any(|other| other != of_listener && covers(other, host) && covers(of_listener, other))
    };
    wanted.into_iter().filter(|host| !nearer(host)).map(str::to_owned).collect()
}

/// Every host.
const ANY: &str = "*";

/// The hosts that both take: the narrower of two names, if one lies in the other.
fn both<'a>(one: &'a str, other: &'a str) -> Option<&'a str> {
    if covers(one, other) { Some(other) } else { covers(other, one).then_some(one) }
}

/// Whether `wide` takes all that `narrow` takes. `*.a` takes what lies below `a`, at any depth, and not `a`.
fn covers(wide: &str, narrow: &str) -> bool {
    wide == ANY || wide == narrow || wide.strip_prefix('*').is_some_and(|suffix| narrow.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_what_listener_and_route_both_take() {
        for (listener, route, expected) in [
            (ANY, "a.example.com", Some("a.example.com")),
            ("*.example.com", "a.example.com", Some("a.example.com")),
            ("*.example.com", "example.com", None),
            ("*.example.com", "a.b.example.com", Some("a.b.example.com")),
            ("a.example.com", "*.example.com", Some("a.example.com")),
            ("*.example.com", "*.b.example.com", Some("*.b.example.com")),
            ("*.example.com", "*.example.org", None),
            ("a.example.com", "b.example.com", None),
            ("a.example.com", "xa.example.com", None),
        ] {
            assert_eq!(both(listener, route), expected, "{listener} and {route}");
        }
    }

    #[test]
    fn the_more_precise_match_stands_first() {
        let with = |path: Option<PathMatch>| RequestMatch { path, ..RequestMatch::default() };
        let prefix = |text: &str| with(Some(PathMatch::Prefix(text.to_owned())));
        let post = RequestMatch { method: Some("POST".to_owned()), ..prefix("/a") };
        let header = [("x".to_owned(), limiter::policy::ValueMatch::Exact("1".to_owned()))];
        let ordered = [
            with(Some(PathMatch::Exact("/a".to_owned()))),
            with(Some(PathMatch::Regex("/a.*".to_owned()))),
            prefix("/a/b"),
            post,
            RequestMatch { headers: header.into(), ..prefix("/a") },
            prefix("/a"),
            prefix("/"),
        ];
        assert!(ordered.is_sorted_by(|one, next| precision(one) < precision(next)));
    }
}
