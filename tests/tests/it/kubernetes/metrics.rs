//! The metrics API of a real API server: what pods use drives a limit, and whatever fails is said while the limit holds.

use std::time::Duration;

use jiff::Timestamp;
use testkit::{
    cluster::Cluster,
    mesh::limiter,
    metrics_api::{Answer, MetricsApi, Used},
    ports::Network,
    weir::Weir,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// What Weir's service account may do: watch all it watches, and, if told so, read what pods use.
fn rights(namespace: &str, usage: bool) -> String {
    let mut rules = vec![
        "{apiGroups: [''], resources: [services, pods, namespaces], verbs: [get, list, watch]}",
        "{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}",
        "{apiGroups: [gateway.networking.k8s.io], resources: [gateways, httproutes], verbs: [get, list, watch]}",
        "{apiGroups: [weir.dev, microservice.netease.com], resources: [smartlimiters], verbs: [get, list, watch]}",
    ];
    if usage {
        rules.push("{apiGroups: [metrics.k8s.io], resources: [pods], verbs: [get, list]}");
    }
    format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: weir, namespace: {namespace}}}\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: weir, namespace: {namespace}}}\n\
         rules: [{}]\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: weir, namespace: {namespace}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: weir}}\n\
         subjects: [{{kind: ServiceAccount, name: weir, namespace: {namespace}}}]\n",
        rules.join(", ")
    )
}

/// A Service of two pods with a proxy each, as objects; a limit while the application's CPU is over 80 %.
fn objects(namespace: &str, network: Network) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: cart, namespace: {namespace}}}\n\
         spec: {{ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: cart-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: cart}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints:\n"
    );
    for pod in 0..2_u8 {
        let address = network.address(pod + 10);
        text += &format!("- {{addresses: [{address}], targetRef: {{kind: Pod, name: cart-{pod}}}}}\n");
    }
    for pod in 0..2 {
        text += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: cart-{pod}, namespace: {namespace}}}\nspec:\n  containers:\n\
             \x20 - {{name: app, image: app, resources: {{limits: {{cpu: 500m, memory: 64Mi}}}}}}\n\
             \x20 - {{name: istio-proxy, image: proxy, resources: {{limits: {{cpu: '2'}}}}}}\n"
        );
    }
    let rule = "- name: hot\n  when: cpu > 80% until cpu < 50% for 1s\n  limit: 30 requests per second across all pods";
    text + "---\n" + &limiter(namespace, "cart", rule) + "  onMissingMetric: {action: Hold, after: 1s}\n"
}

/// The applications of both pods use this many thousandths of a core, and their proxies a lot.
fn used(millicores: u32) -> Vec<Used> {
    let pod = |pod: u32| Used {
        pod: format!("cart-{pod}"),
        containers: vec![
            ("app", format!("{millicores}000000n"), "32Mi".to_owned()),
            ("istio-proxy", "1900m".to_owned(), "900Mi".to_owned()),
        ],
    };
    vec![pod(0), pod(1)]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pods_use_drives_a_limit_that_holds_when_the_metrics_api_fails() {
    // Of its own: there is one metrics API for a whole cluster.
    let cluster = Cluster::start().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("usage").await;
    let network = Network::routable();
    cluster.apply(&rights(&namespace, true)).await.unwrap();
    cluster.apply(&objects(&namespace, network)).await.unwrap();
    let key = format!("smartlimiters.weir.dev/{namespace}/cart");
    let kubeconfig = cluster.service_account_kubeconfig(&namespace, "weir").await;
    let weir = Weir::watch(&kubeconfig, &["--namespace", &namespace, "--metrics-api-interval", "200ms"]).await;
    let missing = async |words: &str| {
        weir.until(DEADLINE, words, |status| {
            let message = status.expect(&key, "MetricsAvailable", false, "Missing")?;
            if message.contains(words) { Ok(()) } else { Err(message) }
        })
        .await;
    };
    let phase =
        async |phase: &str| weir.until(DEADLINE, phase, |status| status.phase(&key, "hot", phase).cloned()).await;
    missing("from the metrics API: the API server has no metrics.k8s.io/v1beta1: install metrics-server").await;

    let api = MetricsApi::start((network.address(1), 0).into(), &namespace).await;
    api.answer(Answer::Pods(used(200)));
    cluster.apply(&api.manifests(&namespace)).await.unwrap();
    weir.until(DEADLINE, "what pods use is known", |status| status.expect(&key, "MetricsAvailable", true, "Available"))
        .await;
    phase("Idle").await;
    api.answer(Answer::Pods(used(450)));
    let rule = phase("Limiting").await;
    let observed = &rule["observed"][0];
    assert_eq!((observed["value"].as_f64(), observed["source"].as_str()), (Some(0.9), Some("metrics-api")), "{rule}");

    let long_ago = Timestamp::now() - Duration::from_secs(60);
    for (answer, words) in [
        (Answer::Status(503, "restarting"), "metrics-server does not serve"),
        (Answer::Status(200, "<html>"), "the answer is no PodMetricsList"),
        (Answer::Pods(Vec::new()), "it knows nothing of it (yet)"),
        (Answer::Old(used(1), long_ago), "it was last measured at"),
        (Answer::Hang, "it did not answer in full within 5 s"),
    ] {
        api.answer(answer);
        missing(words).await;
        phase("Limiting").await;
    }
    // What is gone altogether, as when metrics-server is uninstalled.
    cluster.kubectl(&["delete", "apiservice", "v1beta1.metrics.k8s.io"]).await.unwrap();
    missing("install metrics-server").await;
    phase("Limiting").await;
    cluster.apply(&api.manifests(&namespace)).await.unwrap();
    api.answer(Answer::Pods(used(100)));
    phase("Idle").await;

    // Rights that are taken away.
    cluster.apply(&rights(&namespace, false)).await.unwrap();
    missing("allow `list` of pods.metrics.k8s.io to Weir's service account").await;
    cluster.apply(&rights(&namespace, true)).await.unwrap();
    weir.until(DEADLINE, "back again", |status| status.expect(&key, "MetricsAvailable", true, "Available")).await;
}
