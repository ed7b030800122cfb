use jiff::Timestamp;

use crate::{
    build::Builder,
    intent::ServiceKey,
    metrics::HealthBoard,
    status::status,
    tests::{CART, changes},
    xds::{proxies::Proxies, table::Table},
};

/// A condition of the only policy among these objects.
fn condition(text: &str, name: &str, proxies: &Proxies, health: &HealthBoard) -> (String, String, String) {
    let mut builder = Builder::new(Table::new());
    builder.apply(changes(text), Timestamp::UNIX_EPOCH);
    let mut status = status(&builder, proxies, health, Timestamp::UNIX_EPOCH);
    let mut conditions = status.policies.remove(0).status.conditions.into_iter();
    let found = conditions.find(|condition| condition.type_ == name).expect("told");
    (found.status, found.reason, found.message)
}

#[test]
fn a_limit_that_no_proxy_enforces_is_said_to_be_decided_only() {
    let policy = "apiVersion: weir.dev/v1alpha1
kind: SmartLimiter
metadata: {name: cart, namespace: a}
spec:
  targetRefs: [{kind: Service, name: cart}]
  rules: [{name: calm, limit: 10 requests per second across all pods}]
---
";
    let words = "decided: calm; no proxy is known to enforce it: Programmed says why";
    let (proxies, health) = (Proxies::default(), HealthBoard::default());
    let service = CART.split_once("---").unwrap().0;
    for objects in [service, CART] {
        let (status, reason, message) = condition(&format!("{policy}{objects}"), "Limiting", &proxies, &health);
        assert_eq!((&*status, &*reason, &*message), ("True", "NotEnforced", words));
    }
    let node = "a/cart/cart-0".parse().unwrap();
    let _connection = proxies.connect(&node, String::new(), Timestamp::UNIX_EPOCH);
    let (_, reason, message) = condition(&format!("{policy}{CART}"), "Limiting", &proxies, &health);
    assert_eq!((&*reason, &*message), ("Limiting", "in force: calm"));

    // One that cannot be carried out is in force nowhere.
    let bytes = CART.replace("ports: [{port: 8080}]", "ports: [{port: 8080, appProtocol: tcp}]");
    let (_, reason, message) = condition(&format!("{policy}{bytes}"), "Limiting", &proxies, &health);
    assert_eq!((&*reason, &*message), ("NotEnforced", words));
    let (_, reason, message) = condition(&format!("{policy}{bytes}"), "Programmed", &proxies, &health);
    assert!(reason == "NotCarriedOut" && message.starts_with("rule calm on Service a/cart: no port of"), "{message}");
}

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
{CART}apiVersion: v1
kind: Pod
metadata: {{name: cart-0, namespace: a, annotations: {{{annotations}}}}}
"
    );
    condition(&text, "MetricsAvailable", &Proxies::default(), health).2
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
