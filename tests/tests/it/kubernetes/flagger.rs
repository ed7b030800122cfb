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
    flagger::{
        Flagger,
        podinfo::{self, METRIC, Page, Podinfo},
    },
    ports::{self, Network},
    prometheus::Prometheus,
};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(90);

/// A Deployment `podinfo`, and Flagger beside it.
struct Place {
    podinfo: Podinfo<'static>,
    /// Flagger asks it before each step.
    gate: App,
    flagger: Flagger<'static>,
}

impl Place {
    async fn new(provider: &str) -> Self {
        let podinfo = Podinfo::start(Cluster::shared().await, |_, _| {}).await;
        let gate = App::start((Network::routable().address(1), 0).into()).await;
        // Nothing here asks it.
        let prometheus = format!("http://{}", ports::free());
        let flagger = Flagger::start(podinfo.cluster, &podinfo.namespace, provider, &prometheus).await;
        podinfo.deploy("podinfo:1").await;
        Self { podinfo, gate, flagger }
    }

    /// Steps of 20 up to 60; two failed checks are too many.
    async fn canary(&self, service: Value) {
        let gate = json!({"name": "gate", "type": "rollout", "url": format!("http://{}/", self.gate.address)});
        let analysis =
            json!({"interval": "60m", "threshold": 2, "stepWeight": 20, "maxWeight": 60, "webhooks": [gate]});
        self.podinfo.canary(service, &analysis).await;
        self.flagger.step_to("podinfo", "Initialized", SOON).await;
    }

    /// Every weight of the canary that stands in this object from now on, however shortly, out of 100.
    async fn weights(&self, resource: ApiResource, weight: fn(&Value, &str) -> Option<u64>) -> Weights {
        let client = self.podinfo.cluster.client().await;
        let objects = Api::<DynamicObject>::namespaced_with(client, &self.podinfo.namespace, &resource);
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
            let found = ["podinfo:1", "podinfo:2"].map(|image| self.podinfo.apps.running(image));
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
    let split = place.podinfo.get("trafficsplit", "podinfo").await;
    let backends = json!([{"service": "podinfo-canary", "weight": 0}, {"service": "podinfo-primary", "weight": 100}]);
    assert_eq!(split["spec"], json!({"service": "podinfo", "backends": backends}));
    // The Service that is split is the primary's itself, for those who know nothing of the split.
    for (service, pods) in
        [("podinfo", "podinfo-primary"), ("podinfo-primary", "podinfo-primary"), ("podinfo-canary", "podinfo")]
    {
        let service = place.podinfo.get("service", service).await;
        assert_eq!(service["spec"]["selector"], json!({"app": pods}), "{service}");
        let ports = json!([{"name": "http", "protocol": "TCP", "port": 80, "targetPort": podinfo::PORT}]);
        assert_eq!(service["spec"]["ports"], ports, "{service}");
    }
    place.images([1, 0]).await;

    let weights = place.weights(traffic_splits(), of_split).await;
    place.podinfo.deploy("podinfo:2").await;
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
    let route = place.podinfo.get("httproute", "podinfo").await;
    let backend =
        |name: &str, weight: u32| json!({"group": "", "kind": "Service", "name": name, "port": 80, "weight": weight});
    let rule = json!({
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": [backend("podinfo-primary", 100), backend("podinfo-canary", 0)],
    });
    let parents = json!([{"group": "", "kind": "Service", "name": "podinfo"}]);
    assert_eq!(route["spec"], json!({"parentRefs": parents, "rules": [rule]}));

    let weights = place.weights(routes(), of_route).await;
    place.podinfo.deploy("podinfo:2").await;
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

async fn page(place: &Place) -> Page {
    let page = Page::start(place.podinfo.cluster, &place.podinfo.namespace).await;
    eventually(SOON, "podinfo answers", async || match page.call().await {
        200 => Ok(()),
        other => Err(other),
    })
    .await;
    page
}

/// How many of 100 calls the pods of an image answer. None may fail.
async fn share(page: &Page, apps: &Apps, image: &str) -> u64 {
    let before = apps.served(image);
    for _ in 0..100 {
        assert_eq!(page.call().await, 200);
    }
    apps.served(image) - before
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
    let page = page(&place).await;
    let weights = place.weights(resource, weight).await;
    for (image, phase) in [("podinfo:2", "Succeeded"), ("podinfo:3", "Failed")] {
        place.gate.answers(200, Duration::ZERO);
        place.podinfo.deploy(image).await;
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
                    let share = share(&page, &place.podinfo.apps, image).await;
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
            let share = share(&page, &place.podinfo.apps, image).await;
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

/// Calls without an end, one after the other; the statuses of the answers, in order.
fn calls(page: &Arc<Page>) -> (Arc<Mutex<Vec<u16>>>, JoinSet<()>) {
    let (answers, page) = (Arc::<Mutex<Vec<u16>>>::default(), Arc::clone(page));
    let (shared, mut tasks) = (Arc::clone(&answers), JoinSet::new());
    tasks.spawn(async move {
        loop {
            let status = page.call().await;
            shared.lock().push(status);
        }
    });
    (answers, tasks)
}

/// What Flagger is told of the canary when it asks.
async fn told(prometheus: &Prometheus, query: &str) -> Result<f64, String> {
    let found = prometheus.number(query).await.map_err(|error| format!("{error:#}"))?;
    found.ok_or_else(|| "no value".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_turns_bad_is_rolled_back_by_what_the_callers_envoy_counts() {
    const WINDOW: &str = "3s";
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let place = Place::new("smi:v1alpha2").await;
    place.canary(json!({})).await;
    let page = Arc::new(page(&place).await);
    let prometheus = page.prometheus(Duration::from_millis(250)).await;
    let query = podinfo::answered_well(&place.podinfo.namespace, "podinfo-canary", WINDOW);
    let metric = place.podinfo.measure(&prometheus, WINDOW).await;
    let analysis = json!({"interval": "59m", "threshold": 5, "stepWeight": 10, "maxWeight": 100, "metrics": [metric]});
    place.podinfo.canary(json!({}), &analysis).await;
    let weights = place.weights(traffic_splits(), of_split).await;
    let given = || weights.seen.lock().last().copied().unwrap();
    let (answers, _calling) = calls(&page);

    // It is good, and gets more each time that this is seen.
    place.podinfo.deploy("podinfo:2").await;
    eventually(SOON, "it advances", async || {
        let told = told(&prometheus, &query).await;
        match given() {
            0 => {}
            _ if told != Ok(100.0) => return Err(format!("Flagger is told {told:?}")),
            30.. => return Ok(()),
            _ => {}
        }
        place.flagger.step("podinfo").await;
        Err(format!("{} of 100", given()))
    })
    .await;
    assert!(answers.lock().iter().all(|status| *status == 200), "{:?}", answers.lock());
    assert!(place.podinfo.apps.served("podinfo:2") > 0);

    // It turns bad.
    let running = place.podinfo.apps.placed().into_iter().filter(|one| one.runs && one.image == "podinfo:2");
    running.for_each(|one| one.app.fails_every(2));
    eventually(SOON, "Prometheus knows", async || match told(&prometheus, &query).await {
        Ok(well) if well < 90.0 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let failed = place.flagger.step_to("podinfo", "Failed", SOON).await;
    assert_eq!(failed["canaryWeight"], 0, "{failed}");
    let log = place.flagger.log();
    let halted = format!("advancement {METRIC} ");
    assert!(log.contains(&halted) && log.contains("failed checks threshold reached 5"), "{log}");
    let seen = weights.seen.lock().clone();
    assert!(matches!(seen[..], [0, 10, 20, .., 0]), "{seen:?}");

    // Nobody is answered by it any more.
    eventually(SOON, "its last request was answered", async || {
        let before = place.podinfo.apps.served("podinfo:2");
        let calls = answers.lock().len();
        eventually(SOON, "100 calls", async || {
            let now = answers.lock().len();
            if now > calls + 100 { Ok(()) } else { Err(now) }
        })
        .await;
        let since = place.podinfo.apps.served("podinfo:2") - before;
        let failed = answers.lock()[calls..].iter().filter(|status| **status != 200).count();
        if since == 0 && failed == 0 { Ok(()) } else { Err(format!("{since} answers, {failed} failed")) }
    })
    .await;
    assert_eq!(share(&page, &place.podinfo.apps, "podinfo:2").await, 0);
    // What failed was of that version; nothing was lost on the way.
    let others: Vec<_> = answers.lock().iter().copied().filter(|status| ![200, 500].contains(status)).collect();
    assert!(others.is_empty(), "{others:?}");
    place.images([1, 0]).await;
}
