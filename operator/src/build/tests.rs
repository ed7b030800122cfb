use limiter::metric::Word;

use super::*;
use crate::{
    metrics::{Measure, Source},
    tests::{CART, changes},
};

/// A thousand services with a pod and a policy each.
fn mesh() -> String {
    let mut text = String::new();
    for n in 0..1000 {
        text.push_str(&format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: s{n}, namespace: ns-a}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s{n}-1, namespace: ns-a, labels: {{kubernetes.io/service-name: s{n}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{{addresses: [127.0.1.1], targetRef: {{kind: Pod, name: s{n}-0}}}}]
---
apiVersion: weir.dev/v1alpha1
kind: SmartLimiter
metadata: {{name: s{n}, namespace: ns-a}}
spec:
  targetRefs: [{{kind: Service, name: s{n}}}]
  rules: [{{name: hot, when: cpu > 80%, limit: 10 requests per second per pod}}]
"
        ));
    }
    text
}

fn sample(service: &str, value: f64, at: Timestamp) -> PodSample {
    PodSample {
        service: ServiceKey { namespace: "ns-a".to_owned(), name: service.to_owned() }.into(),
        pod: Some(format!("{service}-0")),
        measure: Measure::Number(Word::Cpu, value),
        at,
        fresh_for_ms: 750,
        source: Source::Scrape,
    }
}

#[test]
fn only_what_a_change_touches_is_built_and_sent() {
    let mut builder = Builder::new(Table::new());
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    builder.apply(changes(&mesh()), start);
    let first = builder.counts();
    assert_eq!((first.builds, first.resources), (1000, 5000));

    // A sample that changes no number decides one service and builds none.
    builder.observe(vec![sample("s7", 0.5, start)], start);
    let idle = builder.counts();
    assert_eq!((idle.decisions - first.decisions, idle.builds - first.builds), (1, 0));

    // One that does builds one service and sends one route configuration, as soon as the service has its turn again.
    let later = start + jiff::SignedDuration::from_millis(1);
    builder.observe(vec![sample("s7", 0.9, later)], later);
    assert_eq!(builder.counts(), idle);
    let turn = builder.next().expect("the service waits for its turn");
    builder.tick(turn);
    let hot = builder.counts();
    assert_eq!((hot.builds - idle.builds, hot.resources - idle.resources), (1, 1));

    // The same manifest again is no change.
    builder.apply(changes(&mesh()), start);
    assert_eq!(builder.counts(), hot);
}

#[test]
fn a_pause_sends_one_layer_to_each_pod_and_rules_go_on_being_decided() {
    let mut builder = Builder::new(Table::new());
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    let (all, late): (Vec<_>, Vec<_>) = changes(&mesh())
        .into_iter()
        .partition(|change| !matches!(change, Change::Apply { key, .. } if key.name.starts_with("s99")));
    builder.apply(all, start);
    let key = |name: &str| ServiceKey { namespace: "ns-a".to_owned(), name: name.to_owned() };
    let paused = |builder: &Builder, name: &str| {
        builder.built(&key(name)).is_some_and(|built| built.intent.pods.values().all(|pod| pod.paused))
    };
    let before = builder.counts();
    builder.set_pauses(Pauses { services: [key("s7")].into(), ..Pauses::default() }, start);
    assert_eq!(builder.counts().resources - before.resources, 1);
    assert_eq!((paused(&builder, "s7"), paused(&builder, "s8")), (true, false));

    let everything = Pauses { all: true, ..builder.pauses().clone() };
    builder.set_pauses(everything.clone(), start);
    let all_paused = builder.counts();
    assert_eq!(all_paused.resources - before.resources, 989, "s7 has it already");
    builder.set_pauses(everything, start);
    assert_eq!(builder.counts(), all_paused, "once more is no change");
    builder.apply(late, start);
    assert!(paused(&builder, "s990"), "a service that comes later is paused too");
    builder.observe(vec![sample("s8", 0.9, start)], start);
    let decided = builder.built(&key("s8")).and_then(|built| built.rules.iter().next().map(|ruling| ruling.decision));
    assert_eq!(decided.map(|decision| decision.phase), Some(Phase::Limiting));

    builder.set_pauses(Pauses { services: [key("s7")].into(), ..Pauses::default() }, start);
    assert_eq!((paused(&builder, "s7"), paused(&builder, "s8"), paused(&builder, "s990")), (true, false, false));
}

#[test]
fn a_removed_service_takes_its_resources_along() {
    let mut builder = Builder::new(Table::new());
    let all = changes(&mesh());
    builder.apply(all.clone(), Timestamp::UNIX_EPOCH);
    let gone = all.iter().find_map(|change| match change {
        Change::Apply { key, .. } if key.name == "s7" => Some(key.clone()),
        _ => None,
    });
    builder.apply(vec![Change::Delete(gone.expect("it is there"))], Timestamp::UNIX_EPOCH);
    let key = ServiceKey { namespace: "ns-a".to_owned(), name: "s7".to_owned() };
    assert!(builder.built(&key).is_none());
}

#[test]
fn time_alone_moves_a_release_on() {
    let mut builder = Builder::new(Table::new());
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    builder.apply(changes(&mesh()), start);
    let second = jiff::SignedDuration::from_secs(1);
    builder.observe(vec![sample("s7", 0.9, start)], start);
    let mut now = start;
    // Without `until` it releases after 5 s below 72 %.
    for _ in 0..8 {
        now += second;
        builder.observe(vec![PodSample { fresh_for_ms: 5000, ..sample("s7", 0.1, now) }], now);
    }
    let key = ServiceKey { namespace: "ns-a".to_owned(), name: "s7".to_owned() };
    let phase = |builder: &Builder| {
        builder
            .built(&key)
            .and_then(|built| built.rules.iter().next().map(|ruling| ruling.decision))
            .map(|decision| decision.phase)
    };
    assert_eq!(phase(&builder), Some(Phase::Releasing));
    for _ in 0..100 {
        let Some(next) = builder.next() else { break };
        now = now.max(next);
        builder.tick(now);
        if phase(&builder) == Some(Phase::Idle) {
            return;
        }
    }
    panic!("the limit never vanished");
}

/// Adds to [`mesh`] a caller of everything, and a limit for callers of `s7`.
const CALLER: &str = "
apiVersion: v1
kind: Service
metadata: {name: page, namespace: ns-a}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: page-1, namespace: ns-a, labels: {kubernetes.io/service-name: page}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [127.0.2.1], targetRef: {kind: Pod, name: page-0}}]
---
apiVersion: v1
kind: Pod
metadata: {name: page-0, namespace: ns-a, annotations: {outbound.weir.dev/listen: '127.0.2.1:15001'}}
---
apiVersion: weir.dev/v1alpha1
kind: SmartLimiter
metadata: {name: callers-of-s7, namespace: ns-a}
spec:
  targetRefs: [{kind: Service, name: s7}]
  enforceAt: Client
  rules: [{name: hot, when: cpu > 80%, limit: 10 requests per second across all pods}]
";

#[test]
fn a_number_of_a_service_is_sent_to_its_callers_and_to_nobody_else() {
    let mut builder = Builder::new(Table::new());
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    builder.apply(changes(&format!("{}---{CALLER}", mesh())), start);
    let first = builder.counts();
    // Once each, in one pass; 1,000 pods, and the caller with a cluster and endpoints for each of 1,001 services.
    assert_eq!((first.builds, first.resources), (1001, 5000 + 5 + 2 * 1001 + 2));
    let page = ServiceKey { namespace: "ns-a".to_owned(), name: "page".to_owned() };
    let value = |builder: &Builder| {
        let intent = &builder.built(&page).expect("it is built").intent;
        let hosts = &intent.pods["page-0"].outbound[0].hosts;
        let host = hosts.iter().find(|host| host.name == "ns-a/s7/8080").expect("it is routed to");
        host.values[0].map(|value| value.rate.milli_requests)
    };
    assert_eq!(value(&builder), None);

    // Only s7 gets hot: its own route configuration and the caller's.
    builder.observe(vec![sample("s7", 0.9, start)], start);
    let hot = builder.counts();
    assert_eq!(
        (hot.decisions - first.decisions, hot.builds - first.builds, hot.resources - first.resources),
        (1, 2, 2)
    );
    assert_eq!(value(&builder), Some(10_000));

    // Another service's number does not reach the caller.
    builder.observe(vec![sample("s8", 0.9, start)], start);
    let other = builder.counts();
    assert_eq!((other.builds - hot.builds, other.resources - hot.resources), (1, 1));

    // An endpoint that goes: nothing is taken away from its proxy, one load assignment of the caller is empty.
    let slice = mesh().split("---").find(|text| text.contains("name: s9-1,")).expect("it is there").to_owned();
    let gone = slice.replace("endpoints: [{", "endpoints: [{conditions: {ready: false}, ");
    builder.apply(changes(&gone), start);
    let moved = builder.counts();
    assert_eq!((moved.builds - other.builds, moved.resources - other.resources), (2, 1));

    // A pause of s7 lifts what its callers enforce for it, and nothing else of theirs.
    let s7 = ServiceKey { namespace: "ns-a".to_owned(), name: "s7".to_owned() };
    builder.set_pauses(Pauses { services: [s7].into(), ..Pauses::default() }, start);
    assert_eq!(value(&builder), None);
    assert!(!builder.built(&page).expect("it is built").intent.pods["page-0"].paused);
    builder.set_pauses(Pauses::default(), start);
    assert_eq!(value(&builder), Some(10_000));
}

#[tokio::test]
async fn a_checkpoint_waits_for_a_service_that_is_not_there_yet() {
    let home = tempfile::tempdir().expect("a folder");
    let (old, recent): (Timestamp, Timestamp) =
        ("2026-01-01T00:00:00Z".parse().expect("a time"), "2026-01-02T12:00:00Z".parse().expect("a time"));
    let now: Timestamp = "2026-01-03T00:00:00Z".parse().expect("a time");
    let service = |name: &str| ServiceKey { namespace: "ns-a".to_owned(), name: name.to_owned() };
    // Three limits in force, as a run before left them.
    let mut before = Builder::new(Table::new());
    let all = changes(&mesh());
    before.apply(all.clone(), recent);
    before.observe(["s1", "s2", "s3"].map(|name| sample(name, 0.9, recent)).into(), recent);
    let states = |name: &str| {
        let told = before.built(&service(name)).expect("built").rules.told();
        crate::translate::decide::states(&service(name), &told)
    };
    let decisions = BTreeMap::from([
        (service("s1"), (recent, states("s1"))),
        (service("s2"), (recent, states("s2"))),
        (service("s3"), (old, states("s3"))),
    ]);

    let (folder, kept) = crate::checkpoint::Folder::open(home.path(), now).expect("opens");
    assert!(kept.decisions.is_empty());
    let (keeper, writing) = crate::checkpoint::spawn(folder, crate::checkpoint::Metrics::default());
    let kept = Kept { decisions, ..Kept::default() };
    let mut builder = Builder::new(Table::new()).with_checkpoint(kept, keeper);
    let (first, rest): (Vec<_>, Vec<_>) = all.clone().into_iter().partition(|change| match change {
        Change::Apply { key, .. } => key.name.starts_with("s1"),
        _ => false,
    });
    builder.apply(first, now);
    builder.forget_unseen(now);
    builder.apply(rest, now);
    let phase = |name: &str| {
        let built = builder.built(&service(name)).expect("built");
        built.rules.iter().next().map(|ruling| ruling.decision).expect("a rule").phase
    };
    assert_eq!(phase("s1"), Phase::Limiting);
    assert_eq!(phase("s2"), Phase::Limiting, "it came later");
    assert_eq!(phase("s3"), Phase::Idle, "it was away for too long");
    let version = |builder: &Builder| builder.table().get(crate::xds::ResourceType::Route, "in/ns-a/s1/s1-0/8080");
    assert_eq!(version(&builder).map(|entry| entry.version), version(&before).map(|entry| entry.version));

    // What is gone is forgotten, what is there is kept to the end.
    let gone = all.into_iter().find_map(|change| match change {
        Change::Apply { key, .. } if key.name == "s1" => Some(key),
        _ => None,
    });
    builder.apply(vec![Change::Delete(gone.expect("it is there"))], now);
    builder.keep_all(now);
    drop(builder);
    writing.await.expect("written");
    let (_, kept) = crate::checkpoint::Folder::open(home.path(), now).expect("opens");
    assert_eq!(kept.decisions.len(), 999);
    assert!(!kept.decisions.contains_key(&service("s1")));
}

#[test]
fn a_late_sample_brings_nothing_back() {
    let mut builder = Builder::new(Table::new());
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    let all = changes(&mesh());
    builder.apply(all.clone(), start);
    let gone = all.into_iter().filter_map(|change| match change {
        Change::Apply { key, .. } if key.name == "s7" || key.name == "s8-1" => Some(Change::Delete(key)),
        _ => None,
    });
    builder.apply(gone.collect(), start);
    builder.observe(vec![sample("s7", 0.9, start), sample("s8", 0.9, start), sample("s9", 0.9, start)], start);
    let held =
        |name: &str| builder.built(&sample(name, 0.0, start).service)?.store.pod(&format!("{name}-0"), &Word::Cpu);
    assert_eq!(["s7", "s8", "s9"].map(|name| held(name).is_some()), [false, false, true]);
}

#[tokio::test]
async fn a_checkpoint_waits_for_a_policy_that_is_not_there_yet() {
    let home = tempfile::tempdir().expect("a folder");
    let start: Timestamp = "2026-01-03T00:00:00Z".parse().expect("a time");
    let service = |name: &str| ServiceKey { namespace: "ns-a".to_owned(), name: name.to_owned() };
    let (policies, others): (Vec<_>, Vec<_>) = changes(&mesh()).into_iter().partition(|change| match change {
        Change::Apply { key, .. } => key.to_string().starts_with("smartlimiters"),
        _ => false,
    });
    assert_eq!((policies.len(), others.len()), (1000, 2000));
    let open = || {
        let (folder, kept) = crate::checkpoint::Folder::open(home.path(), start).expect("opens");
        let (keeper, writing) = crate::checkpoint::spawn(folder, crate::checkpoint::Metrics::default());
        (Builder::new(Table::new()).with_checkpoint(kept, keeper), writing)
    };
    let (mut first, writing) = open();
    first.apply([others.clone(), policies.clone()].concat(), start);
    first.observe(vec![sample("s1", 0.9, start)], start);
    first.keep_all(start);
    drop(first);
    writing.await.expect("written");

    // Two restarts: the first one ends before the policies come.
    let (mut second, writing) = open();
    second.apply(others.clone(), start);
    second.forget_unseen(start);
    second.tick(start);
    second.keep_all(start);
    drop(second);
    writing.await.expect("written");
    let (mut third, _writing) = open();
    third.apply(others, start);
    third.forget_unseen(start);
    third.apply(policies, start);
    let phase = |builder: &Builder| {
        let built = builder.built(&service("s1")).expect("built");
        built.rules.iter().next().map(|ruling| ruling.decision).expect("a rule").phase
    };
    assert_eq!(phase(&third), Phase::Limiting);
}

#[test]
fn a_clock_that_is_set_back_puts_no_floor_off() {
    let policy = "apiVersion: weir.dev/v1alpha1
kind: SmartLimiter
metadata: {name: cart, namespace: a}
spec:
  targetRefs: [{kind: Service, name: cart}]
  rules: [{name: hot, when: cpu > 80%, limit: 10 requests per second per pod}]
  onMissingMetric: {action: Floor, after: 15s, floor: 5 requests per second per pod}
";
    let at = |second: i64| Timestamp::from_second(1_000_000_000 + second).expect("a time");
    let mut builder = Builder::new(Table::new());
    builder.apply(changes(&format!("{CART}{policy}")), at(3600));
    builder.set_back(at(0));
    assert_eq!(builder.next(), Some(at(15)));
    builder.tick(at(15));
    let rulings = builder.built.values().flat_map(|built| built.rules.iter());
    let decided: Vec<_> = rulings.map(|ruling| ruling.decision).collect();
    assert!(decided.len() == 1 && decided[0].limit.is_some(), "{decided:?}");
}
