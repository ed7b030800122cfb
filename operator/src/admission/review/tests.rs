use kube::core::admission::AdmissionReview;
use serde_json::json;

use super::*;

const BAD: &str = "cpu > 80 for 10s";

/// A question about an object with this condition; what it was before, for an update.
fn request(operation: &str, when: &str, before: Option<&str>) -> AdmissionRequest<DynamicObject> {
    let object = |when: &str| {
        json!({
            "apiVersion": "weir.dev/v1alpha1", "kind": "SmartLimiter",
            "metadata": {"name": "cart", "namespace": "a", "managedFields": [{"manager": "kubectl"}]},
            "spec": {"targetRefs": [{"kind": "Service", "name": "cart"}],
                     "rules": [{"name": "hot", "when": when, "limit": "30 requests per second per pod"}]},
        })
    };
    asked("weir.dev", "SmartLimiter", operation, object(when), before.map(object))
}

fn asked(
    group: &str,
    kind: &str,
    operation: &str,
    object: Value,
    before: Option<Value>,
) -> AdmissionRequest<DynamicObject> {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "4c1f", "kind": {"group": group, "version": "v1alpha1", "kind": kind},
            "resource": {"group": group, "version": "v1alpha1", "resource": "smartlimiters"},
            "name": object["metadata"]["name"], "namespace": "a", "operation": operation, "userInfo": {},
            "object": object, "oldObject": before,
        },
    });
    let review: AdmissionReview<DynamicObject> = serde_json::from_value(review).unwrap();
    review.try_into().unwrap()
}

fn answered(request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
    answer(request, &judge(request, &Tenants::default()), Vec::new()).0
}

#[test]
fn a_bad_sentence_is_denied_with_its_spot_and_its_mend() {
    let response = answered(&request("CREATE", BAD, None));
    assert!(!response.allowed);
    assert_eq!((response.uid.as_str(), response.result.code), ("4c1f", 422));
    let said = response.result.message;
    assert!(said.starts_with("SmartLimiter \"cart\" has a mistake\nerror: spec.rules[0].when: "), "{said}");
    assert!(said.contains("column 7") && said.contains("^^") && said.contains("80%"), "{said}");
}

#[test]
fn the_nearest_word_is_told() {
    let said = answered(&request("CREATE", "cpuu > 80%", None)).result.message;
    assert!(said.contains("column 1") && said.contains("`cpu`"), "{said}");
}

#[test]
fn a_good_one_is_admitted_and_its_policy_known() {
    let request = request("CREATE", "cpu > 80%", None);
    assert!(
        matches!(judge(&request, &Tenants::default()), Verdict::Good(Sound::Policy(policy)) if policy.key.name == "cart")
    );
    let (response, result) = answer(&request, &judge(&request, &Tenants::default()), vec!["odd".to_owned()]);
    assert_eq!((response.allowed, response.warnings, result), (true, Some(vec!["odd".to_owned()]), "warned"));
    assert_eq!(answer(&request, &judge(&request, &Tenants::default()), Vec::new()).1, "allowed");
}

#[test]
fn a_bad_one_may_change_but_not_its_spec() {
    let still = answered(&request("UPDATE", BAD, Some(BAD)));
    assert!(still.allowed, "metadata alone");
    let warnings = still.warnings.unwrap();
    assert!(warnings[0].starts_with("still refused: spec.rules[0].when: column 7: "), "{warnings:?}");
    let mut going = request("UPDATE", BAD, Some(BAD));
    going.object.as_mut().unwrap().metadata.deletion_timestamp =
        serde_json::from_value("2026-03-01T12:00:00Z".into()).ok();
    let going = answered(&going);
    assert!(going.allowed && going.warnings.is_none(), "nothing to say of what is being deleted: {going:?}");
    assert!(!answered(&request("UPDATE", BAD, Some("cpu > 70 for 10s"))).allowed, "still bad");
    assert!(!answered(&request("UPDATE", BAD, Some("cpu > 80%"))).allowed, "worse than before");
    assert!(answered(&request("UPDATE", "cpu > 80%", Some(BAD))).allowed, "mended");
    assert!(answered(&request("DELETE", BAD, Some(BAD))).allowed);
}

#[test]
fn the_kind_of_the_article_is_judged_as_well() {
    let object = |condition: &str| {
        json!({
            "apiVersion": "microservice.netease.com/v1alpha1", "kind": "SmartLimiter",
            "metadata": {"name": "a", "namespace": "a"},
            "spec": {"descriptors": [{"condition": condition,
                     "action": {"fill_interval": {"seconds": 1}, "quota": "30/{pod}"}}]},
        })
    };
    let ask = |condition| asked("microservice.netease.com", "SmartLimiter", "CREATE", object(condition), None);
    assert!(answered(&ask("{cpu}>0.8")).allowed);
    assert!(!answered(&ask("{cpuu}>0.8")).allowed);
}

#[test]
fn what_is_of_another_kind_is_admitted_with_a_warning() {
    let object = json!({"apiVersion": "shop/v1alpha1", "kind": "Cart", "metadata": {"name": "a"}});
    let response = answered(&asked("shop", "Cart", "CREATE", object, None));
    assert!(response.allowed);
    assert_eq!(response.warnings.unwrap(), ["Weir does not judge shop/v1alpha1 Cart: take it out of its webhook"]);
}

#[test]
fn a_field_of_a_wrong_type_is_no_crash() {
    let object = json!({"apiVersion": "weir.dev/v1alpha1", "kind": "SmartLimiter",
                        "metadata": {"name": "cart", "namespace": "a"}, "spec": {"rules": 7}});
    let response = answered(&asked("weir.dev", "SmartLimiter", "CREATE", object, None));
    assert!(response.result.message.contains("spec.rules"), "{:?}", response.result);
}

#[test]
fn a_lazy_config_is_judged_as_a_limiter_is() {
    let request = |spec: Value| {
        let object = json!({
            "apiVersion": "weir.dev/v1alpha1", "kind": "LazyConfig", "metadata": {"name": "cart", "namespace": "a"}, "spec": spec,
        });
        asked("weir.dev", "LazyConfig", "CREATE", object, None)
    };
    let said = answered(&request(json!({"always": ["cart", "https://api.stripe.example"]}))).result.message;
    assert!(said.starts_with("LazyConfig \"cart\" has a mistake\nerror: spec.always[1]: "), "{said}");
    assert!(said.contains("drop `https://`"), "{said}");
    let said = answered(&request(json!({"load": "OnDemnd"}))).result.message;
    assert!(said.contains("did you mean `OnDemand`?"), "{said}");
    let good = request(json!({"always": ["cart"]}));
    let verdict = judge(&good, &Tenants::default());
    assert!(matches!(&verdict, Verdict::Good(Sound::Lazy(lazy)) if lazy.key.name == "cart"), "{verdict:?}");
    assert_eq!(answer(&good, &verdict, Vec::new()).1, "allowed");
}

#[test]
fn a_smart_split_is_judged_as_a_limiter_is() {
    let request = |steer: &str| {
        let object = json!({
            "apiVersion": "weir.dev/v1alpha1", "kind": "SmartSplit", "metadata": {"name": "cart", "namespace": "a"},
            "spec": {"targetRefs": [{"kind": "Service", "name": "cart"}], "backendRefs": [{"name": "v1"}, {"name": "v2"}], "steer": steer},
        });
        asked("weir.dev", "SmartSplit", "CREATE", object, None)
    };
    let said = answered(&request("ramp up v3")).result.message;
    assert!(said.starts_with("SmartSplit \"cart\" has a mistake\nerror: spec.steer: "), "{said}");
    assert_eq!(
        answer(&request("ramp up v2"), &judge(&request("ramp up v2"), &Tenants::default()), Vec::new()).1,
        "allowed"
    );
}
