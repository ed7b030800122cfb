//! Routes of Services on a real API server: what Weir says in their status, beside what other controllers say there.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{cluster::Cluster, eventually, weir::Weir};

const SOON: Duration = Duration::from_secs(60);
const OURS: &str = "weir.dev/controller";

struct Place {
    cluster: &'static Cluster,
    namespace: String,
}

impl Place {
    async fn new() -> Self {
        let cluster = Cluster::shared().await;
        cluster.install_crds().await;
        cluster.install_manifests("gateway-api").await;
        Self { cluster, namespace: cluster.namespace("route").await }
    }

    async fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(&[arguments, &["--namespace", &self.namespace]].concat()).await.unwrap()
    }

    async fn apply(&self, text: &str) {
        let arguments = ["apply", "-f", "-", "--namespace", &self.namespace];
        self.cluster.kubectl_with(&arguments, text).await.unwrap();
    }

    async fn service(&self, name: &str) {
        self.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n"
        ))
        .await;
    }

    async fn route(&self, kind: &str, parents: &str, rule: &str) {
        self.apply(&format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: web}}\n\
             spec: {{parentRefs: [{parents}], rules: [{rule}]}}\n"
        ))
        .await;
    }

    /// The entries in the status of a route, by whose they are, once ours have these reasons.
    async fn reasons(&self, kind: &str, wanted: &[[&str; 2]]) -> (Vec<Value>, Vec<Value>) {
        eventually(SOON, &format!("{kind} {wanted:?}"), async || {
            let text = self.kubectl(&["get", kind, "web", "--output=json"]).await;
            let route: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let entries = route["status"]["parents"].as_array().cloned().unwrap_or_default();
            let (ours, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|it| it["controllerName"] == OURS);
            let said = |entry: &Value| [0, 1].map(|place| entry["conditions"][place]["reason"].clone());
            let generation = |entry: &Value| entry["conditions"][0]["observedGeneration"].clone();
            if ours.iter().map(said).eq(wanted.iter().map(|pair| pair.map(Value::from)))
                && ours.iter().all(|entry| generation(entry) == route["metadata"]["generation"])
            {
                Ok((ours, others))
            } else {
                Err(text)
            }
        })
        .await
    }
}

const WEB: &str = "{group: '', kind: Service, name: web, port: 80}";
const RULE: &str = "{backendRefs: [{name: v1, port: 80, weight: 9}, {name: v2, port: 80, weight: 1}]}";

#[tokio::test(flavor = "multi_thread")]
async fn a_route_of_services_says_what_becomes_of_it_and_keeps_what_others_say() {
    let place = Place::new().await;
    for name in ["web", "v1"] {
        place.service(name).await;
    }
    let gone = "{group: '', kind: Service, name: gone}";
    place.route("HTTPRoute", &format!("{{name: edge}}, {WEB}, {gone}"), RULE).await;
    // Another controller was here first.
    let time = "2026-01-01T00:00:00Z";
    let condition =
        json!({"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": time});
    let theirs =
        json!({"controllerName": "example.com/edge", "parentRef": {"name": "edge"}, "conditions": [condition]});
    let patch = json!({"status": {"parents": [theirs]}}).to_string();
    place.kubectl(&["patch", "httproute", "web", "--subresource=status", "--type=merge", "--patch", &patch]).await;

    let _weir = Weir::watch(place.cluster.kubeconfig(), &["--namespace", &place.namespace]).await;
    let no_backend = [["Accepted", "BackendNotFound"], ["NoMatchingParent", "BackendNotFound"]];
    let (ours, others) = place.reasons("httproute", &no_backend).await;
    assert_eq!(ours[0]["parentRef"], json!({"group": "", "kind": "Service", "name": "web", "port": 80}));
    let message = ours[0]["conditions"][1]["message"].as_str().unwrap();
    assert!(message.starts_with("spec.rules[0].backendRefs[1]: there is no Service"), "{message}");
    let accepted = &ours[0]["conditions"][0]["lastTransitionTime"];
    assert_eq!(others.len(), 1, "{others:?}");
    assert_eq!(others[0]["controllerName"], "example.com/edge");

    // What is there by now is seen, and what has not changed is as old as it was.
    place.service("v2").await;
    let (now, others) =
        place.reasons("httproute", &[["Accepted", "ResolvedRefs"], ["NoMatchingParent", "ResolvedRefs"]]).await;
    assert_eq!((&now[0]["conditions"][0]["lastTransitionTime"], others.len()), (accepted, 1));

    // A GRPCRoute takes the port.
    place.route("GRPCRoute", WEB, RULE).await;
    place.reasons("grpcroute", &[["Accepted", "ResolvedRefs"]]).await;
    place.reasons("httproute", &[["Conflicted", "ResolvedRefs"], ["NoMatchingParent", "ResolvedRefs"]]).await;
    place.kubectl(&["delete", "grpcroute", "web"]).await;
    place.reasons("httproute", &[["Accepted", "ResolvedRefs"], ["NoMatchingParent", "ResolvedRefs"]]).await;

    // What is not carried out is refused as a whole.
    place.route("HTTPRoute", WEB, "{timeouts: {request: 1s}, backendRefs: [{name: v1, port: 80}]}").await;
    let (ours, others) = place.reasons("httproute", &[["UnsupportedValue", "Pending"]]).await;
    assert!(ours[0]["conditions"][0]["message"].as_str().unwrap().contains("timeouts"), "{ours:?}");
    assert_eq!(others.len(), 1);

    // Without a Service as its parent nothing of ours is left.
    place.route("HTTPRoute", "{name: edge}", "{backendRefs: [{name: v1, port: 80}]}").await;
    let (_, others) = place.reasons("httproute", &[]).await;
    assert_eq!(others.len(), 1);
}
