//! An API server as the source of objects: what it gives, refuses, forgets and brings back.

use std::{path::Path, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testkit::{
    cluster::{Cluster, Server},
    eventually,
    http::Connection,
    mesh::{Service, limiter},
    ports::Network,
    proxy::Proxy,
    status::View,
    weir::Weir,
};

const SOON: Duration = Duration::from_secs(20);
/// Until a watch that was refused or cut off is tried again, on a busy machine.
const RETRIED: Duration = Duration::from_secs(40);

fn calm(per_second: u32) -> String {
    format!("- name: calm\n  limit: {per_second} requests per second across all pods")
}

fn key(namespace: &str, name: &str) -> String {
    format!("smartlimiters.weir.dev/{namespace}/{name}")
}

/// A Service without a selector, and its two endpoints.
fn service(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\n\
         endpoints:\n- {{addresses: [10.77.250.1], targetRef: {{kind: Pod, name: {name}-0}}}}\n\
         - {{addresses: [10.77.250.2], targetRef: {{kind: Pod, name: {name}-1}}}}\n---\n"
    )
}

/// The share of each pod, as status has it.
fn limits(status: &View, key: &str, per_second: f64, shares: &str) -> Result<(), String> {
    let rule = status.phase(key, "calm", "Limiting")?;
    if rule["perSecond"] == per_second && rule["shares"] == shares { Ok(()) } else { Err(rule.to_string()) }
}

/// What is wrong with the watches, in one line.
fn watches(status: &View) -> String {
    status.0["problems"]["API server"].to_string()
}

fn watches_are_well(status: &View) -> Result<(), String> {
    if status.0["problems"].get("API server").is_none() { Ok(()) } else { Err(watches(status)) }
}

async fn in_namespace(cluster: &Cluster, namespace: &str) -> Weir {
    Weir::watch(cluster.kubeconfig(), &["--namespace", namespace]).await
}

#[tokio::test]
async fn objects_are_taken_in_changed_and_let_go() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let (namespace, other) = (cluster.namespace("watch").await, cluster.namespace("watch").await);
    let key = key(&namespace, "cart");
    cluster.apply(&(service(&namespace, "cart") + &limiter(&namespace, "cart", &calm(30)))).await.unwrap();
    let weir = in_namespace(cluster, &namespace).await;
    let status = View(weir.status().await.unwrap());
    limits(&status, &key, 30.0, "15 x2").expect("what was there before the start is in force at once");

    cluster.apply(&limiter(&namespace, "cart", &calm(50))).await.unwrap();
    weir.until(SOON, "a change counts", |status| limits(status, &key, 50.0, "25 x2")).await;
    let generation = weir.status().await.unwrap()["policies"][0]["generation"].clone();
    assert_eq!(generation, 2, "that of the API server");

    // The rest of the mesh is not ours.
    cluster.apply(&(service(&other, "cart") + &limiter(&other, "cart", &calm(30)))).await.unwrap();
    cluster.kubectl(&["delete", "endpointslice", "cart-1", "-n", &namespace]).await.unwrap();
    weir.until(SOON, "the pods are gone", |status| status.expect(&key, "Programmed", false, "NoEndpoints")).await;
    cluster.apply(&service(&namespace, "cart")).await.unwrap();
    weir.until(SOON, "the pods are back", |status| limits(status, &key, 50.0, "25 x2")).await;
    cluster.kubectl(&["delete", "wsl", "cart", "-n", &namespace]).await.unwrap();
    let empty = |status: &View| {
        let policies = status.0["policies"].as_array().map_or(0, Vec::len);
        if policies == 0 { Ok(()) } else { Err(status.0["policies"].to_string()) }
    };
    weir.until(SOON, "no policy is left, and none of the other namespace came", empty).await;
    weir.stop().await.unwrap();
}

#[tokio::test]
async fn what_passes_the_schema_and_not_the_sense_is_refused_alone() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("sense").await;
    let bad = limiter(&namespace, "bad", "- name: hot\n  when: cpu > 80\n  limit: 30 requests per second per pod");
    let good = service(&namespace, "good") + &limiter(&namespace, "good", &calm(30));
    cluster.apply(&(bad.clone() + "---\n" + &good)).await.unwrap();
    let weir = in_namespace(cluster, &namespace).await;
    weir.until(SOON, "one is in force, the other refused", |status| {
        limits(status, &key(&namespace, "good"), 30.0, "15 x2")?;
        let message = status.expect(&key(&namespace, "bad"), "Accepted", false, "Invalid")?;
        if message.contains("spec.rules[0].when") && message.contains("80%") { Ok(()) } else { Err(message) }
    })
    .await;
    let mended = bad.replace("cpu > 80", "cpu > 80%").replace("name: bad}]", "name: good}]");
    cluster.apply(&mended).await.unwrap();
    weir.until(SOON, "mended", |status| status.expect(&key(&namespace, "bad"), "Accepted", true, "Accepted")).await;
}

#[tokio::test]
async fn services_of_every_shape_harm_nobody() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("shapes").await;
    let shape = |name: &str, spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
        )
    };
    let mut text = service(&namespace, "cart") + &limiter(&namespace, "cart", &calm(30)) + "---\n";
    text += &shape("headless", "{clusterIP: None, selector: {app: none}, ports: [{port: 80}]}");
    text += &shape("empty", "{selector: {app: none}, ports: [{port: 80}]}");
    text += &shape("external", "{type: ExternalName, externalName: api.stripe.example}");
    text += &shape("datagrams", "{selector: {app: none}, ports: [{port: 53, protocol: UDP}]}");
    for name in ["headless", "empty", "external", "datagrams", "missing"] {
        text += &(limiter(&namespace, name, &calm(10)) + "---\n");
    }
    cluster.apply(&text).await.unwrap();
    let weir = in_namespace(cluster, &namespace).await;
    weir.until(SOON, "each says what it lacks", |status| {
        limits(status, &key(&namespace, "cart"), 30.0, "15 x2")?;
        for name in ["headless", "empty"] {
            status.expect(&key(&namespace, name), "Programmed", false, "NoEndpoints")?;
        }
        for (name, words) in [("external", "another name for \"api.stripe.example\""), ("datagrams", "UDP or SCTP")] {
            let message = status.expect(&key(&namespace, name), "Programmed", false, "NotCarriedOut")?;
            if !message.contains(&format!("Service {namespace}/{name}: ")) || !message.contains(words) {
                return Err(message);
            }
            status.expect(&key(&namespace, name), "Limiting", true, "NotEnforced")?;
        }
        status.expect(&key(&namespace, "missing"), "Accepted", false, "TargetNotFound")
    })
    .await;
}

#[tokio::test]
async fn a_namespace_that_goes_takes_its_limits_along() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let (gone, kept) = (cluster.namespace("goes").await, cluster.namespace("stays").await);
    for namespace in [&gone, &kept] {
        cluster.apply(&(service(namespace, "cart") + &limiter(namespace, "cart", &calm(30)))).await.unwrap();
    }
    let weir = Weir::watch(cluster.kubeconfig(), &["--namespace", &gone, "--namespace", &kept]).await;
    cluster.kubectl(&["delete", "namespace", &gone, "--timeout=60s"]).await.unwrap();
    weir.until(SOON, "only the other is left", |status| {
        limits(status, &key(&kept, "cart"), 30.0, "15 x2")?;
        let policies = status.0["policies"].as_array().map_or(0, Vec::len);
        if policies == 1 { watches_are_well(status) } else { Err(format!("{policies} policies")) }
    })
    .await;
}

#[tokio::test]
async fn a_right_that_is_missing_costs_its_kind_alone_until_it_is_granted() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("rights").await;
    let rule = |group: &str, resources: &str| {
        format!("- {{apiGroups: [\"{group}\"], resources: [{resources}], verbs: [get, list, watch]}}\n")
    };
    let role = |rules: &str| {
        format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: weir, namespace: {namespace}}}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: weir, namespace: {namespace}}}\nrules:\n{rules}---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: weir, namespace: {namespace}}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: weir}}\n\
             subjects: [{{kind: ServiceAccount, name: weir, namespace: {namespace}}}]\n"
        )
    };
    let some = rule("", "services, pods") + &rule("weir.dev", "smartlimiters");
    cluster.apply(&role(&some)).await.unwrap();
    cluster.apply(&(service(&namespace, "cart") + &limiter(&namespace, "cart", &calm(30)))).await.unwrap();
    let kubeconfig = cluster.service_account_kubeconfig(&namespace, "weir").await;
    let weir = Weir::watch(&kubeconfig, &["--namespace", &namespace]).await;
    weir.until(SOON, "the rest works, and what is missing is said", |status| {
        status.expect(&key(&namespace, "cart"), "Programmed", false, "NoEndpoints")?;
        let said = watches(status);
        let words = ["endpointslices.discovery.k8s.io", "microservice.netease.com", "allow `list` and `watch`"];
        if words.iter().all(|word| said.contains(word)) && !said.contains("pods") { Ok(()) } else { Err(said) }
    })
    .await;
    let rest = rule("discovery.k8s.io", "endpointslices")
        + &rule("microservice.netease.com", "smartlimiters")
        + &rule("weir.dev", "lazyconfigs, workloadscopes, smartsplits")
        + &rule("split.smi-spec.io", "trafficsplits")
        + &rule("specs.smi-spec.io", "httproutegroups")
        + &rule("gateway.networking.k8s.io", "gateways, httproutes, grpcroutes");
    cluster.apply(&role(&(some + &rest))).await.unwrap();
    weir.until(RETRIED, "what is granted is watched", |status| {
        watches_are_well(status)?;
        limits(status, &key(&namespace, "cart"), 30.0, "15 x2")
    })
    .await;
}

#[tokio::test]
async fn a_foreign_definition_of_the_article_is_read_as_far_as_it_goes() {
    let cluster = Cluster::start().await;
    let definition = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
        metadata: {name: smartlimiters.microservice.netease.com}\n\
        spec: {group: microservice.netease.com, scope: Namespaced, names: {kind: SmartLimiter, plural: smartlimiters}, versions: [\
        {name: v1alpha1, served: true, storage: true, schema: {openAPIV3Schema: \
        {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}\n";
    cluster.apply(definition).await.unwrap();
    cluster
        .kubectl(&["wait", "--for=condition=Established", "crd/smartlimiters.microservice.netease.com"])
        .await
        .unwrap();
    let namespace = cluster.namespace("foreign").await;
    let object = |name: &str, spec: &str| {
        format!(
            "apiVersion: microservice.netease.com/v1alpha1\nkind: SmartLimiter\n\
             metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
        )
    };
    let text = service(&namespace, "good")
        + &object(
            "good",
            "{descriptors: [{action: {fill_interval: {seconds: 1}, quota: \"30/{pod}\"}, condition: \"{pod}>0\"}]}",
        )
        + &object("words", "{descriptors: thirty}")
        + &object("nothing", "null")
        + &object("deep", "{descriptors: [{action: {fill_interval: {seconds: many}, quota: 7}}]}");
    cluster.kubectl_with(&["apply", "-f", "-"], &text).await.unwrap();
    let weir = Weir::watch(cluster.kubeconfig(), &[]).await;
    let key = |name: &str| format!("smartlimiters.microservice.netease.com/{namespace}/{name}");
    weir.until(SOON, "the good one counts, the others are refused", |status| {
        status.expect(&key("good"), "Accepted", true, "Accepted")?;
        for name in ["words", "nothing", "deep"] {
            status.expect(&key(name), "Accepted", false, "Invalid")?;
        }
        // It has no status subresource, so the statuses can be read here only.
        let said = status.0["problems"][key("good")].to_string();
        if !said.contains("no status subresource") {
            return Err(format!("problems of the status: {said}"));
        }
        // Our own definition is not installed at all.
        if watches(status).contains("apply its CustomResourceDefinition") { Ok(()) } else { Err(watches(status)) }
    })
    .await;
    cluster.install_crds().await;
    cluster.apply(&(service(&namespace, "late") + &limiter(&namespace, "late", &calm(30)))).await.unwrap();
    let late = format!("smartlimiters.weir.dev/{namespace}/late");
    weir.until(RETRIED, "a kind that comes later is watched", |status| limits(status, &late, 30.0, "15 x2")).await;
}

#[tokio::test]
async fn an_api_server_that_is_away_changes_nothing() {
    let cluster = Cluster::start().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("away").await;
    let key = key(&namespace, "cart");
    let service = Service::start_in(Network::routable(), &namespace, "cart", 2).await;
    cluster.put(&service).await;
    let rules = calm(30) + "\n- name: hot\n  when: cpu > 80%\n  limit: 1 request per hour per pod";
    cluster.apply(&limiter(&namespace, "cart", &rules)).await.unwrap();
    let weir = Weir::watch(cluster.kubeconfig(), &["--scrape-interval", "100ms"]).await;
    let _proxies = Proxy::start_all(&weir, &service).await;
    weir.until(SOON, "cpu is measured", |status| {
        status.expect(&key, "MetricsAvailable", true, "Available")?;
        status.phase(&key, "hot", "Idle").map(drop)
    })
    .await;

    cluster.kill(Server::ApiServer);
    weir.until(SOON, "it is missed, and the limit stays", |status| {
        limits(status, &key, 30.0, "15 x2")?;
        if watches(status).contains("Connection refused") { Ok(()) } else { Err(watches(status)) }
    })
    .await;
    // What is measured is decided on and enforced meanwhile.
    service.burn(0.95);
    weir.until(SOON, "it limits", |status| status.phase(&key, "hot", "Limiting").map(drop)).await;
    let inbound = service.pods[0].inbound;
    eventually(SOON, "the proxy refuses", async || {
        let mut connection = Connection::open(inbound, None).await.map_err(|error| error.to_string())?;
        match connection.burst("/", 5).await {
            Ok((0, 5)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    eventually(SOON, "that the status cannot be written is said", async || {
        if weir.log().contains("statuses are written when it is back") { Ok(()) } else { Err(weir.log()) }
    })
    .await;
    let built = weir.metric("weir_builds_total").await;
    cluster.restart(Server::ApiServer).await;
    weir.until(RETRIED, "it is found again", watches_are_well).await;
    assert_eq!(weir.metric("weir_builds_total").await, built, "a list that says the same builds nothing");
    eventually(RETRIED, "the status is written", async || {
        let message = r#"jsonpath={.status.conditions[?(@.type=="Limiting")].message}"#;
        let said = cluster.kubectl(&["get", "wsl", "cart", "-n", &namespace, "-o", message]).await;
        let said = said.map_err(|error| format!("{error:#}"))?;
        if said.contains("in force: calm, hot") { Ok(()) } else { Err(said) }
    })
    .await;
    assert_eq!(weir.log().matches("statuses are written when it is back").count(), 1, "{}", weir.log());

    // It answers nothing while etcd is suspended; then it goes on where it was.
    cluster.stop(Server::Etcd);
    limits(&View(weir.status().await.unwrap()), &key, 30.0, "15 x2").unwrap();
    cluster.cont(Server::Etcd);
    cluster.apply(&limiter(&namespace, "cart", &calm(50))).await.unwrap();
    weir.until(RETRIED, "a change counts again", |status| limits(status, &key, 50.0, "25 x2")).await;
    weir.stop().await.unwrap();
}

#[tokio::test]
async fn what_went_while_nobody_looked_is_gone_after_the_next_list() {
    let cluster = Cluster::start().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("gone").await;
    for name in ["cart", "left"] {
        cluster.apply(&(service(&namespace, name) + &limiter(&namespace, name, &calm(30)))).await.unwrap();
    }
    let weir = Weir::watch(cluster.kubeconfig(), &[]).await;
    let process = Pid::from_raw(i32::try_from(weir.id().unwrap()).unwrap());
    kill(process, Signal::SIGSTOP).unwrap();
    cluster.kubectl(&["delete", "wsl", "left", "-n", &namespace]).await.unwrap();
    cluster.kubectl(&["delete", "service", "left", "-n", &namespace]).await.unwrap();
    cluster.apply(&limiter(&namespace, "cart", &calm(50))).await.unwrap();
    // A fresh API server knows nothing of what was before its own start: the version that Weir asks from is gone (410).
    cluster.restart(Server::ApiServer).await;
    kill(process, Signal::SIGCONT).unwrap();
    weir.until(RETRIED, "the deleted one is gone, the changed one changed", |status| {
        limits(status, &key(&namespace, "cart"), 50.0, "25 x2")?;
        let policies = status.0["policies"].as_array().map_or(0, Vec::len);
        if policies == 1 { watches_are_well(status) } else { Err(format!("{policies} policies")) }
    })
    .await;
}

#[tokio::test]
async fn a_start_without_an_api_server_waits_and_says_so() {
    let folder = testkit::temp_dir();
    let kubeconfig = folder.path().join("kubeconfig");
    let address = testkit::ports::free();
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: a, contexts: [{{name: a, context: {{cluster: a, user: a}}}}],\
          clusters: [{{name: a, cluster: {{server: \"https://{address}\"}}}}], users: [{{name: a, user: {{token: t}}}}]}}"
    );
    std::fs::write(&kubeconfig, text).unwrap();
    let weir = Weir::spawn_watch(&kubeconfig, testkit::ports::free(), testkit::ports::free(), &[]);
    weir.until(SOON, "it says what it waits for", |status| {
        if watches(status).contains("Connection refused") { Ok(()) } else { Err(watches(status)) }
    })
    .await;
    let ready = testkit::http::get(weir.admin, "/readyz").await.unwrap();
    assert_eq!(ready.status(), 503);
    weir.stop().await.unwrap();

    for (path, words) in [(Path::new("/nonexistent"), "/nonexistent"), (folder.path(), "kubeconfig")] {
        let weir = Weir::spawn_watch(path, testkit::ports::free(), testkit::ports::free(), &[]);
        let (status, log) = weir.ended().await.unwrap();
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(log.contains("--kubernetes: the kubeconfig cannot be used") && log.contains(words), "{log}");
    }
}
