use super::*;
use crate::intent::Protocol;

#[test]
fn types_are_pushed_clusters_endpoints_listeners_routes() {
    let mut sorted = ResourceType::ALL;
    sorted.sort();
    assert_eq!(sorted, ResourceType::ALL);
    let labels: Vec<_> = ResourceType::ALL.iter().map(|t| t.label()).collect();
    assert_eq!(labels, ["runtime", "cluster", "endpoints", "extension", "listener", "route", "virtual_host"]);
    for (position, t) in ResourceType::ALL.into_iter().enumerate() {
        assert_eq!(t.index(), position);
        assert_eq!(ResourceType::from_type_url(t.type_url()), Some(t));
    }
    assert_eq!(ResourceType::from_type_url("type.googleapis.com/envoy.config.core.v3.Node"), None);
}

#[test]
fn names_carry_the_pod_and_the_port_of_the_listener() {
    let port = Inbound {
        listener: ([10, 0, 0, 1], 15080).into(),
        application: ([127, 0, 0, 1], 8080).into(),
        protocol: Protocol::Http,
    };
    assert_eq!(inbound(&NodeKey::new("ns-a", "checkout", "checkout-0"), &port), "in/ns-a/checkout/checkout-0/15080");
    assert_eq!(inbound_stat_prefix(&port), "in_15080");
    let node = NodeKey::new("ns-a", "checkout", "checkout-0");
    assert_eq!(extension(&node), "limits/ns-a/checkout/checkout-0");
    assert_eq!(extension_node(&extension(&node)), Some(node.clone()));
    let rc = "out/ns-a/checkout/checkout-0/15001";
    for text in ["@10.96.0.10:5432", "@[::1]:80", "+api.stripe.example:443"] {
        let what: Called = text.parse().expect("something that is called");
        assert_eq!(what.to_string(), text);
        assert_eq!(asked_stream(&node, &stream(&node, &what)), Some(what.clone()));
        assert_eq!(asked_stream(&NodeKey::new("ns-a", "checkout", "other"), &stream(&node, &what)), None);
    }
    for text in ["@", "@cart:80", "+cart", "+cart:x"] {
        assert_eq!(text.parse::<Called>().ok(), None, "{text}");
    }
    for text in ["b/cart/80", "/api.stripe.example/443", "/[::1]/80", "=cart:80", "="] {
        let what: Called = text.parse().expect("something that is called");
        assert_eq!(what.to_string(), text);
        let name = virtual_host(rc, text);
        assert_eq!(name.rsplit_once('/').map(|(configuration, _)| configuration), Some(rc));
        assert_eq!(called(&node, ResourceType::VirtualHost, &name), Some(what.clone()));
        if let Called::Destination(key) = what {
            let what = Some(Called::Destination(key.clone()));
            assert_eq!(called(&node, ResourceType::Cluster, &destination(&node, &key)), what);
        }
    }
    assert_eq!(called(&NodeKey::new("ns-a", "checkout", "other"), ResourceType::VirtualHost, rc), None);
    assert_eq!(asked(&node, &format!("{rc}/a/b")), Some((15001, "a/b")));
    assert_eq!(asked(&node, "out/ns-a/checkout/checkout-1/15001/a"), None);
    assert_eq!(round(&version_of_round("x", 7)), Some(7));
    assert_eq!(runtime(&NodeKey::new("ns-a", "checkout", "checkout-0")), "rt/ns-a/checkout/checkout-0");
    assert_eq!(max_requests_runtime_key("in/a", Priority::High), "circuit_breakers.in/a.high.max_requests");
}

#[test]
fn a_stat_name_leads_back_to_its_destination() {
    let cart = DestinationKey { service: "shop/cart-v2".parse().expect("a Service"), port: 80 };
    let outside = [("api.stripe.example", 443), ("10.0.0.1", 80), ("[::1]", 80)];
    let outside = outside.map(|(host, port)| DestinationKey::outside(host, port));
    for key in outside.iter().chain([&cart]) {
        for is_arm in [false, true] {
            let name = destination_stat_name(key, is_arm);
            assert_eq!(destination_of_stat_name(&name).as_ref(), Some(key), "{name}");
        }
    }
    assert_eq!(destination_stat_name(&cart, false), "out_shop_cart-v2_80");
    assert_eq!(destination_stat_name(&cart, true), "arm_shop_cart-v2_80");
    assert_eq!(destination_stat_name(&outside[0], false), "out_dns_api.stripe.example_443");
    let streams = ["@10.96.0.10:5432", "@[::1]:80", "+api.stripe.example:443"];
    let streams = streams.map(|text| stream_stat_name(&text.parse().expect("a stream")));
    let none =
        ["in_15080", "out_passthrough", "arm_", "arm_a_b", "arm_a_b_x", "arm__b_80", "arm_a__80", "out_a_b_70000"];
    for name in streams.iter().map(String::as_str).chain(none) {
        assert_eq!(destination_of_stat_name(name), None, "{name}");
    }
}
