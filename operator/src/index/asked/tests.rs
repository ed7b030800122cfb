use super::*;
use crate::tests::changes;

#[test]
fn a_host_is_a_service_as_cluster_dns_knows_it() {
    let key = |name: &str| of_cluster("shop", name).map(|service| service.to_string());
    for (name, service) in [
        ("cart", Some("shop/cart")),
        ("cart.billing", Some("billing/cart")),
        ("cart.billing.svc", Some("billing/cart")),
        ("cart.billing.svc.cluster.local", Some("billing/cart")),
        ("cart.billing.svc.cluster.local.", Some("billing/cart")),
        ("api.stripe.example", None),
        ("cart.svc", None),
        (".billing", None),
        ("", None),
        ("svc.cluster.local", None),
    ] {
        assert_eq!(key(name).as_deref(), service, "{name}");
    }
}

#[test]
fn what_a_client_writes_is_a_name_or_kept_nowhere() {
    for host in ["cart", "cart:80", "cart.shop:8080", "10.0.0.1", "10.0.0.1:80", "[::1]:80", "[::1]", "a_b"] {
        assert!(is_name(host), "{host}");
    }
    let long = "a".repeat(300);
    for host in ["", "*", "*.shop", "cart*", "a/b", "a?b", "Cart", "m\u{fc}nchen.example", "::1", "a:b:c", &long] {
        assert!(!is_name(host), "{host}");
    }
    assert_eq!(split("cart:0"), ("cart:0", None), "no port");
    assert_eq!(split("[::1]:80"), ("[::1]", Some(80)));
    assert_eq!(split("[::1]"), ("[::1]", None));
}

const OBJECTS: &str = "apiVersion: v1
kind: Pod
metadata: {name: page-0, namespace: shop}
---
apiVersion: weir.dev/v1alpha1
kind: LazyConfig
metadata: {name: shop, namespace: shop}
spec: {never: [secret]}
";

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: 80}}]}}\n"
    )
}

fn apply(index: &mut Index, text: &str) {
    for change in changes(text) {
        index.apply(change);
    }
}

fn page() -> ServiceKey {
    ServiceKey { namespace: "shop".to_owned(), name: "page".to_owned() }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn ask(index: &mut Index, host: &str, second: i64) -> String {
    index.ask(&page(), "page-0", host, Why::OnDemand, at(second)).expect("it is lazy").0.to_string()
}

fn loaded(index: &Index) -> Loaded {
    let lazy = index.lazy(&page(), "page-0").expect("it is lazy").clone();
    index.loaded(&page(), "page-0", &lazy)
}

fn mesh(services: &[&str]) -> Index {
    let mut index = Index::default();
    apply(&mut index, OBJECTS);
    services.iter().for_each(|name| apply(&mut index, &service(name)));
    index
}

#[test]
fn what_is_forgotten_keeps_its_cluster_until_nothing_is_in_it_and_comes_back_when_it_is_asked_for() {
    let mut index = mesh(&["cart", "secret"]);
    assert_eq!(ask(&mut index, "cart.shop", 1), "shop/cart/80");
    assert_eq!(ask(&mut index, "secret", 1), "=secret", "it may not be had");
    let cart =
        DestinationKey { service: ServiceKey { namespace: "shop".to_owned(), name: "cart".to_owned() }, port: 80 };
    let all = |_: &Called, _: &Ask| true;
    assert!(index.left(&page(), "page-0", &cart).services.is_empty(), "it is in use");
    assert!(index.forget(&page(), "page-0", at(2), all).services.contains(&page()));
    let Loaded { destinations, leaving, unknown, .. } = loaded(&index);
    assert!(destinations.is_empty() && unknown.is_empty() && leaving.contains(&cart));
    assert!(index.forget(&page(), "page-0", at(3), all).services.is_empty(), "once");
    assert_eq!(index.asked(&page(), "page-0").map(|asked| asked.round), Some(1));
    ask(&mut index, "cart", 4);
    assert!(loaded(&index).destinations.contains_key(&cart));
    let _ = index.forget(&page(), "page-0", at(5), all);
    assert!(index.left(&page(), "page-0", &cart).services.contains(&page()));
    assert!(loaded(&index).leaving.is_empty());
}

#[test]
fn an_unknown_host_is_its_service_once_that_is_there_and_is_then_kept_as_that() {
    let mut index = mesh(&[]);
    assert_eq!(ask(&mut index, "cart:80", 1), "=cart:80");
    assert!(loaded(&index).unknown.contains("cart:80"));
    let change = changes(&service("cart")).remove(0);
    assert!(index.apply(change).services.contains(&page()), "who has called it is touched");
    assert_eq!(loaded(&index).destinations.len(), 1);
    index.settle(&page(), "page-0");
    let called: Vec<_> = index.asked(&page(), "page-0").expect("it has asked").called.keys().cloned().collect();
    assert_eq!(called.iter().map(ToString::to_string).collect::<Vec<_>>(), ["shop/cart/80"]);
    assert_eq!(loaded(&index).destinations.len(), 1);
}

#[test]
fn a_sweep_keeps_the_newest_and_makes_one_round_of_the_rest() {
    let mut index = mesh(&["cart"]);
    ask(&mut index, "cart", 0);
    for number in 0..i64::try_from(MOST_UNKNOWN).expect("small") {
        ask(&mut index, &format!("h{number}.nowhere"), number);
    }
    assert_eq!(index.asked(&page(), "page-0").map(|asked| asked.round), Some(0));
    ask(&mut index, "one.more", 5_000);
    let Loaded { destinations, unknown, .. } = loaded(&index);
    assert_eq!((destinations.len(), unknown.len()), (1, MOST_UNKNOWN / 2 + 1));
    assert!(unknown.contains("one.more") && !unknown.contains("h0.nowhere"));
    assert_eq!(index.asked(&page(), "page-0").map(|asked| asked.round), Some(1));
}

#[test]
fn a_proxy_that_is_ahead_is_followed_and_one_that_is_behind_is_not() {
    let mut index = mesh(&["cart"]);
    let cart: Called = "shop/cart/80".parse().expect("readable");
    assert!(index.holds(&page(), "page-0", cart, at(1)).services.contains(&page()));
    let secret: Called = "shop/secret/80".parse().expect("readable");
    assert!(index.holds(&page(), "page-0", secret, at(1)).services.is_empty());
    assert!(index.holds_round(&page(), "page-0", 7).services.contains(&page()));
    assert!(index.holds_round(&page(), "page-0", 5).services.is_empty());
    assert_eq!(index.asked(&page(), "page-0").map(|asked| asked.round), Some(7));
    let _ = index.starts(&page(), "page-0");
    assert!(index.asked(&page(), "page-0").is_none(), "one that has started has nothing");
}
