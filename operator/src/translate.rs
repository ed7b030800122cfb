//! One service's view and the decisions about it, to its intent and reports.
//!
//! Pure. `decide` steps the rules; [`translate`] turns policies into limit shapes, `routes` finds which requests take which
//! limits, and each pod gets its share of every number. Shapes and routes depend only on policies, so a decision moves numbers
//! and nothing else.

pub mod decide;
mod gateway;
mod outbound;
mod routes;

use std::collections::BTreeMap;

use limiter::{
    engine::Decision,
    policy::{Action, EnforceAt, Key, Mode, Policy, PolicyKey, Rule, Scope, default_burst},
    quota::{self, Rate},
};
use serde::Serialize;

pub use self::outbound::outbound;
use crate::{
    index::ServiceView,
    intent::{LimitShape, LimitValue, PodIntent, Protocol, Route, ServiceIntent, ServiceKey},
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

/// What is decided about each rule.
pub type Decisions = BTreeMap<RuleKey, Decision>;

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
pub fn translate(view: &ServiceView<'_>, decisions: &Decisions) -> (ServiceIntent, Vec<Report>) {
    let mut reports: BTreeMap<RuleKey, Report> = BTreeMap::new();
    let mut rules = Vec::new();
    let has_http = view.endpoints.values().flat_map(|endpoint| &endpoint.inbound).any(|i| i.protocol != Protocol::Tcp);
    let no_http = !has_http && view.endpoints.values().any(|endpoint| !endpoint.inbound.is_empty());
    let only_gateway = !has_http && view.gateway.is_some();
    for policy in &view.policies {
        for rule in &policy.rules {
            let key = RuleKey { service: view.key.clone(), policy: policy.key.clone(), rule: rule.name.clone() };
            let trouble = match policy.enforce_at {
                EnforceAt::Server if only_gateway => Some(Trouble::GatewayItself),
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
        let (Some(decision), Some(report)) = (decisions.get(&limited.key), reports.get_mut(&limited.key)) else {
            continue;
        };
        if !enforcers.is_empty() {
            let values = limited.values(decision, ready).unwrap_or_default();
            report.shares = values.iter().map(|value| value.rate).collect();
            let bounds = limited.rule.mode == Mode::Enforce && limited.bound(decision, ready).is_some();
            report.bound = decision.bound.filter(|_| bounds);
        }
    }

    // Enforced rules become limits; a rule in shadow mode is decided and reported, and never reaches a proxy.
    let (enforced, shadow): (Vec<_>, Vec<_>) =
        rules.into_iter().partition(|limited| limited.rule.mode == Mode::Enforce);
    let limits: Vec<LimitShape> = enforced.iter().map(Limited::shape).collect();
    let (routes, left_out) = build_routes(&enforced);
    for position in left_out {
        if let Some(report) = reports.get_mut(&enforced[position].key) {
            report.trouble.get_or_insert(Trouble::TooManyRoutes);
        }
    }

    let ready: Vec<&str> = view.ready_pods().collect();
    let mut pods: BTreeMap<String, PodIntent> = view
        .endpoints
        .iter()
        .map(|(pod, endpoint)| {
            let values = vec![None; limits.len()];
            ((*pod).to_owned(), PodIntent { inbound: endpoint.inbound.clone(), values, ..PodIntent::default() })
        })
        .collect();
    for (position, limited) in enforced.iter().enumerate() {
        let Some(decision) = decisions.get(&limited.key) else { continue };
        if let Some(bound) = limited.bound(decision, ready.len()) {
            for intent in pods.values_mut() {
                intent.bounds.tighten(bound);
            }
            if let Some(report) = reports.get_mut(&limited.key) {
                report.bound = decision.bound;
            }
        }
        let Some(values) = limited.values(decision, ready.len()) else { continue };
        for (pod, intent) in &mut pods {
            // A pod that is not ready takes no share of the total; should a request reach it, the smallest share applies.
            let share = ready.iter().position(|name| name == pod).and_then(|place| values.get(place));
            intent.values[position] = share.or(values.last()).copied();
        }
        if let Some(report) = reports.get_mut(&limited.key) {
            report.shares = values.iter().map(|value| value.rate).collect();
        }
    }
    for limited in &shadow {
        let values = decisions.get(&limited.key).and_then(|decision| limited.values(decision, ready.len()));
        if let (Some(values), Some(report)) = (values, reports.get_mut(&limited.key)) {
            report.shares = values.iter().map(|value| value.rate).collect();
        }
    }
    (ServiceIntent { limits, routes, pods }, reports.into_values().collect())
}

/// A rule, and what its numbers count.
struct Limited<'a> {
    key: RuleKey,
    policy: &'a Policy,
    rule: &'a Rule,
    scope: Scope,
    per: Option<&'a Key>,
}

impl<'a> Limited<'a> {
    fn new(key: RuleKey, policy: &'a Policy, rule: &'a Rule) -> Self {
        let (scope, per) = match &rule.action {
            Action::Limit(limit) => (limit.scope, limit.per.as_ref()),
            Action::Adapt(adapt) => (adapt.scope, None),
        };
        Self { key, policy, rule, scope, per }
    }

    fn shape(&self) -> LimitShape {
        LimitShape {
            bucket: format!("{}/{}", self.policy.key, self.rule.name),
            per: self.per.cloned(),
            service_wide: self.rule.matches.is_empty() && self.per.is_none(),
            mode: self.rule.mode,
        }
    }

    /// Most requests in flight at each pod. A total is divided and rounded up: the sum may exceed it by less than one
    /// request per pod, which is better than a pod that takes none.
    /// Envoy counts what is in flight for a whole port, so a rule about some of the requests cannot bound them.
    fn bound(&self, decision: &Decision, ready: usize) -> Option<u32> {
        if !self.rule.matches.is_empty() {
            return None;
        }
        let bound = match self.scope {
            Scope::AcrossAllPods => decision.bound?.div_ceil(u32::try_from(ready.max(1)).unwrap_or(u32::MAX)),
            Scope::PerPod => decision.bound?,
        };
        Some(bound.max(1))
    }

    /// The number of each ready pod (of one, when none is ready), largest first; `None` without a limit in force.
    fn values(&self, decision: &Decision, ready: usize) -> Option<Vec<LimitValue>> {
        let (rate, lowest) = (decision.limit?, decision.lowest.or(decision.limit)?);
        let pods = u32::try_from(ready.max(1)).unwrap_or(u32::MAX);
        let divide = |total: Rate| match self.scope {
            Scope::AcrossAllPods => quota::shares(total, pods),
            Scope::PerPod => vec![total; ready.max(1)],
        };
        let burst = self.rule.burst.map(|burst| match self.scope {
            Scope::AcrossAllPods => burst.div_ceil(pods),
            Scope::PerPod => burst,
        });
        let values = divide(rate).into_iter().zip(divide(lowest)).map(|(rate, lowest)| LimitValue {
            rate,
            burst: burst.unwrap_or_else(|| default_burst(lowest)).max(1),
            lowest,
        });
        Some(values.collect())
    }
}

/// Routes of the service, and the positions of limits whose matches found no room.
fn build_routes(enforced: &[Limited<'_>]) -> (Vec<Route>, Vec<usize>) {
    let mut regions = routes::Regions::new();
    let mut left_out = Vec::new();
    for (position, limited) in enforced.iter().enumerate() {
        if !regions.add(position, &limited.rule.matches) {
            left_out.push(position);
        }
    }
    let routes = regions.into_routes(|position| enforced[position].rule.name.as_str());
    (routes, left_out)
}

#[cfg(test)]
mod tests;
