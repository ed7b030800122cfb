use limiter::metric::Word;

use super::*;
use crate::{
    metrics::{Measure, Source},
    watch::decode,
};

fn changes(text: &str) -> Vec<Change> {
    let file = decode::decode(text.as_bytes()).expect("readable");
    let objects = file.objects.into_iter();
    objects.map(|d| Change::Apply { key: d.key, origin: String::new(), object: d.object }).collect()
}

/// A thousand services with a pod and a policy each.
fn mesh() -> String {
    let mut text = String::new();
    for n in 0..1000 {
        text.push_str(&format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: s{n}, namespace: ns-a}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s{n}-1, namespace: ns-a, labels: {{kubernetes.io/service-name: s{n}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{{addresses: [127.0.1.1], targetRef: {{kind: Pod, name: s{n}-0}}}}]
---
apiVersion: weir.dev/v1alpha1
kind: SmartLimiter
metadata: {{name: s{n}, namespace: ns-a}}
spec:
  targetRefs: [{{kind: Service, name: s{n}}}]
  rules: [{{name: hot, when: cpu > 80%, limit: 10 requests per second per pod}}]
"
        ));
    }
    text
}

fn sample(service: &str, value: f64, at: Timestamp) -> PodSample {
    PodSample {
        service: ServiceKey { namespace: "ns-a".to_owned(), name: service.to_owned() },
        pod: Some(format!("{service}-0")),
        measure: Measure::Number(Word::Cpu, value),
        at,
        fresh_for_ms: 750,
        source: Source::Scrape,
    }
}

#[test]
fn only_what_a_change_touches_is_built_and_sent() {
    let mut builder = Builder::new(Table::new());
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    builder.apply(changes(&mesh()), start);
    let first = builder.counts();
    assert_eq!((first.builds, first.resources), (1000, 5000));

    // A sample that changes no number decides one service and builds none.
    builder.observe(vec![sample("s7", 0.5, start)], start);
    let idle = builder.counts();
    assert_eq!((idle.decisions - first.decisions, idle.builds - first.builds), (1, 0));

    // One that does builds one service and sends one route configuration.
    builder.observe(vec![sample("s7", 0.9, start)], start);
    let hot = builder.counts();
    assert_eq!((hot.builds - idle.builds, hot.resources - idle.resources), (1, 1));

    // The same manifest again is no change.
    builder.apply(changes(&mesh()), start);
    assert_eq!(builder.counts(), hot);
}

#[test]
fn a_removed_service_takes_its_resources_along() {
    let mut builder = Builder::new(Table::new());
    let all = changes(&mesh());
    builder.apply(all.clone(), Timestamp::UNIX_EPOCH);
    let gone = all.iter().find_map(|change| match change {
        Change::Apply { key, .. } if key.name == "s7" => Some(key.clone()),
        _ => None,
    });
    builder.apply(vec![Change::Delete(gone.expect("it is there"))], Timestamp::UNIX_EPOCH);
    let key = ServiceKey { namespace: "ns-a".to_owned(), name: "s7".to_owned() };
    assert!(builder.built(&key).is_none());
}

#[test]
fn time_alone_moves_a_release_on() {
    let mut builder = Builder::new(Table::new());
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    builder.apply(changes(&mesh()), start);
    let second = jiff::SignedDuration::from_secs(1);
    builder.observe(vec![sample("s7", 0.9, start)], start);
    let mut now = start;
    // Without `until` it releases after 5 s below 72 %.
    for _ in 0..8 {
        now += second;
        builder.observe(vec![PodSample { fresh_for_ms: 5000, ..sample("s7", 0.1, now) }], now);
    }
    let key = ServiceKey { namespace: "ns-a".to_owned(), name: "s7".to_owned() };
    let phase = |builder: &Builder| {
        builder.built(&key).and_then(|built| built.rules.decisions.values().next()).map(|decision| decision.phase)
    };
    assert_eq!(phase(&builder), Some(Phase::Releasing));
    for _ in 0..100 {
        let Some(next) = builder.next() else { break };
        now = now.max(next);
        builder.tick(now);
        if phase(&builder) == Some(Phase::Idle) {
            return;
        }
    }
    panic!("the limit never vanished");
}
