use super::*;
use crate::watch::decode;

fn changes(text: &str) -> Vec<Change> {
    let file = decode::decode(text.as_bytes()).expect("readable");
    assert_eq!(file.problems, [], "{text}");
    let changes = file.objects.into_iter();
    changes.map(|d| Change::Apply { key: d.key, origin: format!("a.yaml:{}", d.line), object: d.object }).collect()
}

fn apply(index: &mut Index, text: &str) -> Dirty {
    let mut dirty = Dirty::default();
    for change in changes(text) {
        let more = index.apply(change);
        dirty.any |= more.any;
        dirty.services.extend(more.services);
    }
    dirty
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: checkout, namespace: ns-a, labels: {tier: web}}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
";
const SLICE: &str = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: checkout-1, namespace: ns-a, labels: {kubernetes.io/service-name: checkout}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [127.0.1.1], targetRef: {kind: Pod, name: pod-1}}
- {addresses: [127.0.1.2], targetRef: {kind: Pod, name: pod-2}, conditions: {ready: false}}
";
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: pod-1, namespace: ns-a, annotations: {inbound.weir.dev/8080: '127.0.1.1:9000', prometheus.io/port: '9100'}}
spec: {containers: [{name: app, resources: {limits: {cpu: 500m, memory: 64Mi}}}, {name: envoy}]}
";
const POLICY: &str = "
apiVersion: weir.dev/v1alpha1
kind: SmartLimiter
metadata: {name: p, namespace: ns-a}
spec:
  targetRefs: [{kind: Service, name: checkout}]
  rules: [{name: r, limit: 30 requests per second across all pods}]
";

fn checkout() -> ServiceKey {
    ServiceKey { namespace: "ns-a".to_owned(), name: "checkout".to_owned() }
}

#[test]
fn joins_a_service_with_its_slices_pods_and_policies_in_any_order() {
    let texts = [SERVICE, SLICE, POD, POLICY];
    for first in 0..4 {
        let mut index = Index::default();
        for offset in 0..4 {
            let dirty = apply(&mut index, texts[(first + offset) % 4]);
            assert!(dirty.any);
        }
        let key = checkout();
        let view = index.service(&key).expect("the service exists");
        assert_eq!(view.ready_pods().collect::<Vec<_>>(), ["pod-1"]);
        let pod = &view.endpoints["pod-1"];
        assert_eq!(pod.inbound[0].listener.to_string(), "127.0.1.1:8080");
        assert_eq!(pod.inbound[0].application.to_string(), "127.0.1.1:9000");
        let page = pod.page.as_ref().expect("a page");
        assert_eq!((page.address.to_string().as_str(), page.path.as_str()), ("127.0.1.1:9100", "/metrics"));
        assert_eq!(pod.cpu_cores.map(|cpu| cpu.amount), Some(0.5), "the proxy's container is left out");
        assert_eq!(view.endpoints["pod-2"].inbound[0].application.to_string(), "127.0.0.1:8080");
        assert_eq!(view.policies.len(), 1);
    }
}

/// The metrics page of `pod-1` with these annotations and a container that declares these ports.
fn page(annotations: &str, ports: &str) -> Option<Page> {
    let mut index = Index::default();
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: pod-1, namespace: ns-a, annotations: {{{annotations}}}}}\n\
         spec: {{containers: [{{name: envoy, ports: [{{containerPort: 1}}]}}, {{name: app, ports: [{ports}]}}]}}\n"
    );
    for text in [SERVICE, SLICE, &pod] {
        apply(&mut index, text);
    }
    assert!(index.other_problems().is_empty(), "{annotations}");
    index.service(&checkout()).expect("the service exists").endpoints["pod-1"].page.clone()
}

#[test]
fn annotations_say_whether_and_where_a_metrics_page_is() {
    let at = |address: &str, path: &str, tls, annotated| {
        Some(Page { address: address.parse().unwrap(), path: path.to_owned(), tls, annotated })
    };
    let declared = "{containerPort: 53, protocol: UDP}, {containerPort: 9102}";
    for (annotations, ports, expected) in [
        ("", declared, at("127.0.0.1:8080", "/metrics", false, false)),
        ("prometheus.io/path: /m", declared, at("127.0.0.1:8080", "/m", false, false)),
        ("prometheus.io/scrape: 'true'", declared, at("127.0.1.1:9102", "/metrics", false, true)),
        ("prometheus.io/scrape: 'true'", "", at("127.0.1.1:8080", "/metrics", false, true)),
        ("prometheus.io/port: '91', prometheus.io/path: '/m?a=b'", declared, at("127.0.1.1:91", "/m?a=b", false, true)),
        ("prometheus.io/port: '91', prometheus.io/scheme: https", "", at("127.0.1.1:91", "/metrics", true, true)),
        ("prometheus.io/port: '91', prometheus.io/scrape: 'false'", "", None),
        ("prometheus.io/probe: 'whatever'", "", at("127.0.0.1:8080", "/metrics", false, false)),
    ] {
        assert_eq!(page(annotations, ports), expected, "{annotations} {ports}");
    }
}

#[test]
fn an_annotation_that_makes_no_sense_is_a_problem_of_the_pod() {
    for (name, value, words) in [
        ("scrape", "yes", "expected \"true\" or \"false\", found \"yes\""),
        ("port", "http", "expected a port from 1 to 65535, found \"http\""),
        ("port", "0", "expected a port from 1 to 65535"),
        ("path", "metrics", "expected a path that begins with `/`"),
        ("scheme", "ftp", "expected `http` or `https`, found \"ftp\""),
    ] {
        let mut index = Index::default();
        apply(
            &mut index,
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: b, annotations: {{prometheus.io/{name}: '{value}'}}}}\n"
            ),
        );
        let problems: Vec<_> = index.other_problems().into_values().flatten().collect();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].field, format!("metadata.annotations[prometheus.io/{name}]"));
        assert!(problems[0].message.starts_with(words), "{problems:?}");
        assert!(problems[0].help.as_ref().is_some_and(|help| help.starts_with("for example prometheus.io/")));
    }
}

#[test]
fn a_refused_pod_is_news_once_for_each_mistake_and_for_its_services() {
    let pod = |port: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: pod-1, namespace: ns-a, annotations: {{prometheus.io/port: '{port}'}}}}\n"
        )
    };
    let mut index = Index::default();
    apply(&mut index, SERVICE);
    apply(&mut index, SLICE);
    let dirty = apply(&mut index, &pod("abc"));
    assert!(dirty.any && dirty.services.contains(&checkout()), "{dirty:?}");
    assert!(!apply(&mut index, &pod("abc")).any, "as when its status is written");
    assert!(apply(&mut index, &pod("xyz")).any);
    let key = ObjectKey { kind: ObjectKind::Pod, namespace: "ns-a".to_owned(), name: "pod-1".to_owned() };
    assert!(index.refusal(&key).is_some_and(|problem| problem.message.contains("xyz")));
    apply(&mut index, &pod("9100"));
    assert_eq!(index.refusal(&key), None);
}

#[test]
fn init_containers_that_go_on_running_count_and_zero_is_no_limit() {
    let cpu = |spec: &str| {
        let mut index = Index::default();
        let pod = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: pod-1, namespace: ns-a}}\nspec: {spec}\n");
        for text in [SERVICE, SLICE, &pod] {
            apply(&mut index, text);
        }
        index.service(&checkout()).expect("the service exists").endpoints["pod-1"].cpu_cores.map(|cpu| cpu.amount)
    };
    let limit = |cores: &str| format!("resources: {{limits: {{cpu: '{cores}'}}}}");
    let init = |name: &str, more: &str| format!("initContainers: [{{name: {name}, {more}, {}}}]", limit("2"));
    let app = |cores: &str| format!("containers: [{{name: app, {}}}]", limit(cores));
    assert_eq!(cpu(&format!("{{{}, {}}}", app("1"), init("log", "restartPolicy: Always"))), Some(3.0));
    assert_eq!(cpu(&format!("{{{}, {}}}", app("1"), init("istio-proxy", "restartPolicy: Always"))), Some(1.0));
    assert_eq!(cpu(&format!("{{{}, {}}}", app("1"), init("migrate", "image: x"))), Some(1.0));
    assert_eq!(cpu(&format!("{{{}}}", app("0"))), None);
}

#[test]
fn an_application_may_be_a_port_of_its_pod() {
    let with = |value: &str| {
        let mut index = Index::default();
        for text in [SERVICE, SLICE, &POD.replace("127.0.1.1:9000", value)] {
            apply(&mut index, text);
        }
        let key = checkout();
        let view = index.service(&key).expect("the service exists");
        view.endpoints["pod-1"].inbound[0].application.to_string()
    };
    assert_eq!(with("9000"), "127.0.1.1:9000");
    for refused in ["8080", "0", "70000", "127.0.0.1:0", "localhost"] {
        assert_eq!(with(refused), "127.0.0.1:8080", "{refused}: as if it were not there");
    }
}

#[test]
fn the_same_object_again_touches_nothing() {
    let mut index = Index::default();
    for text in [SERVICE, SLICE, POD, POLICY] {
        assert!(apply(&mut index, text).services.contains(&checkout()) || text == POD);
        assert_eq!(apply(&mut index, text), Dirty::default(), "{text}");
    }
}

#[test]
fn a_bad_edit_keeps_the_last_good_policy_and_counts_the_generation() {
    let mut index = Index::default();
    apply(&mut index, SERVICE);
    apply(&mut index, POLICY);
    apply(&mut index, &POLICY.replace("30 requests", "0 requests"));
    let (_, entry) = index.policies().next().expect("one policy");
    assert_eq!(entry.generation, 2);
    assert!(!entry.problems.is_empty());
    assert_eq!(entry.accepted.as_ref().map(|policy| policy.generation), Some(1));
    assert_eq!(index.service(&checkout()).expect("it exists").policies.len(), 1);
    // Mended: in force again.
    apply(&mut index, &POLICY.replace("30 requests", "40 requests"));
    let (_, entry) = index.policies().next().expect("one policy");
    assert_eq!((entry.generation, entry.problems.len()), (3, 0));
}

#[test]
fn deleting_a_policy_touches_its_services() {
    let mut index = Index::default();
    apply(&mut index, SERVICE);
    apply(&mut index, POLICY);
    let Some(Change::Apply { key, .. }) = changes(POLICY).pop() else { panic!("one object") };
    assert!(index.apply(Change::Delete(key.clone())).services.contains(&checkout()));
    assert_eq!(index.apply(Change::Delete(key)), Dirty::default(), "gone already");
    assert_eq!(index.service(&checkout()).expect("it exists").policies.len(), 0);
}

#[test]
fn a_slice_that_moves_to_another_service_touches_both() {
    let mut index = Index::default();
    apply(&mut index, SERVICE);
    apply(&mut index, SLICE);
    let dirty = apply(&mut index, &SLICE.replace("service-name: checkout", "service-name: other"));
    assert_eq!(dirty.services.len(), 2);
    assert!(index.service(&checkout()).expect("it exists").endpoints.is_empty());
}

#[test]
fn a_selector_follows_the_labels_of_services() {
    let mut index = Index::default();
    let policy =
        POLICY.replace("targetRefs: [{kind: Service, name: checkout}]", "selector: {matchLabels: {tier: web}}");
    apply(&mut index, &policy);
    apply(&mut index, SERVICE);
    assert_eq!(index.service(&checkout()).expect("it exists").policies.len(), 1);
    apply(&mut index, &SERVICE.replace("tier: web", "tier: batch"));
    assert_eq!(index.service(&checkout()).expect("it exists").policies.len(), 0);
}

#[test]
fn an_undecodable_object_is_reported_and_costs_only_itself() {
    let mut index = Index::default();
    apply(&mut index, SERVICE);
    apply(&mut index, &POD.replace("cpu: 500m", "cpu: 5 cores"));
    let problems = index.other_problems();
    assert_eq!(problems["a.yaml:2"][0].field, "spec.containers[0].resources.limits.cpu");
    apply(&mut index, POD);
    assert!(index.other_problems().is_empty());
}

#[test]
fn of_two_that_steer_the_same_requests_one_applies_until_it_goes() {
    let mut index = Index::default();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\n";
    let policy = |name: &str| {
        format!(
            "---\napiVersion: weir.dev/v1alpha1\nkind: SmartLimiter\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
             targetRefs: [{{kind: Service, name: cart}}]\n  rules:\n  - name: keep\n    \
             adapt: keep cpu below 70%, between 20 and 500 requests per second per pod\n"
        )
    };
    let changes = changes(&format!("{service}{}{}", policy("a"), policy("b")));
    let mut keys = Vec::new();
    for change in changes {
        if let Change::Apply { key, .. } = &change {
            keys.push(key.clone());
        }
        index.apply(change);
    }
    let cart = ServiceKey { namespace: "shop".to_owned(), name: "cart".to_owned() };
    let applying = |index: &Index| -> Vec<String> {
        index.service(&cart).expect("it exists").policies.iter().map(|policy| policy.key.name.clone()).collect()
    };
    assert_eq!(applying(&index), ["a"]);
    let conflicts = index.conflicts(&cart);
    assert_eq!((conflicts.len(), &*conflicts[0].policy.name, &*conflicts[0].with.name), (1, "b", "a"));
    let touched = index.apply(Change::Delete(keys[1].clone()));
    assert!(touched.services.contains(&cart));
    assert_eq!((applying(&index), index.conflicts(&cart)), (vec!["b".to_owned()], Vec::new()));
}

#[test]
fn a_pod_with_two_address_families_has_one_listener_by_port() {
    let mut index = Index::default();
    for text in [SERVICE, SLICE] {
        apply(&mut index, text);
    }
    let second = SLICE.replace("checkout-1", "checkout-2").replace("IPv4", "IPv6");
    apply(&mut index, &second.replace("[127.0.1.1]", "['fd00::1']").replace("[127.0.1.2]", "['fd00::2']"));
    let view = index.service(&checkout()).expect("it exists");
    let listeners = |pod: &str| -> Vec<String> {
        view.endpoints[pod].inbound.iter().map(|inbound| inbound.listener.to_string()).collect()
    };
    assert_eq!(
        (listeners("pod-1"), listeners("pod-2")),
        (vec!["127.0.1.1:8080".into()], vec!["127.0.1.2:8080".into()])
    );
    let (_, destinations) = index.destinations().next().expect("one service");
    let called: Vec<String> = destinations[0].endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(called, ["127.0.1.1:8080"], "callers know the same address");
}

#[test]
fn a_slice_that_is_not_ours_any_more_is_let_go_without_a_word() {
    let mut index = Index::default();
    apply(&mut index, SERVICE);
    apply(&mut index, SLICE);
    let key =
        ObjectKey { kind: ObjectKind::EndpointSlice, namespace: "ns-a".to_owned(), name: "checkout-1".to_owned() };
    let value = SLICE.replace("labels: {kubernetes.io/service-name: checkout}", "labels: {}");
    let object = decode::object(ObjectKind::EndpointSlice, serde_saphyr::from_str(&value).unwrap());
    let change = Change::Apply { key, origin: String::new(), object };
    assert_eq!(index.apply(change.clone()), dirty([checkout()]));
    assert!(index.service(&checkout()).unwrap().endpoints.is_empty());
    assert_eq!(index.apply(change), Dirty::default());
    assert!(index.other_problems().is_empty());
}
