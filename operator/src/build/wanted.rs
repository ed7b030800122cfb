//! What the rules need measured: pages to read, questions to Prometheus.

use std::collections::BTreeMap;

use limiter::{metric::Word, policy::MetricSource};

use crate::{
    index::{Endpoint, ServiceView},
    metrics::{PodResources, Query, Series, Target, Wanted},
    translate::decide::qualified,
};

/// What is wanted of one service now; of metrics pages, when told so, only those that annotations name. `called`: also whom its pods
/// call. `of_arm`: words by which it is judged as an arm of a split.
pub(super) fn of(view: &ServiceView<'_>, annotated_pages: bool, called: bool, of_arm: &[Word]) -> Wanted {
    Wanted {
        targets: targets_of(view, annotated_pages),
        resources: resources_of(view),
        queries: queries_of(view, of_arm),
        streamed: (reads_streams(view) || !of_arm.is_empty()).then(|| view.key.clone()).into_iter().collect(),
        called: called.then(|| view.key.clone()).into_iter().collect(),
    }
}

/// All of it.
pub(super) fn all<'a>(services: impl Iterator<Item = &'a Wanted>) -> Wanted {
    let mut all = Wanted::default();
    for Wanted { targets, resources, queries, streamed, called } in services {
        all.targets.extend_from_slice(targets);
        all.resources.extend_from_slice(resources);
        all.queries.extend_from_slice(queries);
        all.streamed.extend(streamed.iter().cloned());
        all.called.extend(called.iter().cloned());
    }
    all
}

fn targets_of(view: &ServiceView<'_>, annotated_pages: bool) -> Vec<Target> {
    let mut wanted = false;
    let mut series = Vec::new();
    for policy in &view.policies {
        for metric in policy.metrics() {
            match &metric.word {
                Word::Cpu | Word::Memory => wanted = true,
                Word::Named(name) => {
                    let Some(definition) = policy.metrics.get(name) else { continue };
                    let qualified = qualified(policy, &metric).word.to_string();
                    let Some(definition) = Series::from_definition(&qualified, &definition.source) else { continue };
                    wanted = true;
                    if !series.contains(&definition) {
                        series.push(definition);
                    }
                }
                _ => {}
            }
        }
    }
    if !wanted {
        return Vec::new();
    }
    let with_page = view.endpoints.iter().filter_map(|(pod, endpoint)| Some((pod, endpoint, endpoint.page.as_ref()?)));
    with_page
        .filter(|(.., page)| page.annotated || !annotated_pages)
        .map(|(pod, endpoint, page)| Target {
            service: view.key.clone(),
            pod: (*pod).to_owned(),
            url: format!("{}://{}{}", if page.tls { "https" } else { "http" }, page.address, page.path),
            cpu_limit_cores: endpoint.cpu_cores.map(|cpu| cpu.amount),
            memory_limit_bytes: endpoint.memory_bytes.map(|memory| memory.amount),
            series: series.clone(),
        })
        .collect()
}

/// The service's pods, when a rule reads what they use of CPU or memory.
fn resources_of(view: &ServiceView<'_>) -> Vec<PodResources> {
    let reads = |word| matches!(word, Word::Cpu | Word::Memory);
    if !view.policies.iter().any(|policy| policy.metrics().into_iter().any(|metric| reads(metric.word))) {
        return Vec::new();
    }
    let resources = |(pod, endpoint): (&&str, &Endpoint)| PodResources {
        service: view.key.clone(),
        pod: (*pod).to_owned(),
        cpu_cores: endpoint.cpu_cores.map(|cpu| cpu.amount),
        memory_bytes: endpoint.memory_bytes.map(|memory| memory.amount),
    };
    view.endpoints.iter().map(resources).collect()
}

/// Whether a rule of the service reads what its proxies stream.
fn reads_streams(view: &ServiceView<'_>) -> bool {
    view.policies.iter().any(|policy| policy.metrics().iter().any(|metric| metric.word.is_streamed()))
}

/// One question for each word that a rule of the service reads and that Prometheus could know.
fn queries_of(view: &ServiceView<'_>, of_arm: &[Word]) -> Vec<Query> {
    let mut words: BTreeMap<Word, Option<String>> = of_arm.iter().map(|word| (word.clone(), None)).collect();
    for policy in &view.policies {
        for metric in policy.metrics() {
            match &metric.word {
                Word::Pods | Word::Demand(_) | Word::Excess(_) => {}
                Word::Named(name) => {
                    if let Some(MetricSource::Prometheus { query, .. }) =
                        policy.metrics.get(name).map(|definition| &definition.source)
                    {
                        words.insert(qualified(policy, &metric).word, Some(query.clone()));
                    }
                }
                word => drop(words.insert(word.clone(), None)),
            }
        }
    }
    if words.is_empty() {
        return Vec::new();
    }
    let pods: Vec<String> = view.ready_pods().map(str::to_owned).collect();
    let query = |(word, promql)| {
        let amounts = amounts(view, &word);
        Query { service: view.key.clone(), word, promql, pods: pods.clone(), amounts }
    };
    words.into_iter().map(query).collect()
}

/// What the ready pods may use of what the word is a fraction of, by their own manifests; empty unless all are known.
fn amounts(view: &ServiceView<'_>, word: &Word) -> BTreeMap<String, f64> {
    let ready = view.endpoints.iter().filter(|(_, endpoint)| endpoint.ready);
    let amounts = ready.map(|(pod, endpoint)| {
        let resource = match word {
            Word::Cpu => endpoint.cpu_cores,
            Word::Memory => endpoint.memory_bytes,
            _ => None,
        };
        Some(((*pod).to_owned(), resource?.amount))
    });
    amounts.collect::<Option<_>>().unwrap_or_default()
}
