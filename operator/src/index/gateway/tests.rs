use limiter::policy::ValueMatch;

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

fn grpc(spec: &str) -> Result<RouteModel, Vec<String>> {
    let head = "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: cart, namespace: shop}\n";
    match object(&format!("{head}spec: {spec}")) {
        Object::Route(model) => Ok(model),
        Object::Undecodable(problems) => Err(problems.iter().map(ToString::to_string).collect()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_is_a_parent_with_or_without_a_port_and_wherever_it_is() {
    let parents = "[{name: edge}, {name: cart, kind: Service, group: ''},
        {name: cart, namespace: till, kind: Service, group: '', port: 81}]";
    let model = route(&format!("{{parentRefs: {parents}}}")).expect("readable");
    assert_eq!(model.parents.len(), 1, "the Gateway");
    let root = |namespace: &str, port, position| {
        let service = ServiceKey { namespace: namespace.to_owned(), name: "cart".to_owned() };
        RootModel { service, port, position }
    };
    assert_eq!(model.roots, [root("shop", None, 1), root("till", Some(81), 2)]);
    for (parent, field) in [
        ("{name: cart, kind: Service}", "spec.parentRefs[0].kind"),
        ("{name: cart, kind: Service, group: core}", "spec.parentRefs[0].kind"),
        ("{name: cart, group: ''}", "spec.parentRefs[0].kind"),
        ("{name: cart, kind: Service, group: '', port: 0}", "spec.parentRefs[0].port"),
        ("{name: cart, kind: Service, group: '', sectionName: http}", "spec.parentRefs[0].sectionName"),
    ] {
        let problems = route(&format!("{{parentRefs: [{parent}]}}")).expect_err(parent);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(field), "{parent}: {problems:?}");
    }
}

#[test]
fn among_services_a_backend_may_be_anywhere_and_behind_a_gateway_it_may_not() {
    let rules = "rules: [{backendRefs: [{name: a, port: 80, namespace: other}]}]";
    let service = "{name: cart, kind: Service, group: ''}";
    let model = route(&format!("{{parentRefs: [{service}], {rules}}}")).expect("readable");
    assert_eq!(model.rules[0].backends[0].0.service.namespace, "other");
    let model = grpc(&format!("{{parentRefs: [{service}], {rules}}}")).expect("readable");
    assert_eq!(model.rules[0].backends[0].0.service.namespace, "other");
    let problems = route(&format!("{{parentRefs: [{service}, {{name: edge}}], {rules}}}")).expect_err("both");
    assert!(problems[0].starts_with("spec.rules[0].backendRefs[0].namespace"), "{problems:?}");
}

#[test]
fn grpc_methods_are_paths() {
    let matched = |text: &str| {
        let rule = format!("{{matches: [{text}], backendRefs: [{{name: a, port: 80}}]}}");
        let parents = "parentRefs: [{name: cart, kind: Service, group: ''}]";
        grpc(&format!("{{{parents}, hostnames: [ignored], rules: [{rule}]}}"))
            .map(|mut it| it.rules[0].matches.remove(0))
    };
    for (method, path) in [
        ("{service: shop.Cart, method: Add}", PathMatch::Exact("/shop.Cart/Add".to_owned())),
        ("{service: shop.Cart}", PathMatch::Prefix("/shop.Cart".to_owned())),
        ("{method: Add}", PathMatch::Regex("/[^/]+/Add".to_owned())),
        (
            "{type: RegularExpression, service: 'shop[.].*', method: Add|Put}",
            PathMatch::Regex("/(?:shop[.].*)/(?:Add|Put)".to_owned()),
        ),
        ("{type: RegularExpression, method: Get.*}", PathMatch::Regex("/(?:[^/]+)/(?:Get.*)".to_owned())),
    ] {
        assert_eq!(matched(&format!("{{method: {method}}}")).expect(method).path, Some(path), "{method}");
    }
    let found = matched("{headers: [{name: X-Who, value: me}, {type: RegularExpression, name: Team, value: a.*}]}");
    let found = found.expect("readable");
    assert_eq!(found.path, Some(PathMatch::Prefix("/".to_owned())), "every method");
    let wanted = [
        ("team".to_owned(), ValueMatch::Regex("a.*".to_owned())),
        ("x-who".to_owned(), ValueMatch::Exact("me".to_owned())),
    ];
    assert_eq!(found.headers, wanted.into());
    for (text, field) in [
        ("{method: {}}", "spec.rules[0].matches[0].method"),
        ("{method: {type: RegularExpression, method: '('}}", "spec.rules[0].matches[0].method"),
        ("{headers: [{type: RegularExpression, name: a, value: '('}]}", "spec.rules[0].matches[0].headers[a]"),
    ] {
        let problems = matched(text).expect_err(text);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(field), "{text}: {problems:?}");
    }
}

#[test]
fn what_a_grpc_route_cannot_mean_is_refused() {
    let rule = |text: &str| format!("{{parentRefs: [{{name: cart, kind: Service, group: ''}}], rules: [{{{text}}}]}}");
    for (spec, field) in [
        ("{parentRefs: [{name: edge}]}".to_owned(), "spec.parentRefs"),
        (rule("filters: [{type: RequestMirror}]"), "spec.rules[0].filters"),
        (rule("sessionPersistence: {type: Cookie}"), "spec.rules[0].sessionPersistence"),
        (rule("backendRefs: [{name: a}]"), "spec.rules[0].backendRefs[0].port"),
        (rule("backendRefs: [{name: a, port: 80, kind: Bucket, group: x}]"), "spec.rules[0].backendRefs[0].kind"),
        (rule("matches: [{method: {service: a, path: b}}]"), ""),
    ] {
        let problems = grpc(&spec).expect_err(&spec);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(field), "{spec}: {problems:?}");
    }
}
