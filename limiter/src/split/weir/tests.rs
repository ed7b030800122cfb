use serde_json::json;

use super::*;

fn read(spec: serde_json::Value) -> (Option<Split>, Vec<String>) {
    let object = json!({"apiVersion": "weir.dev/v1alpha1", "kind": "SmartSplit", "metadata": {"name": "reviews", "namespace": "a"}, "spec": spec});
    let (split, problems) = split(&serde_json::from_value(object).expect("of this kind"));
    (split, problems.iter().map(ToString::to_string).collect())
}

fn spec() -> serde_json::Value {
    json!({
        "targetRefs": [{"kind": "Service", "name": "reviews"}],
        "backendRefs": [
            {"name": "reviews-v1", "port": 9080, "weight": 90, "minPercent": 10},
            {"name": "reviews-v2", "port": 9080, "weight": 10, "maxPercent": 50},
        ],
        "steer": "prefer lower errors and p99 latency, at most 5% per step, every 5s",
    })
}

#[test]
fn the_form_of_the_design_is_read() {
    let (split, problems) = read(spec());
    assert_eq!(problems, [""; 0]);
    let split = split.unwrap();
    assert_eq!((split.root.as_str(), split.arms.len(), split.mode), ("reviews", 2, Mode::Enforce));
    assert_eq!(split.arms[0].bounds, Bounds { least: 1000, most: TOTAL });
    assert_eq!((split.arms[1].port, split.arms[1].bounds), (Some(9080), Bounds { least: 0, most: 5000 }));
    let law = split.steer.unwrap();
    assert_eq!((law.by_latency, law.percentile, law.up, law.every.as_secs()), (true, 99, 500, 5));
    let said = super::super::explain(&split_again());
    assert!(said.contains("reviews-v2 gets 10 %, never more than 50 %"), "{said}");
}

fn split_again() -> Split {
    read(spec()).0.unwrap()
}

#[test]
fn a_ramp_names_one_of_the_backends() {
    let mut with = spec();
    with["steer"] = json!("ramp up reviews-v2, at most 10% per step, every 30s, errors below 1%");
    let law = read(with.clone()).0.unwrap().steer.unwrap();
    assert_eq!((law.ramp, law.up, law.objective), (Some(Ramp { arm: 1, to: 5000 }), 1000, 0.01));
    assert!(law.expiry >= law.every.saturating_mul(3), "what is seen in a step still counts at the next");
    with["steer"] = json!("ramp up reviws-v2");
    let (_, problems) = read(with);
    assert_eq!(
        problems,
        ["spec.steer: column 9: none of the backends is called `reviws-v2` (did you mean `reviews-v2`?)"]
    );
}

#[test]
fn every_mistake_names_its_field_and_a_mend() {
    let arm = |more: serde_json::Value| {
        let mut one = json!({"name": "v1"});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"backendRefs": [one, {"name": "v2", "maxPercent": 100}]})
    };
    for (change, said) in [
        (json!({"targetRefs": []}), "spec.targetRefs: a split is of exactly one Service, found 0"),
        (
            json!({"targetRefs": [{"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "x"}]}),
            "spec.targetRefs[0].kind: ",
        ),
        (json!({"targetRefs": [{"kind": "Service", "name": "Not"}]}), "spec.targetRefs[0].name: \"Not\" is no name"),
        (json!({"backendRefs": []}), "spec.backendRefs: expected 1 to 128 backends, found 0"),
        (json!({"backendRefs": [{"name": "a"}, {"name": "a"}]}), "spec.backendRefs[1].name: \"a\" is named twice"),
        (json!({"backendRefs": [{"name": "a", "weight": 0}]}), "spec.backendRefs: all weights are 0"),
        (arm(json!({"weight": -1})), "spec.backendRefs[0].weight: a weight is from 0 to 1000000, found -1"),
        (arm(json!({"weight": 1_000_001})), "spec.backendRefs[0].weight: "),
        (arm(json!({"port": 0})), "spec.backendRefs[0].port: expected a port from 1 to 65535"),
        (arm(json!({"minPercent": 0.001})), "spec.backendRefs[0].minPercent: expected a percentage"),
        (arm(json!({"minPercent": -1})), "spec.backendRefs[0].minPercent: "),
        (arm(json!({"maxPercent": 101})), "spec.backendRefs[0].maxPercent: "),
        (
            arm(json!({"minPercent": 60, "maxPercent": 50})),
            "spec.backendRefs[0].minPercent: it is more than maxPercent",
        ),
        (arm(json!({"requestsPerEndpoint": 0})), "spec.backendRefs[0].requestsPerEndpoint: "),
        (
            json!({"backendRefs": [{"name": "a", "minPercent": 60}, {"name": "b", "minPercent": 50}]}),
            "add up to more than 100",
        ),
        (
            json!({"backendRefs": [{"name": "a", "maxPercent": 60}, {"name": "b", "maxPercent": 30}]}),
            "add up to less than 100",
        ),
        (json!({"sticky": {"type": "Header"}}), "spec.sticky.name: which header or cookie"),
        (json!({"sticky": {"type": "ClientIP", "name": "x"}}), "spec.sticky.name: an address has no name"),
        (json!({"sticky": {"type": "Cookie", "name": "a b"}}), "spec.sticky.name: \"a b\" is no name"),
        (json!({"steer": "prefer errors"}), "spec.steer: column 8: expected `lower`"),
    ] {
        let mut with = spec();
        with.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let (_, problems) = read(with);
        assert!(problems.iter().any(|problem| problem.contains(said)), "{said}: {problems:?}");
    }
}
