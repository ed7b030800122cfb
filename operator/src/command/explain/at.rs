//! What policies would do with given numbers: the engine itself, over made-up time, from a file that says what stands.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use limiter::{
    language::{
        self, Vocabulary,
        ast::{Comparison, Condition, Expression},
    },
    metric::Word,
    policy::Policy,
    quota,
};
use serde::Deserialize;

use crate::{
    build::Builder,
    index::{Change, Index, Object, ObjectKey, ObjectKind},
    intent::ServiceKey,
    metrics::{Measure, PodSample, Source},
    translate::{RuleKey, decide::qualified},
    watch::decode::decode,
    xds::table::Table,
};

/// How long numbers stand unless the file says: longer than most `for`s.
const STANDING: Duration = Duration::from_secs(600);
/// Looks at the made-up time, at most; between two of them lies a second at least.
const LOOKS: u32 = 600;
/// More pods than that are a mistake.
const MAX_PODS: u32 = 10_000;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    // As in `Numbers`: serde cannot refuse unknown fields beside flattened ones.
    #[serde(default)]
    metrics: BTreeMap<String, serde_json::Value>,
    #[serde(default, rename = "for")]
    standing: Option<String>,
    #[serde(default)]
    pods: Option<u32>,
    /// By `namespace/name`: what is different there.
    #[serde(default)]
    services: BTreeMap<String, Numbers>,
}

/// What stands at a service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbers {
    /// Values by metric, as sentences spell both: `cpu: 91%`, `p99 latency: 250ms`.
    #[serde(default)]
    metrics: BTreeMap<String, serde_json::Value>,
    /// For how long they have stood.
    #[serde(default, rename = "for")]
    standing: Option<String>,
    /// Ready pods, in place of those in the files.
    #[serde(default)]
    pods: Option<u32>,
}

/// What stands at one service, understood.
#[derive(Clone, Debug)]
struct Given {
    values: BTreeMap<Word, f64>,
    standing: Duration,
    pods: Option<u32>,
}

/// Everything that was decided, at the end of the made-up time.
pub(super) struct Outcome {
    /// By how long the numbers have stood: time is the same for all that one builder decides.
    builders: BTreeMap<Duration, Builder>,
    given: BTreeMap<ServiceKey, Given>,
}

/// Decides the objects of `changes` with the numbers of the file at `path`, which have stood until `now`.
pub(super) fn decide(path: &Path, changes: Vec<Change>, now: Timestamp) -> anyhow::Result<Outcome> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--at: {} cannot be read", path.display()))?;
    let place = |message: String| anyhow::anyhow!("--at: {}: {message}", path.display());
    let file: File = serde_saphyr::from_str(&text).map_err(|error| {
        let error = error.to_string();
        let line = error.lines().next().unwrap_or("not YAML");
        place(line.strip_prefix("error: ").unwrap_or(line).to_owned())
    })?;
    let mut index = Index::default();
    for change in &changes {
        index.apply(change.clone());
    }
    let policies = || index.policies().filter_map(|(_, entry)| entry.accepted.as_ref());
    let definitions = policies().flat_map(|policy| policy.metrics.clone()).collect();
    let vocabulary = Vocabulary::new(&definitions);
    let everywhere = Numbers { metrics: file.metrics, standing: file.standing, pods: file.pods };
    let everywhere = understand(&everywhere, None, &vocabulary).map_err(place)?;
    let mut given: BTreeMap<ServiceKey, Given> =
        policies().flat_map(|policy| index.targets(policy)).map(|service| (service, everywhere.clone())).collect();
    for (name, numbers) in &file.services {
        let Some(there) = given.iter_mut().find_map(|(key, there)| (key.to_string() == *name).then_some(there)) else {
            let known = given.keys().map(ToString::to_string).collect::<Vec<_>>();
            let nearest = language::nearest(name, known.iter().map(String::as_str));
            let mend = nearest.map_or_else(
                || format!("they apply to: {}", known.join(", ")),
                |nearest| format!("did you mean {nearest}?"),
            );
            return Err(place(format!("services: no policy of these files applies to {name:?} ({mend})")));
        };
        *there = understand(numbers, Some((name, &everywhere)), &vocabulary).map_err(place)?;
    }
    let supposed = given.iter().flat_map(|(service, given)| pods(&index, service, given.pods));
    let changes: Vec<Change> = changes.into_iter().chain(supposed).collect();
    let mut builders = BTreeMap::new();
    for (service, given) in &given {
        let start = now - SignedDuration::try_from(given.standing).unwrap_or_default();
        let builder = builders.entry(given.standing).or_insert_with(|| {
            let mut builder = Builder::new(Table::new());
            builder.apply(changes.clone(), start);
            builder
        });
        let_pass(builder, service, given, start);
    }
    Ok(Outcome { builders, given })
}

fn understand(numbers: &Numbers, of_service: Option<(&str, &Given)>, vocabulary: &Vocabulary) -> Result<Given, String> {
    let prefix = of_service.map(|(name, _)| format!("services: {name}: ")).unwrap_or_default();
    let default = Given { values: BTreeMap::new(), standing: STANDING, pods: None };
    let mut given = of_service.map_or(default, |(_, everywhere)| everywhere.clone());
    for (name, value) in &numbers.metrics {
        let (word, value) =
            number(name, value, vocabulary).map_err(|error| format!("{prefix}metrics: {name}: {error}"))?;
        given.values.insert(word, value);
    }
    if let Some(text) = &numbers.standing {
        given.standing = language::parse_duration(text).map_err(|error| format!("{prefix}for: {error}"))?;
    }
    if let Some(pods) = numbers.pods {
        if pods > MAX_PODS {
            return Err(format!("{prefix}pods: expected 0 to {MAX_PODS}, found {pods}"));
        }
        given.pods = Some(pods);
    }
    Ok(given)
}

/// Reads a pair as the sentence `NAME == VALUE`, so that names, units and their mistakes are those of the language.
fn number(name: &str, value: &serde_json::Value, vocabulary: &Vocabulary) -> Result<(Word, f64), String> {
    let value = match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Number(number) => number.to_string(),
        other => return Err(format!("expected a value such as 91% or 250ms, found {other}")),
    };
    let when = language::parse_when(&format!("{name} == {value}"), vocabulary).map_err(|error| match &error.help {
        Some(help) => format!("{error} ({help})"),
        None => error.to_string(),
    })?;
    let Condition::Compare { comparison: Comparison::Equal, left: Expression::Metric(metric), right, .. } =
        when.condition
    else {
        return Err("expected one metric and one value".to_owned());
    };
    if metric.word == Word::Pods {
        return Err("write `pods` beside `metrics`, not in it".to_owned());
    }
    let value = right.evaluate(&|_| None).ok_or("expected a value such as 91% or 250ms")?;
    if value < 0.0 && !matches!(metric.word, Word::Named(_)) {
        return Err("cannot be negative".to_owned());
    }
    Ok((metric.word, value))
}

/// Makes the service and its pods be there: as many as given, else those of the files, else one.
fn pods(index: &Index, service: &ServiceKey, given: Option<u32>) -> Vec<Change> {
    let view = index.service(service);
    let ready = view.as_ref().map_or(0, |view| view.ready_pods().count());
    let count = match given {
        Some(count) => count,
        None if ready > 0 => return Vec::new(),
        None => 1,
    };
    let ServiceKey { namespace, name } = service;
    let mut text = String::new();
    if view.is_none() {
        text.push_str(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: \"{name}\", namespace: \"{namespace}\"}}\n\
             spec: {{ports: [{{name: http, port: 80}}]}}\n---\n"
        ));
    }
    text.push_str(&format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: \"{name}-supposed\", namespace: \
         \"{namespace}\", labels: {{kubernetes.io/service-name: \"{name}\"}}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: 80}}]\nendpoints:\n"
    ));
    for pod in 0..count {
        let [high, low] = u16::try_from(pod).unwrap_or(u16::MAX).to_be_bytes();
        text.push_str(&format!(
            "- {{addresses: [127.1.{high}.{low}], targetRef: {{kind: Pod, name: \"{name}-{pod}\"}}}}\n"
        ));
    }
    if count == 0 {
        text.push_str("- {addresses: [127.1.0.0], conditions: {ready: false}, targetRef: {kind: Pod, name: none}}\n");
    }
    // In place of the pods of the files, not beside them.
    let others = index.slices(service).map(|slice| {
        let (namespace, name) = (namespace.clone(), slice.to_owned());
        Change::Delete(ObjectKey { kind: ObjectKind::EndpointSlice, namespace, name })
    });
    let made = decode(text.as_bytes()).map(|file| file.objects).unwrap_or_default();
    let made = made.into_iter().map(|decoded| Change::Apply {
        key: decoded.key,
        origin: "--at".to_owned(),
        object: decoded.object,
    });
    others
        .chain(made.filter(|change| !matches!(change, Change::Apply { object: Object::Undecodable(_), .. })))
        .collect()
}

/// Lets the numbers stand at a service for as long as they are given to have stood.
fn let_pass(builder: &mut Builder, service: &ServiceKey, given: &Given, start: Timestamp) {
    let step = (given.standing / LOOKS).max(Duration::from_secs(1));
    let fresh_for_ms = u64::try_from(step.as_millis()).unwrap_or(u64::MAX).saturating_mul(3);
    let mut passed = Duration::ZERO;
    loop {
        let now = start + SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX);
        let samples = samples(builder, service, given, now, fresh_for_ms);
        if samples.is_empty() {
            builder.tick(now);
        } else {
            builder.observe(samples, now);
        }
        if passed >= given.standing {
            return;
        }
        passed = (passed + step).min(given.standing);
    }
}

fn samples(builder: &Builder, service: &ServiceKey, given: &Given, at: Timestamp, fresh_for_ms: u64) -> Vec<PodSample> {
    let Some(view) = builder.index().service(service) else { return Vec::new() };
    let mut samples = Vec::new();
    for policy in &view.policies {
        for metric in policy.metrics() {
            let Some(value) = given.values.get(&metric.word) else { continue };
            samples.extend(view.ready_pods().map(|pod| PodSample {
                service: service.clone(),
                pod: Some(pod.to_owned()),
                measure: Measure::Number(qualified(policy, &metric).word, *value),
                at,
                fresh_for_ms,
                source: Source::Scrape,
            }));
        }
    }
    samples
}

impl Outcome {
    /// What `policy` does now, in plain sentences: each service, and each rule there.
    pub(super) fn lines(&self, policy: &Policy) -> Vec<String> {
        let mut lines = Vec::new();
        for (service, given) in &self.given {
            let Some(builder) = self.builders.get(&given.standing) else { continue };
            let Some(built) = builder.built(service) else { continue };
            if !built.rules.iter().any(|ruling| ruling.policy.key == policy.key) {
                continue;
            }
            let ready = builder.index().service(service).map_or(0, |view| view.ready_pods().count());
            let pods = if ready == 1 { "1 ready pod".to_owned() } else { format!("{ready} ready pods") };
            lines.push(format!("Now, at Service {service} with {pods}:"));
            for rule in &policy.rules {
                let Some(ruling) = built.rules.get(&policy.key, &rule.name) else { continue };
                lines.push(format!("  Rule {}: {}", rule.name, ruling.explain()));
                let key = RuleKey { service: service.clone(), policy: policy.key.clone(), rule: rule.name.clone() };
                let report = built.reports.iter().find(|report| report.key == key);
                match report.and_then(|report| report.trouble.as_ref()) {
                    Some(trouble) => lines.push(format!("    But it is not carried out: {trouble}")),
                    None => lines.extend(
                        report
                            .filter(|report| !report.shares.is_empty())
                            .map(|report| format!("    Each pod's share: {}", quota::describe(&report.shares))),
                    ),
                }
            }
        }
        lines
    }
}
