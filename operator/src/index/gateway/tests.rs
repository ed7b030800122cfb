use super::*;
use crate::{index::Object, watch::decode};

fn object(text: &str) -> Object {
    let mut file = decode::decode(text.as_bytes()).expect("readable");
    assert_eq!(file.problems, []);
    file.objects.remove(0).object
}

fn gateway(spec: &str) -> (GatewayModel, Vec<String>) {
    let head = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: shop}\n";
    match object(&format!("{head}spec: {spec}")) {
        Object::Gateway(model, problems) => (model, problems.iter().map(ToString::to_string).collect()),
        other => panic!("{other:?}"),
    }
}

fn route(spec: &str) -> Result<RouteModel, Vec<String>> {
    let head = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: cart, namespace: shop}\n";
    match object(&format!("{head}spec: {spec}")) {
        Object::Route(model) => Ok(model),
        Object::Undecodable(problems) => Err(problems.iter().map(ToString::to_string).collect()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_listener_that_is_not_carried_out_costs_only_itself() {
    let (model, problems) = gateway(
        "{gatewayClassName: any, infrastructure: {labels: {a: b}}, listeners: [
          {name: a, port: 80, protocol: HTTP, hostname: '*.Example.com', allowedRoutes: {namespaces: {from: All}, kinds: [{kind: HTTPRoute}]}},
          {name: b, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}},
          {name: a, port: 81, protocol: HTTP},
          {name: c, port: 0, protocol: HTTP},
          {name: d, port: 82, protocol: HTTP, hostname: 'a:80'},
          {name: e, port: 83, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {a: b}}}}},
          {name: f, port: 84, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}},
          {name: g, port: 85, protocol: HTTP, allowedRoutes: {namespace: {from: All}}}]}",
    );
    let listener = ListenerModel {
        name: "a".to_owned(),
        port: 80,
        hostname: Some("*.example.com".to_owned()),
        any_namespace: true,
    };
    assert_eq!(model.listeners, [listener]);
    let fields: Vec<&str> = problems.iter().filter_map(|problem| problem.split(": ").next()).collect();
    let listeners = |place: usize, field: &str| format!("spec.listeners[{place}].{field}");
    let wanted = [
        listeners(1, "protocol"),
        listeners(2, "name"),
        listeners(3, "port"),
        listeners(4, "hostname"),
        listeners(5, "allowedRoutes.namespaces.from"),
        listeners(6, "allowedRoutes.kinds"),
        listeners(7, "allowedRoutes.namespace"),
    ];
    assert_eq!(fields, wanted, "{problems:?}");
}

#[test]
fn a_route_is_read_with_gateway_apis_defaults() {
    let model =
        route("{parentRefs: [{name: edge, sectionName: http}], rules: [{backendRefs: [{name: a, port: 80}]}, {}]}");
    let model = model.expect("readable");
    assert_eq!(model.parents[0].gateway, ServiceKey { namespace: "shop".to_owned(), name: "edge".to_owned() });
    assert_eq!(model.rules[0].matches[0].path, Some(PathMatch::Prefix("/".to_owned())));
    assert_eq!(model.rules[0].backends[0].1, 1);
    assert_eq!(model.rules[1].backends, []);
}

#[test]
fn nothing_that_would_change_a_routes_meaning_is_dropped_in_silence() {
    let rule = |text: &str| format!("{{parentRefs: [{{name: edge}}], rules: [{{{text}}}]}}");
    for (spec, field) in [
        (rule("filters: [{type: RequestMirror}]"), "spec.rules[0].filters"),
        (rule("timeouts: {request: 1s}"), "spec.rules[0].timeouts"),
        (rule("retry: {attempts: 2}"), "spec.rules[0].retry"),
        (rule("sessionPersistence: {type: Cookie}"), "spec.rules[0].sessionPersistence"),
        (rule("backendRefs: [{name: a, port: 80, filters: [{type: X}]}]"), "spec.rules[0].backendRefs[0].filters"),
        (rule("backendRefs: [{name: a}]"), "spec.rules[0].backendRefs[0].port"),
        (rule("backendRefs: [{name: a, port: 80, weight: -1}]"), "spec.rules[0].backendRefs[0].weight"),
        (rule("backendRefs: [{name: a, port: 80, namespace: other}]"), "spec.rules[0].backendRefs[0].namespace"),
        (rule("backendRefs: [{name: a, port: 80, kind: Bucket, group: x}]"), "spec.rules[0].backendRefs[0].kind"),
        (rule("matches: [{path: {type: Exact, value: a}}]"), "spec.rules[0].matches[0].path.value"),
        (rule("matches: [{method: GET, host: a}]"), "spec.rules[0].matches"),
        (
            "{parentRefs: [{name: a, kind: Service, group: '', sectionName: http}]}".to_owned(),
            "spec.parentRefs[0].sectionName",
        ),
        ("{parentRefs: [{name: a}], hostnames: ['a/b']}".to_owned(), "spec.hostnames[0]"),
        ("{parentRefs: [{name: a}], useDefaultGateways: All}".to_owned(), "spec.useDefaultGateways"),
    ] {
        let problems = route(&spec).expect_err(&spec);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(field), "{spec}: {problems:?}");
    }
}

#[test]
fn a_route_attaches_to_what_it_names_and_what_lets_it() {
    let model = |parent: &str| route(&format!("{{parentRefs: [{parent}]}}")).expect("readable");
    let gateway = ServiceKey { namespace: "shop".to_owned(), name: "edge".to_owned() };
    let listener = ListenerModel { name: "http".to_owned(), port: 80, hostname: None, any_namespace: false };
    let open = ListenerModel { any_namespace: true, ..listener.clone() };
    for (parent, namespace, listener, attaches) in [
        ("{name: edge}", "shop", &listener, true),
        ("{name: other}", "shop", &listener, false),
        ("{name: edge, sectionName: http, port: 80}", "shop", &listener, true),
        ("{name: edge, sectionName: tls}", "shop", &listener, false),
        ("{name: edge, port: 81}", "shop", &listener, false),
        ("{name: edge, namespace: shop}", "blog", &listener, false),
        ("{name: edge, namespace: shop}", "blog", &open, true),
    ] {
        assert_eq!(model(parent).attaches(namespace, &gateway, listener), attaches, "{parent} of {namespace}");
    }
}
