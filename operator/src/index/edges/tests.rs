use limiter::policy::tenants::Tenants;

use super::*;
use crate::{index::Change, watch::decode};

fn apply(index: &mut Index, text: &str) -> Vec<String> {
    let file = decode::decode(text.as_bytes()).expect("readable");
    assert_eq!(file.problems, [], "{text}");
    let mut touched = BTreeSet::new();
    for decoded in file.objects {
        let change = Change::Apply { key: decoded.key, origin: "a.yaml".to_owned(), object: decoded.object };
        touched.extend(index.apply(change).services);
    }
    touched.iter().map(ToString::to_string).collect()
}

fn delete(index: &mut Index, text: &str) -> Vec<String> {
    let key = decode::decode(text.as_bytes()).expect("readable").objects.remove(0).key;
    index.apply(Change::Delete(key)).services.iter().map(ToString::to_string).collect()
}

/// A Service with one pod; `calls` says whether it calls through its proxy.
fn service(namespace: &str, name: &str, calls: bool) -> String {
    let outbound = if calls { "outbound.weir.dev/listen: '127.0.0.1:15001'" } else { "" };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{ports: [{{port: 80}}]}}\n---\n{}---
apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}-0, namespace: {namespace}, annotations: {{{outbound}}}}}\n",
        slice(namespace, name, true)
    )
}

fn slice(namespace: &str, name: &str, ready: bool) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice
metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4\nports: [{{port: 8080}}]
endpoints: [{{addresses: [127.0.1.1], conditions: {{ready: {ready}}}, targetRef: {{kind: Pod, name: {name}-0}}}}]\n"
    )
}

fn policy(namespace: &str, target: &str, place: &str, limit: u32) -> String {
    format!(
        "apiVersion: weir.dev/v1alpha1\nkind: SmartLimiter\nmetadata: {{name: {target}, namespace: {namespace}}}
spec: {{targetRefs: [{{kind: Service, name: {target}}}], enforceAt: {place},
  rules: [{{name: all, limit: {limit} requests per second across all pods}}]}}\n"
    )
}

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: a}
spec: {listeners: [{name: http, port: 80, protocol: HTTP}]}\n";

fn route(name: &str, to: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: a}}
spec: {{parentRefs: [{{name: edge}}], hostnames: [{name}.example.com], rules: [{{backendRefs: [{{name: {to}, port: 80}}]}}]}}\n"
    )
}

/// Namespace `a`: two services that call and two that do not. Namespace `b`: one that calls.
fn mesh() -> Index {
    let mut index = Index::default();
    for (namespace, name, calls) in
        [("a", "page", true), ("a", "job", true), ("a", "cart", false), ("a", "blog", false), ("b", "far", true)]
    {
        apply(&mut index, &service(namespace, name, calls));
    }
    index
}

#[test]
fn endpoints_touch_whoever_may_call_them_and_nothing_else() {
    let mut index = mesh();
    assert_eq!(apply(&mut index, &slice("a", "cart", false)), ["a/cart", "a/job", "a/page", "b/far"]);
    assert_eq!(apply(&mut index, &slice("a", "cart", false)), [""; 0], "the same again");
    // A pod's annotation for scraping changes nothing that a caller sees.
    let pod =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: cart-0, namespace: a, annotations: {prometheus.io/port: '1'}}\n";
    assert_eq!(apply(&mut index, pod), ["a/cart"]);
}

#[test]
fn a_limit_at_callers_touches_those_of_its_namespace() {
    let mut index = mesh();
    assert_eq!(apply(&mut index, &policy("a", "cart", "Server", 10)), ["a/cart"]);
    assert_eq!(apply(&mut index, &policy("a", "cart", "Client", 10)), ["a/cart", "a/job", "a/page"]);
    assert_eq!(apply(&mut index, &policy("a", "cart", "Client", 20)), ["a/cart", "a/job", "a/page"]);
    let cart = ServiceKey { namespace: "a".to_owned(), name: "cart".to_owned() };
    let callers = |index: &Index| -> Vec<(String, bool)> {
        let enforcers = index.enforcers(&cart, EnforceAt::Client).into_iter();
        enforcers.map(|enforcer| (enforcer.pod, enforcer.ready)).collect()
    };
    assert_eq!(callers(&index), [("job-0".to_owned(), true), ("page-0".to_owned(), true)]);
    // A caller that goes leaves its share to the others, and the target's report says so.
    let touched = apply(&mut index, &slice("a", "job", false));
    assert_eq!(touched, ["a/cart", "a/job", "a/page", "b/far"]);
    assert_eq!(callers(&index), [("job-0".to_owned(), false), ("page-0".to_owned(), true)]);
    assert_eq!(delete(&mut index, &policy("a", "cart", "Client", 20)), ["a/cart", "a/job", "a/page"]);
    assert_eq!(callers(&index), []);
}

#[test]
fn a_limit_at_callers_reaches_over_when_it_may() {
    let client_limits = Namespaces::Of(["a".to_owned()].into());
    let mut index = Index::of(Tenants { client_limits, ..Tenants::default() });
    let [cart, own, other] = [("a", "cart"), ("a", "page"), ("b", "far")]
        .map(|(namespace, name)| ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() });
    for (key, calls) in [(&cart, false), (&own, true), (&other, true)] {
        apply(&mut index, &service(&key.namespace, &key.name, calls));
    }
    assert_eq!(apply(&mut index, &policy("a", "cart", "Client", 10)), ["a/cart", "a/page", "b/far"]);
    assert_eq!(index.enforcing(&cart, EnforceAt::Client), [own.clone(), other.clone()].into());
    assert_eq!(index.unlimited_callers(&cart).count(), 0);
    // A caller elsewhere leaves its share to the others.
    assert_eq!(apply(&mut index, &slice("b", "far", false)), ["a/cart", "a/page", "b/far"]);
    // The other way there is no such right.
    apply(&mut index, &service("b", "cart", false));
    assert_eq!(apply(&mut index, &policy("b", "cart", "Client", 10)), ["b/cart", "b/far"]);
    let theirs = ServiceKey { namespace: "b".to_owned(), name: "cart".to_owned() };
    assert_eq!(index.enforcing(&theirs, EnforceAt::Client), [other].into());
    assert_eq!(index.unlimited_callers(&theirs).collect::<Vec<_>>(), [("a", "page-0")]);
}

#[test]
fn a_pod_of_two_services_calls_once() {
    let mut index = mesh();
    let second = slice("a", "page", true).replace("page-1", "front-1").replace("name: page}", "name: front}");
    apply(&mut index, &policy("a", "cart", "Client", 10));
    apply(
        &mut index,
        &format!("apiVersion: v1\nkind: Service\nmetadata: {{name: front, namespace: a}}\n---\n{second}"),
    );
    let cart = ServiceKey { namespace: "a".to_owned(), name: "cart".to_owned() };
    let enforcers = index.enforcers(&cart, EnforceAt::Client);
    assert_eq!(enforcers.iter().map(|enforcer| enforcer.pod.as_str()).collect::<Vec<_>>(), ["job-0", "page-0"]);
    assert_eq!(enforcers[1].services.len(), 2);
}

#[test]
fn a_limit_at_gateways_touches_those_that_lead_there() {
    let mut index = mesh();
    apply(&mut index, &service("a", "edge", false));
    assert_eq!(apply(&mut index, GATEWAY), ["a/edge"]);
    assert_eq!(apply(&mut index, &policy("a", "cart", "Gateway", 10)), ["a/cart"], "no route leads there yet");
    assert_eq!(apply(&mut index, &route("cart", "cart")), ["a/cart", "a/edge"]);
    assert_eq!(apply(&mut index, &policy("a", "cart", "Gateway", 20)), ["a/cart", "a/edge"]);
    assert_eq!(apply(&mut index, &route("blog", "blog")), ["a/edge"], "nothing is shared on the way there");
    assert_eq!(apply(&mut index, &slice("a", "blog", false)), ["a/blog", "a/edge", "a/job", "a/page", "b/far"]);
    // The Gateway's pods share the total.
    assert!(apply(&mut index, &slice("a", "edge", false)).contains(&"a/cart".to_owned()));
    assert_eq!(delete(&mut index, &route("cart", "cart")), ["a/cart", "a/edge"]);
    assert_eq!(delete(&mut index, GATEWAY), ["a/edge"]);
}

#[test]
fn what_a_route_names_and_is_not_there_is_said() {
    let mut index = mesh();
    apply(&mut index, &route("cart", "nowhere"));
    let said = |index: &Index| -> Vec<String> {
        index.other_problems().into_values().flatten().map(|problem| problem.to_string()).collect()
    };
    let problems = said(&index);
    assert!(problems[0].starts_with("spec.parentRefs[0]: there is no Gateway a/edge"), "{problems:?}");
    assert!(problems[1].contains("there is no Service a/nowhere with the port 80"), "{problems:?}");
    apply(&mut index, GATEWAY);
    assert!(said(&index)[0].contains("there is no Service a/edge"), "{:?}", said(&index));
    apply(&mut index, &service("a", "edge", false));
    apply(&mut index, &route("cart", "cart"));
    assert_eq!(said(&index), [""; 0]);
}

#[test]
fn a_way_out_on_a_port_that_is_taken_is_none_and_said() {
    let mut index = mesh();
    apply(&mut index, &policy("a", "cart", "Client", 10));
    let page = ServiceKey { namespace: "a".to_owned(), name: "page".to_owned() };
    let cart = ServiceKey { namespace: "a".to_owned(), name: "cart".to_owned() };
    let seen = |index: &Index| {
        let callers: Vec<_> = index.enforcers(&cart, EnforceAt::Client).into_iter().map(|one| one.pod).collect();
        let way_out = index.service(&page).expect("it exists").endpoints["page-0"].outbound.is_some();
        let mut said = index.other_problems().remove("a.yaml").unwrap_or_default();
        said.retain(|problem| problem.field == "metadata.annotations[outbound.weir.dev/listen]");
        (way_out, callers.contains(&"page-0".to_owned()), said.len())
    };
    assert_eq!(seen(&index), (true, true, 0));
    let pod = |port: u16| {
        let annotation = format!("outbound.weir.dev/listen: '127.0.0.1:{port}'");
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: page-0, namespace: a, annotations: {{{annotation}}}}}\n")
    };
    apply(&mut index, &pod(8080));
    assert_eq!(seen(&index), (false, false, 1), "a port of its own");
    apply(&mut index, &pod(81));
    assert_eq!(seen(&index), (true, true, 0));
    apply(&mut index, &GATEWAY.replace("edge", "page").replace("port: 80", "port: 81"));
    assert_eq!(seen(&index), (false, false, 1), "the Gateway's");
    delete(&mut index, &pod(81));
    assert_eq!(seen(&index), (false, false, 0));
}

/// A route of this kind for requests to a Service of `a`.
fn of_service(kind: &str, namespace: &str, parent: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {}, namespace: {namespace}}}
spec: {{parentRefs: [{{group: '', kind: Service, namespace: a, {parent}}}], rules: [{rules}]}}\n",
        kind.to_ascii_lowercase()
    )
}

const TO_BLOG: &str = "backendRefs: [{name: blog, namespace: a, port: 80}]";

fn said(index: &Index) -> Vec<String> {
    index.dangling().into_iter().map(|(key, problem)| format!("{}: {problem}", key.name)).collect()
}

#[test]
fn what_a_route_of_services_names_and_is_not_there_is_said() {
    let mut index = mesh();
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let name = kind.to_ascii_lowercase();
        for (parent, wanted) in [
            ("name: gone", "spec.parentRefs[0]: there is no Service a/gone"),
            ("name: cart, port: 81", "spec.parentRefs[0]: the Service a/cart has no port 81"),
        ] {
            apply(&mut index, &of_service(kind, "a", parent, &format!("{{{TO_BLOG}}}")));
            let problems = said(&index);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].starts_with(&format!("{name}: {wanted}")), "{problems:?}");
        }
        let backends =
            "backendRefs: [{name: blog, port: 80}, {name: blog, port: 90}, {name: gone, namespace: b, port: 80}]";
        apply(&mut index, &of_service(kind, "a", "name: cart", &format!("{{{backends}}}")));
        let problems = said(&index);
        let [blog, gone] = problems.as_slice() else { panic!("{problems:?}") };
        assert!(blog.contains("spec.rules[0].backendRefs[1]: there is no Service a/blog with the port 90"), "{blog}");
        assert!(gone.contains("spec.rules[0].backendRefs[2]: there is no Service b/gone with the port 80"), "{gone}");
        // One that is for bytes.
        apply(&mut index, &service("a", "blog", false).replace("{port: 80}", "{port: 80, appProtocol: tcp}"));
        let slice =
            slice("a", "blog", true).replace("ports: [{port: 8080}]", "ports: [{port: 8080, appProtocol: tcp}]");
        apply(&mut index, &slice);
        apply(&mut index, &of_service(kind, "a", "name: cart, port: 80", &format!("{{{TO_BLOG}}}")));
        let problems = said(&index);
        assert!(problems.len() == 1 && problems[0].contains("does not speak HTTP"), "{problems:?}");
        apply(&mut index, &service("a", "blog", false));
        assert_eq!(said(&index), [""; 0]);
        delete(&mut index, &of_service(kind, "a", "name: cart", ""));
    }
}

#[test]
fn a_rule_that_no_request_can_match_is_said() {
    let mut index = mesh();
    let matches = |texts: &[&str]| -> String {
        let rules: Vec<_> = texts.iter().map(|text| format!("{{matches: [{text}], {TO_BLOG}}}")).collect();
        rules.join(", ")
    };
    for (rules, wanted) in [
        (["{path: {value: /a}}", "{path: {value: /b}}"], None),
        (["{path: {value: /a}}", "{path: {value: /a}}"], Some((1, 0))),
        (["{path: {value: /}, method: GET}", "{method: GET}"], Some((1, 0))),
        // The more precise one stands first, wherever it is written.
        (["{path: {value: /}}", "{path: {value: /a}}"], None),
        (["{method: GET}", "{method: GET, headers: [{name: a, value: b}]}"], None),
        // Half of it can be matched.
        (["{path: {value: /a}}", "{path: {value: /a}}, {path: {value: /b}}"], None),
        (["{path: {value: /a}}, {path: {value: /b}}", "{path: {value: /b}}, {path: {value: /a}}"], Some((1, 0))),
        // An expression stands before all prefixes.
        (["{path: {value: /a}}", "{path: {type: RegularExpression, value: '.*'}}"], Some((0, 1))),
        (["{path: {value: /a}}", "{path: {type: RegularExpression, value: '.*'}, method: GET}"], None),
        (["{path: {type: Exact, value: /a}}", "{path: {type: RegularExpression, value: '.*'}}"], None),
    ] {
        apply(&mut index, &of_service("HTTPRoute", "a", "name: cart", &matches(&rules)));
        let problems = said(&index);
        let wanted = wanted.map(|(rule, before)| {
            format!("httproute: spec.rules[{rule}]: no request gets here: spec.rules[{before}] takes all")
        });
        assert_eq!(problems.len(), wanted.iter().count(), "{rules:?}: {problems:?}");
        assert!(wanted.iter().all(|wanted| problems[0].starts_with(wanted)), "{rules:?}: {problems:?}");
    }
    delete(&mut index, &of_service("HTTPRoute", "a", "name: cart", ""));
    apply(&mut index, &of_service("GRPCRoute", "a", "name: cart", &format!("{{{TO_BLOG}}}, {{{TO_BLOG}}}")));
    let problems = said(&index);
    assert!(problems.len() == 1 && problems[0].starts_with("grpcroute: spec.rules[1]: "), "{problems:?}");
}

#[test]
fn of_a_port_grpc_routes_have_all_requests() {
    let mut index = mesh();
    let rules = format!("{{{TO_BLOG}}}");
    // Kind, namespace and port of the parent; whether an HTTPRoute of `a` for all ports, and for 80, is shadowed then.
    for (namespace, port, shadowed) in [("a", ", port: 80", true), ("a", "", true), ("b", ", port: 80", false)] {
        apply(&mut index, &of_service("GRPCRoute", namespace, &format!("name: cart{port}"), &rules));
        for parent in ["name: cart", "name: cart, port: 80"] {
            apply(&mut index, &of_service("HTTPRoute", "a", parent, &rules));
            let problems = said(&index);
            assert_eq!(problems.len(), usize::from(shadowed), "{namespace}{port} {parent}: {problems:?}");
            let start =
                "httproute: spec.parentRefs[0]: grpcroutes.gateway.networking.k8s.io/a/grpcroute stands before it";
            assert!(problems.iter().all(|problem| problem.starts_with(start)), "{problems:?}");
        }
        // One for callers of another namespace, too.
        apply(&mut index, &of_service("HTTPRoute", "b", "name: cart", &rules));
        assert!(said(&index).iter().any(|problem| problem.contains("stands before")), "{:?}", said(&index));
        delete(&mut index, &of_service("HTTPRoute", "b", "name: cart", ""));
        delete(&mut index, &of_service("GRPCRoute", namespace, "name: cart", ""));
    }
    // Of two ports one is left.
    apply(
        &mut index,
        &service("a", "cart", false).replace("[{port: 80}]", "[{name: a, port: 80}, {name: b, port: 81}]"),
    );
    apply(&mut index, &of_service("GRPCRoute", "a", "name: cart, port: 80", &rules));
    apply(&mut index, &of_service("HTTPRoute", "a", "name: cart", &rules));
    assert_eq!(said(&index), [""; 0]);
}
