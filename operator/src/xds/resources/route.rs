//! Route configurations: which requests there are, and in their metadata what each is charged.
//!
//! These are what changes with every decision, so they are put together from parts that are encoded once: a route's match,
//! name and metadata are the same for all pods with the same numbers, only its action names the pod's cluster. Protobuf
//! allows it: the encodings of a message's fields, one after the other, are the encoding of the message.

use std::collections::BTreeMap;

use envoy_types::pb::{
    envoy::{
        config::{
            core::v3::{Metadata, RoutingPriority},
            route::v3::{
                HeaderMatcher, QueryParameterMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
                header_matcher::HeaderMatchSpecifier, query_parameter_matcher::QueryParameterMatchSpecifier, route,
                route_action::ClusterSpecifier, route_match::PathSpecifier,
            },
        },
        r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
    },
    google::protobuf::{Duration, Struct, Value, value::Kind},
};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use regex_syntax::escape;

use ::limiter::{
    policy::{PathMatch, RequestMatch, ValueMatch},
    quota::Rate,
};

use crate::{
    intent::{self, LimitShape, LimitValue, Priority},
    xds::{
        names,
        resources::{
            limiter::Charge,
            reply::{self, LimitFilter},
            slots::{self, Placed, SlotKind},
        },
    },
};

/// Field numbers of the messages that are put together by hand.
const VIRTUAL_HOSTS: u32 = 2;
const ROUTES: u32 = 3;

/// Encoded routes without their actions, for all pods with the same numbers.
pub(super) struct Shared(Vec<(Priority, Vec<u8>)>);

impl Shared {
    pub(super) fn new<'a>(
        limits: &[LimitShape],
        routes: impl Iterator<Item = &'a intent::Route>,
        values: &[Option<LimitValue>],
    ) -> Self {
        let encoded = routes.map(|route| {
            let shared = Route {
                name: route.name.clone(),
                r#match: Some(route_match(&route.matches)),
                metadata: metadata(limits, route, values),
                ..Route::default()
            };
            (route.priority, shared.encode_to_vec())
        });
        Self(encoded.collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|(_, route)| route.as_slice())
    }
}

/// The encoded route configuration `name`, whose routes all lead to the cluster of the same name.
pub(super) fn build(name: &str, shared: &Shared) -> Vec<u8> {
    let action = |priority| action(route::Action::Route(to(ClusterSpecifier::Cluster(name.into()), priority)));
    let (default, high) = (action(Priority::Default), action(Priority::High));
    let host = VirtualHost { name: names::VIRTUAL_HOST.into(), domains: vec!["*".into()], ..VirtualHost::default() };
    let routes = shared.0.iter().map(|(priority, route)| match priority {
        Priority::Default => (route.as_slice(), default.as_slice()),
        Priority::High => (route.as_slice(), high.as_slice()),
    });
    let host = virtual_host(host, routes);
    configuration(RouteConfiguration { name: name.into(), ..RouteConfiguration::default() }, [host])
}

/// The part of an encoded route that [`Shared`] leaves out.
pub(super) fn action(action: route::Action) -> Vec<u8> {
    Route { action: Some(action), ..Route::default() }.encode_to_vec()
}

pub(super) fn to(cluster: ClusterSpecifier, priority: Priority) -> RouteAction {
    let priority = match priority {
        Priority::Default => RoutingPriority::Default,
        Priority::High => RoutingPriority::High,
    };
    RouteAction {
        cluster_specifier: Some(cluster),
        // The client and the application decide how long a request may take; Envoy's default is 15 s.
        timeout: Some(Duration::default()),
        priority: priority.into(),
        ..RouteAction::default()
    }
}

/// `host`, encoded with these routes, each in two parts.
pub(super) fn virtual_host<'a>(host: VirtualHost, routes: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut host = host.encode_to_vec();
    for (shared, action) in routes {
        encode_key(ROUTES, WireType::LengthDelimited, &mut host);
        encode_varint((shared.len() + action.len()) as u64, &mut host);
        host.extend_from_slice(shared);
        host.extend_from_slice(action);
    }
    host
}

/// `configuration`, encoded with these virtual hosts.
pub(super) fn configuration(configuration: RouteConfiguration, hosts: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut configuration = configuration.encode_to_vec();
    for host in hosts {
        encode_key(VIRTUAL_HOSTS, WireType::LengthDelimited, &mut configuration);
        encode_varint(host.len() as u64, &mut configuration);
        configuration.extend_from_slice(&host);
    }
    configuration
}

/// What the route's limits in force are charged, and the names of its classes. `None`: neither.
fn metadata(limits: &[LimitShape], route: &intent::Route, values: &[Option<LimitValue>]) -> Option<Metadata> {
    let placed = slots::placed(limits, route, values);
    if placed.is_empty() && route.classes.is_empty() {
        return None;
    }
    let mut fields = Struct::default().fields;
    for Placed { kind, index, bucket, charge, .. } in &placed {
        fields.extend(charged(&kind.suffix(*index), bucket, *charge));
    }
    if !route.classes.is_empty() {
        let classes = Value { kind: Some(Kind::StringValue(route.classes.join(","))) };
        fields.insert(names::CLASSES_KEY.into(), classes);
    }
    fields.extend(told(placed.iter().map(|placed| (&placed.kind, placed.rate))));
    let mut metadata = Metadata::default();
    metadata.filter_metadata.insert(names::METADATA.into(), Struct { fields });
    Some(metadata)
}

/// What a refused request is told: of the strictest limit of each filter.
pub(super) fn told<'a>(limits: impl Iterator<Item = (&'a SlotKind, Rate)>) -> Vec<(String, Value)> {
    let mut strictest: BTreeMap<LimitFilter, Rate> = BTreeMap::new();
    for (kind, rate) in limits {
        let Some(filter) = LimitFilter::of(kind) else { continue };
        let least = strictest.entry(filter).or_insert(rate);
        *least = rate.min(*least);
    }
    strictest.into_iter().flat_map(|(filter, rate)| reply::metadata(filter, &rate)).collect()
}

/// What a slot reads.
pub(super) fn charged(suffix: &str, bucket: &str, charge: Charge) -> [(String, Value); 3] {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
    let cost = Value { kind: Some(Kind::NumberValue(f64::from(charge.cost))) };
    [
        (format!("class{suffix}"), text(charge.class)),
        (format!("bucket{suffix}"), text(bucket)),
        (format!("cost{suffix}"), cost),
    ]
}

/// All of `matches` must match.
fn route_match(matches: &[RequestMatch]) -> RouteMatch {
    let mut path = None;
    let mut headers = Vec::new();
    let mut query_parameters = Vec::new();
    for one in matches {
        let RequestMatch { path: path_match, method, headers: header_matches, query_params } = one;
        match path_match {
            None => {}
            Some(path_match) if path.is_none() => path = Some(path_specifier(path_match)),
            // A route has one path; what else the path must be is asked of the header, which carries the query too.
            Some(path_match) => {
                headers.extend(path_regex(path_match).map(|regex| header(":path", regex_match(&regex))))
            }
        }
        headers.extend(method.iter().map(|method| header(":method", exact_match(method))));
        headers.extend(header_matches.iter().map(|(name, value)| header(name, value_match(value))));
        query_parameters.extend(query_params.iter().map(|(name, value)| QueryParameterMatcher {
            name: name.clone(),
            query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(value_match(value))),
        }));
    }
    RouteMatch {
        path_specifier: Some(path.unwrap_or_else(|| PathSpecifier::Prefix("/".into()))),
        headers,
        query_parameters,
        ..RouteMatch::default()
    }
}

fn path_specifier(path: &PathMatch) -> PathSpecifier {
    match path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
        PathMatch::Regex(regex) => PathSpecifier::SafeRegex(regex_matcher(regex)),
        PathMatch::Prefix(prefix) => match prefix.trim_end_matches('/') {
            "" => PathSpecifier::Prefix("/".into()),
            // Envoy refuses these as a prefix; no path can match them anyway, nor does it match their regex.
            odd if odd.len() < 2 || odd.contains(['?', '#']) => PathSpecifier::SafeRegex(regex_matcher(&escape(odd))),
            prefix => PathSpecifier::PathSeparatedPrefix(prefix.into()),
        },
    }
}

/// A regex over the `:path` header. `None`: every path.
pub(super) fn path_regex(path: &PathMatch) -> Option<String> {
    const QUERY: &str = r"(\?.*)?";
    match path {
        PathMatch::Exact(path) => Some(format!("{}{QUERY}", escape(path))),
        PathMatch::Regex(regex) => Some(format!("(?:{regex}){QUERY}")),
        PathMatch::Prefix(prefix) => match prefix.trim_end_matches('/') {
            "" => None,
            prefix => Some(format!("{}(/[^?]*)?{QUERY}", escape(prefix))),
        },
    }
}

fn header(name: &str, matcher: StringMatcher) -> HeaderMatcher {
    HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(matcher)),
        ..HeaderMatcher::default()
    }
}

fn value_match(value: &ValueMatch) -> StringMatcher {
    match value {
        ValueMatch::Exact(text) => exact_match(text),
        ValueMatch::Regex(regex) => regex_match(regex),
    }
}

fn exact_match(text: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Exact(text.into())), ignore_case: false }
}

pub(super) fn regex_match(regex: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(regex_matcher(regex))), ignore_case: false }
}

fn regex_matcher(regex: &str) -> RegexMatcher {
    RegexMatcher { regex: regex.into(), ..RegexMatcher::default() }
}
