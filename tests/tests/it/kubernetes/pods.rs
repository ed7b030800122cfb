//! Pods that are only objects, with real processes and Envoys at their addresses.

use std::time::Duration;

use testkit::{cluster::Cluster, http::Connection, mesh::Service, ports::Network, proxy::Proxy, weir::Weir};

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
