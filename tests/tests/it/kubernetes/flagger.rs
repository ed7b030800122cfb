//! A real Flagger takes Deployments through canaries: by a `TrafficSplit` of SMI and by an `HTTPRoute` of Gateway API.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use testkit::{
    app::App,
    cluster::{Cluster, stand_ins::Apps},
    eventually,
    flagger::Flagger,
    http,
    mesh::Service,
    ports::{self, Network},
    proxy::Proxy,
    weir::Weir,
};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(90);
const PORT: u16 = 9898;

/// A Deployment `podinfo`, and Flagger beside it.
struct Place {
    cluster: &'static Cluster,
    namespace: String,
    apps: Apps,
    /// Flagger asks it before each step.
    gate: App,
    flagger: Flagger<'static>,
}

impl Place {
    async fn new(provider: &str) -> Self {
        let cluster = Cluster::shared().await;
        let namespace = cluster.namespace("flagger").await;
        let apps = Apps::start(cluster, &namespace, (Network::routable(), PORT), |_, _| {}).await;
        let gate = App::start((Network::routable().address(1), 0).into()).await;
        // Nothing here asks it.
        let prometheus = format!("http://{}", ports::free());
        let flagger = Flagger::start(cluster, &namespace, provider, &prometheus).await;
        let place = Self { cluster, namespace, apps, gate, flagger };
        place.deploy("podinfo:1").await;
        place
    }

    async fn apply(&self, object: &Value) {
        let arguments = ["apply", "--validate=strict", "--filename=-", "--namespace", &self.namespace];
        self.cluster.kubectl_with(&arguments, &object.to_string()).await.unwrap();
    }

    async fn get(&self, what: &str, name: &str) -> Value {
        let arguments = ["get", what, name, "--namespace", &self.namespace, "--output=json"];
        serde_json::from_str(&self.cluster.kubectl(&arguments).await.unwrap()).unwrap()
    }

    /// Without a number of replicas: Flagger sets that.
    async fn deploy(&self, image: &str) {
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

    /// Steps of 20 up to 60; two failed checks are too many.
    async fn canary(&self, mut service: Value) {
        service["port"] = json!(80);
        service["targetPort"] = json!(PORT);
        let gate = json!({"name": "gate", "type": "rollout", "url": format!("http://{}/", self.gate.address)});
        let analysis =
            json!({"interval": "60m", "threshold": 2, "stepWeight": 20, "maxWeight": 60, "webhooks": [gate]});
        self.apply(&json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": "podinfo"},
            "spec": {
                "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "podinfo"},
                "service": service, "analysis": analysis,
            },
        }))
        .await;
        self.flagger.step_to("podinfo", "Initialized", SOON).await;
    }

    /// Every weight of the canary that stands in this object from now on, however shortly, out of 100.
    async fn weights(&self, resource: ApiResource, weight: fn(&Value, &str) -> Option<u64>) -> Weights {
        let objects = Api::<DynamicObject>::namespaced_with(self.cluster.client().await, &self.namespace, &resource);
        let seen = Arc::<Mutex<Vec<u64>>>::default();
        let shared = Arc::clone(&seen);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut changes = pin!(watcher(objects, watcher::Config::default()).applied_objects());
            while let Some(change) = changes.next().await {
                let object = change.expect("the API server stays").data;
                let [primary, canary] = ["podinfo-primary", "podinfo-canary"].map(|name| weight(&object, name));
                let (Some(primary), Some(canary)) = (primary, canary) else { panic!("{object}") };
                assert_eq!(primary + canary, 100, "{object}");
                let mut seen = shared.lock();
                if seen.last() != Some(&canary) {
                    seen.push(canary);
                }
            }
        });
        let weights = Weights { seen, _tasks: tasks };
        weights.until(&[0]).await;
        weights
    }

    async fn images(&self, expected: [usize; 2]) {
        eventually(SOON, "pods of both versions are as many as they should", async || {
            let found = ["podinfo:1", "podinfo:2"].map(|image| self.apps.running(image));
            if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
}

/// What a canary has had of 100, in order.
struct Weights {
    seen: Arc<Mutex<Vec<u64>>>,
    _tasks: JoinSet<()>,
}

impl Weights {
    async fn until(&self, expected: &[u64]) {
        eventually(SOON, "the canary had its weights", async || {
            let seen = self.seen.lock().clone();
            if seen == expected { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    }
}

/// What a `TrafficSplit` gives a Service.
fn of_split(object: &Value, service: &str) -> Option<u64> {
    object["spec"]["backends"].as_array()?.iter().find(|backend| backend["service"] == service)?["weight"].as_u64()
}

/// What an `HTTPRoute` gives a Service in its only rule.
fn of_route(object: &Value, service: &str) -> Option<u64> {
    let backends = object["spec"]["rules"][0]["backendRefs"].as_array()?;
    backends.iter().find(|backend| backend["name"] == service)?["weight"].as_u64()
}

fn traffic_splits() -> ApiResource {
    let kind = GroupVersionKind::gvk("split.smi-spec.io", "v1alpha2", "TrafficSplit");
    ApiResource::from_gvk_with_plural(&kind, "trafficsplits")
}

fn routes() -> ApiResource {
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
    ApiResource::from_gvk_with_plural(&kind, "httproutes")
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_of_a_traffic_split_advance_until_the_new_version_is_promoted() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let place = Place::new("smi:v1alpha2").await;
    place.canary(json!({})).await;
    let split = place.get("trafficsplit", "podinfo").await;
    let backends = json!([{"service": "podinfo-canary", "weight": 0}, {"service": "podinfo-primary", "weight": 100}]);
    assert_eq!(split["spec"], json!({"service": "podinfo", "backends": backends}));
    // The Service that is split is the primary's itself, for those who know nothing of the split.
    for (service, pods) in
        [("podinfo", "podinfo-primary"), ("podinfo-primary", "podinfo-primary"), ("podinfo-canary", "podinfo")]
    {
        let service = place.get("service", service).await;
        assert_eq!(service["spec"]["selector"], json!({"app": pods}), "{service}");
        let ports = json!([{"name": "http", "protocol": "TCP", "port": 80, "targetPort": PORT}]);
        assert_eq!(service["spec"]["ports"], ports, "{service}");
    }
    place.images([1, 0]).await;

    let weights = place.weights(traffic_splits(), of_split).await;
    place.deploy("podinfo:2").await;
    place.flagger.step_to("podinfo", "Succeeded", SOON).await;
    weights.until(&[0, 20, 40, 60, 0]).await;
    place.images([0, 1]).await;
    assert!(place.gate.served() > 2, "{}", place.gate.served());
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_of_a_route_of_a_service_advance_and_fall_back_when_checks_fail() {
    let cluster = Cluster::shared().await;
    cluster.install_manifests("gateway-api").await;
    let place = Place::new("gatewayapi:v1").await;
    place.canary(json!({"gatewayRefs": [{"group": "", "kind": "Service", "name": "podinfo"}]})).await;
    let route = place.get("httproute", "podinfo").await;
    let backend =
        |name: &str, weight: u32| json!({"group": "", "kind": "Service", "name": name, "port": 80, "weight": weight});
    let rule = json!({
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": [backend("podinfo-primary", 100), backend("podinfo-canary", 0)],
    });
    let parents = json!([{"group": "", "kind": "Service", "name": "podinfo"}]);
    assert_eq!(route["spec"], json!({"parentRefs": parents, "rules": [rule]}));

    let weights = place.weights(routes(), of_route).await;
    place.deploy("podinfo:2").await;
    place.flagger.step_to("podinfo", "Progressing", SOON).await;
    place.images([1, 1]).await;
    eventually(SOON, "it gets something", async || {
        place.flagger.step("podinfo").await;
        let seen = weights.seen.lock().clone();
        if seen.len() > 1 { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    place.gate.answers(500, Duration::ZERO);
    let failed = place.flagger.step_to("podinfo", "Failed", SOON).await;
    assert_eq!(failed["canaryWeight"], 0, "{failed}");
    let seen = weights.seen.lock().clone();
    assert!(matches!(seen[..], [0, 20, .., 0]), "{seen:?}");
    place.images([1, 0]).await;
    let log = place.flagger.log();
    assert!(log.contains("failed checks threshold reached 2"), "{log}");
}

/// A page whose calls of `podinfo` go through an Envoy of Weir's.
struct Page {
    service: Service,
    _proxy: Proxy,
    _weir: Weir,
}

impl Page {
    async fn start(place: &Place) -> Self {
        let service = Service::start_in(Network::routable(), &place.namespace, "page", 1).await;
        place.cluster.put(&service).await;
        let listen = format!("outbound.weir.dev/listen={}", service.outbound(0));
        let annotate =
            ["annotate", "pod", &service.pods[0].name, &listen, "--namespace", &place.namespace].map(str::to_owned);
        place.cluster.kubectl(&annotate).await.unwrap();
        let weir = Weir::watch(place.cluster.kubeconfig(), &["--namespace", &place.namespace]).await;
        let proxy = Proxy::start(&weir, &service, 0).await;
        let page = Self { service, _proxy: proxy, _weir: weir };
        eventually(SOON, "podinfo answers", async || match page.call().await {
            200 => Ok(()),
            other => Err(other),
        })
        .await;
        page
    }

    async fn call(&self) -> u16 {
        let request = ::http::Request::get(format!("http://{}/", self.service.outbound(0))).header("host", "podinfo");
        http::send(request.body(Vec::new().into()).unwrap()).await.map_or(0, |answer| answer.status().as_u16())
    }

    /// How many of 100 calls the pods of an image answer. None may fail.
    async fn share(&self, apps: &Apps, image: &str) -> u64 {
        let before = apps.served(image);
        for _ in 0..100 {
            assert_eq!(self.call().await, 200);
        }
        apps.served(image) - before
    }
}

/// A promotion, and then a version that fails its checks: nobody's request fails, and each version gets what Flagger says.
async fn canaries_under_weir(
    provider: &str,
    service: Value,
    resource: ApiResource,
    weight: fn(&Value, &str) -> Option<u64>,
) {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    cluster.install_manifests("gateway-api").await;
    let place = Place::new(provider).await;
    place.canary(service).await;
    let page = Page::start(&place).await;
    let weights = place.weights(resource, weight).await;
    for (image, phase) in [("podinfo:2", "Succeeded"), ("podinfo:3", "Failed")] {
        place.gate.answers(200, Duration::ZERO);
        place.deploy(image).await;
        let mut shares = Vec::new();
        loop {
            let status = place.flagger.status("podinfo").await;
            if status["phase"] == phase {
                break;
            }
            let given = weights.seen.lock().last().copied().unwrap();
            // Its primary is of this image, too, once it is promoted.
            if status["phase"] == "Progressing" {
                let share = eventually(SOON, &format!("{image} gets {given} of 100"), async || {
                    let share = page.share(&place.apps, image).await;
                    if share.abs_diff(given) <= if given == 0 { 0 } else { 15 } { Ok(share) } else { Err(share) }
                })
                .await;
                shares.push((given, share));
            }
            if phase == "Failed" && given > 0 {
                place.gate.answers(500, Duration::ZERO);
            }
            place.flagger.step("podinfo").await;
            assert!(shares.len() < 50, "{status}");
        }
        assert!(shares.iter().any(|(given, _)| *given > 0), "{shares:?}");
        let expected = if phase == "Failed" { 0 } else { 100 };
        eventually(SOON, &format!("{image} gets {expected} of 100 in the end"), async || {
            let share = page.share(&place.apps, image).await;
            if share == expected {
                return Ok(());
            }
            // A write of its that met one of a status is made again at its next look.
            place.flagger.step("podinfo").await;
            Err(share)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_get_what_flagger_writes_into_a_traffic_split() {
    canaries_under_weir("smi:v1alpha2", json!({}), traffic_splits(), of_split).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_get_what_flagger_writes_into_a_route() {
    let service = json!({"gatewayRefs": [{"group": "", "kind": "Service", "name": "podinfo"}]});
    canaries_under_weir("gatewayapi:v1", service, routes(), of_route).await;
}
