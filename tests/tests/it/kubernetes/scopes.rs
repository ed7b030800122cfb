//! `WorkloadScope`: what the pods of a Service call, written by Weir and read again by the next one.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value;
use testkit::{app::App, cluster::Cluster, eventually, http, mesh::Service, ports::Network, proxy::Proxy, weir::Weir};

const SOON: Duration = Duration::from_secs(30);
/// One object is written at most every 10 s.
const WRITTEN: Duration = Duration::from_secs(40);

struct Place {
    cluster: &'static Cluster,
    namespace: String,
    page: Service,
    app: App,
}

impl Place {
    /// A page that calls, and a Service `cart` that it may call.
    async fn new() -> Self {
        let cluster = Cluster::shared().await;
        cluster.install_crds().await;
        let namespace = cluster.namespace("scope").await;
        let network = Network::routable();
        let app = App::start((network.address(200), 0).into()).await;
        let page = Service::start_in(network, &namespace, "page", 1).await;
        cluster.put(&page).await;
        let place = Self { cluster, namespace, page, app };
        let listen = format!("outbound.weir.dev/listen={}", place.page.outbound(0));
        place.kubectl(&["annotate", "pod", &place.page.pods[0].name, &listen]).await;
        place.apply(&place.cart()).await;
        place
            .apply("apiVersion: weir.dev/v1alpha1\nkind: LazyConfig\nmetadata: {name: all}\nspec: {prewarm: true}\n")
            .await;
        place
    }

    fn cart(&self) -> String {
        let at: SocketAddr = self.app.address;
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: cart}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: cart-1, labels: {{kubernetes.io/service-name: cart}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: {}}}]\nendpoints: [{{addresses: [{}]}}]\n",
            at.port(),
            at.ip()
        )
    }

    async fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(&[arguments, &["--namespace", &self.namespace]].concat()).await.unwrap()
    }

    async fn apply(&self, text: &str) {
        let arguments = ["apply", "-f", "-", "--namespace", &self.namespace];
        self.cluster.kubectl_with(&arguments, text).await.unwrap();
    }

    async fn weir(&self) -> Weir {
        Weir::watch(self.cluster.kubeconfig(), &["--namespace", &self.namespace]).await
    }

    async fn call(&self) -> u16 {
        let proxy = self.page.outbound(0);
        let request = ::http::Request::get(format!("http://{proxy}/")).header("host", "cart");
        http::send(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap().status().as_u16()
    }

    /// What the object says that is called, once it says so. Calls on: one call may be the last of a cluster that goes just then, of which
    /// nobody tells.
    async fn written(&self) -> Value {
        eventually(WRITTEN, "what the page calls is written", async || {
            assert_eq!(self.call().await, 200);
            let text = self.kubectl(&["get", "wws", "--output=json"]).await;
            let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let status = &list["items"][0]["status"];
            if status["count"] == 1 { Ok(status["calls"][0].clone()) } else { Err(text) }
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_workload_calls_outlives_weir_and_all_its_pods() {
    let place = Place::new().await;
    let weir = place.weir().await;
    let proxy = Proxy::start(&weir, &place.page, 0).await;
    assert!(proxy.destinations().await.is_empty());
    assert_eq!(place.call().await, 200);
    let call = place.written().await;
    assert_eq!(call["to"], format!("{}/cart/80", place.namespace));
    assert_eq!(call["why"], "OnDemand");
    let table = place.kubectl(&["get", "wws"]).await;
    assert!(table.lines().nth(1).is_some_and(|line| line.starts_with("page ")), "{table}");

    drop(proxy);
    weir.kill().await.unwrap();
    let weir = place.weir().await;
    let proxy = Proxy::start(&weir, &place.page, 0).await;
    assert_eq!(proxy.destinations().await.len(), 1, "warm from the start");
    assert_eq!(place.call().await, 200);

    // Whoever deletes it begins anew.
    place.kubectl(&["delete", "wws", "page"]).await;
    // Its cluster stays for as long as a connection is kept open there.
    eventually(SOON, "it is forgotten", async || match weir.metric("weir_forgotten_total").await {
        1.0.. => Ok(()),
        none => Err(none),
    })
    .await;
    assert_eq!(place.call().await, 200, "and asked for again");
    place.written().await;

    // With the Service goes what is remembered of it.
    place.kubectl(&["delete", "service", "page"]).await;
    eventually(WRITTEN, "the object is gone", async || match place.kubectl(&["get", "wws", "--output=name"]).await {
        none if none.is_empty() => Ok(()),
        some => Err(some),
    })
    .await;
}
