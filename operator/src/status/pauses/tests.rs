use jiff::Timestamp;

use super::*;
use crate::{
    index::Change,
    metrics::HealthBoard,
    status::status,
    watch::decode,
    xds::{proxies::Connection, table::Table},
};

/// Service `cart`, whose limit is enforced at `place`, and the caller `page`, which has no policy.
fn mesh(place: &str) -> Builder {
    let mut text = format!(
        "apiVersion: weir.dev/v1alpha1
kind: SmartLimiter
metadata: {{name: cart, namespace: a}}
spec: {{targetRefs: [{{kind: Service, name: cart}}], enforceAt: {place}, rules: [{{name: all, limit: 10 requests per second per pod}}]}}
"
    );
    text.push_str(&service("cart", "cart-0", ""));
    text.push_str(&service("page", "page-0", "outbound.weir.dev/listen: '127.0.0.1:15001'"));
    let mut builder = Builder::new(Table::new());
    apply(&mut builder, &text);
    builder
}

fn apply(builder: &mut Builder, text: &str) {
    let file = decode::decode(text.as_bytes()).expect("readable");
    assert_eq!(file.problems, [], "{text}");
    let objects = file.objects.into_iter();
    let changes = objects.map(|d| Change::Apply { key: d.key, origin: String::new(), object: d.object }).collect();
    builder.apply(changes, Timestamp::UNIX_EPOCH);
}

fn service(name: &str, pod: &str, annotations: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: a}}
spec: {{ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: a, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [127.0.1.1], targetRef: {{kind: Pod, name: {pod}}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: {pod}, namespace: a, annotations: {{{annotations}}}}}
"
    )
}

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "a".to_owned(), name: name.to_owned() }
}

fn pause(builder: &mut Builder, services: &[&str]) {
    let pauses = Pauses { services: services.iter().map(|name| key(name)).collect(), ..Pauses::default() };
    builder.set_pauses(pauses, Timestamp::UNIX_EPOCH);
}

/// The proxy takes all that it has now of these types.
fn take(builder: &Builder, connection: &Connection, node: &NodeKey, types: &[ResourceType]) {
    for (of, name, version) in builder.table().versions(node) {
        if types.contains(&of) {
            connection.holds(of, vec![(name, Some(version))]);
        }
    }
}

fn connect(proxies: &Proxies, node: &NodeKey) -> Connection {
    proxies.connect(node, String::new(), Timestamp::UNIX_EPOCH)
}

/// How many are to obey, and who has not.
fn said(builder: &Builder, proxies: &Proxies, service: Option<&str>) -> (usize, Vec<(String, Waiting)>) {
    let progress = progress(builder, proxies, service.map(key).as_ref());
    (progress.proxies, progress.waiting.into_iter().collect())
}

#[test]
fn a_pause_waits_for_the_callers_that_enforce_the_limit() {
    let (mut builder, proxies) = (mesh("Client"), Proxies::new());
    let node = NodeKey::of(&key("page"), "page-0");
    let page = || "a/page/page-0".to_owned();
    assert_eq!(said(&builder, &proxies, Some("cart")), (1, vec![(page(), Waiting::NotConnected)]));
    let connection = connect(&proxies, &node);
    let both = [ResourceType::Route, ResourceType::Runtime];
    take(&builder, &connection, &node, &both);
    assert_eq!(said(&builder, &proxies, Some("cart")), (1, vec![]));

    pause(&mut builder, &["cart"]);
    for service in [None, Some("cart")] {
        assert_eq!(
            said(&builder, &proxies, service),
            (1, vec![(page(), Waiting::Pending)]),
            "its routes hold the limit"
        );
    }
    take(&builder, &connection, &node, &both);
    assert_eq!(said(&builder, &proxies, Some("cart")), (1, vec![]));
    pause(&mut builder, &[]);
    assert_eq!(said(&builder, &proxies, Some("cart")), (1, vec![(page(), Waiting::Pending)]));
    take(&builder, &connection, &node, &both);

    // The caller's own service, which has no policy: its layer is enough.
    pause(&mut builder, &["page"]);
    assert_eq!(said(&builder, &proxies, Some("page")), (1, vec![(page(), Waiting::Pending)]));
    take(&builder, &connection, &node, &[ResourceType::Runtime]);
    assert_eq!(said(&builder, &proxies, Some("page")), (1, vec![]));
}

#[test]
fn a_pause_waits_for_the_callers_of_a_split_that_is_steered() {
    let text = "apiVersion: weir.dev/v1alpha1
kind: SmartSplit
metadata: {name: web, namespace: a}
spec: {targetRefs: [{kind: Service, name: web}], backendRefs: [{name: v1, weight: 1}, {name: v2, weight: 1}], steer: prefer lower errors}
";
    let services = [("web", "web-0", ""), ("v1", "v1-0", ""), ("v2", "v2-0", "")]
        .map(|(name, pod, more)| service(name, pod, more));
    let page = service("page", "page-0", "outbound.weir.dev/listen: '127.0.0.1:15001'");
    let mut builder = Builder::new(Table::new());
    apply(&mut builder, &format!("{text}{}{page}", services.concat()));
    let proxies = Proxies::new();
    let node = NodeKey::of(&key("page"), "page-0");
    let page = || "a/page/page-0".to_owned();
    assert_eq!(said(&builder, &proxies, Some("v1")), (0, vec![]));
    for service in [None, Some("web")] {
        assert_eq!(said(&builder, &proxies, service), (1, vec![(page(), Waiting::NotConnected)]));
    }
    let connection = connect(&proxies, &node);
    pause(&mut builder, &["web"]);
    for service in [None, Some("web")] {
        assert_eq!(said(&builder, &proxies, service), (1, vec![(page(), Waiting::Pending)]));
    }
    take(&builder, &connection, &node, &[ResourceType::Route, ResourceType::Runtime]);
    assert_eq!(said(&builder, &proxies, Some("web")), (1, vec![]));
}

#[test]
fn a_proxy_that_fetches_only_its_limits_obeys_by_them() {
    let (mut builder, proxies) = (mesh("Server"), Proxies::new());
    let node = NodeKey::of(&key("cart"), "cart-0");
    let table = builder.table().clone();
    let _watcher = table.attach(&node);
    let connection = connect(&proxies, &node);
    take(&builder, &connection, &node, &[ResourceType::Extension]);
    assert_eq!(said(&builder, &proxies, None), (1, vec![]));
    pause(&mut builder, &["cart"]);
    assert_eq!(said(&builder, &proxies, None), (1, vec![("a/cart/cart-0".to_owned(), Waiting::Pending)]));
    take(&builder, &connection, &node, &[ResourceType::Extension]);
    assert_eq!(said(&builder, &proxies, None), (1, vec![]));
}

#[test]
fn a_proxy_without_a_runtime_layer_cannot_obey_and_needs_no_end() {
    let (mut builder, proxies) = (mesh("Server"), Proxies::new());
    let node = NodeKey::of(&key("cart"), "cart-0");
    let _connection = connect(&proxies, &node);
    assert_eq!(said(&builder, &proxies, None), (1, vec![]));
    pause(&mut builder, &["cart"]);
    assert_eq!(said(&builder, &proxies, None), (1, vec![(node.to_string(), Waiting::NoRuntimeLayer)]));
    pause(&mut builder, &[]);
    assert_eq!(said(&builder, &proxies, None), (1, vec![]));
}

#[test]
fn a_pod_of_two_services_has_one_proxy() {
    let (mut builder, proxies) = (mesh("Server"), Proxies::new());
    let second = "---
apiVersion: weir.dev/v1alpha1
kind: SmartLimiter
metadata: {name: basket, namespace: a}
spec: {targetRefs: [{kind: Service, name: basket}], rules: [{name: all, limit: 10 requests per second per pod}]}
";
    apply(&mut builder, &(service("basket", "cart-0", "") + second));
    let node = NodeKey::of(&key("cart"), "cart-0");
    let connection = connect(&proxies, &node);
    take(&builder, &connection, &node, &[ResourceType::Runtime]);
    pause(&mut builder, &["basket"]);
    assert_eq!(said(&builder, &proxies, Some("basket")), (1, vec![]), "the proxy enforces nothing of it");
    pause(&mut builder, &["basket", "cart"]);
    assert_eq!(said(&builder, &proxies, None), (1, vec![(node.to_string(), Waiting::Pending)]));
    take(&builder, &connection, &node, &[ResourceType::Runtime]);
    assert_eq!(said(&builder, &proxies, None), (1, vec![]));

    // An id that no pod has says nothing.
    drop(connection);
    let _stray = connect(&proxies, &NodeKey::new("a", "other", "cart-0"));
    assert_eq!(said(&builder, &proxies, None), (1, vec![("a/basket/cart-0".to_owned(), Waiting::NotConnected)]));
}

#[test]
fn a_limit_whose_callers_are_all_paused_is_paused() {
    let mut builder = mesh("Client");
    let message = |builder: &Builder| {
        let status = status(builder, &Proxies::new(), &HealthBoard::default(), Timestamp::UNIX_EPOCH);
        status.policies[0].status.rules[0].message.clone().unwrap_or_default()
    };
    assert!(!message(&builder).contains("paused"));
    pause(&mut builder, &["page"]);
    assert!(message(&builder).starts_with("paused by an operator"));
    apply(&mut builder, &service("job", "job-0", "outbound.weir.dev/listen: '127.0.0.1:15001'"));
    assert!(!message(&builder).contains("paused"), "one of two callers enforces it");
}
