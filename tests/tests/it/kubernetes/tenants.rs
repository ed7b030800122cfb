//! Tenants on a real API server: objects of one namespace try to reach over to another.

use std::time::Duration;

use serde_json::Value;
use testkit::{
    app::{App, Page},
    cluster::Cluster,
    eventually,
    mesh::{Service, limiter},
    ports::{self, Network},
    prometheus::{Prometheus, Target},
    proxy::Proxy,
    weir::Weir,
};

const SOON: Duration = Duration::from_secs(40);
const RULE: &str = "- name: mine\n  limit: 3 requests per hour per pod\n  burst: 1";

/// What Weir serves to the proxy of the first pod.
async fn carries(proxy: &Proxy) -> bool {
    proxy.held().await.contains("/mine")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_object_acts_on_services_of_another_namespace() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let (own, other) = (cluster.namespace("tenant").await, cluster.namespace("tenant").await);
    let theirs = Service::start_in(Network::routable(), &other, "cart", 1).await;
    let mine = Service::start_in(Network::routable(), &own, "till", 1).await;
    cluster.put(&theirs).await;
    cluster.put(&mine).await;
    cluster.kubectl(&["label", "service", "cart", "tier=web", "--namespace", &other]).await.unwrap();
    let arguments = ["--namespace", &own, "--namespace", &other];
    let weir = Weir::watch(cluster.kubeconfig(), &arguments).await;
    let (their_proxy, my_proxy) = (Proxy::start(&weir, &theirs, 0).await, Proxy::start(&weir, &mine, 0).await);

    // By name, in every way that a reference could be written.
    let object = |name: &str, spec: &str| {
        format!(
            "apiVersion: weir.dev/v1alpha1\nkind: SmartLimiter\nmetadata: {{name: {name}, namespace: {own}}}\nspec: {{{spec}, rules: \
             [{{name: mine, limit: 3 requests per hour per pod}}]}}\n"
        )
    };
    for (spec, words) in [
        (
            format!("targetRefs: [{{kind: Service, name: cart, namespace: {other}}}]"),
            "unknown field \"spec.targetRefs[0].namespace\"",
        ),
        (
            format!("targetRefs: [{{kind: Service, name: cart}}], namespace: {other}"),
            "unknown field \"spec.namespace\"",
        ),
        (
            format!("selector: {{matchLabels: {{tier: web}}, namespace: {other}}}"),
            "unknown field \"spec.selector.namespace\"",
        ),
    ] {
        let said = cluster.apply(&object("reach", &spec)).await.unwrap_err().to_string();
        assert!(said.contains(words), "{spec}: {said}");
        // And when nobody checks: the field is dropped.
        let unchecked = ["apply", "--validate=false", "-f", "-"];
        let _ = cluster.kubectl_with(&unchecked, &object("unchecked", &spec)).await;
    }
    let article = format!(
        "apiVersion: microservice.netease.com/v1alpha1\nkind: SmartLimiter\nmetadata: {{name: cart, namespace: {own}}}\nspec: {{descriptors: \
         [{{condition: \"true\", action: {{fill_interval: {{seconds: 3600}}, quota: \"3\"}}}}]}}\n"
    );
    let _ = cluster.apply(&article).await;
    for (name, spec) in [
        ("by-name", "targetRefs: [{kind: Service, name: cart}]".to_owned()),
        ("by-path", format!("targetRefs: [{{kind: Service, name: {other}/cart}}]")),
        ("by-host", format!("targetRefs: [{{kind: Service, name: cart.{other}}}]")),
        ("by-label", "selector: {matchLabels: {tier: web}}".to_owned()),
        (
            "by-label-of-namespace",
            format!("selector: {{matchLabels: {{tier: web, kubernetes.io/metadata.name: {other}}}}}"),
        ),
    ] {
        cluster.apply(&object(name, &spec)).await.unwrap();
        let key = format!("smartlimiters.weir.dev/{own}/{name}");
        weir.until(SOON, name, |status| {
            let condition = status.condition(&key, "Accepted")?;
            let found = ["TargetNotFound", "Invalid"].contains(&condition.reason.as_str());
            let rules = status.policy(&key)?["status"]["rules"].as_array().map_or(0, Vec::len);
            if found && rules == 0 { Ok(()) } else { Err(format!("{condition:?}, {rules} rules")) }
        })
        .await;
    }
    // One that is right is carried out where it belongs: whatever comes before it has been taken in.
    cluster.apply(&limiter(&own, "till", RULE)).await.unwrap();
    let key = format!("smartlimiters.weir.dev/{own}/till");
    weir.until(SOON, "its own", |status| status.programmed(&key, 1)).await;
    assert!(carries(&my_proxy).await);
    assert!(!carries(&their_proxy).await, "{}", their_proxy.held().await);
    let status = weir.status().await.unwrap();
    let policies = status["policies"].as_array().unwrap();
    let names_theirs = |policy: &&Value| policy["status"]["rules"].to_string().contains("\"cart\"");
    assert_eq!(policies.iter().filter(names_theirs).count(), 0, "{status:#}");
}

/// A limit while `depth` is over 100 anywhere that the query may look.
fn deep(namespace: &str) -> String {
    let rule = "- name: deep\n  when: depth > 100 until depth < 50\n  limit: 5 requests per second per pod";
    limiter(namespace, "cart", rule)
        + "  metrics: [{name: depth, type: Count, reduce: Max, prometheus: {query: 'max(depth)'}}]\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn promql_is_off_until_it_is_allowed() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let (own, other) = (cluster.namespace("tenant").await, cluster.namespace("tenant").await);
    let service = Service::start_in(Network::routable(), &own, "cart", 1).await;
    cluster.put(&service).await;
    let mut pages = Vec::new();
    let mut targets = Vec::new();
    for (namespace, text) in [(&own, "depth 10\n"), (&other, "depth 666\n")] {
        let app = App::start(([127, 0, 0, 1], 0).into()).await;
        app.page(Page::Text(text.to_owned()));
        targets.push(Target { address: app.address, labels: vec![("namespace", namespace.clone())] });
        pages.push(app);
    }
    let prometheus = Prometheus::start(&targets, Duration::from_millis(250)).await;
    let url = prometheus.url();
    let watched = format!("namespaces={{{own}}}");
    cluster.helm(&["install", "weir", "charts/weir", "--namespace", &own, "--set", &watched]).await.unwrap();
    let network = Network::routable();
    let webhook = std::net::SocketAddr::new(network.address(1), network.port());
    let slice = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: by-hand, namespace: {own}, labels: {{kubernetes.io/service-name: weir}}}}\n\
         addressType: IPv4\nports: [{{name: https-webhook, port: {}}}]\nendpoints: [{{addresses: [{}]}}]\n",
        webhook.port(),
        webhook.ip(),
    );
    cluster.apply(&slice).await.unwrap();
    let kubeconfig = cluster.service_account_kubeconfig(&own, "weir").await;
    let (address, configuration) = (webhook.to_string(), format!("weir.{own}"));
    let start = async |more: &[&str]| {
        let arguments = ["--namespace", &own, "--prometheus", &url, "--webhook-address", &address]
            .into_iter()
            .chain(["--certificate-service", "weir", "--certificate-secret", "weir-certificate"])
            .chain(["--webhook-configuration", &configuration])
            .chain(more.iter().copied());
        let arguments: Vec<&str> = arguments.collect();
        let mut weir = Weir::spawn_watch(&kubeconfig, ports::free(), ports::free(), &arguments);
        weir.ready().await;
        weir
    };
    let key = format!("smartlimiters.weir.dev/{own}/cart");
    // Stored while nobody asked.
    cluster.apply(&deep(&own)).await.unwrap();
    let weir = start(&[]).await;
    let said = weir.until(SOON, "it is told", |status| status.expect(&key, "Accepted", false, "NotAllowed")).await;
    for words in ["spec.metrics[0].prometheus: ", "may not ask Prometheus", &format!("--allow-promql {own}")] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    let status = [
        "get",
        "wsl",
        "cart",
        "--namespace",
        &own,
        "--output=jsonpath={.status.conditions[?(@.type=='Accepted')].reason}",
    ];
    eventually(SOON, "the object says so", async || match cluster.kubectl(&status).await {
        Ok(reason) if reason == "NotAllowed" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let dry = ["apply", "--dry-run=server", "-f", "-"];
    let second = deep(&own).replacen("name: cart,", "name: second,", 1);
    let said = eventually(SOON, "the webhook refuses", async || match cluster.kubectl_with(&dry, &second).await {
        Err(error) if format!("{error:#}").contains("denied the request") => Ok(format!("{error:#}")),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(said.contains("spec.metrics[0].prometheus") && said.contains("prometheus.allowNamespaces"), "{said}");
    weir.stop().await.unwrap();

    let weir = start(&["--promql-namespace-label", "namespace"]).await;
    weir.until(SOON, "it sees its own", |status| {
        let rule = status.phase(&key, "deep", "Idle")?;
        if rule["observed"][0]["value"] == 10.0 { Ok(()) } else { Err(rule.to_string()) }
    })
    .await;
    eventually(SOON, "the webhook admits", async || {
        cluster.kubectl_with(&dry, &second).await.map(drop).map_err(|error| format!("{error:#}"))
    })
    .await;
    weir.stop().await.unwrap();
    let weir = start(&["--allow-promql", &own]).await;
    weir.until(SOON, "it sees all", |status| status.phase(&key, "deep", "Limiting").map(drop)).await;
    weir.stop().await.unwrap();
}
