//! What is legal but odd about a policy, one sentence each. Pure.

use limiter::{
    metric::{Metric, Word},
    policy::{Action, MetricSource, Policy, Rule, Scope},
};

use crate::{
    build::Builder,
    intent::ServiceKey,
    metrics::{HealthBoard, store::Traffic},
};

/// The most that are told of one object; the API server cuts long ones off.
const SHOWN: usize = 8;

/// What is odd about the policy, in the light of what is known now.
#[must_use]
pub fn warnings(policy: &Policy, builder: &Builder, health: &HealthBoard) -> Vec<String> {
    let index = builder.index();
    let targets = index.targets(policy);
    let mut warnings = Vec::new();
    if targets.is_empty() {
        warnings.push("spec.selector: no Service of the namespace has these labels yet".to_owned());
    }
    for target in &targets {
        let Some(view) = index.service(target) else {
            warnings.push(format!("{}: Service {target} does not exist yet", target_field(policy)));
            continue;
        };
        let ready = view.ready_pods().count();
        let Some(traffic) = builder.traffic(target) else { continue };
        let rules = policy.rules.iter();
        warnings.extend(rules.filter_map(|rule| above(rule, target, ready as f64, traffic)));
    }
    if !health.has_prometheus() {
        let asks = |name: &String| {
            let source = policy.metrics.get(name).map(|definition| &definition.source);
            matches!(source, Some(MetricSource::Prometheus { .. }))
        };
        let read = policy.metrics().into_iter().filter_map(|metric| match metric.word {
            Word::Named(name) => Some(name),
            _ => None,
        });
        let read: std::collections::BTreeSet<_> = read.filter(asks).collect();
        let why = "no Prometheus to ask: start `weir run` with --prometheus URL (prometheus.url of the chart)";
        warnings.extend(read.iter().map(|name| format!("spec.metrics: `{name}` has no value, there is {why}")));
    }
    warnings.truncate(SHOWN);
    warnings
}

/// The field that names the targets; the article's objects are named as their Service is.
fn target_field(policy: &Policy) -> &'static str {
    match policy.key.kind {
        limiter::policy::Kind::SmartLimiter => "spec.targetRefs",
        limiter::policy::Kind::ArticleSmartLimiter => "metadata.name",
    }
}

/// Says so when a rule's limit is more than all that ever came. A limit for a part of the requests, or for each client, is then
/// more than what could have met it, too.
fn above(rule: &Rule, target: &ServiceKey, ready: f64, traffic: &Traffic) -> Option<String> {
    let Action::Limit(limit) = &rule.action else { return None };
    let lookup = |metric: &Metric| (metric.word == Word::Pods).then_some(ready);
    let rate = limiter::quota::Rate::from_requests(limit.amount.evaluate(&lookup)?, limit.interval)?;
    let (most, whose) = match limit.scope {
        Scope::AcrossAllPods => (traffic.all_pods, ""),
        Scope::PerPod => (traffic.one_pod, "one pod of "),
    };
    (most > 0.0 && rate.per_second() > most).then(|| {
        let (said, name) = (limit.describe(rate), &rule.name);
        let seen =
            format!("the most that {whose}Service {target} got since {:.0} is {most:.1} per second", traffic.since);
        format!("rule {name:?}: {said} is above any traffic seen: {seen}")
    })
}
