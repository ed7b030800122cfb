//! The four conditions of a policy. Numbers that move stand in status fields, never in these messages.

use std::collections::BTreeSet;

use crds::conditions::{ConditionReason as Reason, ConditionType};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use limiter::{
    engine::Phase,
    metric::{Metric, Word},
    policy::{Conflict, EnforceAt, MetricSource, Mode, Policy, Rule},
    problem::{self, Problem},
};

use super::{Endpoints, Target};
use crate::{
    index::{Enforcer, PolicyEntry},
    metrics::HealthBoard,
    translate::{RuleKey, decide::qualified},
    xds::{NodeKey, proxies::Proxies, resources::extension, table::Table},
};

/// How far a policy's newest numbers have come.
pub(super) struct Delivery {
    /// Pods that enforce it, each with one proxy.
    pub(super) total: u32,
    /// Proxies that have acknowledged the newest version of all they were given.
    pub(super) programmed: u32,
    connected: u32,
    /// A pod whose proxy is connected, but as that of another service.
    stranger: Option<NodeKey>,
    /// Node and what it said of a version that it refused.
    refused: Vec<(String, String)>,
    /// Bucket of a limit, and why it is not in force at proxies whose listeners are another control plane's.
    left_out: BTreeSet<(String, String)>,
    /// There are such proxies; a queue bound, which stands in a cluster, is not in force at them.
    attached: bool,
}

pub(super) fn delivery(targets: &[Target<'_>], table: &Table, proxies: &Proxies) -> Delivery {
    let mut delivery = Delivery {
        total: 0,
        programmed: 0,
        connected: 0,
        stranger: None,
        refused: Vec::new(),
        left_out: BTreeSet::new(),
        attached: false,
    };
    // A caller may enforce limits of several targets, and has one proxy.
    let enforcers: BTreeSet<&Enforcer> = targets.iter().flat_map(|target| &target.enforcers).collect();
    for enforcer in enforcers {
        delivery.total += 1;
        let mut nodes = enforcer.services.iter().map(|service| NodeKey::of(service, &enforcer.pod));
        let Some(node) = nodes.find(|node| proxies.is_connected(node)) else {
            // The first is enough for a person, and a look at every proxy.
            if delivery.total == 1 {
                delivery.stranger = proxies.of_pod(&enforcer.namespace, &enforcer.pod);
            }
            continue;
        };
        delivery.connected += 1;
        let target = targets.iter().find(|target| target.service == node.service_key());
        if let Some(built) = target.and_then(|target| target.built).filter(|_| table.is_attached(&node))
            && let Some(pod) = built.intent.pods.get(node.pod())
        {
            let left_out = extension::left_out(&built.intent, pod);
            delivery.left_out.extend(left_out.into_iter().map(|(bucket, why)| (bucket.into(), why.to_string())));
            delivery.attached = true;
        }
        if let Some(refusal) = proxies.refusals(&node).pop() {
            delivery.refused.push((node.to_string(), refusal.message));
        } else if proxies.programmed(&node, &table.versions(&node)) {
            delivery.programmed += 1;
        }
    }
    delivery
}

pub(super) fn conditions(
    entry: &PolicyEntry,
    targets: &[Target<'_>],
    delivery: &Delivery,
    health: &HealthBoard,
    proxies: &Proxies,
    now: Timestamp,
) -> Vec<Condition> {
    let (limiting, since) = limiting(entry, targets, delivery);
    let all = [
        (ConditionType::Accepted, accepted(entry, targets), now),
        (ConditionType::Programmed, programmed(entry, targets, delivery), now),
        (ConditionType::MetricsAvailable, metrics(entry, targets, health, proxies), now),
        (ConditionType::Limiting, limiting, since.map_or(now, |since| since.min(now))),
    ];
    let condition = |(type_, (status, reason, message), since): (ConditionType, Verdict, Timestamp)| Condition {
        type_: type_.to_string(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_string(),
        message,
        observed_generation: Some(entry.generation),
        last_transition_time: Time(since),
    };
    all.into_iter().map(condition).collect()
}

/// Whether a condition is true, why, and in words.
pub(super) type Verdict = (bool, Reason, String);

/// What `Accepted` says of an object with problems, and which older text of it stays in force.
pub(super) fn refused(problems: &[Problem], kept: Option<i64>) -> Option<Verdict> {
    let first = problems.first()?;
    let mut message = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if let Some(generation) = kept {
        message.push_str(&format!("; generation {generation} stays in force"));
    }
    let reason = match first.reason {
        problem::Reason::Invalid => Reason::Invalid,
        problem::Reason::NotYetSupported => Reason::NotYetSupported,
        problem::Reason::Conflicted => Reason::Conflicted,
        problem::Reason::NotAllowed => Reason::NotAllowed,
    };
    Some((false, reason, message))
}

fn accepted(entry: &PolicyEntry, targets: &[Target<'_>]) -> Verdict {
    if let Some(verdict) = refused(&entry.problems, entry.accepted.as_ref().map(|kept| kept.generation)) {
        return verdict;
    }
    let missing: Vec<_> =
        targets.iter().filter(|target| target.view.is_none()).map(|target| target.service.to_string()).collect();
    if !missing.is_empty() {
        let message = format!("there is no Service {}: create it, or name one that exists", missing.join(", "));
        return (false, Reason::TargetNotFound, message);
    }
    if targets.is_empty() {
        return (false, Reason::TargetNotFound, "no Service of the namespace has these labels".to_owned());
    }
    let key = entry.accepted.as_ref().map(|policy| &policy.key);
    let conflict = targets.iter().find_map(|target| {
        let conflict = target.conflicts.iter().find(|conflict| Some(&conflict.policy) == key)?;
        Some((&target.service, conflict))
    });
    if let Some((service, Conflict { rule, with, with_rule, .. })) = conflict {
        let message = format!(
            "rule {rule} steers the same requests of {service} as {with_rule} of {with}, which is older and stays: remove one, or give \
             them different matches; nothing of this object applies to {service}"
        );
        return (false, Reason::Conflicted, message);
    }
    (true, Reason::Accepted, "the policy is understood and its targets exist".to_owned())
}

/// Why no proxy enforces a policy, and how to mend it.
pub(crate) const fn nobody(place: EnforceAt) -> (&'static str, &'static str) {
    match place {
        EnforceAt::Server => (
            "the targets have no endpoints",
            "start pods that the Service's selector fits; for a Service without one, add an EndpointSlice with the label \
             kubernetes.io/service-name",
        ),
        EnforceAt::Client => (
            "no pod of the namespace calls through its proxy",
            "annotate the callers' Pods with outbound.weir.dev/listen, for example 127.0.0.1:15001, and send requests there",
        ),
        EnforceAt::Gateway => (
            "no Gateway with pods leads to the targets",
            "add an HTTPRoute that does, and an EndpointSlice of the Service that has the Gateway's name",
        ),
    }
}

fn programmed(entry: &PolicyEntry, targets: &[Target<'_>], delivery: &Delivery) -> Verdict {
    let (status, reason, mut message) = carried(entry, targets, delivery);
    // In force where it may be, and not where people may expect it.
    if let Some(policy) = &entry.accepted
        && reason != Reason::NotCarriedOut
        && targets.iter().any(|target| !target.unlimited.is_empty())
    {
        let namespace = &policy.key.namespace;
        message.push_str(&format!(
            "; callers of other namespaces are not limited (proxies.unlimited says how many): leave `enforceAt` out, or have whoever \
             runs Weir allow it with --allow-client-limits {namespace} (clientLimits.allowNamespaces of the chart)"
        ));
    }
    (status, reason, message)
}

fn carried(entry: &PolicyEntry, targets: &[Target<'_>], delivery: &Delivery) -> Verdict {
    let Some(policy) = &entry.accepted else {
        return (false, Reason::NotAccepted, "nothing of this object was ever accepted".to_owned());
    };
    let troubles: Vec<String> = targets
        .iter()
        .flat_map(|target| policy.rules.iter().filter_map(|rule| target.rule(&policy.key, &rule.name)?.1))
        .filter_map(|report| {
            let RuleKey { rule, service, .. } = &report.key;
            Some(format!("rule {rule} on Service {service}: {}", report.trouble.as_ref()?))
        })
        .collect();
    if !troubles.is_empty() {
        return (false, Reason::NotCarriedOut, troubles.join("; "));
    }
    let left_out: Vec<String> =
        policy.rules.iter().filter_map(|rule| left_out(policy, rule, targets, delivery)).collect();
    if !left_out.is_empty() {
        let message = format!("at proxies of another control plane {}", left_out.join("; "));
        return (false, Reason::NotCarriedOut, message);
    }
    if let Some((node, message)) = delivery.refused.first() {
        let more = match delivery.refused.len() {
            1 => String::new(),
            count => format!(" (and {} more proxies)", count - 1),
        };
        return (
            false,
            Reason::Rejected,
            format!("the proxy {node}{more} refused it and keeps what it had: {message}"),
        );
    }
    if delivery.total == 0 && targets.iter().all(|target| target.view.is_none()) {
        return (false, Reason::NoEndpoints, "there is no target yet, as Accepted says".to_owned());
    }
    if delivery.total == 0 {
        let (message, help) = nobody(policy.enforce_at);
        return (false, Reason::NoEndpoints, format!("{message}: {help}"));
    }
    let whose = match policy.enforce_at {
        EnforceAt::Server => "the targets",
        EnforceAt::Client => "the callers",
        EnforceAt::Gateway => "the gateways",
    };
    if let Some(node) = delivery.stranger.as_ref().filter(|_| delivery.connected == 0) {
        let message = format!(
            "the proxies of {whose} are connected for another Service ({node}), and a proxy stands for one: name that Service in \
             targetRefs, or start Envoy with the output of `weir bootstrap` for this one"
        );
        return (false, Reason::NoProxies, message);
    }
    if delivery.connected == 0 {
        let message = format!("no proxy of {whose} is connected: start Envoy with the output of `weir bootstrap`");
        return (false, Reason::NoProxies, message);
    }
    if delivery.connected < delivery.total {
        return (false, Reason::Pending, format!("some pods of {whose} have no proxy connected"));
    }
    if delivery.programmed < delivery.total {
        return (false, Reason::Pending, "some proxies have not acknowledged the newest version yet".to_owned());
    }
    (true, Reason::Programmed, format!("every proxy of {whose} has acknowledged the newest version"))
}

/// Why a rule is not carried out at proxies that fetch only their limits.
fn left_out(policy: &Policy, rule: &Rule, targets: &[Target<'_>], delivery: &Delivery) -> Option<String> {
    let bucket = format!("{}/{}", policy.key, rule.name);
    let of_rule = delivery.left_out.iter().find(|(of, _)| *of == bucket);
    if let Some((_, why)) = of_rule {
        return Some(format!("the rule {} is not carried out: {why}", rule.name));
    }
    let rulings = targets.iter().filter_map(|target| target.rule(&policy.key, &rule.name));
    let bounded = delivery.attached && rulings.into_iter().any(|(ruling, _)| ruling.decision.bound.is_some());
    let why = "its bound on requests in flight stands in a cluster, and clusters there are not Weir's";
    bounded.then(|| format!("the rule {} is carried out in part: {why}", rule.name))
}

/// Whether a rule reaches the proxies of any target.
fn is_carried_out(policy: &Policy, rule: &str, targets: &[Target<'_>], delivery: &Delivery) -> bool {
    let bucket = format!("{}/{rule}", policy.key);
    let reports = targets.iter().filter_map(|target| target.rule(&policy.key, rule));
    delivery.left_out.iter().all(|(of, _)| *of != bucket)
        && reports.into_iter().any(|(_, report)| report.is_none_or(|report| report.trouble.is_none()))
}

fn metrics(entry: &PolicyEntry, targets: &[Target<'_>], health: &HealthBoard, proxies: &Proxies) -> Verdict {
    let Some(policy) = &entry.accepted else {
        return (false, Reason::NotAccepted, "nothing of this object was ever accepted".to_owned());
    };
    let needed = policy.metrics();
    if needed.iter().all(|metric| metric.word == Word::Pods) {
        return (true, Reason::NotNeeded, "no rule looks at a metric".to_owned());
    }
    for target in targets {
        let rules = policy.rules.iter().filter_map(|rule| target.rule(&policy.key, &rule.name));
        let mut missing: Vec<&Metric> = rules.flat_map(|(ruling, _)| &ruling.decision.missing).collect();
        missing.sort();
        missing.dedup();
        if missing.is_empty() {
            continue;
        }
        let words: Vec<_> = missing.iter().map(|metric| metric.word.to_string()).collect();
        let mut message = format!("{} of {} is missing", words.join(", "), target.service);
        if let Some(why) = why_missing(policy, target, &missing, health, proxies) {
            message.push_str(": ");
            message.push_str(&why);
        }
        return (false, Reason::Missing, message);
    }
    let from_request = targets.iter().filter_map(|target| target.view.as_ref()).any(|view| view.from_request);
    let message = if from_request {
        "every metric is fresh; cpu and memory are fractions of the request where a container has no limit"
    } else {
        "every metric is fresh"
    };
    (true, Reason::Available, message.to_owned())
}

fn why_missing(
    policy: &Policy,
    target: &Target<'_>,
    missing: &[&Metric],
    health: &HealthBoard,
    proxies: &Proxies,
) -> Option<String> {
    let view = target.view.as_ref()?;
    if view.pods.is_empty() {
        return Some("the Service has no endpoints".to_owned());
    }
    if let Some(why) = &view.refused {
        return Some(why.clone());
    }
    if let Some(why) = missing.iter().find_map(|metric| query_fails(policy, target, metric, health)) {
        return Some(why);
    }
    let direct = direct_fails(policy, target, view, missing, health, proxies);
    let usage = missing.iter().find_map(|metric| health.usage(&target.service, &metric.word));
    let usage = usage.map(|error| format!("from the metrics API: {}", error.message));
    let asked = missing.iter().find_map(|metric| health.query(&target.service, &metric.word));
    let asked = asked.map(|error| format!("from Prometheus: {}", error.message));
    let all: Vec<String> = direct.into_iter().chain(usage).chain(asked).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// Why a word that the policy takes from Prometheus is missing, with the field that says the query.
fn query_fails(policy: &Policy, target: &Target<'_>, metric: &Metric, health: &HealthBoard) -> Option<String> {
    let Word::Named(name) = &metric.word else { return None };
    let MetricSource::Prometheus { position, .. } = &policy.metrics.get(name)?.source else { return None };
    let why = if health.has_prometheus() {
        let error = health.query(&target.service, &qualified(policy, metric).word);
        error.map_or_else(|| "it has not been answered yet".to_owned(), |error| error.message)
    } else {
        "there is no Prometheus to ask: start `weir run` with --prometheus URL, or set WEIR_PROMETHEUS (prometheus.url of the chart)".to_owned()
    };
    Some(format!("spec.metrics[{position}].prometheus.query: {why}"))
}

/// Why neither the targets' proxies nor their own pages give a word.
fn direct_fails(
    policy: &Policy,
    target: &Target<'_>,
    view: &Endpoints,
    missing: &[&Metric],
    health: &HealthBoard,
    proxies: &Proxies,
) -> Option<String> {
    // What Envoy streams is not looked for on metrics pages.
    let (streamed, missing): (Vec<&Metric>, Vec<&Metric>) =
        missing.iter().partition(|metric| metric.word.is_streamed());
    if !streamed.is_empty() {
        let silent = view.pods.iter().find(|pod| !health.streams(&target.service, pod));
        let silent = silent.map(|pod| {
            if proxies.is_connected(&NodeKey::of(&target.service, pod)) {
                format!(
                    "the proxy of pod {pod} does not stream the statistics of its inbound ports: `weir bootstrap` writes \
                     the stats_sinks and stats_config that do"
                )
            } else {
                format!("the proxy of pod {pod} is not connected: start Envoy with the output of `weir bootstrap`")
            }
        });
        if silent.is_some() {
            return silent;
        }
    }
    if missing.is_empty() {
        return None;
    }
    for pod in &view.pods {
        let Some(pod_health) = health.pod(&target.service, pod) else { continue };
        if let Some(error) = pod_health.last_error {
            return Some(format!("pod {pod}: {}", error.message));
        }
        if let Some(why) = missing.iter().find_map(|metric| pod_health.unavailable.get(&qualified(policy, metric).word))
        {
            return Some(format!("pod {pod}: {why}"));
        }
    }
    let is_own = |metric: &&Metric| matches!(metric.word, Word::Named(_));
    if let Some(pod) = view.without_page.as_ref().filter(|_| missing.iter().any(is_own)) {
        return Some(format!(
            "pod {pod} has no metrics page to read: annotate it, for example prometheus.io/port: \"9100\""
        ));
    }
    for (word, is_without) in [(Word::Cpu, view.without_cpu), (Word::Memory, view.without_memory)] {
        if is_without && missing.iter().any(|metric| metric.word == word) {
            return Some(format!(
                "a pod has no manifest, or its application neither resources.limits.{word} nor requests.{word}"
            ));
        }
    }
    None
}

fn limiting(entry: &PolicyEntry, targets: &[Target<'_>], delivery: &Delivery) -> (Verdict, Option<Timestamp>) {
    let rules = |policy: &Policy, mode: Mode, paused: bool| -> Vec<(String, Phase, Timestamp)> {
        let rules = policy.rules.iter().filter(|rule| rule.mode == mode);
        let standing = rules.flat_map(|rule| {
            let targets = targets.iter().filter(|target| target.paused == paused);
            let decided = targets.filter_map(|target| target.rule(&policy.key, &rule.name));
            decided.map(move |(ruling, _)| (rule, ruling.decision))
        });
        let limiting = standing.filter(|(_, decision)| matches!(decision.phase, Phase::Limiting | Phase::Releasing));
        limiting.map(|(rule, decision)| (rule.name.clone(), decision.phase, decision.since)).collect()
    };
    let Some(policy) = &entry.accepted else {
        return ((false, Reason::NotAccepted, "nothing of this object was ever accepted".to_owned()), None);
    };
    let mut enforced = rules(policy, Mode::Enforce, false);
    enforced.dedup_by(|a, b| a.0 == b.0);
    if let Some(since) = enforced.iter().map(|(_, _, since)| *since).min() {
        let releasing = enforced.iter().all(|(_, phase, _)| *phase == Phase::Releasing);
        let reason = if releasing { Reason::Releasing } else { Reason::Limiting };
        let names = enforced.into_iter().map(|(name, _, _)| name);
        let (carried, left): (Vec<_>, Vec<_>) = names.partition(|rule| is_carried_out(policy, rule, targets, delivery));
        if delivery.connected == 0 || carried.is_empty() {
            let names = [carried, left].concat().join(", ");
            let message = format!("decided: {names}; no proxy is known to enforce it: Programmed says why");
            return ((true, Reason::NotEnforced, message), Some(since));
        }
        let mut message = format!("in force: {}", carried.join(", "));
        if !left.is_empty() {
            message.push_str(&format!("; decided, and not carried out, as Programmed says: {}", left.join(", ")));
        }
        return ((true, reason, message), Some(since));
    }
    let shadow = || [true, false].iter().any(|paused| !rules(policy, Mode::Shadow, *paused).is_empty());
    if !rules(policy, Mode::Enforce, true).is_empty() {
        let message = "rules hold now and are paused by an operator: nothing is enforced until `weir resume`";
        ((false, Reason::Paused, message.to_owned()), None)
    } else if !shadow() {
        ((false, Reason::Idle, "no rule holds now; this is normal".to_owned()), None)
    } else {
        ((false, Reason::Shadow, "only rules in shadow mode hold now".to_owned()), None)
    }
}

#[cfg(test)]
mod tests;
