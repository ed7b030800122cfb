//! Requests for a Service that are shared out among versions, by a real Envoy of a caller.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use testkit::{
    app::{App, Page},
    eventually,
    http::{self, Connection},
    mesh::{Service, lazy, put, without_proxy},
    ports::Network,
    prometheus::{Prometheus, Target},
    proxy::Proxy,
    status::View,
    temp_dir,
    weir::Weir,
};
use tokio::task::JoinHandle;

mod grpc;
mod sticky;

const SOON: Duration = Duration::from_secs(30);
const SMI: &str = "trafficsplits.split.smi-spec.io/shop/web";
const SMART: &str = "smartsplits.weir.dev/shop/web";

/// A caller with its proxy, the Service `web` and the versions `v0`, `v1`, …, whose applications have no proxies.
struct Shop {
    folder: tempfile::TempDir,
    page: Service,
    web: App,
    versions: Vec<App>,
}

impl Shop {
    async fn start(versions: usize) -> Self {
        let network = Network::new();
        let app = async |host: usize| App::start((network.address(u8::try_from(host).unwrap()), 0).into()).await;
        let mut apps = Vec::new();
        for number in 0..versions {
            apps.push(app(number + 2).await);
        }
        let shop = Self {
            folder: temp_dir(),
            page: Service::start("shop", "page", 1).await,
            web: app(1).await,
            versions: apps,
        };
        shop.put("page.yaml", &shop.page.calling());
        shop.put("web.yaml", &without_proxy("shop", "web", "http", shop.web.address));
        for (number, app) in shop.versions.iter().enumerate() {
            shop.put(&format!("v{number}.yaml"), &without_proxy("shop", &format!("v{number}"), "http", app.address));
        }
        shop
    }

    fn put(&self, name: &str, text: &str) {
        put(self.folder.path(), name, text);
    }

    async fn run(&self) -> (Weir, Proxy) {
        let weir = Weir::start(self.folder.path(), &[]).await;
        let proxy = Proxy::start(&weir, &self.page, 0).await;
        (weir, proxy)
    }

    /// How many requests each version has had.
    fn served(&self) -> Vec<u64> {
        self.versions.iter().map(App::served).collect()
    }
}

fn request(path: &str) -> ::http::Request<Full<Bytes>> {
    ::http::Request::get(path).header("host", "web").body(Full::default()).unwrap()
}

/// An SMI split of `web` with these weights, as they are written.
fn smi(version: &str, weights: &[&str]) -> String {
    let backends: Vec<String> =
        weights.iter().enumerate().map(|(n, weight)| format!("{{service: v{n}, weight: {weight}}}")).collect();
    format!(
        "apiVersion: split.smi-spec.io/{version}\nkind: TrafficSplit\nmetadata: {{name: web, namespace: shop}}\n\
         spec: {{service: web, backends: [{}]}}\n",
        backends.join(", ")
    )
}

fn smart(backends: &str, more: &str) -> String {
    format!(
        "apiVersion: weir.dev/v1alpha1\nkind: SmartSplit\nmetadata: {{name: web, namespace: shop}}\n\
         spec:\n  targetRefs: [{{kind: Service, name: web}}]\n  backendRefs: [{backends}]\n{more}"
    )
}

async fn view(weir: &Weir) -> Result<View, String> {
    weir.status().await.map(View).map_err(|error| error.to_string())
}

/// Waits until this generation of a split is at every proxy.
async fn programmed(weir: &Weir, key: &str, generation: u64) {
    eventually(SOON, "the split is programmed", async || view(weir).await?.programmed(key, generation)).await;
}

/// Requests one after the other on connections that are kept, until told to stop. Any that fails is kept, with the reason.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<anyhow::Result<u64>>>,
}

impl Load {
    /// `per_second` of all connections together.
    async fn start(proxy: SocketAddr, connections: usize, per_second: f64) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for _ in 0..connections {
            let mut connection = Connection::open(proxy, None).await.unwrap();
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            let pace = Duration::from_secs_f64(connections as f64 / per_second);
            tasks.push(tokio::spawn(async move {
                let mut failed = 0;
                let mut next = tokio::time::interval(pace);
                while !stop.load(Ordering::Relaxed) {
                    next.tick().await;
                    // A connection that is closed is an error; an answer of 500 is the application's.
                    let status = connection.send(request("/")).await?.status();
                    sent.fetch_add(1, Ordering::Relaxed);
                    failed += u64::from(status != 200);
                }
                anyhow::Ok(failed)
            }));
        }
        Self { stop, sent, tasks }
    }

    /// How many were sent, and how many were not answered 200. No connection was closed.
    async fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let mut failed = 0;
        for task in self.tasks {
            failed += task.await.unwrap().expect("no connection is closed");
        }
        (self.sent.load(Ordering::Relaxed), failed)
    }
}

/// The statistic of a chi-square test: how far what was seen is from what these shares would give.
fn chi_square(seen: &[u64], shares: &[f64]) -> f64 {
    let all: u64 = seen.iter().sum();
    let total: f64 = shares.iter().sum();
    let part = |(seen, share): (&u64, &f64)| {
        let expected = all as f64 * share / total;
        (*seen as f64 - expected).powi(2) / expected
    };
    seen.iter().zip(shares).map(part).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_are_realised_while_another_controller_writes_weights_every_second() {
    let shop = Shop::start(3).await;
    let of = |step: u64| [10 + step * 5, 60 - step * 5, 30];
    let write = |step| {
        shop.put(
            "split.yaml",
            &smi("v1alpha2", &of(step).map(|weight| weight.to_string()).each_ref().map(String::as_str)),
        )
    };
    write(0);
    let (weir, _proxy) = shop.run().await;
    programmed(&weir, SMI, 1).await;
    let load = Load::start(shop.page.outbound(0), 4, 100.0).await;
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(Connection::open(shop.page.outbound(0), None).await.unwrap());
    }
    let mut statistic = 0.0;
    for step in 0..10 {
        let began = Instant::now();
        write(step);
        eventually(SOON, "the weights are at the proxy", async || {
            let percent = view(&weir).await?.percent(SMI, "v0")?;
            if (percent - of(step)[0] as f64).abs() < 0.01 { Ok(()) } else { Err(percent.to_string()) }
        })
        .await;
        programmed(&weir, SMI, step + 1).await;
        let before = shop.served();
        for _ in 0..250 {
            for connection in &mut connections {
                assert_eq!(connection.send(request("/")).await.unwrap().status(), 200);
            }
        }
        let seen: Vec<u64> = shop.served().iter().zip(&before).map(|(after, before)| after - before).collect();
        statistic += chi_square(&seen, &of(step).map(|weight| weight as f64));
        // As another controller does, once a second.
        if let Some(rest) = Duration::from_secs(1).checked_sub(began.elapsed()) {
            let _ = tokio::time::timeout(rest, std::future::pending::<()>()).await;
        }
    }
    // Ten times two degrees of freedom: more than this has a probability of 0.001.
    assert!(statistic < 45.31, "chi-square {statistic}");
    let (sent, failed) = load.stop().await;
    assert!(sent > 500 && failed == 0, "{failed} of {sent} requests failed while weights moved");
    assert_eq!(shop.web.served(), 0, "nobody is sent to the root");
}

#[tokio::test(flavor = "multi_thread")]
async fn quantities_an_empty_arm_and_conflicts() {
    let shop = Shop::start(3).await;
    shop.put("split.yaml", &smi("v1alpha1", &["\"1\"", "500m"]));
    let (weir, _proxy) = shop.run().await;
    programmed(&weir, SMI, 1).await;
    let percent = |view: &View, arm: &str| view.percent(SMI, arm).unwrap();
    let at = view(&weir).await.unwrap();
    assert_eq!((percent(&at, "v0"), percent(&at, "v1")), (66.67, 33.33));
    // An arm that loses its last endpoint gets nothing, before a request fails.
    let load = Load::start(shop.page.outbound(0), 2, 200.0).await;
    let gone = without_proxy("shop", "v0", "http", shop.versions[0].address)
        .replace("targetRef", "conditions: {ready: false}, targetRef");
    shop.put("v0.yaml", &gone);
    eventually(SOON, "all is v1's", async || {
        let at = view(&weir).await?;
        let percent = at.percent(SMI, "v1")?;
        at.programmed(SMI, 1)?;
        if percent == 100.0 { Ok(()) } else { Err(percent.to_string()) }
    })
    .await;
    let before = shop.served();
    let mut connection = Connection::open(shop.page.outbound(0), None).await.unwrap();
    for _ in 0..50 {
        assert_eq!(connection.send(request("/")).await.unwrap().status(), 200);
    }
    assert_eq!(shop.served()[0], before[0]);
    let (_, failed) = load.stop().await;
    assert_eq!(failed, 0);
    // Another split for the same requests, younger by its name as files have no age.
    shop.put("other.yaml", &smi("v1alpha4", &["1"]).replace("name: web, namespace", "name: xyz, namespace"));
    let other = "trafficsplits.split.smi-spec.io/shop/xyz";
    let message = eventually(SOON, "the younger is refused", async || {
        view(&weir).await?.expect(other, "Accepted", false, "Conflicted")
    })
    .await;
    assert!(message.contains(SMI), "{message}");
    // Weights that are none.
    shop.put("other.yaml", &smi("v1alpha2", &["0.5"]).replace("name: web, namespace", "name: xyz, namespace"));
    let message =
        eventually(SOON, "0.5 is refused", async || view(&weir).await?.expect(other, "Accepted", false, "Invalid"))
            .await;
    assert!(message.contains("spec.backends[0].weight"), "{message}");
    // Nothing of weight: the Service itself.
    shop.put("split.yaml", &smi("v1alpha2", &["0", "0"]));
    eventually(SOON, "the root serves", async || {
        view(&weir).await?.expect(SMI, "Degraded", true, "NothingDeclared")?;
        view(&weir).await?.programmed(SMI, 2)
    })
    .await;
    let before = shop.web.served();
    assert_eq!(connection.send(request("/")).await.unwrap().status(), 200);
    assert_eq!(shop.web.served(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_a_service_and_groups_choose_by_what_requests_are() {
    let shop = Shop::start(3).await;
    shop.put(
        "route.yaml",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: web, port: 80}]
  rules:
  - {matches: [{path: {type: PathPrefix, value: /old}}], backendRefs: [{name: v0, port: 80}]}
  - {matches: [{path: {type: PathPrefix, value: /new}}], backendRefs: [{name: v1, port: 80, weight: 3}, {name: v2, port: 80, weight: 1}]}\n",
    );
    let (weir, _proxy) = shop.run().await;
    let mut connection = Connection::open(shop.page.outbound(0), None).await.unwrap();
    for _ in 0..20 {
        assert_eq!(connection.send(request("/old")).await.unwrap().status(), 200);
    }
    assert_eq!(shop.served(), [20, 0, 0]);
    for _ in 0..400 {
        assert_eq!(connection.send(request("/new/x")).await.unwrap().status(), 200);
    }
    let served = shop.served();
    assert!(chi_square(&served[1..], &[3.0, 1.0]) < 15.14, "{served:?}");
    assert_eq!(
        connection.send(request("/none")).await.unwrap().status(),
        404,
        "Gateway API: what no rule takes is refused"
    );
    // A TrafficSplit comes after routes, and says so; without the route it holds, for those requests that its group matches.
    let group = "apiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\nmetadata: {name: beta, namespace: shop}
spec: {matches: [{name: beta, headers: [{x-beta: \"yes|sure\"}]}]}\n";
    shop.put(
        "split.yaml",
        &format!(
            "{}---\n{group}",
            smi("v1alpha4", &["0", "0", "1"]).replace("]}", "], matches: [{kind: HTTPRouteGroup, name: beta}]}")
        ),
    );
    let message = eventually(SOON, "the route comes first", async || {
        view(&weir).await?.expect(SMI, "Programmed", false, "Overridden")
    })
    .await;
    assert!(message.contains("httproutes.gateway.networking.k8s.io/shop/web"), "{message}");
    std::fs::remove_file(shop.folder.path().join("route.yaml")).unwrap();
    programmed(&weir, SMI, 1).await;
    let (root, v2) = (shop.web.served(), shop.served()[2]);
    for value in ["sure", "no"] {
        let mut with = request("/");
        with.headers_mut().insert("x-beta", value.parse().unwrap());
        assert_eq!(connection.send(with).await.unwrap().status(), 200);
    }
    assert_eq!((shop.web.served(), shop.served()[2]), (root + 1, v2 + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_is_drained_and_who_is_slow_gets_less_and_both_come_back() {
    let shop = Shop::start(2).await;
    let steer =
        "  steer: prefer lower errors and p99 latency, at most 10% per step, every 1s, judge after 20 requests\n";
    shop.put("split.yaml", &smart("{name: v0, weight: 50}, {name: v1, weight: 50}", steer));
    let (weir, _proxy) = shop.run().await;
    programmed(&weir, SMART, 1).await;
    let load = Load::start(shop.page.outbound(0), 8, 200.0).await;
    let percent = async |wanted: &dyn Fn(f64) -> bool| {
        let view = view(&weir).await?;
        let percent = view.percent(SMART, "v1")?;
        if wanted(percent) { Ok(view) } else { Err(view.policy(SMART)?["status"].to_string()) }
    };
    eventually(SOON, "callers are heard", async || {
        view(&weir).await?.expect(SMART, "MetricsAvailable", true, "Available")
    })
    .await;
    // Half of its answers are errors, at once.
    shop.versions[1].fails_every(2);
    let at = eventually(SOON, "v1 is at its floor", async || percent(&|percent| percent <= 3.0).await).await;
    let arm = at.arm(SMART, "v1").unwrap();
    assert_eq!(arm["verdict"], "WorseThanPeer", "{arm}");
    assert!(arm["message"].as_str().unwrap().contains("fail more than v0"), "{arm}");
    // Well again: it comes back as far as its declared part.
    shop.versions[1].fails_every(0);
    eventually(Duration::from_secs(180), "v1 is back", async || percent(&|percent| percent > 40.0).await).await;
    // Slow: less than half, and not nothing.
    shop.versions[1].answers(200, Duration::from_millis(150));
    eventually(Duration::from_secs(90), "v1 has less", async || percent(&|percent| percent < 25.0).await).await;
    let (sent, failed) = load.stop().await;
    assert!(failed * 5 < sent, "{failed} of {sent}: most of them while v1 was found out");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_moves_for_one_error_nor_when_all_fail_nor_without_metrics() {
    let shop = Shop::start(2).await;
    let steer = "  steer: prefer lower errors, at most 10% per step, every 1s, judge after 20 requests, hold 10s\n";
    shop.put("split.yaml", &smart("{name: v0, weight: 90}, {name: v1, weight: 10}", steer));
    let (weir, proxy) = shop.run().await;
    programmed(&weir, SMART, 1).await;
    // Tiny traffic: of a few requests of v1 one fails.
    shop.versions[1].fails_every(3);
    let slow = Load::start(shop.page.outbound(0), 1, 20.0).await;
    let arm = eventually(Duration::from_secs(60), "v1 was seen", async || {
        let view = view(&weir).await?;
        let arm = view.arm(SMART, "v1")?;
        if arm["requests"].as_f64().is_some_and(|seen| seen >= 5.0) { Ok(arm.clone()) } else { Err(arm.to_string()) }
    })
    .await;
    assert_eq!((&arm["verdict"], arm["percent"].as_f64()), (&"Inconclusive".into(), Some(10.0)), "{arm}");
    slow.stop().await;
    // Both fail alike.
    shop.versions.iter().for_each(|app| app.fails_every(2));
    let load = Load::start(shop.page.outbound(0), 4, 400.0).await;
    let at = eventually(SOON, "all alike", async || {
        let view = view(&weir).await?;
        let status = view.policy(SMART)?["status"].clone();
        if status["why"] == "AllAlike" { Ok(status) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(at["shares"], "90 / 10", "{at}");
    // Now v1 alone fails, and is drained; then the metrics go away with the proxy's stream.
    shop.versions[0].fails_every(0);
    let share = async || view(&weir).await?.percent(SMART, "v1");
    eventually(Duration::from_secs(60), "v1 is drained", async || {
        let percent = share().await?;
        if percent <= 3.0 { Ok(()) } else { Err(percent.to_string()) }
    })
    .await;
    let _ = load.stop().await;
    drop(proxy);
    let why = async |word: &str| {
        eventually(Duration::from_secs(90), word, async || {
            let view = view(&weir).await?;
            let status = view.policy(SMART)?["status"].clone();
            if status["why"] == word { Ok(status) } else { Err(status.to_string()) }
        })
        .await
    };
    let held = why("Held").await;
    assert_eq!(held["shares"], "97 / 3", "{held}");
    why("Gliding").await;
    eventually(Duration::from_secs(60), "the declared shares", async || {
        let percent = share().await?;
        if percent == 10.0 { Ok(()) } else { Err(percent.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_version_is_ramped_up_and_a_bad_one_rolled_back() {
    let shop = Shop::start(2).await;
    let steer =
        "  steer: ramp up v1 to 60%, at most 20% per step, every 1s, errors below 5%, judge after 20 requests\n";
    shop.put("split.yaml", &smart("{name: v0, weight: 1}, {name: v1, weight: 0}", steer));
    let (weir, _proxy) = shop.run().await;
    let load = Load::start(shop.page.outbound(0), 8, 300.0).await;
    let reaches = async |wanted: f64| {
        eventually(Duration::from_secs(60), "v1's share", async || {
            let view = view(&weir).await?;
            let percent = view.percent(SMART, "v1")?;
            if percent == wanted { Ok(()) } else { Err(view.policy(SMART)?["status"].to_string()) }
        })
        .await;
    };
    reaches(60.0).await;
    // It is watched after that, too.
    shop.versions[1].fails_every(3);
    reaches(0.0).await;
    let at = view(&weir).await.unwrap();
    assert_eq!(at.policy(SMART).unwrap()["status"]["why"], "RolledBack");
    shop.versions[1].fails_every(0);
    // What it has answered until then is told.
    eventually(SOON, "v1 answers nothing", async || {
        let view = view(&weir).await?;
        let arm = view.arm(SMART, "v1")?;
        if arm["realisedPercent"] == 0.0 { Ok(()) } else { Err(arm.to_string()) }
    })
    .await;
    let before = shop.versions[1].served();
    // Edited, it may try again.
    shop.put("split.yaml", &smart("{name: v0, weight: 1}, {name: v1, weight: 0}", &steer.replace("60%", "50%")));
    reaches(50.0).await;
    assert!(shop.versions[1].served() > before);
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lazy_caller_gets_the_versions_with_the_service_and_keeps_it_while_they_are_called() {
    let shop = Shop::start(2).await;
    shop.put("split.yaml", &smi("v1alpha2", &["1", "1"]));
    shop.put("lazy.yaml", &lazy("shop", "shop", "forgetAfter: 10s"));
    let (_weir, proxy) = shop.run().await;
    assert_eq!(proxy.destinations().await.len(), 0);
    let answer = http::send(
        ::http::Request::get(format!("http://{}/", shop.page.outbound(0)))
            .header("host", "web")
            .body(Full::default())
            .unwrap(),
    )
    .await
    .unwrap();
    assert_eq!(answer.status(), 200, "held and served");
    let there: Vec<String> = proxy.destinations().await.into_iter().collect();
    assert_eq!(there, ["shop/v0/80", "shop/v1/80", "shop/web/80"]);
    // Called all the time, it stays for longer than what is not called would.
    let load = Load::start(shop.page.outbound(0), 1, 20.0).await;
    let end = Instant::now() + Duration::from_secs(15);
    eventually(SOON, "some time", async || {
        assert_eq!(proxy.destinations().await.len(), 3);
        if Instant::now() > end { Ok(()) } else { Err("not yet") }
    })
    .await;
    let (_, failed) = load.stop().await;
    assert_eq!(failed, 0);
    eventually(SOON, "forgotten", async || match proxy.destinations().await.len() {
        0 => Ok(()),
        some => Err(some.to_string()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_steered_is_there_after_a_restart_and_holds() {
    let shop = Shop::start(2).await;
    let state = temp_dir();
    let steer = "  steer: prefer lower errors, at most 20% per step, every 1s, judge after 20 requests\n";
    shop.put("split.yaml", &smart("{name: v0, weight: 50}, {name: v1, weight: 50}", steer));
    let arguments = ["--state-dir", state.path().to_str().unwrap()];
    let weir = Weir::start(shop.folder.path(), &arguments).await;
    let _proxy = Proxy::start(&weir, &shop.page, 0).await;
    shop.versions[1].fails_every(2);
    let load = Load::start(shop.page.outbound(0), 4, 200.0).await;
    eventually(Duration::from_secs(60), "v1 is drained", async || {
        let percent = view(&weir).await?.percent(SMART, "v1")?;
        if percent == 3.0 { Ok(()) } else { Err(percent.to_string()) }
    })
    .await;
    load.stop().await;
    let (xds, admin) = (weir.xds, weir.admin);
    weir.stop().await.unwrap();
    let mut again = Weir::spawn(shop.folder.path(), xds, admin, &arguments);
    again.ready().await;
    assert_eq!(view(&again).await.unwrap().percent(SMART, "v1"), Ok(3.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_callers_tell_nothing_a_real_prometheus_does() {
    let shop = Shop::start(2).await;
    let steer = "  steer: prefer lower errors, at most 20% per step, every 1s, judge after 20 requests\n";
    shop.put("split.yaml", &smart("{name: v0, weight: 50}, {name: v1, weight: 50}", steer));
    // What the versions count: 100 requests a second each, of which half fail at v1.
    let began = Instant::now();
    let count = async |app: &App, failing: f64| {
        let all = began.elapsed().as_secs_f64() * 100.0;
        let (failed, well) = (all * failing, all * (1.0 - failing));
        app.page(Page::Text(format!(
            "# TYPE http_requests_total counter\nhttp_requests_total{{code=\"200\"}} {well}\nhttp_requests_total{{code=\"500\"}} {failed}\n"
        )));
    };
    let targets: Vec<Target> = shop
        .versions
        .iter()
        .enumerate()
        .map(|(n, app)| {
            let labels =
                vec![("namespace", "shop".to_owned()), ("pod", format!("v{n}-0")), ("service", format!("v{n}"))];
            Target { address: app.address, labels }
        })
        .collect();
    let prometheus = Prometheus::start(&targets, Duration::from_millis(500)).await;
    let weir = Weir::start(shop.folder.path(), &["--prometheus", &prometheus.url()]).await;
    // A proxy that streams nothing.
    let _proxy = Proxy::start_with(&weir, &shop.page, 0, |bootstrap| {
        drop(bootstrap.as_object_mut().unwrap().remove("stats_sinks"))
    })
    .await;
    let message = eventually(Duration::from_secs(90), "v1 is at its floor", async || {
        count(&shop.versions[0], 0.0).await;
        count(&shop.versions[1], 0.5).await;
        let view = view(&weir).await?;
        if view.percent(SMART, "v1")? > 3.0 {
            return Err(view.policy(SMART)?["status"].to_string());
        }
        view.expect(SMART, "MetricsAvailable", true, "Available")
    })
    .await;
    assert!(message.contains("prometheus"), "{message}");
    let mut connection = Connection::open(shop.page.outbound(0), None).await.unwrap();
    programmed(&weir, SMART, 1).await;
    let before = shop.served();
    for _ in 0..200 {
        connection.send(request("/")).await.unwrap();
    }
    let served = shop.served();
    assert!(served[1] - before[1] < 25, "{before:?} {served:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_versions_are_as_many_shares() {
    let shop = Shop::start(2).await;
    for number in 0..100 {
        let app = &shop.versions[number % 2];
        shop.put(&format!("v{number}.yaml"), &without_proxy("shop", &format!("v{number}"), "http", app.address));
    }
    shop.put("split.yaml", &smi("v1alpha2", &["7"; 100]));
    let (weir, proxy) = shop.run().await;
    programmed(&weir, SMI, 1).await;
    let mut connection = Connection::open(shop.page.outbound(0), None).await.unwrap();
    for _ in 0..1000 {
        assert_eq!(connection.send(request("/")).await.unwrap().status(), 200);
    }
    let counted = proxy.stats("^cluster%5C.arm_shop_v.*%5C.upstream_rq_total$").await;
    let seen: Vec<u64> = counted.into_values().collect();
    // 99 degrees of freedom: more than this has a probability of 0.0001.
    assert!(seen.len() == 100 && chi_square(&seen, &[1.0; 100]) < 162.0, "{seen:?}");
    // One of them goes, with its Service and all.
    std::fs::remove_file(shop.folder.path().join("v7.yaml")).unwrap();
    let gone = eventually(SOON, "v7 takes no part", async || {
        view(&weir).await?.expect(SMI, "Degraded", true, "BackendNotFound")
    })
    .await;
    assert!(gone.contains("shop/v7"), "{gone}");
    for _ in 0..200 {
        assert_eq!(connection.send(request("/")).await.unwrap().status(), 200);
    }
}
