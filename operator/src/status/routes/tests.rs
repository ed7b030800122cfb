use serde_json::json;

use super::*;
use crate::{index::Change, watch::decode};

const SERVICE: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec: {ports: [{port: 80}]}\n";

fn apply(index: &mut Index, text: &str) -> ObjectKey {
    let decoded = decode::decode(text.as_bytes()).expect("readable").objects.remove(0);
    let key = decoded.key.clone();
    index.apply(Change::Apply { key: decoded.key, origin: "a.yaml".to_owned(), object: decoded.object });
    key
}

fn route(kind: &str, parents: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}
metadata: {{name: cart, namespace: shop, generation: 3}}\nspec: {{parentRefs: [{parents}], rules: [{rules}]}}\n"
    )
}

/// Status and reason of all conditions.
fn said(status: &RouteStatus) -> Vec<String> {
    status.conditions.iter().map(|it| format!("{}={} {}", it.type_, it.status, it.reason)).collect()
}

const PARENT: &str = "{group: '', kind: Service, name: cart}";

#[test]
fn each_service_that_is_a_parent_has_two_conditions() {
    let mut index = Index::default();
    let now = Timestamp::UNIX_EPOCH;
    let parents =
        format!("{{name: edge}}, {PARENT}, {{group: '', kind: Service, name: cart, namespace: till, port: 81}}");
    let key = apply(&mut index, &route("HTTPRoute", &parents, "{backendRefs: [{name: cart, port: 80}]}"));
    let status = route_status(&key, &index, now);
    let absent = ["Accepted=False NoMatchingParent", "ResolvedRefs=False BackendNotFound"];
    assert_eq!(said(&status), [absent, absent].concat());
    apply(&mut index, SERVICE);
    let status = route_status(&key, &index, now);
    let whole = ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"];
    assert_eq!(said(&status)[..2], whole);
    let written = serde_json::to_value(&status).unwrap();
    let parents = written["parents"].as_array().unwrap();
    assert_eq!(parents[0]["parentRef"], json!({"group": "", "kind": "Service", "name": "cart"}));
    let other = json!({"group": "", "kind": "Service", "name": "cart", "namespace": "till", "port": 81});
    assert_eq!(parents[1]["parentRef"], other);
    assert_eq!(
        (&parents[0]["controllerName"], &parents[0]["conditions"][0]["observedGeneration"]),
        (&json!(CONTROLLER), &json!(3))
    );
    // Read again it is the same, whatever others say.
    let mut standing = written.clone();
    standing["parents"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({"controllerName": "other", "parentRef": {"name": "edge"}}));
    assert_eq!(RouteStatus::read(&standing), Some(status));
    assert_eq!(RouteStatus::read(&Value::Null), Some(RouteStatus::default()));
    assert_eq!(RouteStatus::read(&json!({"parents": [{"controllerName": CONTROLLER}]})), None);
    // Of the same kind on the same port there is one.
    apply(&mut index, &route("GRPCRoute", PARENT, ""));
    assert_eq!(said(&route_status(&key, &index, now))[0], "Accepted=False Conflicted");
}

#[test]
fn a_route_that_is_not_taken_hears_it_at_every_service_that_it_names() {
    let mut index = Index::default();
    let key = apply(&mut index, &route("HTTPRoute", PARENT, "{timeouts: {request: 1s}}"));
    let now = Timestamp::UNIX_EPOCH;
    let mut status = route_status(&key, &index, now);
    let parents = json!([{"name": "edge"}, {"group": "", "kind": "Service", "name": "cart", "sectionName": "a"}]);
    status.complete(&LiveObject { generation: 4, parents, ..LiveObject::default() }, now);
    assert_eq!(said(&status), ["Accepted=False UnsupportedValue", "ResolvedRefs=Unknown Pending"]);
    assert!(status.conditions[0].message.starts_with("spec.rules[0].timeouts"), "{:?}", status.conditions);
    let written = serde_json::to_value(&status).unwrap();
    assert_eq!(written["parents"][0]["parentRef"]["sectionName"], "a");
    assert_eq!(index.route_keys().collect::<Vec<_>>(), [&key]);
    apply(&mut index, &route("HTTPRoute", "{name: edge}", ""));
    assert_eq!(route_status(&key, &index, now), RouteStatus::default(), "nothing of ours");
    assert_eq!(index.route_keys().count(), 1);
}
