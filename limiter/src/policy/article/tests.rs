use std::time::Duration;

use serde_json::json;

use super::*;
use crate::problem::Reason;

fn read(spec: serde_json::Value) -> (Option<Policy>, Vec<Problem>) {
    let object = json!({
        "apiVersion": "microservice.netease.com/v1alpha1",
        "kind": "SmartLimiter",
        "metadata": {"name": "a", "namespace": "default"},
        "spec": spec,
    });
    policy(&serde_json::from_value(object).unwrap())
}

fn descriptor(quota: &str, condition: &str) -> serde_json::Value {
    json!({"descriptors": [{"action": {"fill_interval": {"seconds": 1}, "quota": quota}, "condition": condition}]})
}

#[test]
fn reads_the_articles_own_example() {
    let (policy, problems) = read(descriptor("30/{pod}", "{cpu}>0.8"));
    assert_eq!(problems, []);
    let policy = policy.unwrap();
    assert_eq!(policy.key.to_string(), "smartlimiters.microservice.netease.com/default/a");
    assert_eq!(policy.targets, Targets::Services(vec!["a".to_owned()]));
    let [rule] = &policy.rules[..] else { panic!("{:?}", policy.rules) };
    assert_eq!(rule.name, "descriptor-0");
    assert_eq!(rule.when.as_ref().unwrap().condition.to_string(), "cpu > 80%");
    assert_eq!(rule.when.as_ref().unwrap().until.to_string(), "cpu < 72% for 5s");
    let Action::Limit(limit) = &rule.action else { panic!("{:?}", rule.action) };
    assert_eq!(limit.amount, Expression::Number(30.0));
    assert_eq!(limit.scope, Scope::AcrossAllPods);
    assert_eq!(limit.interval, Duration::from_secs(1));
}

#[test]
fn other_quotas_are_what_one_pod_gets() {
    for quota in ["10", "100/2/5", "{pod}*2", "30/{pod}+1", "(30/{pod})"] {
        let (policy, problems) = read(descriptor(quota, "true"));
        assert_eq!(problems, [], "{quota}");
        let Action::Limit(limit) = &policy.unwrap().rules[0].action else { panic!("{quota}") };
        let expected = if quota == "(30/{pod})" { Scope::AcrossAllPods } else { Scope::PerPod };
        assert_eq!(limit.scope, expected, "{quota}");
    }
}

#[test]
fn no_condition_is_always() {
    let (policy, problems) =
        read(json!({"descriptors": [{"action": {"fill_interval": {"seconds": 60, "nanos": 5}, "quota": "30"}}]}));
    assert_eq!(problems, []);
    assert_eq!(policy.unwrap().rules[0].when, None);
}

#[test]
fn refuses_what_cannot_be_right() {
    let cases = [
        (json!({"descriptors": []}), "spec.descriptors"),
        (json!({"descriptors": [{"action": {"quota": "30"}}]}), "spec.descriptors[0].action.fill_interval"),
        (
            json!({"descriptors": [{"action": {"fill_interval": {}, "quota": "30"}}]}),
            "spec.descriptors[0].action.fill_interval",
        ),
        (
            json!({"descriptors": [{"action": {"fill_interval": {"seconds": -1}, "quota": "30"}}]}),
            "spec.descriptors[0].action.fill_interval",
        ),
        (
            json!({"descriptors": [{"action": {"fill_interval": {"seconds": i64::MAX, "nanos": i64::MAX}, "quota": "1"}}]}),
            "spec.descriptors[0].action.fill_interval",
        ),
        (descriptor("-15", "true"), "spec.descriptors[0].action.quota"),
        (descriptor("0", "true"), "spec.descriptors[0].action.quota"),
        (descriptor("0/{pod}", "true"), "spec.descriptors[0].action.quota"),
        (descriptor("1/0", "true"), "spec.descriptors[0].action.quota"),
        (descriptor("1e30", "true"), "spec.descriptors[0].action.quota"),
        (descriptor("NaN", "true"), "spec.descriptors[0].action.quota"),
        (descriptor("5s", "true"), "spec.descriptors[0].action.quota"),
        (descriptor("30/{missing}", "true"), "spec.descriptors[0].action.quota"),
        (descriptor("30", "{cpu}>80"), "spec.descriptors[0].condition"),
        (descriptor("30", ""), "spec.descriptors[0].condition"),
    ];
    for (spec, field) in cases {
        let (policy, problems) = read(spec.clone());
        assert_eq!(policy, None, "{spec}");
        assert_eq!(problems.iter().map(|problem| problem.field.as_str()).collect::<Vec<_>>(), [field], "{spec}");
        assert_eq!(problems[0].reason, Reason::Invalid, "{spec}");
    }
}
