//! Extension configurations: the limits of one pod as an HTTP filter, for a proxy whose listeners another control plane owns.
//!
//! That control plane is given static limit filters once ([`filters`], printed by `weir attachment`); they read class, bucket
//! and cost from a request's dynamic metadata. Before them stands a filter that the proxy fetches from Weir, and that is what
//! [`build`] makes: a tree of the service's routes, whose actions write that metadata. A changed limit is a changed number in
//! it; listener and buckets stay.
//!
//! What another's proxy cannot carry out is left out and said ([`left_out`]): the rest is in force.

mod matcher;

use std::{collections::BTreeSet, sync::Arc};

use envoy_types::pb::{
    envoy::{
        config::core::v3::TypedExtensionConfig,
        extensions::{
            common::matching::v3::ExtensionWithMatcher,
            filters::{
                http::{
                    composite::v3::{Composite, ExecuteFilterAction, FilterChainConfiguration},
                    header_to_metadata::v3::{
                        Config as HeaderToMetadata,
                        config::{KeyValuePair, Rule},
                    },
                    set_metadata::v3::{Config as SetMetadata, Metadata},
                },
                network::http_connection_manager::v3::HttpFilter,
            },
        },
    },
    google::protobuf::{Any, Struct},
    xds::{
        core::v3::TypedExtensionConfig as Action,
        r#type::matcher::v3::{
            Matcher,
            matcher::{MatcherList, MatcherType, OnMatch, matcher_list::FieldMatcher, on_match},
        },
    },
};
use prost::Message;

use ::limiter::{
    policy::{Mode, PathMatch, RequestMatch, ValueMatch, weir::regex_steps},
    quota::Rate,
};

use crate::{
    intent::{LimitValue, PodIntent, Route, ServiceIntent},
    xds::{
        NodeKey, ResourceType, names,
        resources::{
            GENERATOR, Resource, any, encode, limiter,
            listener::{self, Written},
            reply::LimitFilter,
            route,
            slots::{self, SlotKind},
            version,
        },
    },
};

/// Largest regular expression that is sent, in estimated steps. Envoy refuses more than 100 unless it is told otherwise, and
/// telling is the other control plane's; what is matched around a path takes ten.
const MAX_REGEX_STEPS: u64 = 75;
/// Slots for limits by header value, whatever the header; for the other kinds see [`SLOTS`].
const HEADER_SLOTS: usize = 4;
/// The slots of the static filters, in order of charging. They cannot grow with a policy, as those of Weir's own listeners do.
const SLOTS: [(SlotKind, usize); 3] = [(SlotKind::ClientIp, 4), (SlotKind::Plain, 8), (SlotKind::Service, 4)];

/// Why a limit is not in force at a proxy that fetches only its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum LeftOut {
    /// Its matches hold a large regular expression.
    #[error(
        "its regular expression is larger than proxies take by default: match a prefix, or count less, as in {{1,4}}"
    )]
    Regex,
    /// A request would meet more limits of its kind than the static filters have slots.
    #[error(
        "more limits of its kind meet on one request than there are slots: 4 for the service, 8 by match, 4 by client, 4 by header"
    )]
    Slots,
    /// Only counted, which needs filters of its own.
    #[error("rules in shadow mode are not counted there")]
    Shadow,
}

/// The resource of a pod. A pod that is not known gets one without limits, since a proxy waits for its first.
#[must_use]
pub fn build(node: &NodeKey, intent: Option<&ServiceIntent>) -> Resource {
    let name: Arc<str> = names::extension(node).into();
    let version = version_of(node, intent);
    let known = intent.and_then(|intent| Some((intent, intent.pods.get(node.pod())?)));
    let matcher = match known {
        Some((intent, pod)) if !pod.paused => tree(intent, &enforced(intent, pod)),
        _ => Matcher { on_no_match: Some(Box::new(action(&[], &[]))), matcher_type: None },
    };
    let with_matcher = ExtensionWithMatcher {
        xds_matcher: Some(matcher),
        extension_config: Some(TypedExtensionConfig {
            name: "envoy.filters.http.composite".into(),
            typed_config: Some(any(&Composite::default())),
        }),
        ..ExtensionWithMatcher::default()
    };
    let config = TypedExtensionConfig { name: name.to_string(), typed_config: Some(any(&with_matcher)) };
    Resource {
        resource_type: ResourceType::Extension,
        encoded: encode(ResourceType::Extension, &name, &version, config.encode_to_vec()),
        name,
        node: node.clone(),
        version,
        needs: None,
    }
}

/// The version that [`build`] gives.
#[must_use]
pub fn version_of(node: &NodeKey, intent: Option<&ServiceIntent>) -> Arc<str> {
    let of_pod = intent.and_then(|intent| {
        let pod = intent.pods.get(node.pod())?;
        Some((&intent.limits, &intent.routes, &pod.values, pod.paused))
    });
    version(&(GENERATOR, "extension", of_pod))
}

/// Buckets of the limits of a pod that are in force but not here, and why.
#[must_use]
pub fn left_out<'a>(intent: &'a ServiceIntent, pod: &PodIntent) -> BTreeSet<(&'a str, LeftOut)> {
    let mut out = BTreeSet::new();
    for (limit, value) in intent.limits.iter().zip(&pod.values) {
        if value.is_some() && limit.mode == Mode::Shadow {
            out.insert((&*limit.bucket, LeftOut::Shadow));
        }
    }
    let values = enforced(intent, pod);
    for (at, route) in intent.routes.iter().enumerate() {
        if sendable(route) {
            let beyond = spread(intent, route, &values).1;
            out.extend(beyond.into_iter().map(|bucket| (bucket, LeftOut::Slots)));
            continue;
        }
        // Its requests meet the next route that fits them, which has all limits but those with the expression.
        let rest = intent.routes[at + 1..].iter().filter(|next| sendable(next));
        let next = rest
            .filter(|next| next.limits.iter().all(|limit| route.limits.contains(limit)))
            .max_by_key(|next| next.limits.len());
        let missing = route.limits.iter().filter(|limit| next.is_none_or(|next| !next.limits.contains(limit)));
        let in_force = missing.filter(|limit| values.get(**limit).is_some_and(Option::is_some));
        out.extend(in_force.filter_map(|limit| Some((&*intent.limits.get(*limit)?.bucket, LeftOut::Regex))));
    }
    out
}

/// The static filters that charge what [`build`] writes, narrow limits first.
#[must_use]
pub fn filters() -> [HttpFilter; 2] {
    let (mut narrow, mut service) = (Vec::new(), Vec::new());
    for suffix in (0..HEADER_SLOTS).map(header_suffix) {
        let subject = listener::from_metadata(limiter::SUBJECT_KEY, subject_key(&suffix), Written::ByFilter);
        narrow.push(listener::rate_limit(&suffix, subject, Written::ByFilter));
    }
    for (kind, count) in &SLOTS {
        let slots = if *kind == SlotKind::Service { &mut service } else { &mut narrow };
        slots.extend(
            (0..*count)
                .map(|index| listener::rate_limit(&kind.suffix(index), listener::subject(kind), Written::ByFilter)),
        );
    }
    [
        listener::enforcing(names::NARROW_FILTER, LimitFilter::Narrow, narrow, Written::ByFilter),
        listener::enforcing(names::SERVICE_FILTER, LimitFilter::Service, service, Written::ByFilter),
    ]
}

fn header_suffix(index: usize) -> String {
    format!("-header-{index}")
}

fn subject_key(suffix: &str) -> String {
    format!("subject{suffix}")
}

/// A pod's numbers, without those that are only counted.
fn enforced(intent: &ServiceIntent, pod: &PodIntent) -> Vec<Option<LimitValue>> {
    let with_limits = pod.values.iter().zip(&intent.limits);
    with_limits.map(|(value, limit)| value.filter(|_| limit.mode == Mode::Enforce)).collect()
}

/// Whether the proxy takes the regular expressions of a route.
fn sendable(route: &Route) -> bool {
    let takes = |regex: &str| regex_steps(regex).is_some_and(|steps| steps <= MAX_REGEX_STEPS);
    let value = |value: &ValueMatch| match value {
        ValueMatch::Exact(_) => true,
        ValueMatch::Regex(regex) => takes(regex),
    };
    route.matches.iter().all(|RequestMatch { path, method: _, headers, query_params }| {
        let path = match path {
            Some(PathMatch::Regex(regex)) => takes(regex),
            Some(PathMatch::Exact(_) | PathMatch::Prefix(_)) | None => true,
        };
        path && headers.values().all(value) && query_params.values().all(value)
    })
}

/// The first route that matches writes its limits, as in a route configuration.
fn tree(intent: &ServiceIntent, values: &[Option<LimitValue>]) -> Matcher {
    let mut matchers = Vec::new();
    let mut otherwise = action(&[], &[]);
    for route in intent.routes.iter().filter(|route| sendable(route)) {
        let (charges, _) = spread(intent, route, values);
        let headers: Vec<(String, String)> = charges.iter().filter_map(|charge| charge.header.clone()).collect();
        let on_match = action(&charges, &headers);
        match matcher::predicate(&route.matches) {
            Some(predicate) => {
                matchers.push(FieldMatcher { predicate: Some(predicate), on_match: Some(on_match) });
            }
            None => {
                otherwise = on_match;
                break;
            }
        }
    }
    let list = (!matchers.is_empty()).then_some(MatcherType::MatcherList(MatcherList { matchers }));
    Matcher { on_no_match: Some(Box::new(otherwise)), matcher_type: list }
}

/// What one slot is given.
struct Charged<'a> {
    suffix: String,
    bucket: &'a str,
    charge: limiter::Charge,
    kind: SlotKind,
    rate: Rate,
    /// Header, and the metadata key that takes its value.
    header: Option<(String, String)>,
}

/// The limits of a route in the slots there are, and the buckets of those beyond.
fn spread<'a>(
    intent: &'a ServiceIntent,
    route: &Route,
    values: &[Option<LimitValue>],
) -> (Vec<Charged<'a>>, Vec<&'a str>) {
    let mut by_header = 0;
    let mut charged = Vec::new();
    let mut beyond = Vec::new();
    for slots::Placed { kind, index, bucket, charge, rate } in slots::placed(&intent.limits, route, values) {
        let (suffix, fits, header) = match &kind {
            SlotKind::Header(name) => {
                let suffix = header_suffix(by_header);
                let header = (name.clone(), subject_key(&suffix));
                by_header += 1;
                (suffix, by_header <= HEADER_SLOTS, Some(header))
            }
            kind => (kind.suffix(index), SLOTS.iter().any(|(of, count)| of == kind && index < *count), None),
        };
        if fits {
            charged.push(Charged { suffix, bucket, charge, kind, rate, header });
        } else {
            beyond.push(bucket);
        }
    }
    (charged, beyond)
}

fn action(charges: &[Charged<'_>], headers: &[(String, String)]) -> OnMatch {
    let mut value = Struct::default();
    for Charged { suffix, bucket, charge, .. } in charges {
        value.fields.extend(route::charged(suffix, bucket, *charge));
    }
    value.fields.extend(route::told(charges.iter().map(|charge| (&charge.kind, charge.rate))));
    let metadata = Metadata {
        metadata_namespace: names::METADATA.into(),
        allow_overwrite: true,
        value: Some(value),
        typed_value: None,
    };
    let set =
        filter("envoy.filters.http.set_metadata", any(&SetMetadata { metadata: vec![metadata], ..Default::default() }));
    let mut execute = ExecuteFilterAction::default();
    if headers.is_empty() {
        execute.typed_config = Some(set);
    } else {
        let rules = headers.iter().map(|(header, key)| Rule {
            header: header.clone(),
            on_header_present: Some(KeyValuePair {
                metadata_namespace: names::METADATA.into(),
                key: key.clone(),
                ..KeyValuePair::default()
            }),
            ..Rule::default()
        });
        let read = HeaderToMetadata { request_rules: rules.collect(), ..HeaderToMetadata::default() };
        let read = filter("envoy.filters.http.header_to_metadata", any(&read));
        execute.filter_chain = Some(FilterChainConfiguration { typed_config: vec![set, read] });
    }
    OnMatch {
        on_match: Some(on_match::OnMatch::Action(Action { name: "limits".into(), typed_config: Some(any(&execute)) })),
        keep_matching: false,
    }
}

fn filter(name: &str, config: Any) -> TypedExtensionConfig {
    TypedExtensionConfig { name: name.into(), typed_config: Some(config) }
}

#[cfg(test)]
mod tests;
