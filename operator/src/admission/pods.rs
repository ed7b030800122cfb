//! A pod that is made, to the answer of the webhook: the patch with the sidecar. Pure.
//!
//! A pod is never kept from being made: without its sidecar its limits are not enforced, without the pod nobody is served. Why it
//! has none stands in an annotation of it, where `kubectl describe` shows it, since whoever made the pod is a controller that shows
//! nobody its warnings.

use kube::core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionResponse, Operation},
};
use limiter::problem::{Problem, Reason};
use serde_json::Value;

use super::Sidecars;
use crate::inject::{self, Asked, Outcome};

/// What kubelet shows of pods that are files of its node; nobody may change it.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The answer, its word for the metrics page, and why there is no sidecar.
pub(super) fn answer(
    request: &AdmissionRequest<DynamicObject>,
    asked: Asked,
    drain_key: &str,
    sidecars: &Sidecars,
    watched: &[String],
) -> (AdmissionResponse, &'static str, String) {
    let response = AdmissionResponse::from(request);
    let is_pod = request.kind.group.is_empty() && request.kind.kind == "Pod" && request.sub_resource.is_none();
    let object = request.object.as_ref().filter(|_| is_pod && request.operation == Operation::Create);
    let Some(pod) = object.and_then(|object| serde_json::to_value(object).ok()) else {
        return (response, "unasked", String::new());
    };
    if pod["metadata"]["annotations"][MIRROR].is_string() {
        return (response, "unasked", String::new());
    }
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let outcome = match inject::inject(&pod, asked, drain_key, &sidecars.settings) {
        Outcome::Injected(..) if !watched.is_empty() && !watched.iter().any(|it| it == namespace) => {
            let message = format!("Weir does not watch the namespace {namespace}");
            Outcome::Refused(vec![lost(message, "list it in the value `namespaces` of the chart")])
        }
        Outcome::Injected(..)
            if !sidecars.trusting.is_empty() && !sidecars.trusting.iter().any(|it| it == namespace) =>
        {
            let message = format!("in the namespace {namespace} no ConfigMap says whom proxies are to trust");
            Outcome::Refused(vec![lost(message, "list it in the value `proxyNamespaces` of the chart")])
        }
        outcome => outcome,
    };
    match outcome {
        Outcome::Unasked => (response, "unasked", String::new()),
        Outcome::Already => (response, "already", String::new()),
        Outcome::Injected(changed, warnings) => {
            (patched(response, &pod, &changed, warnings), "injected", String::new())
        }
        Outcome::Refused(problems) => {
            let warnings = problems.iter().map(|problem| format!("no sidecar: {problem}")).collect();
            let changed = inject::refused(&pod, &problems);
            let why: Vec<_> = problems.iter().map(ToString::to_string).collect();
            (patched(response, &pod, &changed, warnings), "refused", why.join("; "))
        }
    }
}

/// The name of a pod, or how it begins: most get theirs after they have been asked about.
pub(super) fn name(request: &AdmissionRequest<DynamicObject>) -> String {
    let begins =
        || request.object.as_ref().and_then(|object| object.metadata.generate_name.clone()).unwrap_or_default();
    if request.name.is_empty() { begins() } else { request.name.clone() }
}

fn patched(response: AdmissionResponse, before: &Value, after: &Value, warnings: Vec<String>) -> AdmissionResponse {
    let mut response = match response.clone().with_patch(json_patch::diff(before, after)) {
        Ok(patched) => patched,
        // A patch is plain data.
        Err(_) => response,
    };
    response.warnings = (!warnings.is_empty()).then_some(warnings);
    response
}

fn lost(message: String, help: &str) -> Problem {
    Problem {
        field: "metadata.namespace".to_owned(),
        reason: Reason::Invalid,
        message,
        help: Some(help.to_owned()),
        place: None,
    }
}

#[cfg(test)]
mod tests;
