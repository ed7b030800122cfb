//! What real Envoys tell of how the arms of a split answer: what counts as a request that has ended, and what as one that failed.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use operator::{
    identity::{self, Door, Gate},
    metrics::{HealthBoard, Measure, PodSample, Wanted, calls::Outbox, stream},
    xds::{
        proxies::Proxies,
        server::{self, Leaving, Served},
        table::Table,
    },
};
use serde_json::{Value, json};
use testkit::{app::App, http::send, ports, proxy::Proxy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};

const SOON: Duration = Duration::from_secs(30);
const CALLER: (&str, &str, &str) = ("ns-a", "caller", "caller-0");

/// Weir's side of it, without the rest of Weir.
struct Ears {
    address: SocketAddr,
    samples: mpsc::Receiver<Vec<PodSample>>,
    _ends: DropGuard,
}

/// Requests that have ended, failed, have a latency, and are in flight.
type Seen = [f64; 4];

impl Ears {
    async fn start() -> Self {
        let listener = identity::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let (table, shutdown) = (Table::new(), CancellationToken::new());
        // Nobody wants anything of the caller.
        let (_, wanted_rx) = watch::channel(Arc::new(Wanted::default()));
        let (samples_tx, samples) = mpsc::channel(1);
        let outlets = stream::Outlets { samples: samples_tx, calls: Arc::new(Outbox::default()) };
        let (routes, _) =
            stream::spawn(wanted_rx, outlets, HealthBoard::default(), Gate::open(), table.clone(), shutdown.clone());
        let leaving = Leaving::at_once(shutdown.clone());
        let served = Served { table, proxies: Proxies::new(), asks_tx: mpsc::channel(1).0 };
        tokio::spawn(server::serve(served, routes, listener.into(), Door::open(), leaving));
        Self { address, samples, _ends: shutdown.drop_guard() }
    }

    /// Calls the arm `first` until that is heard: what comes after it counts.
    async fn begin(&mut self, way: SocketAddr) {
        let is_counted =
            |sample: &PodSample| matches!(sample.measure, Measure::Called { completed, .. } if completed > 0.0);
        loop {
            assert_eq!(call(way, "first", "/").await, Some(200));
            let batch = tokio::time::timeout(SOON, self.samples.recv()).await.expect("it is heard").unwrap();
            if batch.iter().any(is_counted) {
                return;
            }
        }
    }

    /// Adds up what is heard of the other arms until it is this.
    async fn hear(&mut self, expected: &[(&str, Seen)]) {
        let expected: BTreeMap<String, Seen> =
            expected.iter().map(|(name, seen)| ((*name).to_owned(), *seen)).collect();
        let mut heard: BTreeMap<String, Seen> = BTreeMap::new();
        let hearing = async {
            while heard != expected {
                for sample in self.samples.recv().await.expect("the outbox lives") {
                    let Measure::Called { port, completed, failed, inflight, latency } = sample.measure else {
                        panic!("{sample:?}");
                    };
                    assert_eq!(
                        (&*sample.service.namespace, sample.pod.as_deref(), port),
                        ("shop", Some("ns-a/caller-0"), 80)
                    );
                    if sample.service.name == "first" {
                        continue;
                    }
                    let seen = heard.entry(sample.service.name.clone()).or_default();
                    let sums = [seen[0] + completed, seen[1] + failed, seen[2] + latency.count()];
                    *seen = [sums[0], sums[1], sums[2], inflight];
                }
            }
        };
        let heard_all = tokio::time::timeout(SOON, hearing).await;
        assert!(heard_all.is_ok(), "{heard:?} instead of {expected:?}");
    }
}

/// Answers each request with these bytes and ends the connection, or keeps it.
async fn broken(answer: &'static str, keeps: bool) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            kept.extend(keeps.then_some(stream));
        }
    });
    (address, task)
}

/// Adds a way out to the bootstrap, on which the host `name` leads to the arm `shop/name/80` at its address, nowhere without one.
fn way_out(bootstrap: &mut Value, arms: &[(&str, Option<SocketAddr>)]) -> SocketAddr {
    let way = ports::free();
    let address = |of: SocketAddr| json!({"socket_address": {"address": of.ip().to_string(), "port_value": of.port()}});
    let clusters = arms.iter().map(|(name, at)| {
        let endpoints = at.map(|at| json!({"endpoint": {"address": address(at)}}));
        json!({
            "name": format!("out/{name}"),
            "alt_stat_name": format!("arm_shop_{name}_80"),
            "type": "STATIC",
            "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [{"max_requests": if *name == "full" { 0 } else { 1_000 }}]},
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": Vec::from_iter(endpoints)}],
            },
        })
    });
    let resources = &mut bootstrap["static_resources"];
    resources["clusters"].as_array_mut().unwrap().extend(clusters);
    let any = |name: &str, mut config: Value| {
        config["@type"] = format!("type.googleapis.com/envoy.extensions.filters.{name}").into();
        json!({"name": name, "typed_config": config})
    };
    let hosts = arms.iter().map(|(name, _)| {
        let action = json!({"cluster": format!("out/{name}"), "timeout": if *name == "slow" { "0.5s" } else { "0s" }});
        json!({"name": name, "domains": [name], "routes": [{"match": {"prefix": "/"}, "route": action}]})
    });
    let http = json!({
        "stat_prefix": "out_15001",
        "http_filters": [any("http.router.v3.Router", json!({}))],
        "route_config": {"virtual_hosts": Vec::from_iter(hosts)},
    });
    let filter = any("network.http_connection_manager.v3.HttpConnectionManager", http);
    resources["listeners"] = json!([
        {"name": "way", "address": address(way), "filter_chains": [{"filters": [filter]}]},
    ]);
    way
}

async fn call(way: SocketAddr, host: &str, path: &str) -> Option<u16> {
    let request = http::Request::get(format!("http://{way}{path}")).header("host", host);
    Some(send(request.body(Full::default()).unwrap()).await.ok()?.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_tells_how_arms_answer() {
    let app = App::start(([127, 0, 0, 1], 0).into()).await;
    let slow = App::start(([127, 0, 0, 1], 0).into()).await;
    slow.answers(200, SOON);
    let (closes, _closes) = broken("", false).await;
    let (breaks, _breaks) = broken("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort", false).await;
    let (endless, _endless) = broken("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort", true).await;
    let arms = [
        ("first", Some(app.address)),
        ("well", Some(app.address)),
        ("slow", Some(slow.address)),
        ("hangs", Some(slow.address)),
        ("refuses", Some(ports::free())),
        ("closes", Some(closes)),
        ("breaks", Some(breaks)),
        ("endless", Some(endless)),
        ("empty", None),
        ("full", Some(app.address)),
        ("idle", Some(app.address)),
    ];
    let mut ears = Ears::start().await;
    let mut way = None;
    let proxy = Proxy::start_as(ears.address, CALLER, |bootstrap| way = Some(way_out(bootstrap, &arms))).await;
    let way = way.unwrap();
    ears.begin(way).await;

    let calls = [
        ("well", "/", Some(200)),
        ("well", "/answer/404", Some(404)),
        ("well", "/answer/429", Some(429)),
        ("well", "/answer/502", Some(502)),
        ("slow", "/", Some(504)),
        ("refuses", "/", Some(503)),
        ("closes", "/", Some(503)),
        ("breaks", "/", None),
        ("empty", "/", Some(503)),
        ("full", "/", Some(503)),
    ];
    for (host, path, status) in calls {
        assert_eq!(call(way, host, path).await, status, "{host}{path}");
    }
    // Both callers leave: one before the head of an answer has come, and one after it.
    for host in ["hangs", "endless"] {
        let gone = tokio::time::timeout(Duration::from_millis(200), call(way, host, "/")).await;
        assert!(gone.is_err(), "{host}");
    }
    let expected = [
        ("well", [4.0, 1.0, 4.0, 0.0]),
        ("slow", [1.0, 1.0, 0.0, 0.0]),
        ("hangs", [1.0, 1.0, 0.0, 0.0]),
        ("refuses", [1.0, 1.0, 0.0, 0.0]),
        ("closes", [1.0, 1.0, 0.0, 0.0]),
        ("breaks", [1.0, 0.0, 0.0, 0.0]),
        ("endless", [1.0, 0.0, 0.0, 0.0]),
        ("empty", [1.0, 1.0, 0.0, 0.0]),
        ("full", [0.0, 0.0, 0.0, 0.0]),
    ];
    ears.hear(&expected).await;

    // Of arms Envoy keeps what is read, and no more.
    let kept = proxy.stats("^cluster%5C.arm_shop_well_80").await;
    let kept: Vec<_> = kept.keys().filter_map(|name| name.strip_prefix("cluster.arm_shop_well_80.upstream_")).collect();
    let expected = [
        "cx_active",
        "cx_none_healthy",
        "cx_total",
        "rq_5xx",
        "rq_active",
        "rq_active_overflow",
        "rq_cancelled",
        "rq_completed",
        "rq_pending_active",
        "rq_pending_failure_eject",
        "rq_pending_overflow",
        "rq_total",
    ];
    assert_eq!(kept, expected);
    assert!(proxy.admin("/stats?filter=arm_shop_well").await.contains("cluster.arm_shop_well_80.upstream_rq_time: P0"));
}
