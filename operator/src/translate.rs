//! One service's view and the decisions about it, to its intent and reports.
//!
//! Pure. `decide` steps the rules; [`translate`] turns policies into limit shapes, `routes` finds which requests take which
//! limits, and each pod gets its share of every number. Shapes and routes depend only on policies, so a decision moves numbers
//! and nothing else.

pub mod decide;
mod gateway;
mod limited;
mod outbound;
mod routes;
pub mod split;

use std::collections::BTreeMap;

use limiter::{
    policy::{Class, EnforceAt, PolicyKey},
    quota::Rate,
};
use serde::Serialize;

pub use self::outbound::outbound;
use self::{decide::Rules, limited::Limited};
use crate::{
    index::{ServiceView, model::Unfit},
    intent::{LimitShape, PodIntent, Protocol, Route, ServiceIntent, ServiceKey},
};

/// One rule of one policy on one service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RuleKey {
    /// The service.
    pub service: ServiceKey,
    /// The policy.
    pub policy: PolicyKey,
    /// The rule's name.
    pub rule: String,
}

/// What translation has to say about one rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Which rule.
    pub key: RuleKey,
    /// What each ready pod gets, largest first; empty without a limit in force.
    pub shares: Vec<Rate>,
    /// Most requests in flight in the rule's scope, as carried out.
    pub bound: Option<u32>,
    /// Why the rule is not carried out, although it was accepted.
    pub trouble: Option<Trouble>,
}

/// Why an accepted rule cannot be carried out on a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Trouble {
    /// Its matches and those of other rules overlap in too many ways.
    TooManyRoutes,
    /// The service can have no proxies, or carries no HTTP.
    Unfit(Unfit),
    /// No port of the service speaks HTTP.
    NoHttpPort,
    /// The service is a Gateway's own: nothing stands behind its proxies that they would protect.
    GatewayItself,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooManyRoutes => write!(
                f,
                "its matches overlap those of other rules in more than {} ways: use fewer, or matches that exclude each other",
                routes::MOST
            ),
            Self::Unfit(unfit) => unfit.fmt(f),
            Self::GatewayItself => {
                f.write_str("the Service is a Gateway's own: name the Services behind it, with enforceAt: Gateway")
            }
            Self::NoHttpPort => {
                f.write_str("no port of the Service speaks HTTP: set appProtocol: http on it, or name it http-…")
            }
        }
    }
}

/// Translates one service.
#[must_use]
pub fn translate(view: &ServiceView<'_>, decided: &Rules) -> (ServiceIntent, Vec<Report>) {
    let mut reports: BTreeMap<RuleKey, Report> = BTreeMap::new();
    let mut rules = Vec::new();
    let has_http = view.endpoints.values().flat_map(|endpoint| &endpoint.inbound).any(|i| i.protocol != Protocol::Tcp);
    let no_http = !has_http && view.endpoints.values().any(|endpoint| !endpoint.inbound.is_empty());
    let only_gateway = !has_http && view.gateway.is_some();
    for policy in &view.policies {
        for rule in &policy.rules {
            let key = RuleKey { service: view.key.clone(), policy: policy.key.clone(), rule: rule.name.clone() };
            let trouble = match (view.unfit, policy.enforce_at) {
                (Some(unfit), _) => Some(Trouble::Unfit(unfit.clone())),
                (None, EnforceAt::Server) if only_gateway => Some(Trouble::GatewayItself),
                _ => no_http.then_some(Trouble::NoHttpPort),
            };
            reports.insert(key.clone(), Report { key: key.clone(), shares: Vec::new(), bound: None, trouble });
            rules.push(Limited::new(key, policy, rule));
        }
    }

    // What callers and gateways enforce is only divided here.
    let (rules, elsewhere): (Vec<_>, Vec<_>) =
        rules.into_iter().partition(|limited| limited.policy.enforce_at == EnforceAt::Server);
    for limited in &elsewhere {
        let enforcers = view.enforcers.get(&limited.policy.enforce_at).map_or(&[][..], Vec::as_slice);
        let ready = enforcers.iter().filter(|enforcer| enforcer.ready).count();
        let (Some(decision), Some(report)) = (decided.decision(&limited.key), reports.get_mut(&limited.key)) else {
            continue;
        };
        if ready > 0 {
            let values = limited.values(decision, ready).into_iter().flatten().next().unwrap_or_default();
            report.shares = values.iter().map(|value| value.rate).collect();
            report.bound = decision.bound.filter(|_| limited.bounds(decision, ready).is_some());
        }
    }

    let (numbered, limits) = number(&rules);
    let (routes, left_out) = build_routes(routes::Regions::new(), &numbered, limits.len());
    for number in &left_out {
        if let Some(report) = reports.get_mut(&rules[*number].key) {
            report.trouble.get_or_insert(Trouble::TooManyRoutes);
        }
    }

    let ready: Vec<&str> = view.ready_pods().collect();
    let mut pods: BTreeMap<String, PodIntent> = view
        .endpoints
        .iter()
        .map(|(pod, endpoint)| {
            let values = vec![None; limits.len()];
            (
                (*pod).to_owned(),
                PodIntent {
                    inbound: endpoint.inbound.clone(),
                    sidecar: endpoint.sidecar,
                    values,
                    ..PodIntent::default()
                },
            )
        })
        .collect();
    // A rule that no request counts in bounds nothing either.
    let carried = numbered.iter().enumerate().filter(|(number, _)| !left_out.contains(number));
    for (limited, first) in carried.map(|(_, numbered)| numbered) {
        let Some(decision) = decided.decision(&limited.key) else { continue };
        let mut report = reports.get_mut(&limited.key);
        if let Some((all, below)) = limited.bounds(decision, ready.len()) {
            pods.values_mut().for_each(|intent| intent.bounds.tighten(all, below));
            if let Some(report) = &mut report {
                report.bound = decision.bound;
            }
        }
        for (values, position) in limited.values(decision, ready.len()).into_iter().flatten().zip(*first..) {
            for (pod, intent) in &mut pods {
                // A pod that is not ready takes no share of the total; should a request reach it, the smallest share applies.
                let share = ready.iter().position(|name| name == pod).and_then(|place| values.get(place));
                intent.values[position] = share.or(values.last()).copied();
            }
            if let Some(report) = report.as_mut().filter(|_| position == *first && !ready.is_empty()) {
                report.shares = values.iter().map(|value| value.rate).collect();
            }
        }
    }
    (ServiceIntent { limits, routes, pods }, reports.into_values().collect())
}

/// The rules with the position of each one's own limit, those of its classes following it; and all these limits.
fn number<'r, 'p>(rules: &'r [Limited<'p>]) -> (Vec<(&'r Limited<'p>, usize)>, Vec<LimitShape>) {
    let mut limits = Vec::new();
    let mut numbered = Vec::new();
    for limited in rules {
        numbered.push((limited, limits.len()));
        limits.extend(limited.shapes());
    }
    (numbered, limits)
}

/// Routes of the requests in `regions`, and the places of rules whose matches found no room. `rules` come with the position of
/// each one's own limit among `limits`.
fn build_routes(
    mut regions: routes::Regions,
    rules: &[(&Limited<'_>, usize)],
    limits: usize,
) -> (Vec<Route>, Vec<usize>) {
    let mut left_out = Vec::new();
    // Classes are told apart by marks, which stand beside the limits of a region until it is known which of them comes first.
    let mut marks: Vec<(usize, usize)> = Vec::new();
    for (number, (limited, first)) in rules.iter().enumerate() {
        let mut attempt = regions.clone();
        let before = marks.len();
        let mut fits = attempt.add(*first, &limited.rule.matches);
        for (class, Class { matches, .. }) in limited.rule.classes.iter().enumerate() {
            fits = fits && attempt.add_within(limits + marks.len(), *first, matches);
            marks.push((number, class));
        }
        if fits {
            regions = attempt;
        } else {
            marks.truncate(before);
            left_out.push(number);
        }
    }
    let routes = regions.into_routes(|taken| {
        let mut region = routes::Taken::default();
        for (number, (limited, first)) in rules.iter().enumerate().filter(|(_, (_, first))| taken.contains(first)) {
            region.rules.push(limited.rule.name.as_str());
            let marked = taken.iter().filter_map(|position| marks.get(position.checked_sub(limits)?));
            let class = marked.filter(|(of, _)| *of == number).map(|(_, class)| *class).min();
            let class = class.unwrap_or(limited.rule.classes.len());
            region.limits.extend(limited.counted_in(class).into_iter().map(|shape| first + shape));
            region.classes.extend(limited.class_key(class));
            region.priority = region.priority.max(limited.priority(class));
        }
        region
    });
    (routes, left_out)
}

#[cfg(test)]
mod tests;
