//! Splits on a real API server: SMI's objects in whichever version, what is in force of them, and the status of a SmartSplit.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value;
use testkit::{app::App, cluster::Cluster, eventually, http, mesh::Service, ports::Network, proxy::Proxy, weir::Weir};

const SOON: Duration = Duration::from_secs(60);

struct Place {
    cluster: &'static Cluster,
    namespace: String,
    page: Service,
    apps: Vec<App>,
}

impl Place {
    /// A page that calls `web`, and two versions of that.
    async fn new() -> Self {
        let cluster = Cluster::shared().await;
        cluster.install_crds().await;
        let namespace = cluster.namespace("split").await;
        let network = Network::routable();
        let mut apps = Vec::new();
        for host in [200, 201, 202] {
            apps.push(App::start((network.address(host), 0).into()).await);
        }
        let page = Service::start_in(network, &namespace, "page", 1).await;
        cluster.put(&page).await;
        let place = Self { cluster, namespace, page, apps };
        let listen = format!("outbound.weir.dev/listen={}", place.page.outbound(0));
        place.kubectl(&["annotate", "pod", &place.page.pods[0].name, &listen]).await;
        for (name, app) in ["web", "v1", "v2"].iter().zip(&place.apps) {
            place.apply(&service(name, app.address)).await;
        }
        place
    }

    async fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(&[arguments, &["--namespace", &self.namespace]].concat()).await.unwrap()
    }

    async fn apply(&self, text: &str) {
        let arguments = ["apply", "-f", "-", "--namespace", &self.namespace];
        self.cluster.kubectl_with(&arguments, text).await.unwrap();
    }

    async fn call(&self) -> u16 {
        let request = ::http::Request::get(format!("http://{}/", self.page.outbound(0))).header("host", "web");
        http::send(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap().status().as_u16()
    }

    /// The status of an object, once `look` finds something in it.
    async fn status<T>(&self, kind: &str, name: &str, what: &str, look: impl Fn(&Value) -> Option<T>) -> T {
        eventually(SOON, what, async || {
            let all = ["get", kind, name, "--ignore-not-found", "--output=json"];
            let text = self.kubectl(&all).await;
            let object: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
            look(&object["status"]).ok_or(text)
        })
        .await
    }
}

fn service(name: &str, at: SocketAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: {}}}]\nendpoints: [{{addresses: [{}]}}]\n",
        at.port(),
        at.ip()
    )
}

fn condition<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == name)
}

fn holds(status: &Value, name: &str, reason: &str) -> Option<()> {
    (condition(status, name)?["reason"] == reason).then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_force_of_a_traffic_split_stands_in_a_report_which_goes_with_it() {
    let place = Place::new().await;
    // Written while nothing of Weir runs, in its oldest version; read in the newest.
    place
        .apply(
            "apiVersion: split.smi-spec.io/v1alpha1\nkind: TrafficSplit\nmetadata: {name: web}\n\
             spec: {service: web, backends: [{service: v1, weight: \"3\"}, {service: v2, weight: 1000m}]}\n",
        )
        .await;
    let newest = place
        .kubectl(&["get", "trafficsplits.v1alpha4.split.smi-spec.io", "web", "--output=jsonpath={.spec.service}"])
        .await;
    assert_eq!(newest, "web");
    let weir = Weir::watch(place.cluster.kubeconfig(), &["--namespace", &place.namespace]).await;
    let _proxy = Proxy::start(&weir, &place.page, 0).await;
    let shares = place
        .status("splitreports", "web", "the report", |status| {
            holds(status, "Programmed", "Programmed")?;
            status["shares"].as_str().map(str::to_owned)
        })
        .await;
    assert_eq!(shares, "75 / 25");
    assert_eq!(place.call().await, 200);
    // A second one for the same requests is told that it is the younger, or of one second the later by its name.
    place
        .apply(
            "apiVersion: split.smi-spec.io/v1alpha3\nkind: TrafficSplit\nmetadata: {name: xyz}\n\
             spec: {service: web, backends: [{service: v2, weight: 1}]}\n",
        )
        .await;
    place.status("splitreports", "xyz", "the younger", |status| holds(status, "Accepted", "Conflicted")).await;
    // Weights that another controller writes hold at once.
    let patch = r#"[{"op": "replace", "path": "/spec/backends/0/weight", "value": 1}]"#;
    place.kubectl(&["patch", "trafficsplits.v1alpha2.split.smi-spec.io", "web", "--type=json", "--patch", patch]).await;
    let shares = |wanted: &'static str| move |status: &Value| (status["shares"] == wanted).then_some(());
    place.status("splitreports", "web", "new weights", shares("50 / 50")).await;
    // Reports are garbage with what they are about.
    place.kubectl(&["delete", "trafficsplit", "xyz"]).await;
    eventually(SOON, "the report is gone", async || {
        let left = place.kubectl(&["get", "splitreports", "--output=name"]).await;
        if left.contains("xyz") { Err(left) } else { Ok(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smart_split_says_in_its_status_whom_it_judges_and_why() {
    let place = Place::new().await;
    place
        .apply(
            "apiVersion: weir.dev/v1alpha1\nkind: SmartSplit\nmetadata: {name: web}\nspec:\n\
             \x20 targetRefs: [{kind: Service, name: web}]\n  backendRefs: [{name: v1}, {name: v2}, {name: gone}]\n\
             \x20 steer: prefer lower errors, at most 20% per step, every 1s, judge after 20 requests\n",
        )
        .await;
    let weir = Weir::watch(place.cluster.kubeconfig(), &["--namespace", &place.namespace]).await;
    let _proxy = Proxy::start(&weir, &place.page, 0).await;
    let message = place
        .status("smartsplits", "web", "who is missing", |status| {
            holds(status, "Degraded", "BackendNotFound")?;
            condition(status, "Degraded")?["message"].as_str().map(str::to_owned)
        })
        .await;
    assert!(message.contains("gone with the port 80"), "{message}");
    place.apps[2].fails_every(2);
    let arm = eventually(SOON, "v2 is judged", async || {
        for _ in 0..40 {
            place.call().await;
        }
        let text = place.kubectl(&["get", "wss", "web", "--output=json"]).await;
        let object: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let arm = object["status"]["arms"][1].clone();
        if arm["verdict"] == "WorseThanPeer" && arm["percent"] == 3.0 { Ok(arm) } else { Err(text) }
    })
    .await;
    assert!(arm["message"].as_str().unwrap().contains("more than v1"), "{arm}");
    let columns = place.kubectl(&["get", "wss", "web", "--no-headers"]).await;
    assert!(columns.contains("97 / 3 / 0") && columns.contains("Steered"), "{columns}");
}
