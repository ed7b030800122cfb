//! Beside another control plane: an Envoy whose listener, routes and clusters are not Weir's enforces Weir's limits.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use operator::xds::{
    attachment::{Options, attachment},
    bootstrap::Protocol,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    app::App,
    eventually,
    http::Connection,
    mesh::{Service, limiter, put},
    proxy::Proxy,
    temp_dir,
    weir::Weir,
};

const DEADLINE: Duration = Duration::from_secs(30);
const KEY: &str = "smartlimiters.weir.dev/ns-a/checkout";

/// A gateway's own configuration: two hosts with a cluster each, and in front of its router what `weir attachment` prints.
fn gateway(admin: &Value, service: &Service, weir: &Weir, protocol: Protocol, other: &App) -> Value {
    let node = service.node(0).parse().unwrap();
    let mut attached = attachment(&Options { node, xds_address: weir.xds.into(), trust: None, protocol }).unwrap();
    let socket = |address: std::net::SocketAddr| json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    let cluster = |name: &str, address| {
        let endpoints = json!([{"lb_endpoints": [{"endpoint": {"address": socket(address)}}]}]);
        json!({"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": endpoints}})
    };
    let host = |name: &str, domain: &str| json!({"name": name, "domains": [domain], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": name}}]});
    let mut filters = attached["http_filters"].take();
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    filters.as_array_mut().unwrap().push(json!({"name": "router", "typed_config": {"@type": router}}));
    let mut clusters = attached["clusters"].take();
    clusters
        .as_array_mut()
        .unwrap()
        .extend([cluster("shop", service.pods[0].app.address), cluster("other", other.address)]);
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "use_remote_address": true,
        "route_config": {"virtual_hosts": [host("other", "other.example"), host("shop", "*")]},
        "http_filters": filters,
    });
    json!({
        "node": {"id": "gateway~10.0.0.1~gateway-0.edge", "cluster": "edge"},
        "admin": admin,
        "static_resources": {
            "listeners": [{
                "name": "gateway",
                "address": socket(service.pods[0].inbound),
                "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
            }],
            "clusters": clusters,
        },
    })
}

struct World {
    folder: TempDir,
    service: Service,
    weir: Weir,
    proxy: Proxy,
    _other: App,
}

impl World {
    async fn start(rules: &str, protocol: Protocol) -> Self {
        let folder = temp_dir();
        let service = Service::start("ns-a", "checkout", 1).await;
        service.write(folder.path());
        put(folder.path(), "policy.yaml", &limiter("ns-a", "checkout", rules));
        let weir = Weir::start(folder.path(), &[]).await;
        let other = App::start((service.pods[0].inbound.ip(), 0).into()).await;
        let proxy = Proxy::start_with(&weir, &service, 0, |bootstrap| {
            *bootstrap = gateway(&bootstrap["admin"], &service, &weir, protocol, &other);
        })
        .await;
        Self { folder, service, weir, proxy, _other: other }
    }

    fn write(&self, rules: &str) {
        put(self.folder.path(), "policy.yaml", &limiter("ns-a", "checkout", rules));
    }

    async fn programmed(&self, generation: u64) {
        self.weir.until(DEADLINE, "it is programmed", |status| status.programmed(KEY, generation)).await;
    }

    async fn client(&self, number: u8) -> Connection {
        Connection::open(self.service.pods[0].inbound, Some(self.service.client(number))).await.unwrap()
    }

    async fn stat(&self, suffix: &str) -> u64 {
        let stats = self.proxy.stats("extension_config_discovery").await;
        stats.iter().find(|(name, _)| name.ends_with(suffix)).map_or(0, |(_, count)| *count)
    }
}

/// A narrow bucket that is soon empty, and a wide rule to be edited.
fn rules(per_second: u32) -> String {
    format!(
        "- name: few\n  matches: [{{path: {{type: PathPrefix, value: /few}}}}]\n  limit: 5 requests per hour per pod\n  burst: 3\n\
         - name: wide\n  limit: {per_second} requests per second per pod"
    )
}

async fn admitted(client: &mut Connection, requests: usize, request: impl Fn() -> http::request::Builder) -> usize {
    let mut admitted = 0;
    for _ in 0..requests {
        let response = client.send(request().body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        match response.status().as_u16() {
            200 => admitted += 1,
            429 => {}
            other => panic!("answered {other}"),
        }
    }
    admitted
}

async fn limits_move_live(protocol: Protocol) {
    let world = World::start(&rules(1000), protocol).await;
    world.programmed(1).await;
    let mut connection = world.client(1).await;
    assert_eq!(connection.burst("/few", 10).await.unwrap(), (3, 7));
    let request = http::Request::get("/few").body(Full::<Bytes>::default()).unwrap();
    let refused = connection.send(request).await.unwrap();
    assert_eq!(refused.headers()["retry-after"], "720", "5 an hour");
    // Whatever host the gateway routes by: the limits are the pod's.
    let host = || http::Request::get("/few").header("host", "other.example");
    assert_eq!(admitted(&mut connection, 2, host).await, 0);
    let mut slowest = Duration::ZERO;
    for change in 1..=10_u32 {
        world.write(&rules(1000 + change));
        let changed = Instant::now();
        world.programmed(u64::from(change) + 1).await;
        slowest = slowest.max(changed.elapsed());
        assert_eq!(connection.burst("/few", 2).await.unwrap(), (0, 2), "change {change} filled the bucket");
    }
    assert!(slowest < Duration::from_secs(2), "a change took {slowest:?}, file and status included");
    world.write("- name: wide\n  limit: 5 requests per day per pod\n  burst: 2");
    world.programmed(12).await;
    assert_eq!(connection.burst("/", 5).await.unwrap(), (2, 3));
    world.write(&rules(1000));
    world.programmed(13).await;
    assert_eq!(connection.burst("/", 5).await.unwrap(), (5, 0));
    assert_eq!(world.proxy.stat("http.gateway.downstream_cx_total").await, 1, "the connection was closed");
    assert_eq!(world.proxy.stats("drain_close|listener_modified").await.values().sum::<u64>(), 0);

    // Without Weir all stays as it is; with it again nothing is sent.
    let reloads = world.stat("config_reload").await;
    let (xds, admin) = (world.weir.xds, world.weir.admin);
    world.weir.kill().await.unwrap();
    assert_eq!(connection.burst("/few", 2).await.unwrap(), (0, 2));
    assert_eq!(connection.burst("/", 5).await.unwrap(), (5, 0));
    let mut weir = Weir::spawn(world.folder.path(), xds, admin, &[]);
    weir.ready().await;
    let world = World { weir, ..world };
    world.programmed(1).await;
    assert!(world.weir.metric("weir_xds_pushes_total").await < 0.5, "something was sent again");
    assert_eq!(world.stat("config_reload").await, reloads);
    assert_eq!(connection.burst("/few", 2).await.unwrap(), (0, 2));
    // The pod goes, and with it its limits; nothing fails.
    std::fs::remove_file(world.folder.path().join("ns-a.checkout.yaml")).unwrap();
    eventually(DEADLINE, "the configuration without limits is taken", async || {
        let taken = world.stat("config_reload").await;
        if taken > reloads { Ok(()) } else { Err(taken) }
    })
    .await;
    assert_eq!(connection.burst("/few", 2).await.unwrap(), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_move_live_on_another_planes_listener() {
    limits_move_live(Protocol::Delta).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_move_live_over_state_of_the_world() {
    limits_move_live(Protocol::Sotw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_weir_the_gateway_starts_and_serves_and_is_limited_when_weir_comes() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &limiter("ns-a", "checkout", &rules(1000)));
    let weir = Weir::start(folder.path(), &[]).await;
    let (xds, admin) = (weir.xds, weir.admin);
    let other = App::start((service.pods[0].inbound.ip(), 0).into()).await;
    let mut bootstrap = Value::Null;
    let before = Proxy::start_with(&weir, &service, 0, |written| {
        *written = gateway(&written["admin"], &service, &weir, Protocol::Delta, &other);
        bootstrap = written.clone();
    })
    .await;
    drop(before);
    let gone = Weir::spawn(folder.path(), testkit::ports::free(), testkit::ports::free(), &[]);
    weir.kill().await.unwrap();
    let _proxy = Proxy::start_with(&gone, &service, 0, |written| *written = bootstrap).await;
    let mut connection = Connection::open(service.pods[0].inbound, None).await.unwrap();
    assert_eq!(connection.burst("/few", 10).await.unwrap(), (10, 0));
    let mut weir = Weir::spawn(folder.path(), xds, admin, &[]);
    weir.ready().await;
    weir.until(DEADLINE, "it is programmed", |status| status.programmed(KEY, 1)).await;
    assert_eq!(connection.burst("/few", 10).await.unwrap(), (3, 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn matches_clients_and_header_values_are_told_apart() {
    let world = World::start(
        "- name: buy\n  matches: [{method: POST, path: {type: PathPrefix, value: /buy}}]\n  limit: 5 requests per hour per pod\n  burst: 5
- name: report\n  matches: [{path: {type: Exact, value: /report}}]\n  limit: 5 requests per hour per pod\n  burst: 3
- name: beta\n  matches: [{headers: [{name: x-beta, value: \"yes\"}]}, {path: {type: RegularExpression, value: \"/v[0-9]+/.*\"}}, {queryParams: [{name: debug, value: \"1\"}]}]\n  limit: 5 requests per hour per pod\n  burst: 2
- name: each-client\n  matches: [{path: {type: PathPrefix, value: /client}}]\n  limit: 5 requests per hour per client ip per pod\n  burst: 3
- name: each-tenant\n  matches: [{path: {type: PathPrefix, value: /tenant}}]\n  limit: 5 requests per hour per header x-tenant per pod\n  burst: 2",
        Protocol::Delta,
    )
    .await;
    world.programmed(1).await;
    let mut client = world.client(1).await;
    let post = |path: &'static str| move || http::Request::post(path);
    let get = |path: &'static str| move || http::Request::get(path);
    assert_eq!(admitted(&mut client, 10, post("/buy/cart")).await, 5);
    assert_eq!(admitted(&mut client, 5, post("/buy?query=1")).await, 0, "the same bucket");
    assert_eq!(admitted(&mut client, 10, get("/buy/cart")).await, 10, "another method");
    assert_eq!(admitted(&mut client, 10, post("/buyer")).await, 10, "a prefix ends at a slash");
    assert_eq!(admitted(&mut client, 5, get("/report?a=b")).await, 3);
    assert_eq!(admitted(&mut client, 5, get("/report/")).await, 5, "exact is exact");
    assert_eq!(admitted(&mut client, 5, || http::Request::get("/").header("x-beta", "yes")).await, 2);
    assert_eq!(admitted(&mut client, 5, || http::Request::get("/").header("x-beta", "no")).await, 5);
    assert_eq!(admitted(&mut client, 5, get("/v2/items?a=b")).await, 0, "either match leads to the same bucket");
    assert_eq!(admitted(&mut client, 5, get("/?debug=1")).await, 0);
    assert_eq!(admitted(&mut client, 5, get("/version/items")).await, 5);
    for number in 1..=3 {
        let mut client = world.client(number).await;
        assert_eq!(client.burst("/client", 6).await.unwrap(), (3, 3), "client {number}");
    }
    for tenant in ["red", "blue"] {
        let request = || http::Request::get("/tenant").header("x-tenant", tenant);
        assert_eq!(admitted(&mut client, 3, request).await, 2, "{tenant}");
    }
    let mut other = world.client(4).await;
    let red = || http::Request::get("/tenant").header("x-tenant", "red");
    assert_eq!(admitted(&mut other, 1, red).await, 0, "the bucket is the tenant's, not the client's");
    assert_eq!(admitted(&mut other, 3, get("/tenant")).await, 3, "without the header nothing is limited");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_attached_is_said_and_the_rest_is_in_force() {
    let regex = "/report/[a-z]{1,40}/[0-9]{1,40}";
    let world = World::start(
        &format!(
            "- name: large\n  matches: [{{path: {{type: RegularExpression, value: \"{regex}\"}}}}]\n  limit: 5 requests per hour per pod\n  burst: 1
- name: all\n  limit: 20 requests per hour per pod\n  burst: 4"
        ),
        Protocol::Delta,
    )
    .await;
    let message = world
        .weir
        .until(DEADLINE, "it is said", |status| status.expect(KEY, "Programmed", false, "NotCarriedOut"))
        .await;
    assert!(message.contains("the rule large is not carried out: its regular expression"), "{message}");
    eventually(DEADLINE, "the rest is taken", async || {
        let taken = world.stat("config_reload").await;
        if taken > 0 { Ok(()) } else { Err(taken) }
    })
    .await;
    let mut client = world.client(1).await;
    let (passed, _) = client.burst("/report/abc/123", 20).await.unwrap();
    assert!((4..=6).contains(&passed), "{passed} admitted by the rule for all");
    assert_eq!(world.weir.metric("weir_xds_nacks_total").await as u64, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_regular_expressions_that_are_sent_are_taken() {
    let rules: Vec<_> =
        ["/[^/]{1,24}", "/[a-z]{1,36}", "/(é|ü){1,6}", "/([^a][^b]|[^c][^d]){1,5}", "(?i)/abc[d-f]{20}"]
            .iter()
            .enumerate()
            .map(|(number, regex)| {
                format!(
                    "- name: r{number}\n  matches: [{{path: {{type: RegularExpression, value: \"{regex}\"}}}}]\n  \
                 limit: 5 requests per hour per pod\n  burst: 1"
                )
            })
            .collect();
    let world = World::start(&rules.join("\n"), Protocol::Delta).await;
    world.programmed(1).await;
    assert_eq!(world.client(1).await.burst("/abcabc", 3).await.unwrap(), (1, 2));
}
