use serde_json::json;

use super::*;
use crate::policy::weir;

fn policy(namespace: &str, query: &str) -> Policy {
    let object = json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "SmartLimiter",
        "metadata": {"name": "cart", "namespace": namespace},
        "spec": {
            "targetRefs": [{"kind": "Service", "name": "cart"}],
            "rules": [{"name": "a", "when": "depth > 3", "limit": "3 requests per second per pod"}],
            "metrics": [
                {"name": "own", "type": "Count", "scrape": {"series": "s"}},
                {"name": "depth", "type": "Count", "prometheus": {"query": query}},
            ],
        },
    });
    weir::policy(&serde_json::from_value(object).unwrap()).0.unwrap()
}

fn query(policy: &Policy) -> &str {
    let MetricSource::Prometheus { query, .. } = &policy.metrics["depth"].source else { panic!("{policy:?}") };
    query
}

fn strict(label: Option<&str>) -> Tenants {
    let promql = Namespaces::Of(["trusted".to_owned()].into());
    Tenants { promql, promql_label: label.map(str::to_owned), client_limits: Namespaces::none(), mesh: None }
}

#[test]
fn a_query_is_refused_held_or_left_alone_by_its_namespace() {
    const QUERY: &str = "sum(depth)";
    for (tenants, namespace, expected) in [
        (Tenants::default(), "shop", Ok(QUERY)),
        (strict(None), "trusted", Ok(QUERY)),
        (strict(Some("ns")), "trusted", Ok(QUERY)),
        (strict(Some("ns")), "shop", Ok(r#"sum(depth{ns="shop"})"#)),
        (
            strict(None),
            "shop",
            Err("spec.metrics[1].prometheus: objects of the namespace \"shop\" may not ask Prometheus"),
        ),
    ] {
        let mut policy = policy(namespace, QUERY);
        let problems = tenants.hold(&mut policy);
        match expected {
            Ok(expected) => assert_eq!((problems, query(&policy)), (Vec::new(), expected)),
            Err(words) => {
                assert_eq!((problems.len(), problems[0].reason, query(&policy)), (1, Reason::NotAllowed, QUERY));
                let text = problems[0].to_string();
                assert!(text.contains(words) && text.contains("--allow-promql shop"), "{text}");
            }
        }
    }
}

#[test]
fn a_query_that_cannot_be_held_is_refused_with_its_place() {
    let mut other = policy("shop", r#"depth{ns="till"}"#);
    let problems = strict(Some("ns")).hold(&mut other);
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    assert_eq!((problem.field.as_str(), problem.reason), ("spec.metrics[1].prometheus.query", Reason::NotAllowed));
    assert_eq!(problem.place.as_ref().map(Place::column), Some(7));
    // Told by whoever reads the object.
    assert_eq!(strict(Some("ns")).hold(&mut policy("shop", "sum(")), []);
}

#[test]
fn limits_at_callers_reach_over_when_allowed() {
    let tenants = Tenants { client_limits: Namespaces::Of(["shop".to_owned()].into()), ..Tenants::default() };
    for (of, callers, expected) in [("shop", "till", true), ("till", "shop", false), ("till", "till", true)] {
        assert_eq!(tenants.concerns_callers(of, callers), expected, "{of} {callers}");
    }
    let all = Tenants { client_limits: Namespaces::All, ..Tenants::default() };
    assert!(all.concerns_callers("till", "shop"));
}
