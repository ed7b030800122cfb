//! `LazyConfig` and `WorkloadScope` on a real API server: the schema, the webhook's words, what the status says, and first calls of
//! a proxy that has proven who it is.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use crds::{LazyConfig, WorkloadScope};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use testkit::{
    app::App,
    cluster::{Cluster, pods::Pod},
    eventually, http,
    mesh::Service,
    ports::Network,
    weir::Weir,
};

use super::identity::Place;

const SOON: Duration = Duration::from_secs(30);

fn lazy(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "weir.dev/v1alpha1", "kind": "LazyConfig", "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

/// What the API server says to a `LazyConfig`, without keeping it. Unknown fields are an error.
async fn tried(cluster: &Cluster, namespace: &str, spec: &Value) -> Result<Value, String> {
    let objects = Api::<LazyConfig>::namespaced(cluster.client().await, namespace);
    let parameters = PatchParams { dry_run: true, ..PatchParams::apply("test").validation_strict() };
    match objects.patch("a", &parameters, &Patch::Apply(&lazy(namespace, "a", spec))).await {
        Ok(object) => Ok(serde_json::to_value(object).unwrap()),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn the_schema_gives_defaults_and_refuses_what_makes_no_sense() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("lazy").await;
    let whole = tried(cluster, &namespace, &json!({})).await.unwrap();
    let defaults =
        json!({"load": "OnDemand", "unknownHosts": "Refuse", "forgetAfter": "24h", "hold": "5m", "prewarm": false});
    assert_eq!(whole["spec"], defaults);
    let many: Vec<String> = (0..513).map(|number| format!("a{number}")).collect();
    let mut wrong = Vec::new();
    for (spec, expected) in [
        (json!({"load": "Eager"}), "spec.load: Unsupported value: \"Eager\""),
        (json!({"fallback": {"type": "Refuse"}}), "it stands beside load Learned only"),
        (
            json!({"load": "Learned", "fallback": {"type": "Service"}}),
            "service is set exactly when the type is Service",
        ),
        (json!({"load": "Learned", "fallback": {"service": {"name": "a", "port": 80}}}), "service is set exactly when"),
        (
            json!({"load": "Learned", "fallback": {"type": "Service", "service": {"name": "a", "port": 0}}}),
            "spec.fallback.service.port",
        ),
        (json!({"workloadSelector": {"matchLabels": {}}}), "spec.workloadSelector.matchLabels"),
        (json!({"always": ["a", "a"]}), ".spec.always: duplicate entries"),
        (json!({"never": [""]}), "spec.never[0]"),
        (json!({"always": many}), "spec.always: Too many: 513: must have at most 512 items"),
        (json!({"forgetAfter": "soon"}), "spec.forgetAfter"),
        (json!({"hold": "Never"}), "spec.hold"),
        (json!({"prewarm": "yes"}), ".prewarm: expected"),
        (json!({"lod": "OnDemand"}), ".lod: field not declared in schema"),
    ] {
        let said = tried(cluster, &namespace, &spec).await.map_or_else(|message| message, |_| "accepted".to_owned());
        if !said.contains(expected) {
            wrong.push(format!("{spec}\n  expected: {expected}\n  said: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for good in [json!({"forgetAfter": "Never"}), json!({"always": ["*", "*.shop", "a.b.c:80"], "load": "Declared"})] {
        tried(cluster, &namespace, &good).await.unwrap();
    }
    let fields = cluster.kubectl(&["explain", "wlc.spec"]).await.unwrap();
    assert!(fields.contains("forgetAfter\t<string>"), "{fields}");
}

#[tokio::test]
async fn two_thousand_calls_come_back_as_they_were_written() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("scope").await;
    let scopes = Api::<WorkloadScope>::namespaced(cluster.client().await, &namespace);
    let scope = WorkloadScope::new("cart", crds::WorkloadScopeSpec::default());
    scopes.create(&PostParams::default(), &scope).await.unwrap();
    let call = |number: usize| {
        json!({
            "to": format!("a-namespace-of-sixty-three-letters-as-long-as-a-label-can-be-xxx/service-{number:04}/8080"),
            "why": "OnDemand", "since": "2026-01-02T03:04:05Z", "lastUsed": "2026-01-02T03:04:05Z",
        })
    };
    let status = |calls: usize| {
        let calls: Vec<Value> = (0..calls).map(call).collect();
        let (api_version, kind) = ("weir.dev/v1alpha1", "WorkloadScope");
        json!({"apiVersion": api_version, "kind": kind, "status": {"count": calls.len(), "calls": calls}})
    };
    let parameters = PatchParams::apply("weir").validation_strict();
    let most = status(crds::workload_scope::MOST_DESTINATIONS);
    let written = scopes.patch_status("cart", &parameters, &Patch::Apply(&most)).await.unwrap();
    assert_eq!(serde_json::to_value(written.status).unwrap(), most["status"]);
    let refused = scopes.patch_status("cart", &parameters, &Patch::Apply(&status(2001))).await.unwrap_err();
    assert!(refused.to_string().contains("must have at most 2000 items"), "{refused}");
    let table = cluster.kubectl(&["get", "wws", "-n", &namespace]).await.unwrap();
    assert!(table.lines().nth(1).is_some_and(|line| line.starts_with("cart") && line.contains("2000")), "{table}");
}

/// Accepted, Programmed and the rest of a stored status.
async fn stored(cluster: &Cluster, namespace: &str, name: &str) -> Value {
    let text = cluster.kubectl(&["get", "wlc", name, "-n", namespace, "-o", "json"]).await.unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["status"].clone()
}

async fn until(cluster: &Cluster, namespace: &str, name: &str, reasons: [&str; 2]) -> Value {
    eventually(SOON, &format!("the status of {name} says {reasons:?}"), async || {
        let status = stored(cluster, namespace, name).await;
        let reason = |place: usize| status["conditions"][place]["reason"].as_str().unwrap_or_default().to_owned();
        if [reason(0), reason(1)] == reasons { Ok(status) } else { Err(status.to_string()) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_for_whom_it_holds_and_what_is_wrong() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("lazy").await;
    let service = Service::start_in(Network::routable(), &namespace, "cart", 2).await;
    cluster.put(&service).await;
    let apply =
        async |name: &str, spec: Value| cluster.apply(&lazy(&namespace, name, &spec).to_string()).await.unwrap();
    apply("all", json!({"load": "OnDemand"})).await;
    let weir = Weir::watch(cluster.kubeconfig(), &["--namespace", &namespace]).await;
    // The pods of the kit call past their proxies.
    let status = until(cluster, &namespace, "all", ["Accepted", "NotCarriedOut"]).await;
    assert_eq!((&status["observedGeneration"], &status["workloads"]), (&json!(1), &json!(2)));
    assert!(status["conditions"][1]["message"].to_string().contains("outbound.weir.dev/listen"), "{status}");

    // A second one of the same scope is younger, whatever it is called.
    eventually(SOON, "the clock of the API server counts on", async || {
        let text = cluster.kubectl(&["get", "wlc", "all", "-n", &namespace, "-o", "json"]).await.unwrap();
        let first = serde_json::from_str::<Value>(&text).unwrap()["metadata"]["creationTimestamp"].clone();
        cluster.apply(&lazy(&namespace, "aaa", &json!({})).to_string()).await.unwrap();
        let text = cluster.kubectl(&["get", "wlc", "aaa", "-n", &namespace, "-o", "json"]).await.unwrap();
        let second = serde_json::from_str::<Value>(&text).unwrap()["metadata"]["creationTimestamp"].clone();
        if first != second {
            return Ok(());
        }
        cluster.kubectl(&["delete", "wlc", "aaa", "-n", &namespace]).await.unwrap();
        Err("as old as the first")
    })
    .await;
    let status = until(cluster, &namespace, "aaa", ["Conflicted", "Overridden"]).await;
    let said = status["conditions"][0]["message"].as_str().unwrap().to_owned();
    assert!(said.contains(&format!("lazyconfigs.weir.dev/{namespace}/all, which is older")), "{said}");
    assert_eq!(status["workloads"], 0);
    let events = cluster.kubectl(&["get", "events", "-n", &namespace]).await.unwrap();
    assert!(events.contains("Conflicted") && events.contains("lazyconfig/aaa"), "{events}");

    // A mistake is said with its field and mend, and costs nothing that is in force.
    apply("all", json!({"always": ["https://api.stripe.example"]})).await;
    let status = until(cluster, &namespace, "all", ["Invalid", "NotCarriedOut"]).await;
    let said = status["conditions"][0]["message"].as_str().unwrap();
    for words in ["spec.always[0]", "drop `https://`", "generation 1 stays in force"] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!((&status["observedGeneration"], &status["workloads"]), (&json!(2), &json!(2)));
    weir.until(SOON, "weir status says so, too", |status| {
        let found = status.0["lazies"].as_array().into_iter().flatten();
        let keys: Vec<_> = found.map(|it| it["key"].as_str().unwrap_or_default().to_owned()).collect();
        let wanted = ["aaa", "all"].map(|name| format!("lazyconfigs.weir.dev/{namespace}/{name}"));
        if keys == wanted { Ok(()) } else { Err(status.0.to_string()) }
    })
    .await;
    // The older one goes, and the other holds.
    cluster.kubectl(&["delete", "wlc", "all", "-n", &namespace]).await.unwrap();
    let status = until(cluster, &namespace, "aaa", ["Accepted", "NotCarriedOut"]).await;
    assert_eq!(status["workloads"], 2);
    let columns = cluster.kubectl(&["get", "wlc", "-n", &namespace]).await.unwrap();
    let head: Vec<_> = columns.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["NAME", "ACCEPTED", "PROGRAMMED", "LOAD", "WORKLOADS", "LOADED", "KNOWN", "AGE"]);
}

/// A Service with one pod without a proxy, whose application is this one; waits until the control plane has found the pod.
async fn put(cluster: &Cluster, namespace: &str, name: &str, app: &App) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": app.address.port()}]},
    });
    cluster.apply(&service.to_string()).await.unwrap();
    let pod = Pod {
        namespace: namespace.to_owned(),
        name: format!("{name}-0"),
        labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
        annotations: BTreeMap::new(),
        containers: json!([{"name": "app", "image": "app"}]),
        address: app.address.ip(),
        ready: true,
    };
    cluster.put_pod(&pod).await;
    let (slices, of_service) = ("endpointslices", format!("kubernetes.io/service-name={name}"));
    let get = ["get", slices, "--namespace", namespace, "--selector", &of_service, "--output=json"];
    eventually(SOON, "an EndpointSlice has the pod", async || {
        let slices = cluster.kubectl(&get).await.map_err(|error| error.to_string())?;
        if slices.contains(&pod.address.to_string()) { Ok(()) } else { Err(slices) }
    })
    .await;
}

/// Status and body of a GET of `host` through the proxy that listens there.
async fn call(way_out: SocketAddr, host: &str) -> (u16, String) {
    let request = ::http::Request::get(format!("http://{way_out}/")).header("host", host);
    let answer = http::send(request.body(Vec::new().into()).unwrap()).await.unwrap();
    (answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_starts_with_nothing_and_gets_the_services_of_the_api_server_at_the_first_call() {
    let place = Place::install(Cluster::shared().await).await;
    let (cluster, namespace, page) = (place.cluster, place.namespace.as_str(), &place.service);
    let network = Network::routable();
    let apps = [App::start((network.address(1), 0).into()).await, App::start((network.address(2), 0).into()).await];
    put(cluster, namespace, "reviews", &apps[0]).await;
    let (pod, way_out) = (page.pods[0].name.as_str(), page.outbound(0));
    let listen = format!("outbound.weir.dev/listen={way_out}");
    cluster.kubectl(&["annotate", "pod", pod, "--namespace", namespace, &listen]).await.unwrap();
    let spec = json!({"workloadSelector": {"matchLabels": {"app": page.name}}, "load": "OnDemand"});
    cluster.apply(&lazy(namespace, "pages", &spec).to_string()).await.unwrap();
    let mount = place.mount(&place.token(0).await).await;
    let proxy = place.proxy(&mount).await;
    let programmed = async |loaded: u64| {
        eventually(SOON, &format!("its proxy has what it should, {loaded} services of it"), async || {
            let status = until(cluster, namespace, "pages", ["Accepted", "Programmed"]).await;
            let (proxies, services) = (&status["proxies"], &status["services"]);
            let found = [&proxies["total"], &proxies["programmed"], &services["loaded"]];
            if found == [&json!(1), &json!(1), &json!(loaded)] { Ok(status) } else { Err(status.to_string()) }
        })
        .await
    };
    let status = programmed(0).await;
    assert_eq!((&status["workloads"], &status["conditions"][1]["status"]), (&json!(2), &json!("True")));
    eventually(SOON, "it listens", async || {
        let listeners = proxy.admin("/listeners").await;
        if listeners.contains(&way_out.to_string()) { Ok(()) } else { Err(listeners) }
    })
    .await;

    // Held and served, by every name.
    for host in
        ["reviews", "reviews:80", &format!("reviews.{namespace}"), &format!("reviews.{namespace}.svc.cluster.local")]
    {
        assert_eq!(call(way_out, host).await, (200, "ok\n".to_owned()), "{host}");
    }
    assert_eq!(apps[0].served(), 4);
    let known = programmed(1).await["services"]["known"].as_u64().unwrap();
    assert!(known > 1, "{known}: its own, at least, is known and not loaded");
    assert_eq!(proxy.destinations().await.into_iter().collect::<Vec<_>>(), [format!("{namespace}/reviews/80")]);

    // Nothing is known by this name, until a Service is made of it.
    let (status, body) = call(way_out, "ratings").await;
    assert!(status == 404 && body.starts_with("weir: no Service is known by this host"), "{status} {body}");
    let becomes = async |host: &str, wanted: u16| {
        eventually(SOON, &format!("{host} is answered {wanted}"), async || {
            let (status, body) = call(way_out, host).await;
            if status == wanted { Ok(()) } else { Err(format!("{status} {body}")) }
        })
        .await;
    };
    put(cluster, namespace, "ratings", &apps[1]).await;
    becomes("ratings", 200).await;
    programmed(2).await;

    // One goes and comes back: so does what the proxy has of it, without its being asked for again.
    cluster.kubectl(&["delete", "service", "reviews", "--namespace", namespace]).await.unwrap();
    becomes("reviews", 404).await;
    programmed(1).await;
    put(cluster, namespace, "reviews", &apps[0]).await;
    becomes("reviews", 200).await;
    programmed(2).await;
    let refused = proxy.stats("update_rejected").await;
    assert_eq!(refused.values().sum::<u64>(), 0, "{refused:?}");
}
