use limiter::{
    policy::PathMatch,
    split::{self, Arm, SplitKey, shares::TOTAL, steer::Law},
};

use super::*;
use crate::{
    index::{Change, Object, ObjectKey, ObjectKind},
    tests::apply,
};

/// A Service with a port 80 and so many ready pods, which need no manifests.
fn service(name: &str, port: &str, pods: usize) -> String {
    let endpoints: Vec<String> = (0..pods)
        .map(|pod| format!("{{addresses: [127.0.1.{}], targetRef: {{kind: Pod, name: {name}-{pod}}}}}", pod + 1))
        .collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: a}}\nspec: {{ports: [{{name: {port}, port: 80}}]}}\n---
apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice
metadata: {{name: {name}-1, namespace: a, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4\nports: [{{name: {port}, port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

fn mesh() -> Index {
    let mut index = Index::default();
    for (name, pods) in [("web", 1), ("v1", 2), ("v2", 1), ("v3", 0)] {
        apply(&mut index, &service(name, "http", pods));
    }
    index
}

fn key(name: &str) -> DestinationKey {
    DestinationKey { service: ServiceKey { namespace: "a".to_owned(), name: name.to_owned() }, port: 80 }
}

fn split(kind: split::Kind, name: &str, arms: &[(&str, u64)]) -> Split {
    let arm = |(service, weight): &(&str, u64)| Arm {
        service: (*service).to_owned(),
        port: None,
        weight: *weight,
        bounds: Bounds::default(),
        capacity: None,
    };
    Split {
        key: SplitKey { kind, namespace: "a".to_owned(), name: name.to_owned() },
        generation: 1,
        created: None,
        root: "web".to_owned(),
        groups: Vec::new(),
        arms: arms.iter().map(arm).collect(),
        steer: (kind == split::Kind::SmartSplit).then(Law::default),
        mode: Mode::Enforce,
        sticky: None,
    }
}

fn smi(name: &str, arms: &[(&str, u64)]) -> Split {
    split(split::Kind::TrafficSplit, name, arms)
}

fn smart(arms: &[(&str, u64)]) -> Split {
    split(split::Kind::SmartSplit, "smart", arms)
}

fn add(index: &mut Index, split: Split) {
    let SplitKey { kind, namespace, name } = split.key.clone();
    let key = ObjectKey { kind: ObjectKind::Split(kind), namespace, name };
    let object = Object::Split { split: Some(Box::new(split)), problems: Vec::new() };
    index.apply(Change::Apply { key, origin: String::new(), object });
}

fn group(index: &mut Index, name: &str, prefix: &str) {
    let key = ObjectKey { kind: ObjectKind::RouteGroup, namespace: "a".to_owned(), name: name.to_owned() };
    let path = Some(PathMatch::Prefix(prefix.to_owned()));
    let object = Object::RouteGroup(vec![RequestMatch { path, ..RequestMatch::default() }]);
    index.apply(Change::Apply { key, origin: String::new(), object });
}

fn steer(index: &mut Index, shares: &[(&str, u32)]) {
    let shares = shares.iter().map(|(name, share)| (key(name).service, *share)).collect();
    let steered = splits::Steered { shares: Some(shares), layout: Layout::default() };
    index.steer(&key("web").service, Some(steered));
}

/// Of each rule, whether it is for all requests, and who gets what.
fn rules(index: &Index) -> Vec<(bool, Vec<(String, u32)>)> {
    let division = division(index, &key("web"), "a").expect("it is split");
    let named = |rule: SplitRule| {
        let to = rule.to.into_iter().map(|(key, share)| (key.service.name, share));
        (rule.within.is_empty(), to.collect())
    };
    division.rules.into_iter().map(named).collect()
}

/// Who gets what of all requests, by the only rule.
fn only(index: &Index) -> Vec<(String, u32)> {
    let mut rules = rules(index);
    assert_eq!((rules.len(), rules[0].0), (1, true), "{rules:?}");
    rules.remove(0).1
}

fn named<const N: usize>(shares: [(&str, u32); N]) -> Vec<(String, u32)> {
    shares.map(|(name, share)| (name.to_owned(), share)).to_vec()
}

#[test]
fn a_service_that_nobody_splits_is_not_split() {
    assert_eq!(division(&mesh(), &key("web"), "a"), None);
}

#[test]
fn shares_are_whole_and_of_a_constant_total_in_the_declared_order() {
    let mut index = mesh();
    add(&mut index, smi("s", &[("v2", 1), ("v1", 2)]));
    assert_eq!(only(&index), named([("v2", 3333), ("v1", 6667)]));
}

#[test]
fn an_arm_without_ready_endpoints_gets_nothing_and_one_that_is_not_there_takes_no_part() {
    let mut index = mesh();
    add(&mut index, smi("s", &[("v1", 50), ("v3", 30), ("gone", 900), ("v2", 50)]));
    assert_eq!(only(&index), named([("v1", 5000), ("v3", 0), ("gone", 0), ("v2", 5000)]));
    add(&mut index, smi("s", &[("v3", 70), ("gone", 30)]));
    assert_eq!(only(&index), named([("v3", TOTAL), ("gone", 0)]), "nobody is ready: it is known whose fault that is");
}

#[test]
fn nothing_of_weight_and_nobody_there_is_the_service_itself() {
    let mut index = mesh();
    add(&mut index, smi("s", &[("v1", 0), ("v2", 0)]));
    assert_eq!(only(&index), named([("web", 1)]));
    add(&mut index, smi("s", &[("gone", 10)]));
    assert_eq!(only(&index), named([("web", 1)]));
    add(&mut index, smi("s", &[("web", 50), ("v1", 50)]));
    assert_eq!(only(&index), named([("web", 5000), ("v1", 5000)]), "as its own backend it means its own endpoints");
}

#[test]
fn groups_say_which_requests_and_the_rest_stays_with_the_service() {
    let mut index = mesh();
    group(&mut index, "beta", "/beta");
    add(&mut index, Split { groups: vec!["beta".to_owned()], ..smi("s", &[("v2", 1)]) });
    assert_eq!(rules(&index), [(false, named([("v2", TOTAL)])), (true, named([("web", 1)]))]);
    add(&mut index, Split { groups: vec!["nobody".to_owned()], ..smi("s", &[("v2", 1)]) });
    assert_eq!(rules(&index), [(true, named([("web", 1)]))], "a group that is not there matches nothing");
}

#[test]
fn of_two_for_the_same_requests_the_oldest_holds() {
    let mut index = mesh();
    let at = |second| jiff::Timestamp::from_second(second).ok();
    add(&mut index, Split { created: at(20), ..smi("a", &[("v1", 1)]) });
    add(&mut index, Split { created: at(10), ..smi("b", &[("v2", 1)]) });
    assert_eq!(only(&index), named([("v2", TOTAL)]));
    let younger = smi("a", &[("v1", 1)]);
    let shadowed = index.shadowed(&Split { created: at(20), ..younger });
    let by = SplitKey { kind: split::Kind::TrafficSplit, namespace: "a".to_owned(), name: "b".to_owned() };
    assert_eq!(shadowed, Some(crate::index::splits::Shadowed::By(by)));
    group(&mut index, "beta", "/beta");
    add(&mut index, Split { created: at(30), groups: vec!["beta".to_owned()], ..smi("c", &[("v1", 1)]) });
    assert_eq!(rules(&index), [(false, named([("v1", TOTAL)])), (true, named([("v2", TOTAL)]))]);
}

#[test]
fn what_steers_holds_within_what_is_declared() {
    let mut index = mesh();
    add(&mut index, smart(&[("v1", 90), ("v2", 10)]));
    assert_eq!(only(&index), named([("v1", 9000), ("v2", 1000)]));
    steer(&mut index, &[("v1", 9700), ("v2", 300)]);
    assert_eq!(only(&index), named([("v1", 9700), ("v2", 300)]));
    // Another object declares; of its arms those share out what they have together that are steered.
    add(&mut index, smi("s", &[("v1", 40), ("v2", 40), ("web", 20)]));
    assert_eq!(only(&index), named([("v1", 7760), ("v2", 240), ("web", 2000)]));
    add(&mut index, smi("s", &[("v1", 100), ("v2", 0)]));
    assert_eq!(only(&index), named([("v1", TOTAL), ("v2", 0)]), "who is declared nothing gets nothing");
    add(&mut index, Split { mode: Mode::Shadow, ..smart(&[("v1", 90), ("v2", 10)]) });
    add(&mut index, smi("s", &[("v1", 40), ("v2", 60)]));
    assert_eq!(only(&index), named([("v1", 4000), ("v2", 6000)]), "only told");
}

#[test]
fn what_is_declared_elsewhere_stays_within_the_bounds_of_what_steers() {
    let mut index = mesh();
    let mut bounded = smart(&[("v1", 1), ("v2", 1)]);
    bounded.arms[1].bounds = Bounds { least: 0, most: 2000 };
    add(&mut index, bounded);
    add(&mut index, smi("s", &[("v1", 50), ("v2", 50)]));
    assert_eq!(only(&index), named([("v1", 8000), ("v2", 2000)]));
}

#[test]
fn a_gateway_that_leads_to_the_service_leads_to_its_arms() {
    let mut index = mesh();
    add(&mut index, smi("s", &[("v1", 75), ("v2", 25)]));
    let to = |names: &[(&str, u32)]| names.iter().map(|(name, weight)| (key(name), *weight)).collect::<Vec<_>>();
    assert_eq!(behind_gateway(&index, &to(&[("web", 1)])), to(&[("v1", 7500), ("v2", 2500)]));
    let mixed = behind_gateway(&index, &to(&[("web", 1), ("v3", 1)]));
    assert_eq!(mixed, to(&[("v1", 3750), ("v2", 1250), ("v3", 5000)]));
    let alone = to(&[("v1", 7), ("v2", 3)]);
    assert_eq!(behind_gateway(&index, &alone), alone, "what is not split is as it was");
}

#[test]
fn connections_are_shared_out_by_the_endpoints() {
    let mut index = Index::default();
    for (name, pods) in [("web", 1), ("v1", 2), ("v2", 1), ("v3", 0)] {
        apply(&mut index, &service(name, "tcp", pods));
    }
    add(&mut index, smi("s", &[("v1", 70), ("v2", 20), ("v3", 10)]));
    let known = Arc::clone(index.destination(&key("web")).expect("it is there"));
    let shared = of_bytes(&index, &known, "a");
    let parts: Vec<_> =
        shared.shares.iter().map(|it| (it.service.name.as_str(), it.weight, it.endpoints.len())).collect();
    assert_eq!((shared.endpoints.len(), parts), (0, vec![("v1", 7778, 2), ("v2", 2222, 1)]));
    let alone = Arc::clone(index.destination(&key("v1")).expect("it is there"));
    assert!(Arc::ptr_eq(&of_bytes(&index, &alone, "a"), &alone));
}

#[test]
fn a_split_touches_who_calls_and_so_does_an_endpoint_of_an_arm() {
    let mut index = mesh();
    let caller = service("page", "http", 1)
        + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: page-0, namespace: a, annotations: {outbound.weir.dev/listen: '127.0.1.1:15001'}}\n";
    apply(&mut index, &caller);
    let touched = |dirty: crate::index::Dirty| dirty.services.into_iter().map(|it| it.name).collect::<Vec<_>>();
    let one = smi("s", &[("v1", 1)]);
    let key = ObjectKey {
        kind: ObjectKind::Split(split::Kind::TrafficSplit),
        namespace: "a".to_owned(),
        name: "s".to_owned(),
    };
    let apply_split = |index: &mut Index, split: Split| {
        let object = Object::Split { split: Some(Box::new(split)), problems: Vec::new() };
        touched(index.apply(Change::Apply { key: key.clone(), origin: String::new(), object }))
    };
    assert_eq!(apply_split(&mut index, one.clone()), ["page", "v1", "web"]);
    assert_eq!(apply_split(&mut index, one), [""; 0]);
    assert_eq!(apply_split(&mut index, smi("s", &[("v1", 1), ("v2", 1)])), ["page", "v1", "v2", "web"]);
    assert_eq!(touched(index.apply(Change::Delete(key.clone()))), ["page", "v1", "v2", "web"]);
    assert!(!index.is_arm(&self::key("v1").service));
}
