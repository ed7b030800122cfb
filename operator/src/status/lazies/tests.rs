use limiter::policy::tenants::Tenants;

use super::*;
use crate::{
    metrics::HealthBoard,
    status::{Status, status},
    tests::changes,
    xds::table::Table,
};

const MESH: &str = "
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: a}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: till, namespace: b}, spec: {ports: [{port: 80}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, namespace: a, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [127.0.1.1], targetRef: {kind: Pod, name: cart-0}}]
---
";
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: cart-0, namespace: a, labels: {app: cart}, annotations: {outbound.weir.dev/listen: '127.0.0.1:15001'}}
spec: {containers: []}
---
";

fn lazy(name: &str, month: u8, spec: &str) -> String {
    format!(
        "{{apiVersion: weir.dev/v1alpha1, kind: LazyConfig, metadata: {{name: {name}, namespace: a, generation: 4, \
         creationTimestamp: '2026-{month:02}-01T00:00:00Z'}}, spec: {{{spec}}}}}\n---\n"
    )
}

const CART: &str = "workloadSelector: {matchLabels: {app: cart}}";

fn told(texts: &[&str], proxies: &Proxies) -> Status {
    let mut builder = Builder::new(Table::new()).with_tenants(Tenants::default());
    for text in texts {
        builder.apply(changes(text), Timestamp::UNIX_EPOCH);
    }
    status(&builder, proxies, &HealthBoard::default(), Timestamp::UNIX_EPOCH)
}

/// `Accepted`, `Programmed` and the numbers of the configuration of this name.
fn of(status: &Status, name: &str) -> ([String; 2], [i64; 5]) {
    let report =
        status.lazies.iter().find(|report| report.key == format!("lazyconfigs.weir.dev/a/{name}")).expect("told");
    let LazyConfigStatus { conditions, workloads, proxies, services, .. } = &report.status;
    let said = |place: usize| {
        let Condition { type_, status, reason, message, observed_generation, .. } = &conditions[place];
        assert_eq!(*observed_generation, Some(4));
        format!("{type_} {status} {reason}: {message}")
    };
    let (proxies, services) = (proxies.unwrap(), services.unwrap());
    ([said(0), said(1)], [workloads.unwrap(), proxies.total, proxies.programmed, services.loaded, services.known])
}

fn node() -> NodeKey {
    NodeKey::of(&"a/cart".parse().expect("a service"), "cart-0")
}

#[track_caller]
fn says(found: &str, wanted: &str) {
    assert!(found.contains(wanted), "{found:?} does not contain {wanted:?}");
}

#[test]
fn who_is_connected_and_what_they_have_is_counted() {
    let proxies = Proxies::new();
    let texts = [MESH, POD, &lazy("cart", 1, CART)];
    let ([accepted, programmed], numbers) = of(&told(&texts, &proxies), "cart");
    assert_eq!(accepted, "Accepted True Accepted: the configuration is understood");
    says(&programmed, "Programmed False NoProxies: no proxy of these pods is connected: start Envoy");
    assert_eq!(numbers, [1, 0, 0, 0, 2]);
    let connection = proxies.connect(&node(), "envoy".to_owned(), Timestamp::UNIX_EPOCH);
    let ([_, programmed], numbers) = of(&told(&texts, &proxies), "cart");
    says(&programmed, "Programmed False Pending: ");
    assert_eq!(numbers[..3], [1, 1, 0]);
    connection.mark_sotw();
    let ([_, programmed], _) = of(&told(&texts, &proxies), "cart");
    says(&programmed, "False NotCarriedOut: the proxy a/cart/cart-0 asks for the whole state each time (SotW)");
    says(&programmed, "api_type: DELTA_GRPC");
}

#[test]
fn a_pod_that_calls_past_its_proxy_is_told_how_not_to() {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: cart-0, namespace: a, labels: {app: cart}}, spec: {containers: []}}";
    let ([_, programmed], _) = of(&told(&[MESH, pod, &lazy("cart", 1, CART)], &Proxies::new()), "cart");
    says(&programmed, "Programmed False NotCarriedOut: no application of these pods");
    says(&programmed, "outbound.weir.dev/listen");
}

#[test]
fn what_holds_nowhere_says_what_holds_instead() {
    let proxies = Proxies::new();
    let texts = [
        MESH,
        POD,
        &lazy("young", 2, CART),
        &lazy("old", 1, CART),
        &lazy("all", 1, ""),
        &lazy("none", 1, "workloadSelector: {matchLabels: {app: x}}"),
    ];
    let status = told(&texts, &proxies);
    let ([accepted, programmed], numbers) = of(&status, "young");
    says(&accepted, "Accepted False Conflicted: lazyconfigs.weir.dev/a/old, which is older, holds for every pod");
    says(&programmed, "Programmed False Overridden: an older object holds");
    assert_eq!(numbers[0], 0);
    let ([accepted, programmed], _) = of(&status, "all");
    says(&accepted, "Accepted True");
    says(&programmed, "Programmed False Overridden: narrower objects hold");
    let ([accepted, programmed], _) = of(&status, "none");
    says(&accepted, "Accepted True");
    says(&programmed, "Programmed False NoEndpoints: no pod behind a Service has these labels");
    assert_eq!(of(&status, "old").1[0], 1);
}

#[test]
fn a_bad_text_is_said_and_which_one_stays_in_force() {
    let good = lazy("cart", 1, CART);
    let bad = lazy("cart", 1, "always: ['https://x']").replace("generation: 4", "generation: 5");
    let status = told(&[MESH, POD, &good, &bad], &Proxies::new());
    let conditions = &status.lazies[0].status.conditions;
    says(&conditions[0].message, "spec.always[0]: \"https://x\" is a URL");
    says(&conditions[0].message, "; generation 4 stays in force");
    assert_eq!((conditions[0].reason.as_str(), conditions[0].observed_generation), ("Invalid", Some(5)));
    assert_eq!(status.lazies[0].status.workloads, Some(1));
    let never = told(&[MESH, POD, &bad], &Proxies::new());
    assert_eq!(never.lazies[0].status.conditions[1].reason, "NotAccepted");
}

#[test]
fn a_cluster_of_the_way_out_names_its_service() {
    let service = |cluster: &str| destination(&node(), cluster).map(|service| service.to_string());
    assert_eq!(service("out/a/cart/cart-0/b/till/80"), Some("b/till".to_owned()));
    for other in ["in/a/cart/cart-0/80", "out/a/cart/cart-1/b/till/80", "out/a/cart/cart-0/till"] {
        assert_eq!(service(other), None, "{other}");
    }
}
