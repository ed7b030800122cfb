use std::time::Duration;

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::Cluster, core::v3::RoutingPriority, listener::v3::Listener, route::v3::RouteConfiguration,
        },
        service::runtime::v3::Runtime,
    },
    google::protobuf::value::Kind,
};

use ::limiter::{
    policy::{Key, Mode, PathMatch, RequestMatch},
    quota::Rate,
};

use super::*;
use crate::intent::{Bounds, LimitShape, LimitValue, Priority, Route};

fn service() -> ServiceKey {
    ServiceKey { namespace: "ns-a".into(), name: "checkout".into() }
}

fn value(requests_per_second: u64) -> Option<LimitValue> {
    let rate = Rate { milli_requests: requests_per_second * 1_000, interval: Duration::from_secs(1) };
    Some(LimitValue { rate, burst: 5, lowest: rate })
}

fn limit(bucket: &str, per: Option<Key>, service_wide: bool) -> LimitShape {
    LimitShape { bucket: bucket.into(), per, service_wide, mode: Mode::Enforce }
}

fn intent(pods: u16) -> ServiceIntent {
    let pod = |n: u16| PodIntent {
        inbound: vec![Inbound {
            listener: ([127, 0, 0, 1], 15_000 + n).into(),
            application: ([127, 0, 0, 1], 8_000 + n).into(),
            protocol: Protocol::Http,
        }],
        values: vec![value(100), value(20), value(10), value(5)],
        ..PodIntent::default()
    };
    let api = RequestMatch { path: Some(PathMatch::Prefix("/api".into())), ..RequestMatch::default() };
    ServiceIntent {
        limits: vec![
            limit("all", None, true),
            limit("api-20", None, false),
            limit("api-10", None, false),
            limit("client", Some(Key::ClientIp), false),
        ],
        routes: vec![
            Route {
                name: "api".into(),
                matches: vec![api],
                limits: vec![0, 1, 2, 3],
                priority: Priority::Default,
                classes: Vec::new(),
            },
            Route {
                name: "all".into(),
                matches: Vec::new(),
                limits: vec![0],
                priority: Priority::Default,
                classes: Vec::new(),
            },
        ],
        pods: (0..pods).map(|n| (format!("p-{n}"), pod(n))).collect(),
    }
}

fn decode<M: Message + Default>(resource: &Resource) -> M {
    let envelope = wire::Resource::decode(resource.encoded.clone()).expect("a resource");
    assert_eq!((envelope.name.as_str(), envelope.version.as_str()), (&*resource.name, &*resource.version));
    let any = envelope.resource.expect("a value");
    assert_eq!(any.type_url, resource.resource_type.type_url());
    M::decode(any.value).expect("a message")
}

fn of(resources: &[Resource], resource_type: ResourceType) -> Vec<&Resource> {
    resources.iter().filter(|resource| resource.resource_type == resource_type).collect()
}

/// The metadata of a route as text, sorted.
fn charges(configuration: &RouteConfiguration, route: usize) -> Vec<String> {
    let metadata = configuration.virtual_hosts[0].routes[route].metadata.as_ref();
    let Some(fields) = metadata.and_then(|metadata| metadata.filter_metadata.get(names::METADATA)) else {
        return Vec::new();
    };
    let mut text: Vec<String> = fields
        .fields
        .iter()
        .map(|(key, value)| match &value.kind {
            Some(Kind::StringValue(text)) => format!("{key}={text}"),
            Some(Kind::NumberValue(number)) => format!("{key}={number}"),
            other => panic!("{key}: {other:?}"),
        })
        .collect();
    text.sort();
    text
}

#[test]
fn a_port_has_one_resource_of_each_type_under_one_name() {
    let mut resources = build(&service(), &intent(2));
    resources.retain(|resource| resource.resource_type != ResourceType::Runtime);
    let types: Vec<_> = resources.iter().map(|resource| resource.resource_type).collect();
    let each = [ResourceType::Cluster, ResourceType::Endpoints, ResourceType::Listener, ResourceType::Route];
    assert_eq!(types, [each, each].concat());
    assert!(resources[..4].iter().all(|resource| &*resource.name == "in/ns-a/checkout/p-0/15000"));
    assert_eq!(resources[4].node, NodeKey::new("ns-a", "checkout", "p-1"));
}

#[test]
fn limits_take_slots_strictest_first_and_routes_lead_to_the_pods_cluster() {
    let resources = build(&service(), &intent(1));
    let configuration: RouteConfiguration = decode(of(&resources, ResourceType::Route)[0]);
    assert_eq!(configuration.name, "in/ns-a/checkout/p-0/15000");
    let expected = [
        "bucket-client-0=client",
        "bucket-plain-0=api-10",
        "bucket-plain-1=api-20",
        "bucket-service-0=all",
        "class-client-0=1",
        "class-plain-0=0.5",
        "class-plain-1=0.25",
        "class-service-0=0.05",
        "cost-client-0=20000000",
        "cost-plain-0=10000000",
        "cost-plain-1=5000000",
        "cost-service-0=1000000",
        // Of the strictest limit in each filter.
        "quota-narrow=q=5;w=1",
        "quota-service=q=100;w=1",
        "retry-narrow=1",
        "retry-service=1",
    ];
    assert_eq!(charges(&configuration, 0), expected);
    let expected = [
        "bucket-service-0=all",
        "class-service-0=0.05",
        "cost-service-0=1000000",
        "quota-service=q=100;w=1",
        "retry-service=1",
    ];
    assert_eq!(charges(&configuration, 1), expected);
    for route in &configuration.virtual_hosts[0].routes {
        assert!(format!("{:?}", route.action).contains("in/ns-a/checkout/p-0/15000"));
    }
}

#[test]
fn a_limit_that_is_not_in_force_is_absent() {
    let mut intent = intent(1);
    intent.pods.get_mut("p-0").expect("there").values = vec![None; 4];
    let resources = build(&service(), &intent);
    let configuration: RouteConfiguration = decode(of(&resources, ResourceType::Route)[0]);
    assert!(charges(&configuration, 0).is_empty());
}

#[test]
fn a_change_of_numbers_encodes_one_route_configuration() {
    let before = intent(3);
    let mut after = before.clone();
    after.pods.get_mut("p-1").expect("there").values[0] = value(50);
    let old = build(&service(), &before);
    let new = rebuild(&service(), &before, old.clone(), &after);
    let versions = |resources: &[Resource]| resources.iter().map(|r| r.version.clone()).collect::<Vec<_>>();
    assert_eq!(versions(&new), versions(&build(&service(), &after)));
    let changed: Vec<_> = old
        .iter()
        .zip(&new)
        .filter(|(old, new)| old.encoded.as_ptr() != new.encoded.as_ptr())
        .map(|(_, new)| (new.resource_type, new.node.pod()))
        .collect();
    assert_eq!(changed, [(ResourceType::Route, "p-1")]);
}

#[test]
fn versions_are_the_same_in_every_build_and_differ_with_the_part() {
    let versions = |resources: &[Resource]| resources.iter().map(|r| r.version.clone()).collect::<Vec<_>>();
    let first = build(&service(), &intent(2));
    assert_eq!(versions(&first), versions(&build(&service(), &intent(2))));
    // Pods with the same numbers share the version of their routes.
    let routes = of(&first, ResourceType::Route);
    assert_eq!(routes[0].version, routes[1].version);
    let clusters = of(&first, ResourceType::Cluster);
    assert_ne!(clusters[0].version, routes[0].version);
}

#[test]
fn usual_edits_do_not_change_the_listener() {
    let before = intent(1);
    let listener = |intent: &ServiceIntent| of(&build(&service(), intent), ResourceType::Listener)[0].version.clone();
    let mut after = before.clone();
    after.limits.push(limit("another", None, false));
    after.limits.push(limit("another-client", Some(Key::ClientIp), false));
    after.routes[0].limits.extend([4, 5]);
    assert_eq!(listener(&before), listener(&after));
    after.limits.push(limit("tenant", Some(Key::Header("x-tenant".into())), false));
    after.routes[0].limits.push(6);
    assert_ne!(listener(&before), listener(&after));
}

/// The numbers of a pod's runtime layer, sorted.
fn layer(resources: &[Resource], pod: usize) -> Vec<(String, f64)> {
    let resource = of(resources, ResourceType::Runtime)[pod];
    let runtime: Runtime = decode(resource);
    assert_eq!(*runtime.name, *resource.name);
    let fields = runtime.layer.expect("a layer").fields.into_iter();
    let mut numbers: Vec<_> = fields
        .map(|(key, value)| match value.kind {
            Some(Kind::NumberValue(number)) => (key, number),
            other => panic!("{key}: {other:?}"),
        })
        .collect();
    numbers.sort_by(|(a, _), (b, _)| a.cmp(b));
    numbers
}

#[test]
fn a_pod_has_one_layer_with_the_bounds_of_its_http_ports() {
    let mut intent = intent(2);
    let pod = intent.pods.get_mut("p-1").expect("there");
    let bytes =
        Inbound { protocol: Protocol::Tcp, listener: ([127, 0, 0, 1], 15_100).into(), ..pod.inbound[0].clone() };
    pod.inbound.push(bytes);
    let at_rest = build(&service(), &intent);
    assert_eq!(&*of(&at_rest, ResourceType::Runtime)[1].name, "rt/ns-a/checkout/p-1");
    assert!(of(&at_rest, ResourceType::Runtime).iter().all(|layer| layer.version == runtime::at_rest()));
    assert_eq!(layer(&at_rest, 1), [("weir.enforced".to_owned(), 100.0)]);

    let mut bounded = intent.clone();
    bounded.pods.get_mut("p-1").expect("there").bounds = Bounds { default: Some(7), high: Some(9) };
    let resources = rebuild(&service(), &intent, at_rest.clone(), &bounded);
    let key = |priority: &str| format!("circuit_breakers.in/ns-a/checkout/p-1/15001.{priority}.max_requests");
    let expected = [(key("default"), 7.0), (key("high"), 9.0), ("weir.enforced".to_owned(), 100.0)];
    assert_eq!(layer(&resources, 1), expected);
    assert_eq!(layer(&resources, 0).len(), 1);
    let changed: Vec<_> =
        at_rest.iter().zip(&resources).filter(|(a, b)| a != b).map(|(_, b)| (b.resource_type, b.node.pod())).collect();
    assert_eq!(changed, [(ResourceType::Runtime, "p-1")], "a bound that moves is one resource");

    let mut paused = bounded.clone();
    paused.pods.get_mut("p-1").expect("there").paused = true;
    let resources = rebuild(&service(), &bounded, resources, &paused);
    assert_eq!(layer(&resources, 1), [("weir.enforced".to_owned(), 0.0)], "paused: neither limits nor bounds");
    assert_ne!(of(&resources, ResourceType::Runtime)[1].version, runtime::at_rest());
}

#[test]
fn without_a_layer_no_priority_of_a_cluster_is_bounded() {
    let resources = build(&service(), &intent(1));
    let cluster: Cluster = decode(of(&resources, ResourceType::Cluster)[0]);
    let thresholds = cluster.circuit_breakers.expect("there").thresholds;
    let most: Vec<_> = thresholds.iter().map(|of| (of.priority(), of.max_requests.map(|most| most.value))).collect();
    assert_eq!(most, [(RoutingPriority::Default, Some(u32::MAX)), (RoutingPriority::High, Some(u32::MAX))]);
}

#[test]
fn bytes_have_no_http_filters_and_no_routes() {
    let mut intent = intent(1);
    intent.pods.get_mut("p-0").expect("there").inbound[0].protocol = Protocol::Tcp;
    let resources = build(&service(), &intent);
    assert!(of(&resources, ResourceType::Route).is_empty());
    let listener: Listener = decode(of(&resources, ResourceType::Listener)[0]);
    assert_eq!(listener.filter_chains[0].filters[0].name, "envoy.filters.network.tcp_proxy");
}
