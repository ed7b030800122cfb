//! `LazyConfig` on real Envoys: a proxy starts with nothing and gets what its application calls.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use testkit::{
    app::{App, Page},
    eventually,
    http::{self, Connection},
    mesh::{Service, lazy, limiter, put, without_proxy},
    ports::Network,
    prometheus::{Prometheus, Target},
    proxy::Proxy,
    temp_dir,
    weir::{self, Weir},
};

const SOON: Duration = Duration::from_secs(30);
const KEY: &str = "lazyconfigs.weir.dev/shop/shop";

/// A caller, its proxy's way out, and services that it may call, whose applications have no proxies of their own.
struct Shop {
    folder: tempfile::TempDir,
    page: Service,
    network: Network,
    apps: Vec<App>,
}

impl Shop {
    /// With services `s0`, `s1` and so on.
    async fn start(services: usize) -> Self {
        let mut shop = Self {
            folder: temp_dir(),
            page: Service::start("shop", "page", 1).await,
            network: Network::new(),
            apps: Vec::new(),
        };
        put(shop.folder.path(), "page.yaml", &shop.page.calling());
        for number in 0..services {
            let address = shop.network.address(u8::try_from(number + 1).unwrap());
            shop.apps.push(App::start((address, 0).into()).await);
            shop.put(number);
        }
        shop
    }

    fn put(&self, number: usize) {
        put(self.folder.path(), &format!("s{number}.yaml"), &service(&format!("s{number}"), self.apps[number].address));
    }

    fn lazy(&self, spec: &str) {
        put(self.folder.path(), "lazy.yaml", &lazy("shop", "shop", spec));
    }

    async fn call(&self, host: &str) -> (u16, String) {
        call(self.page.outbound(0), host).await.unwrap()
    }
}

fn service(name: &str, at: SocketAddr) -> String {
    without_proxy("shop", name, "http", at)
}

/// Status and body of a GET of `host` through the proxy that listens there.
async fn call(proxy: SocketAddr, host: &str) -> anyhow::Result<(u16, String)> {
    let request = ::http::Request::get(format!("http://{proxy}/")).header("host", host);
    let answer = http::send(request.body(Full::default())?).await?;
    Ok((answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned()))
}

/// The clusters on the way out that a proxy has.
async fn clusters(proxy: &Proxy) -> BTreeSet<String> {
    proxy.destinations().await
}

fn of(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_starts_with_nothing_and_gets_what_it_calls_at_the_first_call() {
    let mut shop = Shop::start(3).await;
    shop.lazy("unknownHosts: Refuse");
    let rules = "- name: all\n  limit: 10 requests per hour across all pods\n  burst: 2";
    let limited = limiter("shop", "s1", rules).replace("  rules:", "  enforceAt: Client\n  rules:");
    put(shop.folder.path(), "limit.yaml", &limited);
    let weir = Weir::start(shop.folder.path(), &[]).await;
    let proxy = Proxy::start(&weir, &shop.page, 0).await;
    assert_eq!(clusters(&proxy).await, of(&[]));

    // Held and served, under every name; what was not called is not there.
    for name in ["s0", "s0:80", "s0.shop", "S0", "s0.shop.svc.cluster.local:80"] {
        assert_eq!(shop.call(name).await.0, 200, "{name}");
    }
    assert_eq!(clusters(&proxy).await, of(&["shop/s0/80"]));
    // A limit counts from the first request on.
    let mut admitted = Vec::new();
    for _ in 0..4 {
        admitted.push(shop.call("s1").await.0);
    }
    assert_eq!(admitted, [200, 200, 429, 429]);

    // An unknown host is answered at once, and real as soon as its service is there.
    let (status, body) = shop.call("s9").await;
    assert!(status == 404 && body.starts_with("weir: no Service is known by this host"), "{status} {body}");
    shop.apps.push(App::start((shop.network.address(200), 0).into()).await);
    put(shop.folder.path(), "s9.yaml", &service("s9", shop.apps[3].address));
    let becomes = async |host: &str, wanted: u16| {
        eventually(SOON, host, async || match shop.call(host).await.0 {
            status if status == wanted => Ok(()),
            status => Err(status.to_string()),
        })
        .await;
    };
    becomes("s9", 200).await;
    std::fs::remove_file(shop.folder.path().join("s9.yaml")).unwrap();
    becomes("s9", 404).await;
    put(shop.folder.path(), "s9.yaml", &service("s9", shop.apps[3].address));
    becomes("s9", 200).await;
    std::fs::remove_file(shop.folder.path().join("s9.yaml")).unwrap();
    becomes("s9", 404).await;

    // What a client may write there is answered, and changes nothing for others.
    let long = "a".repeat(8 * 1024);
    for host in ["*", "*.shop", "s0*", "[::1]:80", "s0:0", "s0:81", "10.0.0.1", &long] {
        assert_eq!(shop.call(host).await.0, 404, "{host}");
    }
    assert_eq!(shop.call("s2").await.0, 200);
    assert_eq!(clusters(&proxy).await, of(&["shop/s0/80", "shop/s1/80", "shop/s2/80"]));
    let printed = weir::command(["deps", "--admin-address", &weir.admin.to_string()]).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    for (to, why) in [("shop/s0/80", "OnDemand"), ("s9", "unknown"), ("10.0.0.1", "unknown")] {
        let found =
            printed.lines().any(|line| line.starts_with("shop/page") && line.contains(to) && line.contains(why));
        assert!(found, "{to} in {printed}");
    }

    // Another Weir takes over what the proxy has, and sends nothing.
    let held = proxy.held().await;
    let (xds, admin) = (weir.xds, weir.admin);
    weir.kill().await.unwrap();
    assert_eq!(shop.call("s0").await.0, 200, "nothing that is warm depends on Weir");
    let mut weir = Weir::spawn(shop.folder.path(), xds, admin, &[]);
    weir.ready().await;
    eventually(SOON, "it is back", async || match weir.metric("weir_xds_streams").await {
        1.0.. => Ok(()),
        streams => Err(streams.to_string()),
    })
    .await;
    assert_eq!(shop.call("s0.shop").await.0, 200);
    assert_eq!(proxy.held().await, held);
    for kind in ["cluster", "endpoints", "listener", "route", "virtual_host"] {
        let sent = weir.metric(&format!("weir_xds_resources_total{{type=\"{kind}\"}}")).await;
        assert!(sent.abs() < f64::EPSILON, "{kind}: {sent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_called_is_forgotten_and_comes_back_while_no_request_fails() {
    let shop = Shop::start(4).await;
    shop.lazy("forgetAfter: 10s");
    let weir = Weir::start(shop.folder.path(), &[]).await;
    let proxy = Proxy::start(&weir, &shop.page, 0).await;
    let address = shop.page.outbound(0);
    for host in ["s0", "s1", "s2", "s3", "nothing"] {
        shop.call(host).await;
    }
    assert_eq!(clusters(&proxy).await.len(), 4);
    // `s0` is called all the time, `s1` a moment after it was forgotten, again and again.
    let until = Instant::now() + Duration::from_secs(36);
    let busy = tokio::spawn(async move {
        let mut open = Connection::open(address, None).await.unwrap();
        let (mut calls, mut failed) = (0_u32, Vec::new());
        let mut ticks = tokio::time::interval(Duration::from_micros(3_333));
        while Instant::now() < until {
            ticks.tick().await;
            let request = ::http::Request::get("/").header("host", "s0").body(Full::<Bytes>::default()).unwrap();
            calls += 1;
            match open.send(request).await {
                Ok(answer) if answer.status() == 200 => {}
                other => failed.push(format!("call {calls}: {other:?}")),
            }
        }
        (calls, failed)
    });
    let mut rounds = 0;
    while Instant::now() + Duration::from_secs(12) < until {
        eventually(SOON, "s1 is forgotten", async || {
            let clusters = clusters(&proxy).await;
            if clusters.contains("shop/s1/80") { Err(format!("{clusters:?}")) } else { Ok(()) }
        })
        .await;
        assert_eq!(shop.call("s1").await.0, 200);
        rounds += 1;
    }
    let (calls, failed) = busy.await.unwrap();
    assert_eq!(failed, Vec::<String>::new(), "of {calls}");
    assert!(calls > 1_000 && rounds >= 2, "{calls} calls, forgotten {rounds} times");
    assert!(!clusters(&proxy).await.contains("shop/s2/80"), "it was not called again");
    assert_eq!(shop.call("s2").await.0, 200);
    assert_eq!(proxy.stat("cluster_manager.cds.update_rejected").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_call_waits_for_weir_as_long_as_it_is_said_and_no_longer() {
    let shop = Shop::start(3).await;
    shop.lazy("hold: 3s");
    let weir = Weir::start(shop.folder.path(), &[]).await;
    let proxy = Proxy::start(&weir, &shop.page, 0).await;
    assert_eq!(shop.call("s0").await.0, 200);
    let (xds, admin) = (weir.xds, weir.admin);
    weir.kill().await.unwrap();
    let began = Instant::now();
    assert_eq!(shop.call("s1").await.0, 504, "nobody can say what it is");
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(shop.call("s0").await.0, 200, "warm");
    let address = shop.page.outbound(0);
    let waiting = tokio::spawn(async move { call(address, "s2").await });
    eventually(SOON, "it waits", async || match proxy.stat("http.out_15001.downstream_rq_active").await {
        0 => Err("nothing waits".to_owned()),
        _ => Ok(()),
    })
    .await;
    let mut weir = Weir::spawn(shop.folder.path(), xds, admin, &[]);
    weir.ready().await;
    assert_eq!(waiting.await.unwrap().unwrap().0, 200, "served once it is back");
    eventually(SOON, "and what was not", async || match shop.call("s1").await.0 {
        200 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_starts_has_nothing_unless_its_workload_is_prewarmed() {
    let mut shop = Shop::start(2).await;
    shop.page.add().await;
    put(shop.folder.path(), "page.yaml", &shop.page.calling());
    shop.lazy("prewarm: false");
    let weir = Weir::start(shop.folder.path(), &[]).await;
    let mut proxy = Proxy::start(&weir, &shop.page, 0).await;
    assert_eq!(shop.call("s0").await.0, 200);
    drop(proxy);
    proxy = Proxy::start(&weir, &shop.page, 0).await;
    assert_eq!(clusters(&proxy).await, of(&[]), "the one before it had something");
    assert_eq!(shop.call("s1").await.0, 200);

    shop.lazy("prewarm: true");
    eventually(SOON, "the change is seen", async || {
        let other = Proxy::start(&weir, &shop.page, 1).await;
        let has = clusters(&other).await;
        if has == of(&["shop/s0/80", "shop/s1/80"]) { Ok(()) } else { Err(format!("{has:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_shares_what_it_calls_which_outlives_weir_and_its_proxies_and_is_forgotten_as_one() {
    let mut shop = Shop::start(2).await;
    shop.page.add().await;
    put(shop.folder.path(), "page.yaml", &shop.page.calling());
    shop.lazy("prewarm: true, forgetAfter: 10s");
    let state = temp_dir();
    let arguments = ["--state-dir", state.path().to_str().unwrap()];
    let weir = Weir::start(shop.folder.path(), &arguments).await;
    let (first, second) = (Proxy::start(&weir, &shop.page, 0).await, Proxy::start(&weir, &shop.page, 1).await);
    assert_eq!(shop.call("s0").await.0, 200);
    let both = async |proxies: [&Proxy; 2], wanted: &[&str]| {
        eventually(SOON, &format!("both have {wanted:?}"), async || {
            let have = [clusters(proxies[0]).await, clusters(proxies[1]).await];
            if have.iter().all(|have| *have == of(wanted)) { Ok(()) } else { Err(format!("{have:?}")) }
        })
        .await;
    };
    both([&first, &second], &["shop/s0/80"]).await;
    eventually(SOON, "it is kept", async || match std::fs::read_dir(state.path().join("calls")).unwrap().count() {
        1 => Ok(()),
        files => Err(files),
    })
    .await;
    drop((first, second));
    weir.kill().await.unwrap();

    let weir = Weir::start(shop.folder.path(), &arguments).await;
    let printed = weir::command(["deps", "--admin-address", &weir.admin.to_string()]).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let remembered = |line: &str| line.starts_with("shop/page") && line.contains("shop/s0/80");
    assert!(printed.lines().any(remembered), "{printed}");
    let (first, second) = (Proxy::start(&weir, &shop.page, 0).await, Proxy::start(&weir, &shop.page, 1).await);
    assert_eq!(clusters(&first).await, of(&["shop/s0/80"]));
    assert_eq!(clusters(&second).await, of(&["shop/s0/80"]));
    both([&first, &second], &[]).await;
    assert!(weir.metric("weir_forgotten_total").await >= 2.0, "one at each proxy");
    assert_eq!(shop.call("s0").await.0, 200);
    both([&first, &second], &["shop/s0/80"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_every_host_there_is_takes_no_memory_and_holds_up_nobody() {
    let shop = Shop::start(2).await;
    shop.lazy("unknownHosts: Refuse");
    let weir = Weir::start(shop.folder.path(), &[]).await;
    let proxy = Proxy::start(&weir, &shop.page, 0).await;
    assert_eq!(shop.call("s0").await.0, 200);
    let address = shop.page.outbound(0);
    let sweeping = (0..4).map(|part| {
        tokio::spawn(async move {
            for number in 0..500 {
                let (status, _) = call(address, &format!("h{part}-{number}.nowhere.example")).await.unwrap();
                assert_eq!(status, 404);
            }
        })
    });
    let sweeping: Vec<_> = sweeping.collect();
    let mut slowest = Duration::ZERO;
    while !sweeping.iter().all(tokio::task::JoinHandle::is_finished) {
        let began = Instant::now();
        assert_eq!(shop.call("s0").await.0, 200);
        slowest = slowest.max(began.elapsed());
    }
    for part in sweeping {
        part.await.unwrap();
    }
    assert_eq!(shop.call("s1").await.0, 200, "what is real still comes");
    let names = proxy.admin("/config_dump?resource=dynamic_route_configs").await;
    let kept = names.lines().filter(|line| line.contains("nowhere.example") && line.contains("\"name\"")).count();
    assert!((1..=1_000).contains(&kept), "{kept} are kept; the slowest call took {slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_elsewhere_meanwhile_is_learned_and_what_is_listed_is_there_at_once() {
    let shop = Shop::start(4).await;
    // `s3` stands for a gateway that knows everything.
    shop.lazy("load: Learned, fallback: {type: Service, service: {name: s3, port: 80}}, always: [s1]");
    let weir = Weir::start(shop.folder.path(), &[]).await;
    let proxy = Proxy::start(&weir, &shop.page, 0).await;
    assert_eq!(clusters(&proxy).await, of(&["shop/s1/80", "shop/s3/80"]));
    assert_eq!(shop.call("s1").await.0, 200);
    assert_eq!((shop.apps[1].served(), shop.apps[3].served()), (1, 0));
    assert_eq!(shop.call("s0").await.0, 200);
    assert_eq!((shop.apps[0].served(), shop.apps[3].served()), (0, 1), "the first call goes elsewhere");
    eventually(SOON, "s0 is learned", async || {
        assert_eq!(shop.call("s0").await.0, 200);
        if shop.apps[0].served() > 0 { Ok(()) } else { Err(format!("{:?}", clusters(&proxy).await)) }
    })
    .await;

    shop.lazy("load: Declared, always: [s1, s2.shop]");
    eventually(SOON, "only what is listed is there", async || match shop.call("s0").await.0 {
        404 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
    assert_eq!(shop.call("s2").await.0, 200);
    let status = weir.status().await.unwrap();
    assert!(status.to_string().contains(KEY), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_service_calls_is_learned_from_prometheus_before_it_calls_through_weir() {
    let shop = Shop::start(2).await;
    shop.lazy("load: Learned, fallback: {type: Refuse}");
    let before = App::start((shop.network.address(201), 0).into()).await;
    let prometheus =
        Prometheus::start(&[Target { address: before.address, labels: Vec::new() }], Duration::from_secs(1)).await;
    let weir = Weir::start(shop.folder.path(), &["--prometheus", &prometheus.url(), "--learn-calls"]).await;
    let proxy = Proxy::start(&weir, &shop.page, 0).await;
    let counted = AtomicU32::new(0);
    eventually(3 * SOON, "s1 is learned", async || {
        let requests = counted.fetch_add(1, Ordering::Relaxed);
        before.page(Page::Text(format!(
            "istio_requests_total{{source_workload_namespace=\"shop\",source_workload=\"page\",\
             destination_service=\"s1.shop.svc.cluster.local\"}} {requests}\n"
        )));
        let clusters = clusters(&proxy).await;
        if clusters == of(&["shop/s1/80"]) { Ok(()) } else { Err(format!("{clusters:?} after {requests}")) }
    })
    .await;
    assert_eq!(shop.call("s1").await.0, 200);
    let printed = weir::command(["deps", "--admin-address", &weir.admin.to_string()]).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.lines().any(|line| line.contains("shop/s1/80") && line.contains("Learned")), "{printed}");
}
