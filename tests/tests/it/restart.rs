//! What a restart keeps: decisions in `--state-dir`, on real Envoys and a real disk.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use testkit::{
    app::Page,
    eventually,
    http::Connection,
    mesh::{Service, limiter, put},
    ports,
    proxy::Proxy,
    status::View,
    temp_dir,
    weir::Weir,
};

const DEADLINE: Duration = Duration::from_secs(30);
const KEY: &str = "smartlimiters.weir.dev/ns-a/checkout";
/// A limit that shows in three requests, and its end.
const HOT: &str = "- name: hot\n  when: cpu > 60% for 300ms until cpu < 30% for 300ms\n  limit: 6 requests per hour per pod\n  burst: 3";

struct World {
    service: Service,
    config: tempfile::TempDir,
    state: tempfile::TempDir,
}

async fn world(rules: &str) -> World {
    let world = World { service: Service::start("ns-a", "checkout", 1).await, config: temp_dir(), state: temp_dir() };
    world.service.write(world.config.path());
    put(world.config.path(), "policy.yaml", &limiter("ns-a", "checkout", rules));
    world
}

impl World {
    async fn weir(&self) -> Weir {
        Weir::start(self.config.path(), &["--state-dir", self.state()]).await
    }

    async fn weir_again(&self, xds: SocketAddr, admin: SocketAddr) -> Weir {
        let mut weir = Weir::spawn(self.config.path(), xds, admin, &["--state-dir", self.state()]);
        weir.ready().await;
        weir
    }

    fn state(&self) -> &str {
        self.state.path().to_str().unwrap()
    }

    fn page(&self, page: &Page) {
        for pod in &self.service.pods {
            pod.app.page(page.clone());
        }
    }

    /// Waits until the metrics page was asked five times more, and each time in vain.
    async fn asks_in_vain(&self) {
        let app = &self.service.pods[0].app;
        let enough = app.reads() + 5;
        eventually(DEADLINE, "the metrics page is asked", async || match app.reads() {
            reads if reads >= enough => Ok(()),
            reads => Err(reads),
        })
        .await;
    }
}

async fn on_disk(weir: &Weir) {
    eventually(DEADLINE, "everything decided is on disk", async || {
        let age = weir.metric("weir_checkpoint_age_seconds").await;
        if age == 0.0 { Ok(()) } else { Err(age) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_weir_lifts_no_limit_and_sends_nothing_again() {
    let world = world(HOT).await;
    world.service.burn(0.9);
    let weir = world.weir().await;
    let proxy = Proxy::start(&weir, &world.service, 0).await;
    weir.until(DEADLINE, "it limits", |status| status.phase(KEY, "hot", "Limiting").map(drop)).await;
    weir.until(DEADLINE, "the proxy has it", |status| status.programmed(KEY, 1)).await;
    on_disk(&weir).await;
    let mut connection = Connection::open(world.service.pods[0].inbound, None).await.unwrap();
    assert_eq!(connection.burst("/", 10).await.unwrap(), (3, 7));
    let before = proxy.held().await;

    world.page(&Page::Close);
    let (xds, admin) = (weir.xds, weir.admin);
    weir.kill().await.unwrap();
    let weir = world.weir_again(xds, admin).await;
    weir.until(DEADLINE, "the proxy is back", |status| status.programmed(KEY, 1)).await;
    world.asks_in_vain().await;
    weir.until(DEADLINE, "it limits as before", |status| status.phase(KEY, "hot", "Limiting").map(drop)).await;
    assert_eq!(connection.burst("/", 20).await.unwrap(), (0, 20), "the bucket is as empty as before");
    assert!(weir.metric("weir_xds_resources_total").await < 0.5, "nothing was sent again");
    assert_eq!(proxy.held().await, before, "down to the moment of the last update");
    assert!(!weir.log().contains("a rule moved"), "it is no news");

    // It goes on from there: cool metrics release.
    world.service.burn(0.0);
    world.page(&Page::Cpu);
    weir.until(DEADLINE, "it lets go", |status| status.phase(KEY, "hot", "Idle").map(drop)).await;
    weir.until(DEADLINE, "the proxy has that", |status| status.programmed(KEY, 1)).await;
    assert_eq!(connection.burst("/", 10).await.unwrap(), (10, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_under_way_stands_still_until_a_metric_is_back() {
    let world = world(&HOT.replace("6 requests per hour", "6 requests per second")).await;
    world.service.burn(0.9);
    let weir = world.weir().await;
    let proxy = Proxy::start(&weir, &world.service, 0).await;
    weir.until(DEADLINE, "it limits", |status| status.phase(KEY, "hot", "Limiting").map(drop)).await;
    world.service.burn(0.0);
    let limit = async |weir: &Weir| View(weir.status().await.unwrap()).rule(KEY, "hot").unwrap()["perSecond"].as_f64();
    weir.until(DEADLINE, "it lets go", |status| {
        let rule = status.phase(KEY, "hot", "Releasing")?;
        if rule["perSecond"].as_f64() > Some(6.0) { Ok(()) } else { Err(rule.to_string()) }
    })
    .await;
    world.page(&Page::Close);
    weir.until(DEADLINE, "its metrics are missing", |status| {
        status.expect(KEY, "MetricsAvailable", false, "Missing").map(drop)
    })
    .await;
    let limit_before = limit(&weir).await;
    weir.until(DEADLINE, "the proxy has it", |status| status.programmed(KEY, 1)).await;
    let before = proxy.held().await;

    let (xds, admin) = (weir.xds, weir.admin);
    assert!(weir.stop().await.unwrap().success());
    let weir = world.weir_again(xds, admin).await;
    weir.until(DEADLINE, "the proxy is back", |status| status.programmed(KEY, 1)).await;
    world.asks_in_vain().await;
    assert_eq!(limit(&weir).await, limit_before);
    assert_eq!(proxy.held().await, before);
    world.page(&Page::Cpu);
    weir.until(DEADLINE, "it goes on", |status| status.phase(KEY, "hot", "Idle").map(drop)).await;
}

#[tokio::test]
async fn a_damaged_record_costs_its_own_service_and_is_named() {
    let world = world(HOT).await;
    let cart = Service::start("ns-a", "cart", 1).await;
    cart.write(world.config.path());
    put(world.config.path(), "cart-policy.yaml", &limiter("ns-a", "cart", HOT));
    world.service.burn(0.9);
    cart.burn(0.9);
    let cart_key = "smartlimiters.weir.dev/ns-a/cart";
    let weir = world.weir().await;
    for key in [KEY, cart_key] {
        weir.until(DEADLINE, "it limits", |status| status.phase(key, "hot", "Limiting").map(drop)).await;
    }
    world.page(&Page::Close);
    cart.pods[0].app.page(Page::Close);
    weir.stop().await.unwrap();

    let (path, mut text) = decisions(world.state.path())
        .into_iter()
        .find(|(_, text)| text.contains(r#""name":"checkout""#))
        .expect("checkout is kept");
    let at = text.find("\"stage\"").unwrap();
    text.replace_range(at..=at, "'");
    std::fs::write(&path, &text).unwrap();

    let weir = world.weir().await;
    weir.until(DEADLINE, "the other limits as before", |status| status.phase(cart_key, "hot", "Limiting").map(drop))
        .await;
    weir.until(DEADLINE, "the damaged one begins anew", |status| status.phase(KEY, "hot", "Idle").map(drop)).await;
    let file = path.display().to_string();
    let problem = weir
        .until(DEADLINE, "the damage is said", |status| match &status.0["problems"][&file] {
            serde_json::Value::Array(problems) => Ok(problems[0].to_string()),
            _ => Err(status.0["problems"].to_string()),
        })
        .await;
    assert!(problem.contains("line ") && problem.contains("checksum does not match"), "{problem}");
    assert!(weir.log().contains(&file), "the log names the file");
    assert!((weir.metric("weir_checkpoint_damaged").await - 1.0).abs() < 0.5);
    let aside = decisions(world.state.path()).into_iter().find(|(path, _)| path.to_string_lossy().contains("damaged-"));
    assert_eq!(aside.expect("it was copied aside").1, text);
}

fn decisions(state: &Path) -> Vec<(PathBuf, String)> {
    let files = std::fs::read_dir(state.join("decisions")).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_a_mistake_at_the_start() {
    let world = world(HOT).await;
    let weir = world.weir().await;
    let start = |state: &Path| {
        let arguments = ["--state-dir", state.to_str().unwrap()];
        Weir::spawn(world.config.path(), ports::free(), ports::free(), &arguments).ended()
    };
    let (status, log) = start(world.state.path()).await.unwrap();
    assert_eq!(status.code(), Some(2), "{log}");
    let process = format!("in use by another Weir (process {})", weir.id().unwrap());
    assert!(log.contains("error: --state-dir: the folder ") && log.contains(&process), "{log}");

    let file = world.config.path().join("policy.yaml");
    let (status, log) = start(&file.join("state")).await.unwrap();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("error: --state-dir: ") && log.contains("cannot be created: Not a directory"), "{log}");
}

#[tokio::test]
async fn a_disk_that_fails_later_costs_no_decision() {
    let world = world(HOT).await;
    let weir = world.weir().await;
    weir.until(DEADLINE, "it is idle", |status| status.phase(KEY, "hot", "Idle").map(drop)).await;
    on_disk(&weir).await;
    let (good, away) = (world.state.path().join("decisions"), world.state.path().join("away"));
    std::fs::rename(&good, &away).unwrap();
    world.service.burn(0.9);
    weir.until(DEADLINE, "it limits all the same", |status| status.phase(KEY, "hot", "Limiting").map(drop)).await;
    eventually(DEADLINE, "two attempts fail", async || {
        let errors = weir.metric("weir_checkpoint_errors_total").await;
        if errors > 1.5 { Ok(()) } else { Err(errors) }
    })
    .await;
    assert!(weir.metric("weir_checkpoint_age_seconds").await > 0.0);
    let log = weir.log();
    assert_eq!(log.matches("decisions are not kept now").count(), 1, "{log}");
    std::fs::rename(&away, &good).unwrap();
    on_disk(&weir).await;
    assert!(weir.log().contains("decisions are written again"));
    assert!(decisions(world.state.path()).iter().any(|(_, text)| text.contains(r#""phase":"Limiting""#)));
}
