use super::*;

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
