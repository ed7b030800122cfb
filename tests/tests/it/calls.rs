//! What real Envoys tell of the calls that their applications make: whom they use, and which hosts nothing is known of.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use operator::{
    identity::{self, Door, Gate},
    intent::ServiceKey,
    metrics::{
        HealthBoard, Wanted,
        calls::{Calls, Outbox},
        logs, stream,
    },
    xds::{
        names, print,
        proxies::Proxies,
        resources::logger,
        server::{self, Leaving, Served},
        table::Table,
    },
};
use serde_json::{Value, json};
use testkit::{
    app::App,
    authority::Authority,
    eventually,
    http::send,
    mesh::{Service, put},
    mount::Mount,
    ports,
    proxy::Proxy,
    temp_dir,
    weir::Weir,
};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
};
use tokio_util::sync::{CancellationToken, DropGuard};

const SOON: Duration = Duration::from_secs(30);
const CALLER: (&str, &str, &str) = ("ns-a", "caller", "caller-0");

/// Weir's side of it, without the rest of Weir.
struct Ears {
    address: SocketAddr,
    calls: mpsc::Receiver<Vec<Calls>>,
    _ends: DropGuard,
}

impl Ears {
    async fn start() -> Self {
        let listener = identity::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let (table, shutdown, outbox) = (Table::new(), CancellationToken::new(), Arc::new(Outbox::default()));
        let called = ServiceKey { namespace: CALLER.0.to_owned(), name: CALLER.1.to_owned() };
        let (_wanted_tx, wanted_rx) = watch::channel(Arc::new(Wanted { called: [called].into(), ..Wanted::default() }));
        let ((samples, _), (calls_tx, calls)) = (mpsc::channel(1), mpsc::channel(1));
        let outlets = stream::Outlets { samples, calls: outbox.clone() };
        let (routes, _) =
            stream::spawn(wanted_rx, outlets, HealthBoard::default(), Gate::open(), table.clone(), shutdown.clone());
        let meters = logs::Meters::default();
        let routes = logs::beside(routes, outbox.clone(), meters, Gate::open(), table.clone(), shutdown.clone());
        let leaving = Leaving::at_once(shutdown.clone());
        // Nobody asks for what is not there.
        let served = Served { table, proxies: Proxies::new(), asks_tx: mpsc::channel(1).0 };
        tokio::spawn(server::serve(served, routes, listener.into(), Door::open(), leaving));
        tokio::spawn(async move { outbox.drain(&calls_tx).await });
        Self { address, calls, _ends: shutdown.drop_guard() }
    }

    /// Waits until something is heard that this makes something of.
    async fn hear<T>(&mut self, what: &str, of: impl Fn(&Calls) -> Option<T>) -> T {
        let heard = async {
            loop {
                let batch = self.calls.recv().await.expect("the outbox lives");
                assert!(batch.iter().all(|calls| calls.node.to_string() == "ns-a/caller/caller-0"), "{batch:?}");
                if let Some(found) = batch.iter().find_map(&of) {
                    return found;
                }
            }
        };
        tokio::time::timeout(SOON, heard).await.unwrap_or_else(|_| panic!("never heard: {what}"))
    }

    /// Requests, in flight, active: of a destination, once they are so.
    async fn used(&mut self, name: &str, expected: [u64; 3]) {
        self.hear(&format!("{name} {expected:?}"), |calls| {
            let used = calls.used.iter().find(|used| &*used.stat_name == name)?;
            ([used.requests, used.inflight, used.active] == expected).then_some(())
        })
        .await;
    }
}

/// Adds a way out to the bootstrap: an HTTP listener that knows `cart` and `api.ssl.example`, and sends the rest elsewhere; and one
/// of bytes.
struct WayOut {
    http: SocketAddr,
    bytes: SocketAddr,
}

impl WayOut {
    fn add(bootstrap: &mut Value, application: SocketAddr) -> Self {
        let way = Self { http: ports::free(), bytes: ports::free() };
        let address =
            |of: SocketAddr| json!({"socket_address": {"address": of.ip().to_string(), "port_value": of.port()}});
        let cluster = |stat_name: &str| {
            json!({
                "name": format!("out/{stat_name}"),
                "alt_stat_name": stat_name,
                "type": "STATIC",
                "load_assignment": {
                    "cluster_name": stat_name,
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(application)}}]}],
                },
            })
        };
        let clusters = ["out_shop_cart_80", "out_dns_api.ssl.example_443", "out_tcp_db_5432", "out_shop_idle_80"];
        let resources = &mut bootstrap["static_resources"];
        resources["clusters"].as_array_mut().unwrap().extend(clusters.map(cluster));
        let any = |name: &str, mut config: Value| {
            config["@type"] = format!("type.googleapis.com/envoy.extensions.filters.{name}").into();
            json!({"name": name, "typed_config": config})
        };
        let host = |name: &str, domain: &str, action: (&str, Value)| {
            json!({
                "name": name,
                "domains": [domain],
                "routes": [{"name": name, "match": {"prefix": "/"}, action.0: action.1}],
            })
        };
        let to = |cluster: &str| ("route", json!({"cluster": format!("out/{cluster}")}));
        let http = json!({
            "stat_prefix": "out_15001",
            "access_log": [print::message(&logger::unknown_hosts()).unwrap()],
            "http_filters": [any("http.router.v3.Router", json!({}))],
            "route_config": {"virtual_hosts": [
                host("shop/cart/80", "cart", to("out_shop_cart_80")),
                host("dns/api.ssl.example", "api.ssl.example", to("out_dns_api.ssl.example_443")),
                host(names::FALLBACK, "*.learned:8080", to("out_shop_cart_80")),
                host(names::UNKNOWN_HOST, "*", ("direct_response", json!({"status": 404}))),
            ]},
        });
        let bytes = json!({
            "stat_prefix": "out_bytes",
            "cluster": "out/out_tcp_db_5432",
            "access_log": [print::message(&logger::unknown_destinations()).unwrap()],
        });
        let listener = |at: SocketAddr, filter: Value| json!({"name": at.to_string(), "address": address(at), "filter_chains": [{"filters": [filter]}]});
        resources["listeners"] = json!([
            listener(way.http, any("network.http_connection_manager.v3.HttpConnectionManager", http)),
            listener(way.bytes, any("network.tcp_proxy.v3.TcpProxy", bytes)),
        ]);
        way
    }

    /// Calls each of these hosts, one after the other.
    async fn call(&self, hosts: &[&str]) -> Vec<u16> {
        let mut answers = Vec::new();
        for host in hosts {
            let request = http::Request::get(format!("http://{}/", self.http)).header("host", *host);
            answers.push(send(request.body(Full::default()).unwrap()).await.unwrap().status().as_u16());
        }
        answers
    }
}

/// An application, and an Envoy with a way out to it that somebody hears.
async fn overheard() -> (App, Ears, Proxy, WayOut) {
    let app = App::start(([127, 0, 0, 1], 0).into()).await;
    let ears = Ears::start().await;
    let mut way = None;
    let proxy =
        Proxy::start_as(ears.address, CALLER, |bootstrap| way = Some(WayOut::add(bootstrap, app.address))).await;
    (app, ears, proxy, way.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_tells_whom_its_application_calls_and_nothing_else() {
    let (app, mut ears, proxy, way) = overheard().await;
    let nothing = ears.hear("the first message", |calls| calls.used_at.map(|_| calls.used.clone())).await;
    assert_eq!(nothing, [], "what was never called is not told");

    assert_eq!(way.call(&["cart", "cart", "api.ssl.example"]).await, [200, 200, 200]);
    ears.hear("both destinations", |calls| {
        let of = |name: &str| calls.used.iter().find(|used| &*used.stat_name == name).map(|used| used.requests);
        Some(()).filter(|()| of("out_shop_cart_80") == Some(2) && of("out_dns_api.ssl.example_443") == Some(1))
    })
    .await;

    // A request that has no answer yet is in flight until its client gives up.
    app.answers(200, SOON);
    let waiting = tokio::spawn({
        let address = way.http;
        async move { WayOut { http: address, bytes: address }.call(&["cart"]).await }
    });
    ears.hear("a request in flight", |calls| {
        let cart = calls.used.iter().find(|used| &*used.stat_name == "out_shop_cart_80")?;
        (cart.inflight == 1 && cart.active >= 2).then_some(())
    })
    .await;
    waiting.abort();
    ears.hear("none in flight", |calls| {
        let cart = calls.used.iter().find(|used| &*used.stat_name == "out_shop_cart_80")?;
        (cart.inflight == 0).then_some(())
    })
    .await;

    // Bytes: a connection counts as a request, and is told while it is open.
    let connection = TcpStream::connect(way.bytes).await.unwrap();
    ears.used("out_tcp_db_5432", [1, 1, 2]).await;
    drop(connection);
    ears.used("out_tcp_db_5432", [0, 0, 0]).await;

    // Of destinations Envoy keeps what is told, and no more.
    let kept = proxy.stats("^cluster%5C.out_").await;
    let is_told = |name: &String| {
        ["upstream_rq_total", "upstream_rq_active", "upstream_cx_total", "upstream_cx_active"]
            .iter()
            .any(|stat| name.ends_with(&format!(".{stat}")))
    };
    assert!(kept.keys().all(is_told) && kept.len() == 16, "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_logs_calls_to_unknown_hosts_and_no_other() {
    let (_app, mut ears, proxy, way) = overheard().await;
    assert_eq!(
        way.call(&["cart", "api.ssl.example", "new.learned:8080", "Nobody.Example"]).await,
        [200, 200, 200, 404]
    );
    let mut unknown = Vec::new();
    while !unknown.contains(&"nobody.example".to_owned()) {
        unknown.extend(
            ears.hear("unknown hosts", |calls| Some(calls.unknown.clone()).filter(|unknown| !unknown.is_empty())).await,
        );
    }
    unknown.sort();
    assert_eq!(unknown, ["new.learned:8080", "nobody.example"]);
    assert_eq!(proxy.stat("access_logs.grpc_access_log.logs_written").await, 2);

    // Bytes are told by where they went, once they end.
    drop(TcpStream::connect(way.bytes).await.unwrap());
    let destination = ears.hear("bytes", |calls| calls.unknown.first().cloned()).await;
    assert_eq!(destination, way.bytes.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_logs_only_about_its_own_pod() {
    const NAME: &str = "weir.example";
    let (config, certificates) = (temp_dir(), temp_dir());
    let service = Service::start("ns-a", "caller", 2).await;
    service.write(config.path());
    let (servers, authority) = (Authority::new("servers"), Authority::new("clients"));
    let own = servers.server(NAME, -1, 30);
    put(certificates.path(), "tls.crt", &own.certificate);
    put(certificates.path(), "tls.key", &own.key);
    put(certificates.path(), "clients.crt", authority.pem());
    let [folder, clients] = [certificates.path().to_owned(), certificates.path().join("clients.crt")];
    let arguments = ["--certificate-dir", folder.to_str().unwrap(), "--xds-client-ca", clients.to_str().unwrap()];
    let weir = Weir::start(config.path(), &arguments).await;
    let app = &service.pods[0].app;
    let mount = Mount::new(servers.pem(), "");
    let signed = authority.client("ns-a/caller-0", None);
    mount.put("tls.crt", &signed.certificate);
    mount.put("tls.key", &signed.key);

    // The certificate is that of caller-0.
    for (pod, heard) in [("caller-1", false), ("caller-0", true)] {
        let node = ("ns-a", "caller", pod);
        let trust = Some(mount.trust_by_certificate(NAME));
        let mut way = None;
        let proxy = Proxy::start_trusting(weir.xds, node, trust, |bootstrap| {
            // Nothing but the log goes to Weir.
            let all = bootstrap.as_object_mut().unwrap();
            for part in ["stats_sinks", "dynamic_resources", "layered_runtime"] {
                all.remove(part).unwrap();
            }
            way = Some(WayOut::add(bootstrap, app.address));
        })
        .await;
        let way = way.unwrap();
        eventually(SOON, "its log is judged", async || {
            assert_eq!(way.call(&["nobody"]).await, [404]);
            let taken = weir.metric("weir_unknown_entries_total").await;
            let refused = weir.metric("weir_identity_refused_total").await;
            assert!(heard || taken == 0.0, "{taken} taken of another pod");
            let written = proxy.stat("access_logs.grpc_access_log.logs_written").await;
            if (heard && taken > 0.0) || (!heard && refused >= 2.0) {
                Ok(())
            } else {
                Err(format!("{written} written, {taken} taken, {refused} streams refused"))
            }
        })
        .await;
    }
}
