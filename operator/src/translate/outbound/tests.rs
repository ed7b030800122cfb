use jiff::Timestamp;
use limiter::metric::Observations;

use super::*;
use crate::{
    index::asked::{MOST_STREAMS, Reached, Why},
    intent::{Called, Hop, Stream},
    tests::{apply, changes},
    translate::{
        decide::{Decides, States},
        translate,
    },
    xds::ResourceType,
};

/// `page` calls `reviews` and the bytes of `db`; its third pod is not ready.
const MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: a}
spec: {ports: [{name: http, port: 80}, {name: http-admin, port: 9090}]}
---
apiVersion: v1
kind: Service
metadata: {name: reviews.a, namespace: a}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: b}
spec: {ports: [{name: tcp, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: page, namespace: a}
spec: {ports: [{name: http, port: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: page-1, namespace: a, labels: {kubernetes.io/service-name: page}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [127.0.1.1], targetRef: {kind: Pod, name: page-0}}
- {addresses: [127.0.1.2], targetRef: {kind: Pod, name: page-1}}
- {addresses: [127.0.1.3], targetRef: {kind: Pod, name: page-2}, conditions: {ready: false}}
---
apiVersion: v1
kind: Pod
metadata: {name: page-0, namespace: a, annotations: {outbound.weir.dev/listen: '127.0.1.1:15001'}}
---
apiVersion: v1
kind: Pod
metadata: {name: page-1, namespace: a, annotations: {outbound.weir.dev/listen: '127.0.1.2:15001'}}
---
apiVersion: v1
kind: Pod
metadata: {name: page-2, namespace: a, annotations: {outbound.weir.dev/listen: '127.0.1.3:15001'}}
";

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "a".to_owned(), name: name.to_owned() }
}

fn index(rules: &str) -> Index {
    let policy = format!(
        "apiVersion: weir.dev/v1alpha1\nkind: SmartLimiter\nmetadata: {{name: p, namespace: a}}
spec:\n  targetRefs: [{{kind: Service, name: reviews}}]\n  enforceAt: Client\n  rules:\n{rules}"
    );
    let mut index = Index::default();
    for text in [MANIFESTS, &policy] {
        apply(&mut index, text);
    }
    let (_, entry) = index.policies().next().expect("one policy");
    assert_eq!(entry.problems, []);
    index
}

/// The callers' intent, after a change of what is decided about `reviews`.
fn callers(index: &Index, change: impl FnOnce(&mut Rules)) -> (ServiceIntent, Vec<Report>) {
    let target = key("reviews");
    let view = index.service(&target).expect("it exists");
    let observe = |_: &_, seen: &mut Observations| seen.pods = 1;
    let mut rules = Rules::default();
    rules.plan(&view, States::new());
    rules.step(observe, Decides::All, false, Timestamp::UNIX_EPOCH);
    change(&mut rules);
    let caller = key("page");
    let view = index.service(&caller).expect("it exists");
    let (mut intent, _) = translate(&view, &Rules::default());
    let decided = |service: &ServiceKey| (*service == target).then_some(&rules);
    let reports = outbound(&view, index, &decided, &mut intent);
    (intent, reports)
}

fn milli_requests(intent: &ServiceIntent, pod: &str, host: &str) -> Option<u64> {
    let hosts = &intent.pods[pod].outbound[0].hosts;
    let host = hosts.iter().find(|one| one.name == host).expect("it is routed to");
    host.values[0].map(|value| value.rate.milli_requests)
}

#[test]
fn a_total_is_divided_among_the_ready_callers() {
    let (intent, reports) =
        callers(&index("  - {name: all, limit: 101 requests per second across all pods}\n"), |_| {});
    assert_eq!(reports, []);
    for (pod, share) in [("page-0", 50_500), ("page-1", 50_500), ("page-2", 50_500)] {
        assert_eq!(milli_requests(&intent, pod, "a/reviews/80"), Some(share), "{pod}");
        assert_eq!(milli_requests(&intent, pod, "a/reviews/9090"), Some(share), "{pod}: the same bucket");
    }
    assert_eq!((intent.limits.len(), intent.pods["page-0"].values.len()), (0, 0), "nothing of it is inbound");
}

#[test]
fn every_domain_leads_to_one_host_and_bytes_to_none() {
    let (intent, _) = callers(&index("  - {name: all, limit: 1 request per second per pod}\n"), |_| {});
    let hosts = &intent.pods["page-0"].outbound[0].hosts;
    let mut domains: Vec<&String> = hosts.iter().flat_map(|host| &host.domains).collect();
    let all = domains.len();
    domains.sort();
    domains.dedup();
    assert_eq!(domains.len(), all);
    let of = |domain: &str| hosts.iter().find(|host| host.domains.iter().any(|one| one == domain)).map(|h| &*h.name);
    assert_eq!(of("reviews"), Some("a/reviews/80"), "80 of several");
    assert_eq!(of("reviews:9090"), Some("a/reviews/9090"));
    assert_eq!(of("page"), Some("a/page/8080"), "the only one");
    assert_eq!(
        [of("reviews.a"), of("reviews.a.a")],
        [Some("a/reviews/80"), Some("a/reviews.a/80")],
        "the shorter name"
    );
    assert_eq!([of("db.b"), of("db.b:5432")], [None, None]);
}

#[test]
fn a_bound_goes_along_with_the_limit_to_every_port_of_the_target() {
    let index = index("  - {name: cool, limit: 500 requests per second across all pods}\n");
    let (intent, _) = callers(&index, |rules| {
        for decision in rules.decisions_mut() {
            decision.bound = Some(9);
        }
    });
    let bounds: Vec<_> = intent.pods["page-0"].outbound_bounds.iter().map(|(to, bounds)| (to.port, *bounds)).collect();
    let half = Bounds { default: Some(5), high: Some(5) };
    assert_eq!(bounds, [(80, half), (9090, half)], "9 for two callers, rounded up");
    assert_eq!(intent.pods["page-0"].bounds, Bounds::default());
}

#[test]
fn a_rule_that_finds_no_room_here_is_reported_to_its_service() {
    let header = |n: usize| {
        format!(
            "  - {{name: r{n}, limit: 1 request per second per pod, matches: [{{headers: [{{name: x-{n}, value: '1'}}]}}]}}\n"
        )
    };
    let rules: String = (0..11).map(header).collect();
    let (_, reports) = callers(&index(&rules), |_| {});
    let names: Vec<_> = reports.iter().map(|report| (report.key.rule.as_str(), &report.key.service)).collect();
    assert_eq!(names, [("r10", &key("reviews")), ("r9", &key("reviews"))]);
    assert!(reports.iter().all(|report| report.trouble == Some(Trouble::TooManyRoutes)));
}

#[test]
fn two_places_bound_one_destination_by_what_both_allow() {
    let bounds = |default, high| Bounds { default, high };
    assert_eq!(bounds(Some(5), None).and(bounds(Some(9), Some(3))), bounds(Some(5), Some(3)));
    assert_eq!(bounds(None, Some(7)).and(bounds(None, Some(9))), bounds(None, Some(7)));
}

/// `page` as a Gateway with two ports that are one of the pods'; one has a route to `reviews`, the other to bytes.
const GATEWAY: &str = "
apiVersion: v1
kind: Service
metadata: {name: page, namespace: a}
spec: {ports: [{name: http, port: 80}, {name: http-alt, port: 81}, {name: tcp-db, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: page-1, namespace: a, labels: {kubernetes.io/service-name: page}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: http-alt, port: 8080}, {name: tcp-db, port: 5432}]
endpoints: [{addresses: [127.0.1.1], targetRef: {kind: Pod, name: page-0}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: page, namespace: a}
spec: {listeners: [{name: one, port: 80, protocol: HTTP}, {name: two, port: 81, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: one, namespace: a}
spec:
  parentRefs: [{name: page, sectionName: one}]
  hostnames: [one.example.com]
  rules: [{backendRefs: [{name: page, port: 5432}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: two, namespace: a}
spec:
  parentRefs: [{name: page, sectionName: two}]
  hostnames: [two.example.com]
  rules: [{backendRefs: [{name: reviews, port: 80}]}]
";

#[test]
fn gateway_ports_that_are_one_of_the_pods_share_its_listener_and_bytes_lead_nowhere() {
    let mut index = index("  - {name: all, limit: 1 request per second per pod}\n");
    apply(&mut index, GATEWAY);
    let (intent, _) = callers(&index, |_| {});
    let pod = &intent.pods["page-0"];
    let gateway: Vec<_> = pod.outbound.iter().filter(|outbound| outbound.place == EnforceAt::Gateway).collect();
    assert_eq!(gateway.len(), 1);
    let hosts: Vec<_> = gateway[0].hosts.iter().map(|host| host.name.as_str()).collect();
    assert_eq!(hosts, ["one.example.com", "two.example.com"]);
    let bytes = pod.destinations.iter().find(|known| known.key.port == 5432).expect("a route names it");
    assert_eq!((bytes.protocol, bytes.endpoints.len()), (Protocol::Http, 0), "answered 503");
}

/// As the pods ask for it, with this `LazyConfig`: where connections go.
fn reached(index: &mut Index, called: &str) -> Option<Reached> {
    let (service, called) = (key("page"), called.parse::<Called>().expect("readable"));
    let _ = index.ask_stream(&service, "page-0", called.clone(), Timestamp::UNIX_EPOCH);
    let lazy = index.lazy(&service, "page-0").expect("lazy").clone();
    index.loaded(&service, "page-0", &lazy).streams.get(&called).cloned()
}

fn lazy_index(spec: &str) -> Index {
    let mut index = index("  - {name: all, limit: 1 request per hour per pod}");
    let more = format!(
        "apiVersion: weir.dev/v1alpha1\nkind: LazyConfig\nmetadata: {{name: all, namespace: a}}\nspec: {spec}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: mail, namespace: b}}\n\
         spec: {{clusterIP: 10.96.0.9, ports: [{{name: tcp, port: 25}}, {{name: https, port: 443}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: mail-1, namespace: b, labels: {{kubernetes.io/service-name: mail}}}}\n\
         addressType: IPv4\nports: [{{name: tcp, port: 2525}}]\nendpoints: [{{addresses: [10.0.0.9]}}]\n"
    );
    apply(&mut index, &more);
    index
}

#[test]
fn connections_go_by_name_and_by_address_and_what_is_unknown_as_it_may() {
    let mail = |port| {
        let service = ServiceKey { namespace: "b".to_owned(), name: "mail".to_owned() };
        Some(Reached::Destination(DestinationKey { service, port }))
    };
    let outside = |host, port| Some(Reached::Destination(DestinationKey::outside(host, port)));
    let (nowhere, original) = (|| Some(Reached::Nowhere), || Some(Reached::Original));
    let mut refuses = lazy_index("{unknownHosts: Refuse, always: [api.example.]}");
    for (called, to) in [
        ("@10.96.0.9:25", mail(25)),
        ("@10.96.0.9:26", nowhere()),
        ("@10.0.0.9:2525", original()),
        ("@10.0.0.9:2526", nowhere()),
        ("@192.0.2.1:25", nowhere()),
        ("+mail.b:443", mail(443)),
        ("+mail.b.svc.cluster.local:25", mail(25)),
        ("+api.example:443", outside("api.example", 443)),
        ("+other.example:443", nowhere()),
        ("+-:443", nowhere()),
    ] {
        assert_eq!(reached(&mut refuses, called), to, "{called}");
    }
    let mut passes = lazy_index("{unknownHosts: Passthrough, never: [mail.b]}");
    for (called, to) in [
        ("@10.96.0.9:25", nowhere()),
        ("@10.0.0.9:2525", nowhere()),
        ("@192.0.2.1:25", original()),
        ("+mail.b:443", original()),
        ("+other.example:443", original()),
        ("+what*:443", None),
    ] {
        assert_eq!(reached(&mut passes, called), to, "{called}");
    }
}

#[test]
fn who_names_nobody_in_tls_is_passed_on_where_anybody_may_be_called() {
    const INTERCEPTED: &str = "apiVersion: v1\nkind: Pod\n\
        metadata: {name: page-0, namespace: a, annotations: {outbound.weir.dev/intercept: '15001'}}\n";
    for (unknown_hosts, to) in [("Refuse", Hop::Nowhere), ("Passthrough", Hop::Original)] {
        let mut index = lazy_index(&format!("{{unknownHosts: {unknown_hosts}}}"));
        apply(&mut index, INTERCEPTED);
        let called: Called = "+-:443".parse().expect("readable");
        let _ = index.ask_stream(&key("page"), "page-0", called.clone(), Timestamp::UNIX_EPOCH);
        assert_eq!(callers(&index, |_| {}).0.pods["page-0"].streams, [Stream { called, to }]);
    }
}

#[test]
fn a_pod_asks_for_so_many_connections_and_each_change_is_of_those_who_asked() {
    let mut index = lazy_index("{unknownHosts: Refuse, forgetAfter: 10s}");
    for number in 0..MOST_STREAMS {
        let called = format!("@192.0.2.{}:{}", number % 250, 1 + number);
        assert_eq!(reached(&mut index, &called), Some(Reached::Nowhere));
    }
    assert_eq!(reached(&mut index, "@10.96.0.9:25"), None);
    // Hosts are not fewer for it, and nothing of this is forgotten.
    let (_, dirty) = index.ask(&key("page"), "page-0", "reviews", Why::OnDemand, Timestamp::UNIX_EPOCH).expect("lazy");
    assert!(dirty.services.contains(&key("page")));
    let _ = index.forget(&key("page"), "page-0", Timestamp::UNIX_EPOCH, |_, _| true);
    assert_eq!(reached(&mut index, "@192.0.2.0:1"), Some(Reached::Nowhere));
    let late = "apiVersion: v1\nkind: Service\nmetadata: {name: late, namespace: b}\n\
                spec: {clusterIP: 192.0.2.0, ports: [{name: tcp, port: 1}]}\n";
    let dirty = index.apply(changes(late).remove(0));
    assert!(dirty.services.contains(&key("page")), "{:?}", dirty.services);
    assert!(matches!(reached(&mut index, "@192.0.2.0:1"), Some(Reached::Destination(_))));
}

#[test]
fn a_first_call_of_a_limited_service_changes_no_listener() {
    let mut index = index("  - {name: each, limit: 1 request per second per header x-user}\n");
    let lazy = "apiVersion: weir.dev/v1alpha1\nkind: LazyConfig\nmetadata: {name: all, namespace: a}\nspec: {}\n";
    apply(&mut index, lazy);
    let versions = |index: &Index, of: ResourceType| -> Vec<_> {
        let resources = crate::xds::resources::build(&key("page"), &callers(index, |_| {}).0);
        let of_type = resources.into_iter().filter(|resource| resource.resource_type == of);
        of_type.map(|resource| (resource.name, resource.version)).collect()
    };
    let (listeners, hosts) = (versions(&index, ResourceType::Listener), versions(&index, ResourceType::VirtualHost));
    let asked = index.ask(&key("page"), "page-0", "reviews", Why::OnDemand, Timestamp::UNIX_EPOCH);
    assert!(asked.is_some());
    assert_eq!(versions(&index, ResourceType::VirtualHost).len(), hosts.len() + 1);
    assert_eq!(versions(&index, ResourceType::Listener), listeners);
}
