//! Pods that are only objects, with real processes and Envoys at their addresses.

use std::time::Duration;

use testkit::{
    cluster::Cluster,
    http::Connection,
    mesh::{Service, limiter},
    ports::Network,
    proxy::Proxy,
    weir::Weir,
};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn endpoint_slices_follow_the_pods_of_a_service() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace("pods").await;
    // `put` waits for what the real controller makes of it.
    let mut service = Service::start_in(Network::routable(), &namespace, "checkout", 2).await;
    cluster.put(&service).await;
    service.add().await;
    service.pods[0].ready = false;
    cluster.put(&service).await;
    service.pods.remove(1);
    service.pods[0].ready = true;
    cluster.put(&service).await;
    cluster.kubectl(&["delete", "namespace", &namespace, "--timeout=30s"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_on_the_same_pods_is_told_that_the_proxies_stand_for_the_first() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("twins").await;
    let service = Service::start_in(Network::routable(), &namespace, "cart", 1).await;
    cluster.put(&service).await;
    let address = service.pods[0].inbound;
    let twin = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: twin, namespace: {namespace}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: twin-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: twin}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: {}}}]\n\
         endpoints: [{{addresses: [{}], targetRef: {{kind: Pod, name: {}}}}}]\n---\n",
        address.port(),
        address.ip(),
        service.pods[0].name,
    );
    let rule = "- name: calm\n  limit: 10 requests per minute across all pods";
    let policies = limiter(&namespace, "cart", rule) + "---\n" + &limiter(&namespace, "twin", rule);
    cluster.apply(&(twin + &policies)).await.unwrap();
    let weir = Weir::watch(cluster.kubeconfig(), &["--namespace", &namespace]).await;
    let _proxy = Proxy::start(&weir, &service, 0).await;
    let key = |name: &str| format!("smartlimiters.weir.dev/{namespace}/{name}");
    weir.until(SOON, "one is programmed, the other says why not", |status| {
        status.programmed(&key("cart"), 1)?;
        let message = status.expect(&key("twin"), "Programmed", false, "NoProxies")?;
        if message.contains(&format!("{namespace}/cart/")) { Ok(()) } else { Err(message) }
    })
    .await;
    let (admitted, refused) = Connection::open(address, None).await.unwrap().burst("/", 20).await.unwrap();
    assert!((1..=10).contains(&admitted) && refused >= 10, "{admitted} admitted, {refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_articles_object_limits_a_real_envoy() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("article").await;
    let service = Service::start_in(Network::routable(), &namespace, "a", 3).await;
    cluster.put(&service).await;
    let weir = Weir::watch(cluster.kubeconfig(), &["--namespace", &namespace]).await;
    let _proxies = Proxy::start_all(&weir, &service).await;

    cluster
        .apply(&format!(
            "apiVersion: microservice.netease.com/v1alpha1\nkind: SmartLimiter\nmetadata: {{name: a, namespace: {namespace}}}\n\
             spec: {{descriptors: [{{action: {{fill_interval: {{seconds: 60}}, quota: \"30/{{pod}}\"}}}}]}}\n"
        ))
        .await
        .unwrap();
    let key = format!("smartlimiters.microservice.netease.com/{namespace}/a");
    weir.until(SOON, "it is programmed", |status| status.programmed(&key, 1).map(drop)).await;
    for pod in &service.pods {
        let (admitted, refused) = Connection::open(pod.inbound, None).await.unwrap().burst("/", 30).await.unwrap();
        assert!((1..=10).contains(&admitted) && refused >= 20, "{}: {admitted} admitted, {refused} refused", pod.name);
    }
}
