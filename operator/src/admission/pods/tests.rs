use kube::core::admission::AdmissionReview;
use serde_json::json;

use super::*;
use crate::inject::tests::settings;

fn request(pod: Value) -> AdmissionRequest<DynamicObject> {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "4c1f", "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "name": "", "namespace": "shop", "operation": "CREATE", "userInfo": {}, "object": pod,
        },
    });
    serde_json::from_value::<AdmissionReview<DynamicObject>>(review).unwrap().try_into().unwrap()
}

fn pod(spec: Value) -> Value {
    let labels = json!({"weir.dev/inject": "true"});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "cart-", "labels": labels}, "spec": spec})
}

fn asked(pod: &Value, trusting: &[&str], watched: &[&str]) -> (AdmissionResponse, &'static str, String) {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let sidecars = Sidecars { settings: settings(&[]), trusting: owned(trusting) };
    answer(&request(pod.clone()), Asked::ByPod, "key", &sidecars, &owned(watched))
}

fn after(pod: &Value, response: &AdmissionResponse) -> Value {
    let mut pod = pod.clone();
    let patch: json_patch::Patch = serde_json::from_slice(response.patch.as_deref().unwrap()).unwrap();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

#[test]
fn the_patch_makes_what_injection_makes() {
    let pod = pod(json!({"containers": [{"name": "app", "image": "app"}]}));
    let (response, result, _) = asked(&pod, &["shop"], &[]);
    assert!(response.allowed && result == "injected", "{result}");
    let after = after(&pod, &response);
    assert_eq!(inject::inject(&pod, Asked::ByPod, "key", &settings(&[])), Outcome::Injected(after, Vec::new()));
    assert_eq!(name(&request(pod)), "cart-");
}

#[test]
fn a_pod_is_never_kept_from_being_made_and_says_why_it_has_none() {
    let good = pod(json!({"containers": [{"name": "app", "image": "app"}]}));
    let host = pod(json!({"hostNetwork": true, "containers": []}));
    for (pod, trusting, watched, words) in [
        (&host, &["shop"][..], &[][..], "spec.hostNetwork: the pod has the network of its node"),
        (
            &good,
            &["other"],
            &[],
            "metadata.namespace: in the namespace shop no ConfigMap says whom proxies are to trust",
        ),
        (&good, &["shop"], &["other"], "metadata.namespace: Weir does not watch the namespace shop"),
    ] {
        let (response, result, why) = asked(pod, trusting, watched);
        assert!(response.allowed && result == "refused" && why.contains(words), "{why}");
        let after = after(pod, &response);
        assert!(after["metadata"]["annotations"][inject::REFUSED].as_str().unwrap().contains(words), "{after}");
        assert_eq!(after["spec"], pod["spec"]);
        assert!(response.warnings.unwrap()[0].starts_with("no sidecar: "));
    }
}

#[test]
fn what_is_no_new_pod_passes() {
    let mut mirror = pod(json!({"containers": []}));
    mirror["metadata"]["annotations"] = json!({MIRROR: "hash"});
    let mut other = pod(json!({"containers": []}));
    other["metadata"]["labels"] = json!({});
    for pod in [&mirror, &other] {
        let (response, result, _) = asked(pod, &["shop"], &[]);
        assert!(response.allowed && response.patch.is_none() && result == "unasked", "{result}");
    }
}
