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

use ::limiter::{
    policy::{PathMatch, RequestMatch, ValueMatch},
    quota::Rate,
};

use crate::{
    intent::{self, LimitValue, Priority, ServiceIntent},
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
    pub(super) fn new(intent: &ServiceIntent, values: &[Option<LimitValue>]) -> Self {
        let encoded = intent.routes.iter().map(|route| {
            let shared = Route {
                name: route.name.clone(),
                r#match: Some(route_match(&route.matches)),
                metadata: metadata(intent, route, values),
                ..Route::default()
            };
            (route.priority, shared.encode_to_vec())
        });
        Self(encoded.collect())
    }
}

/// The encoded route configuration `name`, whose routes all lead to the cluster of the same name.
pub(super) fn build(name: &str, shared: &Shared) -> Vec<u8> {
    let action = |priority: RoutingPriority| {
        let action = Route {
            action: Some(route::Action::Route(RouteAction {
                cluster_specifier: Some(ClusterSpecifier::Cluster(name.into())),
                // The client and the application decide how long a request may take; Envoy's default is 15 s.
                timeout: Some(Duration::default()),
                priority: priority.into(),
                ..RouteAction::default()
            })),
            ..Route::default()
        };
        action.encode_to_vec()
    };
    let (default, high) = (action(RoutingPriority::Default), action(RoutingPriority::High));
    let host = VirtualHost { name: names::VIRTUAL_HOST.into(), domains: vec!["*".into()], ..VirtualHost::default() };
    let mut host = host.encode_to_vec();
    for (priority, route) in &shared.0 {
        let action = match priority {
            Priority::Default => &default,
            Priority::High => &high,
        };
        encode_key(ROUTES, WireType::LengthDelimited, &mut host);
        encode_varint((route.len() + action.len()) as u64, &mut host);
        host.extend_from_slice(route);
        host.extend_from_slice(action);
    }
    let mut configuration = RouteConfiguration { name: name.into(), ..RouteConfiguration::default() }.encode_to_vec();
    encode_key(VIRTUAL_HOSTS, WireType::LengthDelimited, &mut configuration);
    encode_varint(host.len() as u64, &mut configuration);
    configuration.extend_from_slice(&host);
    configuration
}

/// What the route's limits in force are charged, and the names of its classes. `None`: neither.
fn metadata(intent: &ServiceIntent, route: &intent::Route, values: &[Option<LimitValue>]) -> Option<Metadata> {
    let placed = slots::placed(intent, route, values);
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

/// RE2 that matches exactly `text`.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
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

fn regex_match(regex: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(regex_matcher(regex))), ignore_case: false }
}

fn regex_matcher(regex: &str) -> RegexMatcher {
    RegexMatcher { regex: regex.into(), ..RegexMatcher::default() }
}
