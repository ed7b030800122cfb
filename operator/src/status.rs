//! What Weir says of every object: built from reports, decisions and what proxies said.
//!
//! Pure but for [`Counters`] and [`writer`], which brings it to an API server. For people and never the source of a decision. `conditions` has the conditions, this file the
//! numbers.

mod bounded;
mod calls;
mod conditions;
mod counters;
mod lazies;
mod own;
pub mod pauses;
mod routes;
mod splits;
pub mod writer;

use std::collections::{BTreeMap, BTreeSet};

use crds::status::{ClassStatus, ObservedValue, ProxyCounts, RulePhase, RuleStatus, SmartLimiterStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use limiter::{
    engine::{Decision, Observed, Phase},
    lazy::{LazyKey, Scope},
    policy::{Conflict, EnforceAt, Policy, PolicyKey, Rule, Targets},
    problem::Problem,
    quota,
    split::SplitKey,
};
use serde::{Deserialize, Serialize};

pub(crate) use self::conditions::nobody;
pub use self::{
    calls::CallReport, counters::Counters, lazies::LazyReport, own::OwnStatus, routes::RouteStatus, splits::SplitReport,
};
use crate::{
    build::{Builder, Built},
    index::{Endpoint, Enforcer, Index, LazyEntry, ObjectKey, ObjectKind, PolicyEntry, ServiceView, SplitEntry},
    intent::{Pauses, ServiceKey},
    metrics::HealthBoard,
    translate::{Report, RuleKey, decide::Ruling},
    xds::{NodeKey, proxies::Proxies},
};

/// Everything that a running Weir has to say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// What this replica is, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<ReplicaReport>,
    /// What an operator has paused.
    #[serde(default, skip_serializing_if = "Pauses::is_empty")]
    pub paused: Pauses,
    /// Every policy object, accepted or not.
    pub policies: Vec<PolicyReport>,
    /// Every `LazyConfig`, accepted or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lazies: Vec<LazyReport>,
    /// Everything that shares out the requests for a Service, accepted or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub splits: Vec<SplitReport>,
    /// Who calls whom, of the pods that a `LazyConfig` is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<CallReport>,
    /// What is wrong outside of policies, by file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub problems: BTreeMap<String, Vec<Problem>>,
    /// Proxies that are connected, by node id; those that belong to no known pod are said to be so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub proxies: BTreeMap<String, ProxyReport>,
}

/// One replica of several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaReport {
    /// Whether it decides what metrics drive.
    pub leads: bool,
    /// Who does, if that is another one and known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The newest epoch that it knows.
    pub epoch: u64,
}

/// One policy object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyReport {
    /// `smartlimiters.weir.dev/<namespace>/<name>`.
    pub key: String,
    /// File and line.
    pub origin: String,
    /// Counts the texts of the object.
    pub generation: i64,
    /// As the object's own status would say it.
    pub status: SmartLimiterStatus,
}

/// One connected proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyReport {
    /// Since when, if it is connected now; a proxy that went away with a refusal is remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected_since: Option<Timestamp>,
    /// Its pod is an endpoint of its service.
    pub known: bool,
    /// What it refused of the newest versions, in its own words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

/// Since when each condition of each policy has the status it has, which is no time to come. The one thing a status remembers.
#[derive(Debug, Default)]
pub struct Transitions(BTreeMap<(String, String), (String, Time)>);

impl Transitions {
    /// Gives every condition whose status is as it was the time at which that began.
    pub fn keep(&mut self, status: &mut Status) {
        let mut kept = BTreeMap::new();
        let policies = status.policies.iter_mut().map(|it| (&it.key, &mut it.status.conditions));
        let lazies = status.lazies.iter_mut().map(|it| (&it.key, &mut it.status.conditions));
        let splits = status.splits.iter_mut().map(|it| (&it.key, &mut it.status.conditions));
        for (object, conditions) in policies.chain(lazies).chain(splits) {
            for condition in conditions {
                let key = (object.clone(), condition.type_.clone());
                if let Some((before, since)) = self.0.get(&key)
                    && *before == condition.status
                {
                    condition.last_transition_time = Time(since.0.min(condition.last_transition_time.0));
                }
                kept.insert(key, (condition.status.clone(), condition.last_transition_time.clone()));
            }
        }
        self.0 = kept;
    }
}

/// The status of everything at `now`.
#[must_use]
pub fn status(builder: &Builder, proxies: &Proxies, health: &HealthBoard, now: Timestamp) -> Status {
    let index = builder.index();
    let connected = proxies.snapshot();
    let report = |(key, entry): (&PolicyKey, &PolicyEntry)| PolicyReport {
        key: key.to_string(),
        origin: entry.origin.clone(),
        generation: entry.generation,
        status: policy_status(entry, builder, proxies, health, now),
    };
    let policies = index.policies().map(report).collect();
    let lazy = |(key, entry): (&LazyKey, &LazyEntry)| LazyReport {
        key: key.to_string(),
        origin: entry.origin.clone(),
        generation: entry.generation,
        status: lazies::lazy_status(entry, builder, proxies, now),
    };
    let lazies = index.lazies().map(lazy).collect();
    let split = |(key, entry): (&SplitKey, &SplitEntry)| SplitReport {
        key: key.to_string(),
        origin: entry.origin.clone(),
        generation: entry.generation,
        status: splits::split_status(entry, builder, proxies, now),
    };
    let splits = index.splits().map(split).collect();
    let proxies = connected
        .iter()
        .map(|(node, proxy)| {
            let view = index.service(&node.service_key());
            let known = view.is_some_and(|view| view.endpoints.contains_key(node.pod()));
            let refused = proxy.refusals.iter().map(|refusal| refusal.message.clone()).collect();
            (node.to_string(), ProxyReport { connected_since: proxy.connected_since, known, refused })
        })
        .collect();
    let paused = builder.pauses().clone();
    let (calls, problems) = (calls::calls(builder), index.other_problems());
    Status { replica: None, paused, policies, lazies, splits, calls, problems, proxies }
}

/// The status of every object of ours that `news` concerns, or of all of them; of proxies, those with news of their own.
#[must_use]
pub fn statuses(
    builder: &mut Builder,
    proxies: &Proxies,
    health: &HealthBoard,
    all: bool,
    now: Timestamp,
) -> Vec<(ObjectKey, OwnStatus)> {
    let mut news = builder.take_news();
    let nodes = proxies.take_news();
    let elsewhere = !nodes.is_empty();
    news.services.extend(nodes.iter().map(NodeKey::service_key));
    if !all && news.services.is_empty() && news.policies.is_empty() && news.lazies.is_empty() && !news.splits {
        return Vec::new();
    }
    let concerns = |(key, entry): &(&PolicyKey, &PolicyEntry)| {
        let policies = entry.newest.iter().chain(&entry.accepted);
        all || news.policies.contains(key)
            || policies.into_iter().any(|policy| match &policy.targets {
                // Callers and gateways belong to other services than the target.
                _ if policy.enforce_at != EnforceAt::Server && elsewhere => true,
                Targets::Services(_) => {
                    builder.index().targets(policy).iter().any(|service| news.services.contains(service))
                }
                Targets::Selector(_) => news.services.iter().any(|service| service.namespace == key.namespace),
            })
    };
    let status = |(key, entry): (&PolicyKey, &PolicyEntry)| {
        let mut status = policy_status(entry, builder, proxies, health, now);
        bounded::bound(&mut status);
        (ObjectKey::from(key), OwnStatus::Limiter(status))
    };
    let policies = builder.index().policies().filter(concerns).map(status);
    let lazies = builder.index().lazies().filter(|(key, entry)| {
        let scope = entry.accepted.as_ref().map(|lazy| builder.index().lazy_scope(lazy));
        // One that comes or goes may put others out of force. Those of the whole mesh are looked at without news of proxies rarely.
        all || !news.lazies.is_empty()
            || match scope {
                Some(Scope::Mesh) => elsewhere,
                _ => news.services.iter().any(|service| service.namespace == key.namespace),
            }
    });
    let lazy = |(key, entry): (&LazyKey, &LazyEntry)| {
        (ObjectKey::from(key), OwnStatus::Lazy(lazies::lazy_status(entry, builder, proxies, now)))
    };
    // A split is of its root, its arms, and whoever calls; there are few.
    let splits = builder.index().splits().filter(|(key, _)| {
        let concerns = |service: &ServiceKey| service.namespace == key.namespace;
        all || news.splits || elsewhere || news.services.iter().any(concerns)
    });
    let split = |(key, entry): (&SplitKey, &SplitEntry)| {
        (ObjectKey::from(key), OwnStatus::Split(splits::split_status(entry, builder, proxies, now)))
    };
    // Also those that have no Service as a parent any more: what was said of it is taken back.
    let routes = builder.index().route_keys().filter(|key| {
        let services = builder.index().services_of_route(key);
        all || news.splits || services.iter().any(|service| news.services.contains(service))
    });
    let route = |key: &ObjectKey| (key.clone(), OwnStatus::Route(routes::route_status(key, builder.index(), now)));
    policies.chain(lazies.map(lazy)).chain(splits.map(split)).chain(routes.map(route)).collect()
}

/// A service that a policy applies to.
struct Target<'a> {
    service: ServiceKey,
    built: Option<&'a Built>,
    /// Other services whose proxies enforce the policy, as they were last built.
    elsewhere: Vec<&'a Built>,
    /// Pods whose proxies enforce the policy.
    enforcers: Vec<Enforcer>,
    /// Nothing of it is enforced: it is paused, or all who would enforce it are.
    paused: bool,
    /// Callers of other namespaces that the policy does not concern.
    unlimited: BTreeSet<(&'a str, &'a str)>,
    /// Policies that others of this service stand in the way of.
    conflicts: Vec<Conflict>,
    /// `None`: the Service does not exist.
    view: Option<Endpoints>,
}

/// What conditions need of a service's view.
struct Endpoints {
    pods: Vec<String>,
    /// Pods whose CPU or memory is a fraction of the request, having no limit; and those with neither.
    from_request: bool,
    without_cpu: bool,
    without_memory: bool,
    /// A pod whose metrics page is not read, since it has none.
    without_page: Option<String>,
    /// A pod whose manifest is refused, and why: what it says anew has no effect.
    refused: Option<String>,
}

impl Endpoints {
    fn of(view: &ServiceView<'_>, index: &Index) -> Self {
        let refusal = |pod: &&str| {
            let (namespace, name) = (view.key.namespace.clone(), (*pod).to_owned());
            let problem = index.refusal(&ObjectKey { kind: ObjectKind::Pod, namespace, name })?;
            Some(format!("the manifest of pod {pod} is refused: {problem}"))
        };
        let pods = view.endpoints.values();
        let resources = pods.clone().flat_map(|endpoint| [endpoint.cpu_cores, endpoint.memory_bytes]);
        Self {
            pods: view.endpoints.keys().map(|pod| (*pod).to_owned()).collect(),
            from_request: resources.flatten().any(|resource| resource.from_request),
            without_cpu: pods.clone().any(|endpoint| endpoint.cpu_cores.is_none()),
            without_memory: pods.clone().any(|endpoint| endpoint.memory_bytes.is_none()),
            without_page: view.endpoints.iter().find(|(_, it)| it.page.is_none()).map(|(pod, _)| (*pod).to_owned()),
            refused: view.endpoints.keys().find_map(refusal),
        }
    }
}

impl<'a> Target<'a> {
    fn of(service: ServiceKey, place: EnforceAt, builder: &'a Builder) -> Self {
        let index = builder.index();
        let view = index.service(&service);
        let enforcers = match place {
            EnforceAt::Server => view.iter().flat_map(own_proxies).collect(),
            EnforceAt::Client | EnforceAt::Gateway => index.enforcers(&service, place),
        };
        let elsewhere = index.enforcing(&service, place);
        let at_rest = |enforcer: &Enforcer| enforcer.services.iter().all(|owner| builder.pauses().covers(owner));
        Self {
            built: builder.built(&service),
            paused: builder.pauses().covers(&service) || !enforcers.is_empty() && enforcers.iter().all(at_rest),
            unlimited: match place {
                EnforceAt::Client => index.unlimited_callers(&service).collect(),
                EnforceAt::Server | EnforceAt::Gateway => BTreeSet::new(),
            },
            conflicts: index.conflicts(&service),
            elsewhere: elsewhere.iter().filter_map(|other| builder.built(other)).collect(),
            enforcers,
            view: view.map(|view| Endpoints::of(&view, index)),
            service,
        }
    }

    /// What is decided about a rule of a policy on this service, and what translation said of it.
    fn rule(&self, policy: &PolicyKey, rule: &str) -> Option<(Ruling<'_>, Option<&Report>)> {
        let built = self.built?;
        let ruling = built.rules.get(policy, rule)?;
        let key = RuleKey { service: self.service.clone(), policy: policy.clone(), rule: rule.to_owned() };
        let of_rule = |built: &&'a Built| built.reports.iter().find(|report| report.key == key);
        // What could not be carried out where it is enforced matters more than what was decided.
        let trouble = self.elsewhere.iter().filter_map(of_rule).find(|report| report.trouble.is_some());
        Some((ruling, trouble.or_else(|| of_rule(&built))))
    }
}

fn own_proxies(view: &ServiceView<'_>) -> Vec<Enforcer> {
    let proxy = |(pod, endpoint): (&&str, &Endpoint)| Enforcer {
        namespace: view.key.namespace.clone(),
        pod: (*pod).to_owned(),
        services: [view.key.clone()].into(),
        ready: endpoint.ready,
    };
    view.endpoints.iter().map(proxy).collect()
}

fn policy_status(
    entry: &PolicyEntry,
    builder: &Builder,
    proxies: &Proxies,
    health: &HealthBoard,
    now: Timestamp,
) -> SmartLimiterStatus {
    let targets = entry.newest.as_ref().or(entry.accepted.as_ref());
    let targets = targets.map(|policy| builder.index().targets(policy)).unwrap_or_default();
    let place = entry.accepted.as_ref().map(|policy| policy.enforce_at).unwrap_or_default();
    let targets: Vec<Target<'_>> = targets.into_iter().map(|service| Target::of(service, place, builder)).collect();
    let delivery = conditions::delivery(&targets, builder.table(), proxies);
    let unlimited: BTreeSet<_> = targets.iter().flat_map(|target| &target.unlimited).collect();
    let proxies_of = ProxyCounts {
        total: delivery.total.into(),
        programmed: delivery.programmed.into(),
        unlimited: i64::try_from(unlimited.len()).ok().filter(|count| *count > 0),
    };
    let mut rules = Vec::new();
    for target in &targets {
        if let Some(policy) = &entry.accepted {
            rules.extend(policy.rules.iter().filter_map(|rule| rule_status(policy, rule, target, now)));
        }
    }
    SmartLimiterStatus {
        observed_generation: Some(entry.generation),
        proxies: Some(proxies_of),
        conditions: conditions::conditions(entry, &targets, &delivery, health, proxies, now),
        rules,
        rules_left_out: None,
    }
}

/// `None`: it was not decided here.
fn rule_status(policy: &Policy, rule: &Rule, target: &Target<'_>, now: Timestamp) -> Option<RuleStatus> {
    let (ruling, report) = target.rule(&policy.key, &rule.name)?;
    let decision = ruling.decision;
    let shares = report.map(|report| report.shares.as_slice()).unwrap_or_default();
    let observed = ruling.observed().into_iter().map(|Observed { metric, value, at, source }| ObservedValue {
        metric,
        value,
        source: source.into_owned(),
        at: Some(Time(at)),
    });
    let trouble = report.and_then(|report| report.trouble.as_ref());
    Some(RuleStatus {
        name: rule.name.clone(),
        target: target.service.name.clone(),
        phase: phase(decision.phase),
        limit: decision.limit.map(|rate| rule.action.describe(rate)),
        per_second: decision.limit.map(|rate| rate.per_second()),
        shares: (!shares.is_empty()).then(|| quota::describe(shares)),
        classes: classes(rule, decision),
        excess: decision.excess,
        in_flight: report.and_then(|report| report.bound).map(i64::from),
        observed: observed.collect(),
        // The clock may have been set back since.
        since: Some(Time(decision.since.min(now))),
        message: Some(match trouble {
            Some(trouble) => format!("not carried out: {trouble}"),
            None if target.paused => {
                format!("paused by an operator, nothing is enforced: {}", ruling.explain())
            }
            None => ruling.explain(),
        }),
    })
}

fn classes(rule: &Rule, decision: &Decision) -> Vec<ClassStatus> {
    let names = rule.classes.iter().map(|class| Some(class.name.clone())).chain([None]);
    let classes = names.zip(&decision.classes);
    classes.map(|(name, rate)| ClassStatus { name, per_second: rate.per_second() }).collect()
}

fn phase(phase: Phase) -> RulePhase {
    match phase {
        Phase::Idle => RulePhase::Idle,
        Phase::Pending => RulePhase::Pending,
        Phase::Limiting => RulePhase::Limiting,
        Phase::Releasing => RulePhase::Releasing,
    }
}
