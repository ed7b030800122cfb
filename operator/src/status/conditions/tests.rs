use jiff::Timestamp;

use crate::{
    build::Builder,
    index::Change,
    intent::ServiceKey,
    metrics::HealthBoard,
    status::status,
    watch::decode,
    xds::{proxies::Proxies, table::Table},
};

/// What the policy says of its metrics, where its only pod is annotated so.
fn said(annotations: &str, health: &HealthBoard) -> String {
    let text = format!(
        "apiVersion: weir.dev/v1alpha1
kind: SmartLimiter
metadata: {{name: cart, namespace: a}}
spec:
  targetRefs: [{{kind: Service, name: cart}}]
  rules: [{{name: deep, when: depth > 5, limit: 10 requests per second per pod}}]
  metrics: [{{name: depth, type: Count, scrape: {{series: queue_depth}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: cart, namespace: a}}
spec: {{ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: cart-1, namespace: a, labels: {{kubernetes.io/service-name: cart}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [127.0.1.1], targetRef: {{kind: Pod, name: cart-0}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: cart-0, namespace: a, annotations: {{{annotations}}}}}
"
    );
    let file = decode::decode(text.as_bytes()).expect("readable");
    let objects = file.objects.into_iter();
    let changes = objects.map(|d| Change::Apply { key: d.key, origin: String::new(), object: d.object }).collect();
    let mut builder = Builder::new(Table::new());
    builder.apply(changes, Timestamp::UNIX_EPOCH);
    let status = status(&builder, &Proxies::default(), health, Timestamp::UNIX_EPOCH);
    let mut conditions = status.policies[0].status.conditions.iter();
    conditions.find(|condition| condition.type_ == "MetricsAvailable").expect("told").message.clone()
}

#[test]
fn a_word_of_ones_own_that_a_page_lacks_is_told_with_the_series() {
    let health = HealthBoard::default();
    let key = ServiceKey { namespace: "a".to_owned(), name: "cart".to_owned() };
    let word = limiter::metric::Word::Named("smartlimiters.weir.dev/a/cart#depth".to_owned());
    let why = "the page has no series \"queue_depth\"";
    health.update(&key, "cart-0", |health| health.unavailable.insert(word, why.to_owned()));
    let said = said("prometheus.io/port: '9100'", &health);
    assert_eq!(said, format!("depth of a/cart is missing: pod cart-0: {why}"));
}

#[test]
fn a_pod_without_a_page_and_one_that_is_refused_are_told() {
    let health = HealthBoard::default();
    let message = said("prometheus.io/scrape: 'false'", &health);
    assert!(message.contains("pod cart-0 has no metrics page to read: annotate it"), "{message}");
    let message = said("prometheus.io/port: abc", &health);
    let words = "the manifest of pod cart-0 is refused: metadata.annotations[prometheus.io/port]: expected a port";
    assert!(message.contains(words), "{message}");
}
