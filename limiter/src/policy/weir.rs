//! `SmartLimiter` of `weir.dev/v1alpha1` to [`Policy`].
//!
//! Checks everything that the API server would, because files have none, and refuses what this version does not carry out.

mod matches;

pub(crate) use matches::regex;
pub use matches::regex_steps;

use std::collections::{BTreeMap, BTreeSet};

use crds::smart_limiter::{self as api, SmartLimiter};

use super::{
    Action, Class, EnforceAt, Key, Kind, LawKind, Limit, MetricDefinition, MetricSource, MissingAction, Mode,
    OnMissing, Policy, Problems, RequestMatch, Rule, Targets, conflicts::same_requests,
};
use crate::{
    language::{
        self, Vocabulary,
        ast::{Adapt, Dimension},
    },
    metric::Reduce,
    problem::Problem,
};

/// The policy that the object describes, as far as it can be understood, and everything that is wrong with it. Any problem
/// means that the object is not accepted; a policy beside problems serves explanations only.
#[must_use]
pub fn policy(object: &SmartLimiter) -> (Option<Policy>, Vec<Problem>) {
    let mut problems = Problems::default();
    let spec = &object.spec;
    let key = super::key(Kind::SmartLimiter, &object.metadata, &mut problems);
    let targets = targets(spec, &mut problems);
    not_yet(spec, &mut problems);
    let metrics = metrics(&spec.metrics, &mut problems);
    let vocabulary = Vocabulary::new(&metrics);
    let rules = rules(spec, &vocabulary, &mut problems);
    let on_missing = on_missing(&spec.on_missing_metric, &mut problems);
    let policy = || {
        Some(Policy {
            key: key?,
            generation: object.metadata.generation.unwrap_or(0),
            created: object.metadata.creation_timestamp.as_ref().map(|time| time.0),
            targets: targets?,
            enforce_at: enforce_at(spec.enforce_at),
            rules: rules?,
            metrics,
            on_missing: on_missing?,
        })
    };
    let policy = policy();
    if let Some(policy) = &policy {
        elsewhere(policy, &mut problems);
    }
    (policy, problems.into_vec())
}

/// One match as Gateway API writes it, in an `HTTPRoute` too.
///
/// # Errors
/// What is wrong with it, at `field` and below.
pub fn request_match(entry: &api::RequestMatch, field: &str) -> Result<RequestMatch, Vec<Problem>> {
    let mut problems = Problems::default();
    let read = matches::request_match(entry, field, &mut problems);
    match (read, problems.into_vec()) {
        (Some(read), problems) if problems.is_empty() => Ok(read),
        (_, problems) => Err(problems),
    }
}

fn enforce_at(place: api::EnforceAt) -> EnforceAt {
    match place {
        api::EnforceAt::Server => EnforceAt::Server,
        api::EnforceAt::Client => EnforceAt::Client,
        api::EnforceAt::Gateway => EnforceAt::Gateway,
    }
}

/// What cannot be done elsewhere than at the target.
fn elsewhere(policy: &Policy, problems: &mut Problems) {
    let with_classes = policy.rules.iter().enumerate().filter(|(_, rule)| !rule.classes.is_empty());
    for (position, _) in with_classes.filter(|_| policy.enforce_at != EnforceAt::Server) {
        problems.not_yet(
            format!("spec.rules[{position}].priorities"),
            "what each priority class wants is measured at the target's own proxies only",
            "leave `priorities` out, or `enforceAt`",
        );
    }
    let steered = policy.rules.iter().enumerate().filter(|(_, rule)| is_adapt(rule));
    for (position, _) in steered.filter(|_| policy.enforce_at != EnforceAt::Server) {
        problems.not_yet(
            format!("spec.rules[{position}].adapt"),
            "what is refused before it reaches the target is not measured, so a limit there cannot steer itself",
            "use `when` and `limit`, or leave `enforceAt` out",
        );
    }
    // A caller's proxy has one client, the caller itself.
    if policy.enforce_at != EnforceAt::Client {
        return;
    }
    let mut refuse = |field: String, limit: &Limit| {
        if limit.per == Some(Key::ClientIp) {
            problems.add(
                field,
                "a caller's own proxy sees one client, the caller: `per client ip` counts nothing apart there",
                "write `per pod` for a limit of each calling pod, or set `enforceAt` to Server or Gateway",
            );
        }
    };
    for (position, rule) in policy.rules.iter().enumerate() {
        if let Action::Limit(limit) = &rule.action {
            refuse(format!("spec.rules[{position}].limit"), limit);
        }
    }
    if let MissingAction::Floor(limit) = &policy.on_missing.action {
        refuse("spec.onMissingMetric.floor".to_owned(), limit);
    }
}

fn targets(spec: &api::SmartLimiterSpec, problems: &mut Problems) -> Option<Targets> {
    const EXACTLY_ONE: &str = "name Services in `targetRefs`, or choose them by their labels in `selector`";
    if spec.target_refs.len() > 16 {
        problems.invalid("spec.targetRefs", format!("at most 16 targets, found {}", spec.target_refs.len()));
    }
    match (&spec.selector, spec.target_refs.is_empty()) {
        (None, true) => {
            problems.add("spec", "exactly one of targetRefs and selector must be set, found neither", EXACTLY_ONE);
            None
        }
        (Some(_), false) => {
            problems.add("spec", "exactly one of targetRefs and selector must be set, found both", EXACTLY_ONE);
            None
        }
        (Some(selector), true) => {
            if selector.match_labels.is_empty() {
                problems.add(
                    "spec.selector.matchLabels",
                    "no labels, which would choose every Service",
                    "write at least one label",
                );
                return None;
            }
            for (key, value) in &selector.match_labels {
                super::label("spec.selector.matchLabels", key, value, problems);
            }
            Some(Targets::Selector(selector.match_labels.clone()))
        }
        (None, false) => {
            let mut names = BTreeSet::new();
            for (position, target) in spec.target_refs.iter().enumerate() {
                target_ref(target, &format!("spec.targetRefs[{position}]"), &mut names, problems);
            }
            // In the author's order, each once.
            let mut listed = Vec::new();
            for target in &spec.target_refs {
                if names.remove(&target.name) {
                    listed.push(target.name.clone());
                }
            }
            (!listed.is_empty()).then_some(Targets::Services(listed))
        }
    }
}

fn target_ref(target: &api::TargetRef, field: &str, names: &mut BTreeSet<String>, problems: &mut Problems) {
    match target.kind {
        api::TargetKind::Service => {
            if !target.group.is_empty() {
                problems.add(
                    format!("{field}.group"),
                    format!("the group of kind Service is empty, found {:?}", target.group),
                    "leave `group` out",
                );
            }
        }
        kind @ (api::TargetKind::Gateway | api::TargetKind::HTTPRoute) => {
            problems.not_yet(
                format!("{field}.kind"),
                format!("limits cannot be attached to a {kind:?} yet"),
                "name Services",
            );
        }
    }
    if target.section_name.is_some() {
        problems.not_yet(
            format!("{field}.sectionName"),
            "parts of a target cannot be named yet",
            "leave `sectionName` out; `matches` chooses requests",
        );
    }
    if !super::is_dns_name(&target.name) {
        problems.invalid(format!("{field}.name"), format!("{:?} is no name of an object", target.name));
        return;
    }
    if !names.insert(target.name.clone()) {
        problems.invalid(format!("{field}.name"), format!("{:?} is named twice", target.name));
    }
}

fn not_yet(spec: &api::SmartLimiterSpec, problems: &mut Problems) {
    match spec.via {
        api::Via::Weir => {}
        api::Via::Istio => {
            problems.not_yet("spec.via", "limits reach proxies through Weir's own streams only", "leave `via` out");
        }
    }
}

fn metrics(list: &[api::Metric], problems: &mut Problems) -> BTreeMap<String, MetricDefinition> {
    let mut definitions = BTreeMap::new();
    if list.len() > 32 {
        problems.invalid("spec.metrics", format!("at most 32 metrics, found {}", list.len()));
    }
    for (position, metric) in list.iter().enumerate() {
        let field = format!("spec.metrics[{position}]");
        let api::Metric { name, kind, reduce, prometheus, scrape } = metric;
        let well_formed = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && name.len() <= 63;
        if !well_formed {
            problems.add(
                format!("{field}.name"),
                format!("{name:?} is no word: it must match [a-z][a-z0-9_]* and have at most 63 letters"),
                "use lower-case letters, digits and `_`; `-` is minus",
            );
            continue;
        }
        if Vocabulary::reserved(name) {
            problems.add(format!("{field}.name"), format!("{name:?} is a word of the language"), "choose another name");
            continue;
        }
        let source = match (prometheus, scrape) {
            (Some(prometheus), None) => {
                problems.promql(format!("{field}.prometheus.query"), &prometheus.query);
                MetricSource::Prometheus { query: prometheus.query.clone(), position }
            }
            (None, Some(scrape)) => {
                check_series(&scrape.series, &field, problems);
                MetricSource::Scrape { series: scrape.series.clone(), labels: scrape.labels.clone(), rate: scrape.rate }
            }
            (found, _) => {
                let found = if found.is_some() { "both" } else { "neither" };
                problems.add(
                    field,
                    format!("a metric has exactly one of prometheus and scrape, found {found}"),
                    "`scrape` reads the targets' own metrics page, `prometheus` asks a Prometheus",
                );
                continue;
            }
        };
        let definition = MetricDefinition { dimension: dimension(*kind), reduce: reduction(*reduce), source };
        if definitions.insert(name.clone(), definition).is_some() {
            problems.invalid(format!("{field}.name"), format!("{name:?} is defined twice"));
        }
    }
    definitions
}

fn check_series(series: &str, field: &str, problems: &mut Problems) {
    let first = series.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':');
    if !first || !series.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':') {
        problems.add(
            format!("{field}.scrape.series"),
            format!("{series:?} is no name of a series: it must match [a-zA-Z_:][a-zA-Z0-9_:]*"),
            "labels belong in `labels`",
        );
    }
}

fn dimension(kind: api::MetricType) -> Dimension {
    match kind {
        api::MetricType::Ratio => Dimension::Ratio,
        api::MetricType::Count => Dimension::Count,
        api::MetricType::PerSecond => Dimension::PerSecond,
        api::MetricType::Seconds => Dimension::Seconds,
        api::MetricType::Bytes => Dimension::Bytes,
    }
}

fn reduction(reduce: api::Reduce) -> Reduce {
    match reduce {
        api::Reduce::Mean => Reduce::Mean,
        api::Reduce::Max => Reduce::Max,
        api::Reduce::Sum => Reduce::Sum,
    }
}

/// The rules, when each of them can be understood.
fn rules(spec: &api::SmartLimiterSpec, vocabulary: &Vocabulary, problems: &mut Problems) -> Option<Vec<Rule>> {
    if spec.rules.is_empty() {
        problems.invalid("spec.rules", "at least one rule is needed");
    }
    if spec.rules.len() > 32 {
        problems.invalid("spec.rules", format!("at most 32 rules, found {}", spec.rules.len()));
    }
    let mut names = BTreeSet::new();
    let mut rules = Vec::new();
    for (position, rule) in spec.rules.iter().enumerate() {
        let field = format!("spec.rules[{position}]");
        if !super::is_dns_label(&rule.name) {
            problems.add(
                format!("{field}.name"),
                format!("{:?} is no name of a rule: it must match [a-z0-9]([-a-z0-9]*[a-z0-9])? and have at most 63 letters", rule.name),
                "use lower-case letters, digits and `-`",
            );
        } else if !names.insert(rule.name.as_str()) {
            problems.add(format!("{field}.name"), format!("{:?} is the name of two rules", rule.name), "rename one");
        }
        rules.extend(rule_of(rule, &field, spec.mode, vocabulary, problems));
    }
    let complete = rules.len() == spec.rules.len();
    for (position, rule) in rules.iter().enumerate().filter(|(_, rule)| complete && is_adapt(rule)) {
        let before = rules.iter().take(position).find(|other| is_adapt(other) && same_requests(rule, other));
        if let Some(other) = before {
            problems.add(
                format!("spec.rules[{position}].adapt"),
                format!("rules {:?} and {:?} both steer the limit of the same requests", other.name, rule.name),
                "join their goals with `and`, or give them different `matches`",
            );
        }
    }
    (complete && !rules.is_empty()).then_some(rules)
}

fn is_adapt(rule: &Rule) -> bool {
    matches!(rule.action, Action::Adapt(_))
}

fn rule_of(
    rule: &api::RuleSpec,
    field: &str,
    object_mode: api::Mode,
    vocabulary: &Vocabulary,
    problems: &mut Problems,
) -> Option<Rule> {
    let api::RuleSpec { name, when, limit, adapt, law, priorities, matches, burst, mode } = rule;
    // Read every field before giving up, so that all mistakes are reported at once.
    let when = match when {
        None => Some(None),
        Some(text) => {
            problems.sentence(language::parse_when(text, vocabulary), format!("{field}.when"), text).map(Some)
        }
    };
    let action = match (limit, adapt) {
        (Some(text), None) => {
            problems.sentence(language::parse_limit(text), format!("{field}.limit"), text).map(Action::Limit)
        }
        (None, Some(text)) => problems
            .sentence(language::parse_adapt(text, vocabulary), format!("{field}.adapt"), text)
            .map(|adapt| Action::Adapt(Adapt { law: law_of(*law), ..adapt })),
        (found, _) => {
            let found = if found.is_some() { "both" } else { "neither" };
            problems.add(
                field,
                format!("a rule has exactly one of limit and adapt, found {found}"),
                "write for example `limit: 30 requests per second across all pods`",
            );
            None
        }
    };
    if law.is_some() && adapt.is_none() {
        problems.add(
            format!("{field}.law"),
            "`law` says how `adapt` moves its limit, and this rule has no `adapt`",
            "leave `law` out",
        );
    }
    let classes = classes(priorities, &format!("{field}.priorities"), problems);
    let matches = matches::matches(matches, &format!("{field}.matches"), problems);
    let burst = match burst {
        None => Some(None),
        Some(burst) => match u32::try_from(*burst) {
            Ok(burst @ 1..=1_000_000) => Some(Some(burst)),
            _ => {
                problems.add(
                    format!("{field}.burst"),
                    format!("a burst is from 1 to 1000000 requests, found {burst}"),
                    "leave `burst` out for the default",
                );
                None
            }
        },
    };
    let mode = match mode.unwrap_or(object_mode) {
        api::Mode::Enforce => Mode::Enforce,
        api::Mode::Shadow => Mode::Shadow,
    };
    Some(Rule {
        name: name.clone(),
        mode,
        when: when?,
        action: action?,
        matches: matches?,
        burst: burst?,
        classes: classes?,
    })
}

fn law_of(law: Option<api::Law>) -> LawKind {
    match law {
        None | Some(api::Law::CompletionRate) => LawKind::CompletionRate,
        Some(api::Law::Aimd) => LawKind::Aimd,
    }
}

/// The priority classes, when each of them can be understood.
fn classes(list: &[api::Priority], field: &str, problems: &mut Problems) -> Option<Vec<Class>> {
    if list.len() > 8 {
        problems.invalid(field, format!("at most 8 classes, found {}", list.len()));
    }
    let mut names = BTreeSet::new();
    let mut classes = Vec::new();
    for (position, api::Priority { name, matches }) in list.iter().enumerate() {
        let field = format!("{field}[{position}]");
        if !super::is_dns_label(name) {
            problems.add(
                format!("{field}.name"),
                format!("{name:?} is no name of a class: it must match [a-z0-9]([-a-z0-9]*[a-z0-9])? and have at most 63 letters"),
                "use lower-case letters, digits and `-`",
            );
        } else if !names.insert(name.as_str()) {
            problems.add(format!("{field}.name"), format!("{name:?} is the name of two classes"), "rename one");
        }
        if matches.is_empty() {
            problems.add(
                format!("{field}.matches"),
                format!("the class {name:?} says nowhere which requests belong to it"),
                "requests that fit no class are the last one by themselves; it needs no entry",
            );
        }
        let matches = matches::matches(matches, &format!("{field}.matches"), problems);
        classes.extend(matches.map(|matches| Class { name: name.clone(), matches }));
    }
    (classes.len() == list.len()).then_some(classes)
}

fn on_missing(on_missing: &api::OnMissingMetric, problems: &mut Problems) -> Option<OnMissing> {
    let api::OnMissingMetric { action, after, floor } = on_missing;
    let after = problems.sentence(language::parse_duration(after), "spec.onMissingMetric.after", after);
    let floor_field = "spec.onMissingMetric.floor";
    let floor = match floor {
        None => None,
        Some(text) => Some(problems.sentence(language::parse_limit(text), floor_field, text)?),
    };
    let action = match (action, floor) {
        (api::MissingAction::Hold, None) => MissingAction::Hold,
        (api::MissingAction::Release, None) => MissingAction::Release,
        (api::MissingAction::Floor, Some(limit)) => MissingAction::Floor(limit),
        (api::MissingAction::Floor, None) => {
            problems.add(
                floor_field,
                "action Floor needs the limit that then applies",
                "write for example `floor: 10 requests per second per pod`",
            );
            return None;
        }
        (api::MissingAction::Hold | api::MissingAction::Release, Some(_)) => {
            problems.add(floor_field, format!("floor has no meaning with action {action:?}"), "set `action: Floor`");
            return None;
        }
    };
    Some(OnMissing { action, after: after? })
}

#[cfg(test)]
mod tests;
