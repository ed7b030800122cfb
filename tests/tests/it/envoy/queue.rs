//! The bound of requests in flight, and the runtime layer that carries it to Envoy.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use operator::intent::ServiceKey;
use testkit::{
    eventually,
    http::Connection,
    mesh::{Service, limiter, put},
    ports,
    proxy::Proxy,
    temp_dir,
    weir::Weir,
    xds::Server,
};

const DEADLINE: Duration = Duration::from_secs(30);
const KEY: &str = "smartlimiters.weir.dev/ns-a/checkout";

/// Sends a request that the application answers when told, on a connection of its own.
fn hold(address: SocketAddr) -> tokio::task::JoinHandle<(http::Response<Bytes>, Connection)> {
    tokio::spawn(async move {
        let mut connection = Connection::open(address, None).await.unwrap();
        let request = http::Request::get("/hold").body(Full::default()).unwrap();
        (connection.send(request).await.unwrap(), connection)
    })
}

async fn held(service: &Service, wanted: u64) {
    eventually(DEADLINE, "so many wait in the application", async || match service.pods[0].app.held() {
        held if held == wanted => Ok(()),
        held => Err(held),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_bounded_and_a_bound_that_moves_closes_nothing() {
    let service = Service::start("ns-a", "checkout", 1).await;
    let server = Server::start();
    server.bound(&service, Some(4));
    let proxy = Proxy::start_at(server.address, &service, 0, |_| {}).await;
    server.programmed(&service).await;
    let (inbound, app) = (service.pods[0].inbound, &service.pods[0].app);
    let mut kept = Connection::open(inbound, None).await.unwrap();

    let mut waiting: Vec<_> = (0..4).map(|_| hold(inbound)).collect();
    held(&service, 4).await;
    for _ in 0..20 {
        assert_eq!(kept.get("/").await.unwrap(), 503, "the queue is full");
    }
    let port = inbound.port();
    let listeners = proxy.stat("listener_manager.lds.update_success").await;
    let clusters = proxy.stat("cluster_manager.cds.update_success").await;
    for (bound, more) in [(7, 3), (8, 1)] {
        server.bound(&service, Some(bound));
        server.programmed(&service).await;
        waiting.extend((0..more).map(|_| hold(inbound)));
        held(&service, bound.into()).await;
        assert_eq!(kept.get("/").await.unwrap(), 503, "the queue is full again");
    }
    // A bound below what is in flight breaks nothing off.
    server.bound(&service, Some(1));
    server.programmed(&service).await;
    assert_eq!(kept.get("/").await.unwrap(), 503);
    held(&service, 8).await;
    app.release();
    for waited in waiting {
        let (response, _connection) = waited.await.unwrap();
        assert_eq!((response.status().as_u16(), response.headers().get("connection")), (200, None));
    }
    assert_eq!(kept.get("/").await.unwrap(), 200);
    let one = hold(inbound);
    held(&service, 1).await;
    assert_eq!(kept.get("/").await.unwrap(), 503);
    server.bound(&service, None);
    server.programmed(&service).await;
    assert_eq!(kept.get("/").await.unwrap(), 200, "no bound any more");
    app.release();
    one.await.unwrap();

    assert_eq!(proxy.stat(&format!("cluster.in_{port}.upstream_rq_active_overflow")).await, 24);
    assert_eq!(proxy.stat("listener_manager.lds.update_success").await, listeners);
    assert_eq!(proxy.stat("cluster_manager.cds.update_success").await, clusters);
    assert_eq!(proxy.stat(&format!("http.in_{port}.downstream_cx_drain_close")).await, 0);
    assert_eq!(proxy.stats("update_rejected|runtime.load_error").await.values().sum::<u64>(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_bound_is_enforced_at_once() {
    let service = Service::start("ns-a", "checkout", 1).await;
    let server = Server::start();
    server.bound(&service, Some(1));
    let _proxy = Proxy::start_at(server.address, &service, 0, |_| {}).await;
    server.programmed(&service).await;
    let inbound = service.pods[0].inbound;
    let one = hold(inbound);
    held(&service, 1).await;
    let mut connection = Connection::open(inbound, None).await.unwrap();
    let mut took = Vec::new();
    for (bound, answer) in [(2, 200), (1, 503)].repeat(20) {
        server.bound(&service, Some(bound));
        let pushed = Instant::now();
        while connection.get("/").await.unwrap() != answer {
            assert!(pushed.elapsed() < DEADLINE, "the bound {bound} never arrives");
        }
        took.push(pushed.elapsed());
    }
    took.sort();
    eprintln!("push to enforced: median {:?}, longest {:?}", took[took.len() / 2], took[took.len() - 1]);
    assert!(took[took.len() / 2] < Duration::from_millis(100), "{took:?}");
    service.pods[0].app.release();
    one.await.unwrap();
}

/// What the last layer that Weir fills says, by key.
async fn runtime(proxy: &Proxy, key: &str) -> String {
    let runtime: serde_json::Value = serde_json::from_str(&proxy.admin("/runtime").await).unwrap();
    runtime["entries"][key]["final_value"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_gone_says_nothing_and_one_that_is_not_there_yet_delays_nothing() {
    let service = Service::start("ns-a", "checkout", 1).await;
    let server = Server::start();
    // Without an answer it would take an hour.
    let proxy = Proxy::start_at(server.address, &service, 0, |bootstrap| {
        let layer = &mut bootstrap["layered_runtime"]["layers"][1]["rtds_layer"];
        assert_eq!(layer["name"], "rt/ns-a/checkout/checkout-0");
        layer["rtds_config"]["initial_fetch_timeout"] = "3600s".into();
    })
    .await;
    assert_eq!(runtime(&proxy, "weir.enforced").await, "");
    let key = format!("circuit_breakers.{}.default.max_requests", service.resource(0));
    for bound in [Some(3), None] {
        server.bound(&service, bound);
        server.programmed(&service).await;
        assert_eq!(runtime(&proxy, "weir.enforced").await, "100");
        assert_eq!(runtime(&proxy, &key).await, bound.map(|bound| bound.to_string()).unwrap_or_default());
    }
    server.bound(&service, Some(5));
    server.programmed(&service).await;
    server.table.remove(&ServiceKey { namespace: "ns-a".into(), name: "checkout".into() });
    eventually(DEADLINE, "the layer is empty", async || match runtime(&proxy, &key).await {
        value if value.is_empty() => Ok(()),
        value => Err(value),
    })
    .await;
    assert_eq!(runtime(&proxy, "weir.enforced").await, "");
    assert_eq!(proxy.stats("update_rejected|runtime.load_error").await.values().sum::<u64>(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_without_the_layer_and_a_start_without_weir_still_work() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    put(
        folder.path(),
        "policy.yaml",
        &limiter("ns-a", "checkout", "- name: few\n  limit: 5 requests per hour per pod\n  burst: 2"),
    );
    let weir = Weir::start(folder.path(), &[]).await;
    let begun = Instant::now();
    let old = Proxy::start_with(&weir, &service, 0, |bootstrap| {
        bootstrap["layered_runtime"]["layers"].as_array_mut().unwrap().remove(1);
    })
    .await;
    eprintln!("start without the layer: {:?}", begun.elapsed());
    weir.until(DEADLINE, "it is programmed", |status| status.programmed(KEY, 1)).await;
    let mut connection = Connection::open(service.pods[0].inbound, None).await.unwrap();
    assert_eq!(connection.burst("/", 5).await.unwrap(), (2, 3));
    drop(old);
    let begun = Instant::now();
    let with = Proxy::start(&weir, &service, 0).await;
    eprintln!("start with the layer: {:?}", begun.elapsed());
    drop(with);
    let begun = Instant::now();
    let _alone = Proxy::start_at(ports::free(), &service, 0, |_| {}).await;
    eprintln!("start without Weir: {:?}", begun.elapsed());
}
