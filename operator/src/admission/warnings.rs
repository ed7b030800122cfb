//! What is legal but odd about a policy, one sentence each. Pure.

use limiter::{
    lazy::{Callee, Lazy, Load},
    metric::{Metric, Word},
    policy::{Action, Conflict, EnforceAt, MetricSource, Policy, Rule, Scope},
    split::{self, Split},
};

use crate::{
    build::Builder,
    index::{
        Index,
        splits::{self, Shadowed},
    },
    intent::ServiceKey,
    metrics::{HealthBoard, store::Traffic},
    translate::split::{Standing, portions},
};

/// The most that are told of one object; the API server cuts long ones off.
const SHOWN: usize = 8;

/// What is odd about the split, in the light of what is known now: fields and sentences.
#[must_use]
pub fn split_warnings(split: &Split, index: &Index) -> Vec<(&'static str, String)> {
    let is_smart = split.key.kind == split::Kind::SmartSplit;
    let (of_root, of_arms) =
        if is_smart { ("spec.targetRefs", "spec.backendRefs") } else { ("spec.service", "spec.backends") };
    let root = splits::root(split);
    let mut warnings = Vec::new();
    let Some(port) = index.ports_of(&root).first().map(|port| port.key.port) else {
        return vec![(of_root, format!("Service {root} does not exist yet, or has no port"))];
    };
    for portion in portions(index, split, port) {
        let key = &portion.key;
        match portion.standing {
            Standing::Missing => {
                warnings.push((
                    of_arms,
                    format!("there is no Service {} with the port {} yet: it takes no part", key.service, key.port),
                ));
            }
            Standing::Unlike => {
                warnings.push((
                    of_arms,
                    format!("the port {} of {} speaks another protocol than {root}", key.port, key.service),
                ));
            }
            Standing::Ready(_) | Standing::Empty => {}
        }
    }
    for group in index.dangling_groups(split) {
        warnings.push(("spec.matches", format!("there is no HTTPRouteGroup {group} yet: no request matches it")));
    }
    match index.shadowed(split) {
        Some(Shadowed::By(other)) => {
            warnings.push((of_root, format!("{other} is older and shares out the same requests")))
        }
        Some(Shadowed::ByRoute(route)) => warnings.push((of_root, format!("{route} declares the weights of {root}"))),
        None => {}
    }
    warnings.truncate(SHOWN);
    warnings
}

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
        if let Some(unfit) = view.unfit {
            let field = target_field(policy);
            warnings.push(format!("{field}: nothing can be limited on Service {target}: {unfit}"));
        }
        warnings.extend(index.conflicts_of(target, policy).iter().map(|conflict| excluded(conflict, policy, target)));
        let ready = view.ready_pods().count();
        let Some(traffic) = builder.traffic(target) else { continue };
        let rules = policy.rules.iter();
        warnings.extend(rules.filter_map(|rule| above(rule, target, ready as f64, traffic)));
    }
    let elsewhere = |target: &ServiceKey| index.unlimited_callers(target).next().is_some();
    if policy.enforce_at == EnforceAt::Client && targets.iter().any(elsewhere) {
        let namespace = &policy.key.namespace;
        warnings.push(format!(
            "spec.enforceAt: callers of other namespaces will not be limited; leave it out, or have whoever runs Weir allow it with \
             --allow-client-limits {namespace} (clientLimits.allowNamespaces of the chart)"
        ));
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

/// What is odd about a `LazyConfig`, in the light of what is known now.
#[must_use]
pub fn lazy_warnings(lazy: &Lazy, index: &Index) -> Vec<String> {
    let mut warnings = Vec::new();
    let others = index.rivals(lazy);
    if !others.is_empty() {
        let names: Vec<String> = others.iter().map(ToString::to_string).collect();
        warnings.push(format!(
            "spec.workloadSelector: {} is for some of the same pods and is older, so it holds for them; remove one, or choose other pods",
            names.join(", ")
        ));
    } else if lazy.selector.is_some() && !index.fits_any(lazy) {
        warnings.push("spec.workloadSelector: no pod behind a Service has these labels yet".to_owned());
    }
    let named = [("always", &lazy.always), ("never", &lazy.never)];
    for (field, callee) in named.into_iter().flat_map(|(field, list)| list.iter().map(move |callee| (field, callee))) {
        let Callee::Service { namespace, name, .. } = callee else { continue };
        let service = ServiceKey { namespace: namespace.clone(), name: name.clone() };
        if index.service(&service).is_none() {
            warnings.push(format!(
                "spec.{field}: there is no Service {service} yet; if a host outside is meant, end it with a dot: `{callee}.`"
            ));
        }
    }
    if lazy.load == Load::Declared && lazy.always.is_empty() {
        warnings.push(
            "spec.always: nothing is listed, and load Declared has nothing else: these pods can call nothing"
                .to_owned(),
        );
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

/// Two rules steer the same requests: which of them does not apply.
fn excluded(conflict: &Conflict, policy: &Policy, target: &ServiceKey) -> String {
    let Conflict { policy: refused, rule, with, with_rule } = conflict;
    if *refused == policy.key {
        format!(
            "rule {rule:?} steers the same requests of {target} as {with_rule:?} of {with}, which is older and stays: nothing of this \
             object will apply to {target}; remove one, or give them different matches"
        )
    } else {
        format!(
            "rule {with_rule:?} steers the same requests of {target} as {rule:?} of {refused}, which is younger: nothing of \
             that object will apply to {target} any more; remove one, or give them different matches"
        )
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
