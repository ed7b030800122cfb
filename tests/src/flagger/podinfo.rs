//! What Flagger takes through a canary, a Deployment `podinfo`, and a page that calls it through Weir.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};

use crate::{
    app::App,
    cluster::{Cluster, stand_ins::Apps},
    http,
    mesh::Service,
    ports::Network,
    prometheus::{Prometheus, Target},
    proxy::Proxy,
    weir::Weir,
};

/// Where the pods answer.
pub const PORT: u16 = 9898;
/// The name of the metric that [`Podinfo::measure`] makes.
pub const METRIC: &str = "answered-well";

/// A namespace for a Deployment `podinfo`, whose pods applications stand for.
#[derive(Debug)]
pub struct Podinfo<'a> {
    /// Where it is.
    pub cluster: &'a Cluster,
    /// Its namespace.
    pub namespace: String,
    /// Its pods.
    pub apps: Apps,
}

impl<'a> Podinfo<'a> {
    /// A namespace without the Deployment yet. `prepare` tells the applications how to answer, as [`Apps::start`] has it.
    pub async fn start(cluster: &'a Cluster, prepare: impl Fn(&str, &App) + Send + Sync + 'static) -> Self {
        let namespace = cluster.namespace("flagger").await;
        let apps = Apps::start(cluster, &namespace, (Network::routable(), PORT), prepare).await;
        Self { cluster, namespace, apps }
    }

    /// Applies an object in its namespace.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub async fn apply(&self, object: &Value) {
        let arguments = ["apply", "--validate=strict", "--filename=-", "--namespace", &self.namespace];
        self.cluster.kubectl_with(&arguments, &object.to_string()).await.expect("the object is accepted");
    }

    /// An object of its namespace.
    ///
    /// # Panics
    ///
    /// When it is not there.
    pub async fn get(&self, what: &str, name: &str) -> Value {
        let arguments = ["get", what, name, "--namespace", &self.namespace, "--output=json"];
        let text = self.cluster.kubectl(&arguments).await.expect("it is there");
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// Makes this image the Deployment's. Without a number of replicas: Flagger sets that.
    pub async fn deploy(&self, image: &str) {
        let labels = json!({"app": "podinfo"});
        let container = json!({"name": "app", "image": image, "ports": [{"containerPort": PORT}]});
        self.apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "podinfo"},
            "spec": {"selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
            }},
        }))
        .await;
    }

    /// Has Flagger take the Deployment through canaries with this `analysis`, by a Service with these fields beside its ports.
    pub async fn canary(&self, mut service: Value, analysis: &Value) {
        service["port"] = json!(80);
        service["targetPort"] = json!(PORT);
        self.apply(&json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": "podinfo"},
            "spec": {
                "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "podinfo"},
                "service": service, "analysis": analysis,
            },
        }))
        .await;
    }

    /// Makes a metric of [`answered_well`], and gives the entry of an analysis that wants at least 99 % of the last `window`.
    pub async fn measure(&self, prometheus: &Prometheus, window: &str) -> Value {
        let query = answered_well("{{ namespace }}", "{{ service }}-canary", "{{ interval }}");
        self.apply(&json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate", "metadata": {"name": METRIC},
            "spec": {"provider": {"type": "prometheus", "address": prometheus.url()}, "query": query},
        }))
        .await;
        json!({
            "name": METRIC, "templateRef": {"name": METRIC}, "interval": window, "thresholdRange": {"min": 99},
        })
    }
}

/// How many percent of the requests for port 80 of a backend of a split were answered well in the last `window`, as the Envoys of its
/// callers have counted.
///
/// There is no counter of bad answers until there is one; a counter that just came has counted since it was 0.
#[must_use]
pub fn answered_well(namespace: &str, service: &str, window: &str) -> String {
    let cluster = format!("envoy_cluster_name=\"arm_{namespace}_{service}_80\"");
    let bad = format!("envoy_cluster_upstream_rq_xx{{{cluster}, envoy_response_code_class=\"5\"}}");
    let all = format!("envoy_cluster_upstream_rq_completed{{{cluster}}}");
    format!("100 - 100 * (sum(increase({bad}[{window}])) or sum({bad}) or vector(0)) / sum(increase({all}[{window}]))")
}

/// A page whose calls of `podinfo` go through an Envoy that Weir configures.
pub struct Page {
    service: Service,
    proxy: Proxy,
    _weir: Weir,
}

impl Page {
    /// Starts it in a namespace, with a Weir for that.
    ///
    /// # Panics
    ///
    /// When a part of it does not start.
    pub async fn start(cluster: &Cluster, namespace: &str) -> Self {
        let service = Service::start_in(Network::routable(), namespace, "page", 1).await;
        cluster.put(&service).await;
        let listen = format!("outbound.weir.dev/listen={}", service.outbound(0));
        let annotate = ["annotate", "pod", &service.pods[0].name, &listen, "--namespace", namespace];
        cluster.kubectl(&annotate).await.expect("a pod can be annotated");
        let weir = Weir::watch(cluster.kubeconfig(), &["--namespace", namespace]).await;
        let proxy = Proxy::start(&weir, &service, 0).await;
        Self { service, proxy, _weir: weir }
    }

    /// Where its Envoy takes its calls.
    #[must_use]
    pub fn outbound(&self) -> SocketAddr {
        self.service.outbound(0)
    }

    /// Calls `podinfo`: the status of the answer, 0 without one.
    pub async fn call(&self) -> u16 {
        let request = ::http::Request::get(format!("http://{}/", self.outbound())).header("host", "podinfo");
        let request = request.body(Vec::new().into()).expect("it is a request");
        http::send(request).await.map_or(0, |answer| answer.status().as_u16())
    }

    /// Starts a Prometheus that reads what its Envoy counts, so often.
    pub async fn prometheus(&self, interval: Duration) -> Prometheus {
        let labels = vec![("__metrics_path__", "/stats/prometheus".to_owned())];
        Prometheus::start(&[Target { address: self.proxy.admin_address(), labels }], interval).await
    }
}
