//! What a limit must bear for long: a wall clock that jumps, an API server that is away for minutes. Requests come all the time, and
//! are refused all the time as the limit says.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use operator::demo::load::{self, Phase, Plan, Report, Target};
use serde_json::Value;
use testkit::{
    clock::{Clock, ahead},
    cluster::{Cluster, Server, audit::Entry},
    eventually,
    mesh::{Service, limiter},
    ports::Network,
    prometheus::{Prometheus, Target as Page},
    proxy::Proxy,
    status::View,
    weir::Weir,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// Others use the machine, too, and who asks an API server that is away asks more and more rarely.
const SOON: Duration = Duration::from_secs(60);
/// Requests per second that come to each proxy.
const OFFERED: f64 = 50.0;
/// What each of them lets through while the rule `hot` limits.
const LIMIT: u64 = 10;
const HOT: &str =
    "- name: hot\n  when: cpu > 80% for 1s until cpu < 50% for 1s\n  limit: 10 requests per second per pod";

/// Requests without a pause to every pod of a service.
struct Load {
    began: Instant,
    stop: CancellationToken,
    running: JoinHandle<Report>,
}

impl Load {
    fn start(service: &Service) -> Self {
        let targets = service.pods.iter().map(|pod| Target { name: pod.name.clone(), address: pod.inbound }).collect();
        let phase = Phase { name: "all".to_owned(), per_second: OFFERED, duration: Duration::from_secs(600) };
        // A machine that stands still for a second refuses nobody.
        let plan = Plan { timeout: Duration::from_secs(20), ..Plan::new(targets, vec![phase]) };
        let stop = CancellationToken::new();
        let running = tokio::spawn(load::run(plan, watch::Sender::default(), stop.clone()));
        Self { began: Instant::now(), stop, running }
    }

    /// The second of the load in which we are.
    fn second(&self) -> usize {
        usize::try_from(self.began.elapsed().as_secs()).unwrap()
    }

    async fn end(self) -> Report {
        self.stop.cancel();
        self.running.await.unwrap()
    }
}

/// Each proxy let through what the limit says in these seconds, but for the first and the last, which are not whole, and answered all: in
/// no second more than a bucket that is full and what comes meanwhile, and in all of them not much less.
#[track_caller]
fn limited(report: &Report, from: usize, to: usize) {
    assert!(to > from + 2, "{from} to {to} are no seconds to look at");
    for target in &report.targets {
        let seconds = from + 1..to - 1;
        for second in seconds.clone() {
            let sum = target.sum(second..second + 1);
            assert!(sum.ok <= 2 * LIMIT + 2 && sum.failed == 0, "{} in second {second}: {sum:?}", target.name);
        }
        let (sum, allowed) = (target.sum(seconds.clone()), LIMIT * seconds.len() as u64);
        let most = allowed + LIMIT;
        assert!((allowed * 4 / 5..=most).contains(&sum.ok), "{} let {} of {allowed} through", target.name, sum.ok);
    }
}

/// Looks at something again and again for so long: it must hold each time.
async fn holds(span: Duration, look: impl AsyncFn()) {
    let end = Instant::now() + span;
    let mut looks = interval(Duration::from_millis(50));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < end {
        looks.tick().await;
        look().await;
    }
}

async fn view(weir: &Weir) -> View {
    View(weir.status().await.unwrap())
}

/// What Weir asked of the API server, by verb.
fn asked(entries: Vec<Entry>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let begun = |entry: &Entry| entry.user_agent.starts_with("weir/") && entry.stage != "ResponseStarted";
    for entry in entries.into_iter().filter(begun) {
        *counts.entry(entry.verb).or_default() += 1;
    }
    counts
}

/// Every time that a status tells, with where it stands.
fn times(status: &Value) -> Vec<(String, Timestamp)> {
    let mut times = Vec::new();
    let mut open = vec![(String::new(), status)];
    while let Some((path, value)) = open.pop() {
        match value {
            Value::Object(fields) => open.extend(fields.iter().map(|(name, value)| (format!("{path}.{name}"), value))),
            Value::Array(list) => {
                open.extend(list.iter().enumerate().map(|(at, value)| (format!("{path}[{at}]"), value)));
            }
            Value::String(text) => times.extend(text.parse().ok().map(|time| (path, time))),
            _ => {}
        }
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_jumps_moves_no_limit_and_stops_no_decision() {
    const HOUR: i64 = 3600;
    let cluster = Cluster::start().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("clock").await;
    let service = Service::start_in(Network::routable(), &namespace, "cart", 2).await;
    service.burn(0.95);
    cluster.put(&service).await;
    cluster.apply(&limiter(&namespace, "cart", HOT)).await.unwrap();
    let key = format!("smartlimiters.weir.dev/{namespace}/cart");
    let clock = Clock::new();
    let weir = Weir::watch_by(&clock, cluster.kubeconfig(), &["--scrape-interval", "100ms"]).await;
    let proxies = Proxy::start_all(&weir, &service).await;
    let phase = async |phase: &str| {
        weir.until(SOON, phase, |status| {
            status.phase(&key, "hot", phase)?;
            status.programmed(&key, 1)
        })
        .await;
    };
    /// The object as it stands on the API server, once its condition `Limiting` says so.
    async fn stored(cluster: &Cluster, namespace: &str, limiting: &str) -> Value {
        eventually(SOON, "the status is written", async || {
            let text = cluster.kubectl(&["get", "wsl", "cart", "-n", namespace, "-o", "json"]).await.unwrap();
            let object: Value = serde_json::from_str(&text).unwrap();
            let conditions = object["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
            let is_told = |one: &&Value| one["type"] == "Limiting" && one["status"] == limiting;
            conditions.iter().find(is_told).map(|_| object["status"].clone()).ok_or(text)
        })
        .await
    }
    let limiting = async || {
        view(&weir).await.phase(&key, "hot", "Limiting").unwrap();
    };
    phase("Limiting").await;
    stored(&cluster, &namespace, "True").await;
    let load = Load::start(&service);
    let connected = view(&weir).await.0["proxies"].clone();

    let mut spans = Vec::new();
    for now_ahead in [HOUR, -HOUR] {
        holds(Duration::from_secs(2), limiting).await;
        let (mark, from) = (cluster.mark(), load.second());
        let pushed = weir.metric("weir_xds_pushes_total").await;
        clock.set_ahead(now_ahead);
        holds(Duration::from_secs(5), limiting).await;
        assert_eq!(weir.metric("weir_xds_pushes_total").await, pushed, "a time is no news for a proxy");
        spans.push((from, load.second()));
        let status = view(&weir).await;
        assert_eq!(status.0["proxies"], connected, "no proxy came anew");
        status.expect(&key, "MetricsAvailable", true, "Available").unwrap();
        let measured: Timestamp =
            status.rule(&key, "hot").unwrap()["observed"][0]["at"].as_str().unwrap().parse().unwrap();
        assert!((ahead(measured) - now_ahead).abs() <= 2, "measured by another clock: {measured}");
        let counts = asked(cluster.audit(mark));
        assert!(counts.values().sum::<usize>() <= 20, "{counts:?}");

        // What is measured moves the limit, away and back, and all of it is told.
        for (cores, to, told) in [(0.2, "Idle", "False"), (0.95, "Limiting", "True")] {
            service.burn(cores);
            phase(to).await;
            let stored = stored(&cluster, &namespace, told).await;
            let told = times(&stored);
            assert!(told.len() >= 5, "{stored}");
            for (path, time) in told {
                assert!(ahead(time) <= now_ahead + 1, "{path} is {time}, {} s from now", ahead(time) - now_ahead);
            }
            let turned = stored["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "Limiting").unwrap();
            let turned = ahead(turned["lastTransitionTime"].as_str().unwrap().parse().unwrap());
            assert!((turned - now_ahead).abs() <= 30, "it turned {turned} s from now, not {now_ahead}");
        }
    }
    let report = load.end().await;
    for (from, to) in spans {
        limited(&report, from, to);
    }
    assert_eq!(report.sum(0..report.seconds()).failed, 0);
    drop(proxies);
    assert!(!weir.log().contains("panicked"), "{}", weir.log());
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_for_minutes_stops_neither_limits_nor_decisions() {
    const AWAY: Duration = Duration::from_secs(150);
    let cluster = Cluster::start().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("minutes").await;
    let service = Service::start_in(Network::routable(), &namespace, "cart", 2).await;
    service.burn(0.95);
    cluster.put(&service).await;
    // One word by scraping, one that only Prometheus knows.
    let rules = format!(
        "{HOT}\n- name: deep\n  when: depth > 5 until depth < 2\n  limit: 1 request per hour per pod\nmetrics:\n\
         - {{name: depth, type: Count, reduce: Max, prometheus: {{query: 'max(queue_depth)'}}}}"
    );
    cluster.apply(&limiter(&namespace, "cart", &rules)).await.unwrap();
    let key = format!("smartlimiters.weir.dev/{namespace}/cart");
    let gauge = testkit::app::App::start(([127, 0, 0, 1], 0).into()).await;
    let depth = |depth: u32| gauge.page(testkit::app::Page::Text(format!("queue_depth {depth}\n")));
    depth(1);
    let pages = [Page { address: gauge.address, labels: Vec::new() }];
    let prometheus = Prometheus::start(&pages, Duration::from_millis(500)).await;
    let url = prometheus.url();
    let arguments =
        ["--scrape-interval", "250ms", "--prometheus", &url, "--prometheus-lookback", "2s", "--allow-promql", "*"];
    let weir = Weir::watch(cluster.kubeconfig(), &arguments).await;
    let mut proxies = Proxy::start_all(&weir, &service).await;
    let phase = async |rule: &str, phase: &str| {
        weir.until(SOON, &format!("{rule}: {phase}"), |status| {
            status.phase(&key, rule, phase)?;
            status.programmed(&key, 1)
        })
        .await;
    };
    let limiting = async || {
        view(&weir).await.phase(&key, "hot", "Limiting").unwrap();
    };
    phase("hot", "Limiting").await;
    phase("deep", "Idle").await;
    weir.until(SOON, "all is measured", |status| status.expect(&key, "MetricsAvailable", true, "Available")).await;
    let load = Load::start(&service);

    let began = Instant::now();
    let mut spans = vec![load.second()];
    cluster.kill(Server::ApiServer);
    weir.until(SOON, "it is missed", |status| {
        let said = status.0["problems"]["API server"].to_string();
        if said.contains("Connection refused") { Ok(()) } else { Err(said) }
    })
    .await;
    holds(Duration::from_secs(50), limiting).await;
    spans.push(load.second());

    // Decisions go on by what is scraped and by what Prometheus says, away and back.
    service.burn(0.2);
    phase("hot", "Idle").await;
    depth(9);
    phase("deep", "Limiting").await;
    depth(1);
    phase("deep", "Idle").await;
    service.burn(0.95);
    phase("hot", "Limiting").await;

    // A proxy that starts anew gets all of it.
    spans.push(load.second());
    proxies.pop();
    proxies.push(Proxy::start(&weir, &service, 1).await);
    phase("hot", "Limiting").await;
    spans.push(load.second());
    let left = AWAY.saturating_sub(began.elapsed());
    holds(left, limiting).await;
    assert!(began.elapsed() >= AWAY);
    spans.push(load.second());

    cluster.restart(Server::ApiServer).await;
    weir.until(SOON, "it is found again", |status| match status.0["problems"].get("API server") {
        None => status.phase(&key, "hot", "Limiting").map(drop),
        Some(said) => Err(said.to_string()),
    })
    .await;
    eventually(SOON, "the status catches up", async || {
        let text = cluster.kubectl(&["get", "wsl", "cart", "-n", &namespace, "-o", "json"]).await.unwrap();
        let object: Value = serde_json::from_str(&text).unwrap();
        let since = &object["status"]["rules"][0]["since"];
        let now = view(&weir).await.rule(&key, "hot").unwrap()["since"].clone();
        if *since == now { Ok(()) } else { Err(format!("{since}, not {now}")) }
    })
    .await;
    spans.push(load.second());
    let other = HOT.replace("10 requests", "20 requests");
    cluster.apply(&limiter(&namespace, "cart", &other)).await.unwrap();
    weir.until(SOON, "a change is seen", |status| {
        let rule = status.phase(&key, "hot", "Limiting")?;
        if rule["perSecond"] == 20.0 { status.programmed(&key, 2) } else { Err(rule.to_string()) }
    })
    .await;

    let report = load.end().await;
    limited(&report, spans[0], spans[1]);
    let kept = Report { targets: report.targets[..1].to_vec() };
    limited(&kept, spans[2], spans[5]);
    limited(&report, spans[3], spans[5]);
    assert_eq!(kept.sum(0..kept.seconds()).failed, 0, "the proxy that stayed answered everything");
    weir.stop().await.unwrap();
}
