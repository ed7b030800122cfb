//! `LazyConfig` with two Weirs: what a proxy has, its own Weir tells the other, so the proxy keeps it whichever of them ends.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use testkit::{
    app::App,
    eventually,
    http::{self, Connection},
    mesh::{Service, lazy, put, without_proxy},
    mount::Mount,
    peers::Peers,
    ports::Network,
    proxy::{Proxy, then_at},
    status::View,
    temp_dir,
    weir::{self, Weir},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(40);
const KEY: &str = "lazyconfigs.weir.dev/shop/shop";

/// A caller and two services that it may call, and all that two Weirs need to trust each other.
struct World {
    page: Service,
    apps: [App; 2],
    config: tempfile::TempDir,
    peers: Peers,
}

impl World {
    async fn new() -> Self {
        let network = Network::new();
        let world = Self {
            page: Service::start("shop", "page", 1).await,
            apps: [App::start((network.address(1), 0).into()).await, App::start((network.address(2), 0).into()).await],
            config: temp_dir(),
            peers: Peers::new(),
        };
        put(world.config.path(), "page.yaml", &world.page.calling());
        for (name, app) in ["busy", "idle"].iter().zip(&world.apps) {
            put(world.config.path(), &format!("{name}.yaml"), &without_proxy("shop", name, "http", app.address));
        }
        world.lazy("24h");
        world
    }

    fn lazy(&self, forget_after: &str) {
        put(self.config.path(), "lazy.yaml", &lazy("shop", "shop", &format!("forgetAfter: {forget_after}")));
    }

    /// The first of the two decides as long as it is alive.
    async fn weir(&self, which: usize) -> Weir {
        self.peers.start(which, self.config.path()).await
    }

    /// The caller's proxy, which is at the second, and goes to the first when that is gone.
    async fn proxy(&self) -> (Proxy, Mount) {
        let [first, _] = self.peers.seats;
        self.peers.proxy(1, &self.page, 0, |bootstrap| then_at(bootstrap, first.xds)).await
    }

    async fn call(&self, host: &str) -> u16 {
        let request = ::http::Request::get(format!("http://{}/", self.page.outbound(0))).header("host", host);
        http::send(request.body(Full::default()).unwrap()).await.unwrap().status().as_u16()
    }

    async fn has(&self, proxy: &Proxy) -> BTreeSet<String> {
        proxy.destinations().await
    }
}

/// Calls a host all the time, over one connection that is kept.
struct Busy {
    over: CancellationToken,
    task: JoinHandle<(u32, Vec<String>)>,
}

impl Busy {
    async fn start(way_out: SocketAddr, host: &'static str) -> Self {
        let over = CancellationToken::new();
        let ends = over.clone();
        let mut open = Connection::open(way_out, None).await.unwrap();
        let task = tokio::spawn(async move {
            let (mut calls, mut failed) = (0_u32, Vec::new());
            let mut ticks = tokio::time::interval(Duration::from_millis(5));
            while !ends.is_cancelled() {
                ticks.tick().await;
                let request = ::http::Request::get("/").header("host", host).body(Full::<Bytes>::default()).unwrap();
                calls += 1;
                match open.send(request).await {
                    Ok(answer) if answer.status() == 200 => {}
                    other => failed.push(format!("call {calls}: {other:?}")),
                }
            }
            (calls, failed)
        });
        Self { over, task }
    }

    /// How many calls there were, and what became of those that were not answered 200.
    async fn end(self) -> (u32, Vec<String>) {
        self.over.cancel();
        self.task.await.unwrap()
    }
}

/// The status of the `LazyConfig`: one proxy, which has all it should, and has loaded so many services.
fn loaded(status: &View, services: u64) -> Result<(), String> {
    let mut lazies = status.0["lazies"].as_array().into_iter().flatten();
    let report = lazies.find(|report| report["key"] == KEY).ok_or("it is not told")?;
    let status = &report["status"];
    let of = |part: &str, field: &str| status[part][field].as_u64();
    let found = [of("proxies", "total"), of("proxies", "programmed"), of("services", "loaded")];
    let says = status["conditions"][1]["reason"] == "Programmed";
    if says && found == [Some(1), Some(1), Some(services)] { Ok(()) } else { Err(report.to_string()) }
}

/// What `weir deps` says of the destinations: what they are called, and why they are there.
async fn called(weir: &Weir) -> BTreeSet<(String, String)> {
    let arguments = ["deps".to_owned(), "--output=json".to_owned(), format!("--admin-address={}", weir.admin)];
    let output = tokio::task::spawn_blocking(move || weir::command(arguments).output()).await.unwrap().unwrap();
    let calls: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |call: &serde_json::Value, field: &str| call[field].as_str().unwrap_or_default().to_owned();
    let known = |call: &serde_json::Value| if call["known"] == true { text(call, "why") } else { "unknown".to_owned() };
    let calls = calls.as_array().into_iter().flatten().filter(|call| call["from"] == "shop/page");
    calls.map(|call| (text(call, "to"), known(call))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_keeps_what_it_has_when_its_weir_ends_and_the_other_forgets_for_it() {
    let world = World::new().await;
    let leader = world.weir(0).await;
    let follower = world.weir(1).await;
    leader.until_metric(SOON, "weir_replica_leads", 1.0).await;
    follower.until_metric(SOON, "weir_replica_linked", 1.0).await;
    let (proxy, _mount) = world.proxy().await;
    assert_eq!(world.has(&proxy).await, BTreeSet::new());
    assert_eq!(world.call("busy").await, 200);
    assert_eq!(world.call("idle.shop").await, 200);
    assert_eq!(world.call("nothing").await, 404);
    assert!(leader.metric("weir_xds_streams").await < 0.5, "it is at the other one");

    // Who decides knows of it all.
    leader.until(SOON, "its status counts the other's proxy", |status| loaded(status, 2)).await;
    let wanted = [("shop/busy/80", "OnDemand"), ("shop/idle/80", "OnDemand"), ("nothing", "unknown")];
    let wanted = BTreeSet::from(wanted.map(|(to, why)| (to.to_owned(), why.to_owned())));
    eventually(SOON, "so does `weir deps`", async || {
        let called = called(&leader).await;
        if called == wanted { Ok(()) } else { Err(format!("{called:?}")) }
    })
    .await;

    let busy = Busy::start(world.page.outbound(0), "busy").await;
    let (updates, held) = (proxy.stats("update_success").await, proxy.held().await);
    follower.kill().await.unwrap();
    leader.until_metric(SOON, "weir_xds_streams", 1.0).await;
    leader.until(SOON, "it is as it was", |status| loaded(status, 2)).await;
    for host in ["busy.shop", "idle"] {
        assert_eq!(world.call(host).await, 200, "{host}");
    }
    assert_eq!(world.call("nothing").await, 404);
    assert_eq!((proxy.stats("update_success").await, proxy.held().await), (updates, held), "nothing was sent again");
    let sent = leader.metric("weir_xds_resources_total").await;
    assert!(sent < 0.5, "{sent} were sent again");

    // What it does not call any more goes, though it was another Weir that it had asked; and comes back.
    world.lazy("10s");
    eventually(SOON, "what is idle is forgotten", async || {
        let has = world.has(&proxy).await;
        if has == BTreeSet::from(["shop/busy/80".to_owned()]) { Ok(()) } else { Err(format!("{has:?}")) }
    })
    .await;
    leader.until(SOON, "the status says so", |status| loaded(status, 1)).await;
    assert_eq!(world.call("idle").await, 200);
    let (calls, failed) = busy.end().await;
    assert_eq!(failed, Vec::<String>::new(), "of {calls}");
    assert!(calls > 100, "{calls} calls");
    let refused = proxy.stats("update_rejected").await;
    assert_eq!(refused.values().sum::<u64>(), 0, "{refused:?}");
}
