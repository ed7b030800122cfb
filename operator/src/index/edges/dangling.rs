//! What an object names and is not there, and what of it can never be carried out beside the others.

use std::collections::BTreeMap;

use limiter::{
    policy::{PathMatch, RequestMatch, ValueMatch},
    problem::{Problem, Reason},
};

use super::RouteKey;
use crate::{
    index::{
        Index, ObjectKey, ObjectKind,
        gateway::{RootModel, RouteModel, RouteRule},
        model::{INTERCEPT, OUTBOUND, WayOut},
        splits::Declared,
        view::Ports,
    },
    intent::{Protocol, ServiceKey},
};

fn object(kind: ObjectKind, key: &ServiceKey) -> ObjectKey {
    let ServiceKey { namespace, name } = key.clone();
    ObjectKey { kind, namespace, name }
}

fn problem(field: String, reason: Reason, message: String, help: &str) -> Problem {
    Problem { field, reason, message, help: Some(help.to_owned()), place: None }
}

impl Index {
    /// What a route or a Gateway names and is not there, rules that no request can match, routes that another stands before, and
    /// ways out that cannot be, by the object.
    #[must_use]
    pub fn dangling(&self) -> Vec<(ObjectKey, Problem)> {
        let mut found: Vec<_> = self.ways_out_taken().collect();
        for key in self.edges.gateways.keys().filter(|key| !self.services.contains_key(key)) {
            let message =
                format!("no proxy can serve it: there is no Service {key}, whose endpoints would be its proxies");
            let problem = problem("metadata.name".to_owned(), Reason::Invalid, message, "create that Service");
            found.push((object(ObjectKind::Gateway, key), problem));
        }
        for (key, route) in &self.edges.routes {
            let problems = self
                .without_gateway(key, route)
                .into_iter()
                .chain(self.wrong_with(&object(ObjectKind::HttpRoute, key), route));
            found.extend(problems.map(|problem| (object(ObjectKind::HttpRoute, key), problem)));
        }
        for (key, route) in self.routes_of_services().filter(|(key, _)| key.kind == ObjectKind::GrpcRoute) {
            found.extend(self.wrong_with(key, route).into_iter().map(|problem| (key.clone(), problem)));
        }
        found
    }

    /// Why requests for a Service that a route has as its parent never meet the route; `None`: they do.
    #[must_use]
    pub fn no_such_root(&self, root: &RootModel) -> Option<String> {
        let RootModel { service, port, .. } = root;
        if !self.services.contains_key(service) {
            return Some(format!("there is no Service {service}"));
        }
        let port = port.filter(|port| !self.ports_of(service).iter().any(|one| one.key.port == *port))?;
        Some(format!("the Service {service} has no port {port}"))
    }

    /// The GRPCRoute that declares what the HTTPRoute of this key would declare for the Service, on every port that it names.
    #[must_use]
    pub fn stands_before(&self, key: &ObjectKey, root: &RootModel) -> Option<&ObjectKey> {
        if key.kind != ObjectKind::HttpRoute {
            return None;
        }
        let ports = self.ports_of(&root.service).iter().map(|one| one.key.port);
        let mut ports = ports.filter(|port| root.port.is_none_or(|only| only == *port));
        let other = |port| match self.declared(&root.service, port, &key.namespace)? {
            Declared::Routes(routes) => {
                routes.first().map(|(other, _)| *other).filter(|other| other.kind == ObjectKind::GrpcRoute)
            }
            Declared::Splits(_) | Declared::Smart(_) => None,
        };
        let first = other(ports.next()?)?;
        ports.all(|port| other(port).is_some()).then_some(first)
    }

    /// Backends of a route that cannot be had: the field, and why.
    #[must_use]
    pub fn without_backend(&self, route: &RouteModel) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (position, rule) in route.rules.iter().enumerate() {
            for (backend, (to, _)) in rule.backends.iter().enumerate() {
                let message = match self.destination(to) {
                    None => format!("there is no Service {} with the port {}", to.service, to.port),
                    Some(destination) if destination.protocol == Protocol::Tcp => {
                        format!("the port {} of the Service {} does not speak HTTP", to.port, to.service)
                    }
                    Some(_) => continue,
                };
                found.push((format!("spec.rules[{position}].backendRefs[{backend}]"), message));
            }
        }
        found
    }

    /// What is wrong with a route whatever its parents are.
    fn wrong_with(&self, key: &ObjectKey, route: &RouteModel) -> Vec<Problem> {
        let mut found = Vec::new();
        for root in &route.roots {
            let field = format!("spec.parentRefs[{}]", root.position);
            if let Some(message) = self.no_such_root(root) {
                found.push(problem(field, Reason::Invalid, message, "create it, or name one that exists"));
            } else if let Some(other) = self.stands_before(key, root) {
                let message =
                    format!("{other} stands before it: of a port, GRPCRoutes have all requests if there are any");
                let help = "write one kind of route for a port; an HTTPRoute may have the paths of gRPC methods";
                found.push(problem(field, Reason::Conflicted, message, help));
            }
        }
        found.extend(self.without_backend(route).into_iter().map(|(field, message)| {
            let help = "its part of the requests is answered 503; name one that speaks HTTP";
            problem(field, Reason::Invalid, message, help)
        }));
        found.extend(unreachable(&route.rules).map(|(position, before)| {
            let message = format!("no request gets here: spec.rules[{before}] takes all that it would take");
            problem(
                format!("spec.rules[{position}]"),
                Reason::Conflicted,
                message,
                "leave it out, or match something else",
            )
        }));
        found
    }

    /// Gateways of a route that are not there or do not take it.
    fn without_gateway(&self, key: &RouteKey, route: &RouteModel) -> Vec<Problem> {
        let mut found = Vec::new();
        for (position, parent) in route.parents.iter().enumerate() {
            let field = format!("spec.parentRefs[{position}]");
            let only = RouteModel { parents: vec![parent.clone()], ..route.clone() };
            let Some(gateway) = self.edges.gateways.get(&parent.gateway) else {
                let message = format!("there is no Gateway {}", parent.gateway);
                found.push(problem(field, Reason::Invalid, message, "create it, or name one that exists"));
                continue;
            };
            if !gateway.listeners.iter().any(|listener| only.attaches(&key.namespace, &parent.gateway, listener)) {
                let message = format!("no listener of the Gateway {} takes this route", parent.gateway);
                let help = "name a listener that is there, and allow this namespace in its allowedRoutes";
                found.push(problem(field, Reason::Invalid, message, help));
            }
        }
        found
    }

    /// Ways out on a port that the pod's proxy listens on already.
    fn ways_out_taken(&self) -> impl Iterator<Item = (ObjectKey, Problem)> {
        let calling = self.pods.iter().filter_map(|(pod, model)| Some((pod, model.outbound?)));
        calling.filter_map(|(pod, WayOut { listener: listen, intercepts })| {
            let (namespace, name) = pod;
            let service = self.services_of_pod(pod).into_iter().find(|key| {
                let service = self.services.get(key);
                let ports = service.map(|s| Ports::new(s, self.slices.get(key), self.edges.gateways.get(key)));
                ports.is_some_and(|ports| ports.taken(name, listen.port()))
            })?;
            let problem = Problem {
                field: format!("metadata.annotations[{}]", if intercepts { INTERCEPT } else { OUTBOUND }),
                reason: Reason::Invalid,
                message: format!(
                    "there is no way out: the proxy takes requests for the Service {service} on the port {}",
                    listen.port()
                ),
                help: Some("choose a port that is not taken, such as 15001".to_owned()),
                place: None,
            };
            let key = ObjectKey { kind: ObjectKind::Pod, namespace: namespace.clone(), name: name.clone() };
            Some((key, problem))
        })
    }
}

/// Rules whose every match another rule of the route takes whole, with the position of one that does.
fn unreachable(rules: &[RouteRule]) -> impl Iterator<Item = (usize, usize)> {
    let taken_by = |position: usize, matched: &RequestMatch| {
        let others = rules.iter().enumerate().filter(move |(other, _)| *other != position);
        let mut takes = others.filter(|(other, rule)| {
            rule.matches.iter().any(|one| (*other < position && is_same(one, matched)) || outranks(one, matched))
        });
        takes.next().map(|(other, _)| other)
    };
    rules.iter().enumerate().filter_map(move |(position, rule)| {
        let taken: Option<Vec<usize>> = rule.matches.iter().map(|matched| taken_by(position, matched)).collect();
        Some((position, *taken?.first()?))
    })
}

/// Whether they take the same requests. No path is every path.
fn is_same(one: &RequestMatch, other: &RequestMatch) -> bool {
    let every = || PathMatch::Prefix("/".to_owned());
    let whole = |matched: &RequestMatch| {
        let path = matched.path.clone().unwrap_or_else(every);
        RequestMatch { path: Some(path), ..matched.clone() }
    };
    whole(one) == whole(other)
}

/// Whether `one` takes all that `other` takes and stands before it wherever it is written. What is wider stands behind, but for an
/// expression, which stands before all prefixes.
fn outranks(one: &RequestMatch, other: &RequestMatch) -> bool {
    let has = |all: &BTreeMap<String, ValueMatch>, some: &BTreeMap<String, ValueMatch>| {
        some.iter().all(|(name, value)| all.get(name) == Some(value))
    };
    matches!(&one.path, Some(PathMatch::Regex(every)) if matches!(every.as_str(), ".*" | "/.*"))
        && matches!(other.path, None | Some(PathMatch::Prefix(_)))
        && (one.method.is_none() || one.method == other.method)
        && has(&other.headers, &one.headers)
        && has(&other.query_params, &one.query_params)
}
