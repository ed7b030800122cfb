use jiff::Timestamp;
use limiter::{engine::Phase, policy::Mode};

use super::*;
use crate::{
    index::Index,
    intent::Priority,
    tests::apply,
    translate::decide::{Decides, States},
};

const MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: checkout, namespace: ns-a}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: checkout-1, namespace: ns-a, labels: {kubernetes.io/service-name: checkout}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [127.0.1.1], targetRef: {kind: Pod, name: pod-1}}
- {addresses: [127.0.1.2], targetRef: {kind: Pod, name: pod-2}}
- {addresses: [127.0.1.3], targetRef: {kind: Pod, name: pod-3}}
- {addresses: [127.0.1.4], targetRef: {kind: Pod, name: pod-4}, conditions: {ready: false}}
";

fn index(rules: &str) -> Index {
    let policy = format!(
        "apiVersion: weir.dev/v1alpha1\nkind: SmartLimiter\nmetadata: {{name: p, namespace: ns-a}}\n\
         spec:\n  targetRefs: [{{kind: Service, name: checkout}}]\n  rules:\n{rules}"
    );
    let mut index = Index::default();
    for text in [MANIFESTS, &policy] {
        apply(&mut index, text);
    }
    let (_, entry) = index.policies().next().expect("one policy");
    assert_eq!(entry.problems, []);
    index
}

fn checkout() -> ServiceKey {
    ServiceKey { namespace: "ns-a".to_owned(), name: "checkout".to_owned() }
}

/// The rules of the service, decided once without any metric.
fn decided(view: &ServiceView<'_>) -> Rules {
    let mut rules = Rules::default();
    rules.plan(view, States::new());
    let observe = |_: &_, seen: &mut limiter::metric::Observations| seen.pods = 3;
    rules.step(observe, Decides::All, false, Timestamp::UNIX_EPOCH);
    rules
}

/// Every rule limits to its own number, as without a condition.
fn translated(index: &Index) -> (ServiceIntent, Vec<Report>) {
    let key = checkout();
    let view = index.service(&key).expect("it exists");
    let rules = decided(&view);
    translate(&view, &rules)
}

fn per_pod(intent: &ServiceIntent, limit: usize) -> Vec<Option<u64>> {
    intent.pods.values().map(|pod| pod.values[limit].map(|value| value.rate.milli_requests)).collect()
}

#[test]
fn a_total_is_divided_among_ready_pods_exactly() {
    let index = index("  - {name: all, limit: 100 requests per second across all pods, burst: 10}\n");
    let (intent, reports) = translated(&index);
    // The pod that is not ready has the smallest share, and counts in no sum.
    assert_eq!(per_pod(&intent, 0), [Some(33_334), Some(33_333), Some(33_333), Some(33_333)]);
    assert_eq!(reports[0].shares.iter().map(|share| share.milli_requests).sum::<u64>(), 100_000);
    assert_eq!(intent.pods["pod-1"].values[0].map(|value| value.burst), Some(4), "10 among 3, rounded up");
}

#[test]
fn a_limit_per_pod_is_whole_on_every_pod() {
    let index = index("  - {name: all, limit: 10 requests per second per pod, burst: 7}\n");
    let (intent, _) = translated(&index);
    assert_eq!(per_pod(&intent, 0), [Some(10_000); 4]);
    assert_eq!(intent.pods["pod-1"].values[0].map(|value| value.burst), Some(7));
}

#[test]
fn shadow_rules_reach_the_proxy_as_such() {
    let index = index("  - {name: all, mode: Shadow, limit: 9 requests per second across all pods}\n");
    let (intent, reports) = translated(&index);
    assert_eq!(intent.limits.iter().map(|limit| limit.mode).collect::<Vec<_>>(), [Mode::Shadow]);
    assert_eq!(per_pod(&intent, 0)[..3], [Some(3000); 3]);
    assert_eq!(reports[0].shares.len(), 3);
}

#[test]
fn a_decision_moves_numbers_and_nothing_else() {
    let index = index("  - {name: hot, when: cpu > 80%, limit: 9 requests per second per pod}\n");
    let key = checkout();
    let view = index.service(&key).expect("it exists");
    let mut rules = decided(&view);
    let (idle, _) = translate(&view, &rules);
    let decision = rules.decisions_mut().next().expect("one rule");
    assert_eq!((decision.phase, decision.limit), (Phase::Idle, None));
    let rate = Rate { milli_requests: 9000, interval: std::time::Duration::from_secs(1) };
    (decision.phase, decision.limit, decision.lowest) = (Phase::Limiting, Some(rate), Some(rate));
    let (hot, _) = translate(&view, &rules);
    assert_eq!((&idle.limits, &idle.routes), (&hot.limits, &hot.routes));
    assert_eq!(per_pod(&idle, 0), [None; 4]);
    assert_eq!(per_pod(&hot, 0), [Some(9000); 4]);
}

/// The bounds of each pod, when each rule decides this one.
fn bounds(rules: &str, bounds: &[u32]) -> (Vec<Option<u32>>, Vec<Option<u32>>) {
    let index = index(rules);
    let key = checkout();
    let view = index.service(&key).expect("it exists");
    let mut rules = decided(&view);
    for (decision, bound) in rules.decisions_mut().zip(bounds) {
        decision.bound = Some(*bound);
    }
    let (intent, reports) = translate(&view, &rules);
    for pod in intent.pods.values() {
        assert_eq!(pod.bounds.default, pod.bounds.high, "without classes all requests are equal");
    }
    let of_pods = intent.pods.values().map(|pod| pod.bounds.default).collect();
    (of_pods, reports.into_iter().map(|report| report.bound).collect())
}

#[test]
fn a_bound_is_divided_like_its_rule_and_the_smallest_wins() {
    let total = "  - {name: a, limit: 100 requests per second across all pods}\n";
    let per_pod = "  - {name: b, limit: 100 requests per second per pod}\n";
    assert_eq!(bounds(total, &[100]), (vec![Some(34); 4], vec![Some(100)]));
    assert_eq!(
        bounds(total, &[0]).0,
        [Some(1); 4],
        "one at a time must get through, or nothing is ever measured again"
    );
    assert_eq!(bounds(per_pod, &[100]).0, [Some(100); 4]);
    assert_eq!(bounds(&format!("{total}{per_pod}"), &[100, 30]), (vec![Some(30); 4], vec![Some(100), Some(30)]));
    assert_eq!(bounds(&format!("{total}{per_pod}"), &[60, 30]).0, [Some(20); 4]);
}

#[test]
fn shadow_rules_and_rules_about_some_requests_bound_nothing() {
    let shadow = "  - {name: a, mode: Shadow, limit: 100 requests per second per pod}\n";
    let narrow = "  - {name: a, limit: 100 requests per second per pod, matches: [{method: POST}]}\n";
    for rule in [shadow, narrow] {
        assert_eq!(bounds(rule, &[10]), (vec![None; 4], vec![None]), "{rule}");
    }
}

const CLASSES: &str = "
  - name: cool
    adapt: keep cpu below 70%, between 20 and 400 requests per second per pod
    priorities:
    - {name: paying, matches: [{headers: [{name: tier, value: paying}]}, {path: {type: PathPrefix, value: /checkout}}]}
    - {name: known, matches: [{headers: [{name: user, type: RegularExpression, value: .+}]}]}
";

#[test]
fn a_request_counts_in_the_first_class_that_fits_it() {
    let (intent, _) = translated(&index(CLASSES));
    let bucket = "smartlimiters.weir.dev/ns-a/p/cool";
    let buckets: Vec<_> = intent.limits.iter().map(|limit| (limit.bucket.as_str(), limit.service_wide)).collect();
    let classes = ["paying", "known", "*"].map(|class| format!("{bucket}/{class}"));
    assert_eq!(buckets, [(bucket, true), (&classes[0], false), (&classes[1], false), (&classes[2], false)]);
    let key = |class: &str| vec![format!("smartlimiters.weir.dev/ns-a/p#cool/{class}")];
    for route in &intent.routes {
        let has = |name: &str| route.matches.iter().any(|part| part.headers.contains_key(name));
        let paying = has("tier") || route.matches.iter().any(|part| part.path.is_some());
        let (limits, classes, priority) = match (paying, has("user")) {
            (true, _) => (vec![1], key("paying"), Priority::High),
            (false, true) => (vec![0, 2], key("known"), Priority::Default),
            (false, false) => (vec![0, 3], Vec::new(), Priority::Default),
        };
        assert_eq!((&route.limits, &route.classes, route.priority), (&limits, &classes, priority), "{}", route.name);
    }
    assert!(intent.routes.len() > 3, "{:?}", intent.routes);
}

#[test]
fn classes_have_their_own_numbers_and_the_lower_ones_a_smaller_queue() {
    let index = index(CLASSES);
    let key = checkout();
    let view = index.service(&key).expect("it exists");
    let mut rules = decided(&view);
    let decision = rules.decisions_mut().next().expect("one rule");
    let rate = |milli_requests| Rate { milli_requests, interval: std::time::Duration::from_secs(1) };
    (decision.limit, decision.lowest, decision.bound) = (Some(rate(400_000)), Some(rate(20_000)), Some(40));
    decision.classes = vec![rate(400_000), rate(100_000), rate(4_000)];
    let (intent, _) = translate(&view, &rules);
    let numbers: Vec<_> = (0..4).map(|limit| per_pod(&intent, limit)[0]).collect();
    assert_eq!(numbers, [Some(400_000), Some(400_000), Some(100_000), Some(4_000)]);
    let bounds = intent.pods["pod-1"].bounds;
    assert_eq!((bounds.high, bounds.default), (Some(40), Some(10)));
}

#[test]
fn a_rule_whose_classes_overlap_in_too_many_ways_is_left_out_whole() {
    let part = |header: usize| format!("{{headers: [{{name: x-{header}, value: '1'}}]}}");
    let others: String = (0..8)
        .map(|n| format!("  - {{name: r{n}, limit: 9 requests per second per pod, matches: [{}]}}\n", part(n)))
        .collect();
    let classes: Vec<_> = (8..16).map(|n| format!("{{name: c{n}, matches: [{}]}}", part(n))).collect();
    let last =
        format!("  - {{name: last, limit: 9 requests per second per pod, priorities: [{}]}}\n", classes.join(", "));
    let (intent, reports) = translated(&index(&format!("{others}{last}")));
    let trouble: Vec<_> =
        reports.iter().filter(|report| report.trouble.is_some()).map(|report| report.key.rule.as_str()).collect();
    assert_eq!(trouble, ["last"]);
    let last = reports.iter().find(|report| report.key.rule == "last").expect("it is reported");
    assert_eq!((last.shares.len(), last.bound), (0, None));
    assert!(intent.pods.values().all(|pod| pod.values[8..].iter().all(Option::is_none)));
    assert!(intent.routes.iter().all(|route| route.limits.iter().all(|limit| *limit < 8) && route.classes.is_empty()));
}

#[test]
fn a_service_without_an_http_port_says_so() {
    let mut index = index("  - {name: all, limit: 9 requests per second per pod}\n");
    let text = MANIFESTS.replace("{name: http, port: 8080}", "{name: db, port: 8080, appProtocol: tcp}");
    apply(&mut index, &text);
    let (_, reports) = translated(&index);
    assert_eq!(reports[0].trouble, Some(Trouble::NoHttpPort));
}

#[test]
fn a_service_on_which_nothing_can_be_limited_says_so() {
    for (spec, expected, words) in [
        (
            "{type: ExternalName, externalName: api.stripe.example}",
            Unfit::ExternalName("api.stripe.example".to_owned()),
            "another name for \"api.stripe.example\"",
        ),
        ("{ports: [{port: 53, protocol: UDP}, {port: 54, protocol: SCTP}]}", Unfit::NoTcpPort, "UDP or SCTP"),
    ] {
        let mut index = index("  - {name: all, limit: 9 requests per second per pod}\n");
        let text = MANIFESTS.replace(
            "name: checkout, namespace: ns-a}\n---",
            &format!("name: checkout, namespace: ns-a}}\nspec: {spec}\n---"),
        );
        apply(&mut index, &text);
        let (_, reports) = translated(&index);
        let trouble = reports[0].trouble.clone().expect("it is told");
        assert_eq!(trouble, Trouble::Unfit(expected));
        assert!(trouble.to_string().contains(words), "{trouble}");
    }
}

#[test]
fn nobody_has_a_share_where_no_pod_is_ready() {
    let mut index = index("  - {name: all, limit: 9 requests per second across all pods}\n");
    let text = MANIFESTS.replace("name: pod-1}", "name: pod-1}, conditions: {ready: false}");
    let text = text.replace("name: pod-2}", "name: pod-2}, conditions: {ready: false}");
    let text = text.replace("name: pod-3}", "name: pod-3}, conditions: {ready: false}");
    apply(&mut index, &text);
    let (intent, reports) = translated(&index);
    assert_eq!(reports[0].shares, []);
    assert_eq!(per_pod(&intent, 0), [Some(9000); 4], "whom a request reaches all the same");
}

#[test]
fn the_first_class_has_a_queue_of_its_own_only_where_a_queue_is_bounded() {
    let shadow = CLASSES.replace("adapt:", "mode: Shadow\n    adapt:");
    let narrow = CLASSES.replace("adapt:", "matches: [{method: POST}]\n    adapt:");
    for (rules, has_high) in [(CLASSES, true), (&shadow, false), (&narrow, false)] {
        let (intent, _) = translated(&index(rules));
        assert_eq!(intent.routes.iter().any(|route| route.priority == Priority::High), has_high, "{rules}");
    }
}

#[test]
fn a_lower_class_keeps_its_bucket_whatever_its_rate() {
    let index = index(CLASSES);
    let key = checkout();
    let view = index.service(&key).expect("it exists");
    let mut rules = decided(&view);
    let rate = |milli_requests| Rate { milli_requests, interval: std::time::Duration::from_secs(1) };
    let mut class_of = |lower: u64| {
        let decision = rules.decisions_mut().next().expect("one rule");
        (decision.limit, decision.lowest) = (Some(rate(400_000)), Some(rate(20_000)));
        decision.classes = vec![rate(400_000), rate(lower), rate(0)];
        let (intent, _) = translate(&view, &rules);
        let value = intent.pods["pod-1"].values[2].expect("a limit is in force");
        crate::xds::resources::limiter::charge(&value).class
    };
    let classes = [1, 900, 1_100, 19_000, 20_000, 100_000, 399_000].map(&mut class_of);
    assert_eq!(classes, ["1"; 7]);
}
