use serde_json::json;

use super::*;

fn read(spec: serde_json::Value) -> (Option<Split>, Vec<String>) {
    let object = json!({"metadata": {"name": "web", "namespace": "a"}, "spec": spec});
    let (split, problems) = split(&serde_json::from_value(object).expect("of this kind"));
    (split, problems.iter().map(ToString::to_string).collect())
}

fn weights(list: &[serde_json::Value]) -> Result<Vec<u64>, String> {
    let backends: Vec<_> =
        list.iter().enumerate().map(|(n, weight)| json!({"service": format!("v{n}"), "weight": weight})).collect();
    let (split, problems) = read(json!({"service": "web", "backends": backends}));
    match problems.first() {
        Some(problem) => Err(problem.clone()),
        None => Ok(split.unwrap().arms.iter().map(|arm| arm.weight).collect()),
    }
}

#[test]
fn weights_of_every_version_keep_their_proportion() {
    for (list, expected) in [
        (&[json!(90), json!(10)][..], &[9, 1][..]),
        (&[json!("1"), json!("500m")], &[2, 1]),
        (&[json!("900m"), json!("100m")], &[9, 1]),
        (&[json!(1), json!("500m")], &[2, 1]),
        (&[json!("1k"), json!(500)], &[2, 1]),
        (&[json!(1.0), json!(0)], &[1, 0]),
        (&[json!(0), json!(0)], &[0, 0]),
        (&[json!("10"), json!("0")], &[1, 0]),
        (&[json!(4_294_967_296_u64), json!(4_294_967_296_u64)], &[1, 1]),
    ] {
        assert_eq!(weights(list).unwrap(), expected, "{list:?}");
    }
}

#[test]
fn a_weight_that_is_none_names_its_field_and_a_mend() {
    for wrong in [
        json!(-1),
        json!(0.5),
        json!("half"),
        json!(null),
        json!([1]),
        json!("-5"),
        json!("0.1m"),
        json!(1e300),
        json!("NaN"),
        json!(true),
    ] {
        let problem = weights(&[json!(1), wrong.clone()]).expect_err(&wrong.to_string());
        assert!(problem.starts_with("spec.backends[1].weight: ") && problem.contains("500m"), "{wrong}: {problem}");
    }
}

#[test]
fn services_are_of_the_objects_own_namespace() {
    let of = |service: &str, backend: &str| {
        let (split, problems) = read(json!({"service": service, "backends": [{"service": backend, "weight": 1}]}));
        problems.first().cloned().map_or_else(|| Ok(split.unwrap()), Err)
    };
    for name in ["web", "web.a", "web.a.svc", "web.a.svc.cluster.local", "web.a.svc.cluster.local."] {
        assert_eq!(of(name, "v1").unwrap().root, "web", "{name}");
    }
    assert!(
        of("web.b", "v1").unwrap_err().starts_with("spec.service: a TrafficSplit is for Services of its own namespace")
    );
    assert!(of("web", "v1.b").unwrap_err().starts_with("spec.backends[0].service: "));
    assert!(of("", "v1").unwrap_err().starts_with("spec.service: \"\" is no name"));
    assert_eq!(of("web", "web").unwrap().arms[0].service, "web", "its own endpoints");
}

#[test]
fn what_cannot_be_meant_is_said() {
    let backends = json!([{"service": "v1", "weight": 1}]);
    for (spec, said) in [
        (json!({"service": "web", "backends": []}), "spec.backends: expected 1 to 256 backends, found 0"),
        (
            json!({"service": "web", "backends": [{"service": "v1", "weight": 1}, {"service": "v1.a", "weight": 1}]}),
            "named twice",
        ),
        (
            json!({"service": "web", "backends": backends, "matches": [{"kind": "TCPRoute", "name": "x"}]}),
            "spec.matches[0].kind: ",
        ),
        (
            json!({"service": "web", "backends": backends, "matches": [{"kind": "HTTPRouteGroup", "name": "X"}]}),
            "spec.matches[0].name: ",
        ),
    ] {
        let (_, problems) = read(spec);
        assert!(problems.iter().any(|problem| problem.contains(said)), "{said}: {problems:?}");
    }
    let (split, _) = read(json!({"service": "web", "backends": backends, "matches": [
        {"kind": "HTTPRouteGroup", "name": "x", "apiGroup": "specs.smi-spec.io"}, {"kind": "HTTPRouteGroup", "name": "x"}]}));
    assert_eq!(split.unwrap().groups, ["x"]);
}

fn group(value: serde_json::Value) -> Result<Vec<RequestMatch>, Vec<String>> {
    let matches = matches(&serde_json::from_value(value).expect("of this kind"));
    matches.map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn a_group_matches_what_each_version_writes() {
    let list = json!([{"name": "m", "pathRegex": "^/metrics", "methods": ["GET", "HEAD"], "headers": [{"x-a": "1.*"}, {"Host": "b"}]}]);
    let new = group(json!({"spec": {"matches": list}})).unwrap();
    assert_eq!(group(json!({"matches": list})).unwrap(), new, "before v1alpha3 there was no spec");
    assert_eq!(new.len(), 2);
    assert_eq!(new[0].path, Some(PathMatch::Regex("(?:/metrics).*".to_owned())));
    assert_eq!(new[1].method.as_deref(), Some("HEAD"));
    assert_eq!(new[0].headers[":authority"], ValueMatch::Regex("b".to_owned()));
    let map =
        group(json!({"spec": {"matches": [{"name": "m", "headers": {"x-a": "1", "x-b": "2"}, "methods": ["*"]}]}}))
            .unwrap();
    assert_eq!((map.len(), map[0].headers.len(), &map[0].method), (1, 2, &None));
}

#[test]
fn a_group_that_cannot_be_carried_out_says_why() {
    for (one, said) in [
        (json!({"pathRegex": "/a(?=b)"}), "spec.matches[0].pathRegex: "),
        (json!({"methods": ["get"]}), "spec.matches[0].methods[0]: \"get\" is no method"),
        (json!({"headers": {"a b": "1"}}), "spec.matches[0].headers[a b]: "),
        (json!({"headers": [{"x": "1"}, {"X": "2"}]}), "is matched twice"),
    ] {
        let problems = group(json!({"spec": {"matches": [one]}})).unwrap_err();
        assert!(problems.iter().any(|problem| problem.contains(said)), "{said}: {problems:?}");
    }
    assert!(group(json!({"spec": {}})).unwrap_err()[0].starts_with("spec.matches: the group matches nothing"));
}
