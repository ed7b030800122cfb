//! A real Prometheus: its values move limits; what it refuses, lacks or forgets is said; and while it is gone, limits hold.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use limiter::metric::Word;
use operator::{
    intent::ServiceKey,
    metrics::{
        HealthBoard, Measure, Provider, Query, Wanted,
        prometheus::{Config, Meters},
    },
};
use testkit::{
    app::{App, Page},
    eventually,
    http::{self, Connection},
    mesh::{Service, limiter, put},
    prometheus::{Prometheus, Silent, Target},
    proxy::Proxy,
    status::View,
    temp_dir,
    weir::Weir,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(60);
const SCRAPED_EVERY: Duration = Duration::from_millis(500);

fn key(name: &str) -> String {
    format!("smartlimiters.weir.dev/ns-a/{name}")
}

/// The pods' own pages as Prometheus knows them, with the labels that service discovery gives.
fn targets(service: &Service) -> Vec<Target> {
    let labels = |pod: &str| vec![("namespace", service.namespace.clone()), ("pod", pod.to_owned())];
    service.pods.iter().map(|pod| Target { address: pod.app.address, labels: labels(&pod.name) }).collect()
}

/// A limit of 5 requests per second while `depth` is over 100, by this query.
fn policy(name: &str, reduce: &str, query: &str) -> String {
    let rule = "- name: deep\n  when: depth > 100 until depth < 50 for 1s\n  limit: 5 requests per second per pod";
    let query = query.replace('\'', "''");
    let metric = format!("{{name: depth, type: Count, reduce: {reduce}, prometheus: {{query: '{query}'}}}}");
    limiter("ns-a", name, rule) + &format!("  metrics: [{metric}]\n  onMissingMetric: {{action: Hold, after: 1s}}\n")
}

fn depth(app: &App, value: &str) {
    app.page(Page::Text(format!("depth {value}\n")));
}

/// A service of one pod whose `depth` is over the threshold.
async fn deep(folder: &Path, name: &str, query: &str) -> Service {
    let service = Service::start("ns-a", name, 1).await;
    service.write(folder);
    depth(&service.pods[0].app, "200");
    put(folder, &format!("{name}.policy.yaml"), &policy(name, "Max", query));
    service
}

async fn weir(folder: &Path, url: &str, more: &[&str]) -> Weir {
    let mut arguments = vec!["--prometheus", url];
    arguments.extend(more);
    Weir::start(folder, &arguments).await
}

async fn missing(weir: &Weir, name: &str, words: &str) -> String {
    missing_within(DEADLINE, weir, name, words).await
}

async fn missing_within(deadline: Duration, weir: &Weir, name: &str, words: &str) -> String {
    weir.until(deadline, name, |status| {
        let message = status.expect(&key(name), "MetricsAvailable", false, "Missing")?;
        if message.contains(words) { Ok(message) } else { Err(message) }
    })
    .await
}

async fn phase(weir: &Weir, name: &str, rule: &str, phase: &str) {
    weir.until(DEADLINE, name, |status| status.phase(&key(name), rule, phase).map(drop)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_prometheus_brings_a_limit_into_force_and_releases_it() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 2).await;
    service.write(folder.path());
    for pod in &service.pods {
        depth(&pod.app, "10");
    }
    let query = r#"sum by (pod) (depth{namespace="$namespace",pod=~"$pods"})"#;
    put(folder.path(), "policy.yaml", &policy("checkout", "Max", query));
    let prometheus = Prometheus::start(&targets(&service), SCRAPED_EVERY).await;
    let weir = weir(folder.path(), &prometheus.url(), &[]).await;
    let _proxies = Proxy::start_all(&weir, &service).await;
    weir.until(DEADLINE, "both pods are seen, and nothing is limited", |status| {
        status.programmed(&key("checkout"), 1)?;
        status.expect(&key("checkout"), "MetricsAvailable", true, "Available")?;
        status.phase(&key("checkout"), "deep", "Idle").map(drop)
    })
    .await;
    let mut connection = Connection::open(service.pods[0].inbound, None).await.unwrap();
    assert_eq!(connection.burst("/", 50).await.unwrap(), (50, 0));

    // One pod is enough for the largest.
    depth(&service.pods[1].app, "200");
    let step = Instant::now();
    let inbound = service.pods[0].inbound;
    eventually(DEADLINE, "the proxy refuses", async || match http::get(inbound, "/").await {
        Ok(response) if response.status() == 429 => Ok(()),
        Ok(response) => Err(response.status().to_string()),
        Err(error) => Err(format!("{error:#}")),
    })
    .await;
    // At most the scrape interval and a second, and as much again for a machine that is busy with other tests.
    let took = step.elapsed();
    assert!(took < (SCRAPED_EVERY + Duration::from_secs(1)) * 2, "the step of the metric was enforced after {took:?}");
    let status = View(weir.status().await.unwrap());
    let rule = status.phase(&key("checkout"), "deep", "Limiting").unwrap();
    let observed = &rule["observed"][0];
    assert_eq!((observed["value"].as_f64(), observed["source"].as_str()), (Some(200.0), Some("prometheus")), "{rule}");

    depth(&service.pods[1].app, "10");
    phase(&weir, "checkout", "deep", "Idle").await;
    assert!(weir.metric("weir_prometheus_queries_total").await > 3.0);
    assert!(weir.metric("weir_prometheus_query_duration_seconds_count").await > 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_query_is_said_with_its_field() {
    let folder = temp_dir();
    let cases = [
        ("syntax", "sum by (pod) (rate(depth)) ", "Prometheus says: 1:20: parse error: expected type range vector"),
        ("matcher", r#"depth{pod=~"("}"#, "parse error: error parsing regexp"),
        ("nan", "depth / 0 * 0", "NaN for pod nan-0, which is no number"),
        ("inf", "sum(depth) / 0", "gives inf, which is no number"),
        ("empty", r#"depth{namespace="elsewhere"}"#, "the query gives no series"),
        ("text", r#""depth""#, "gives a string, not a number"),
        ("range", "depth[1m]", "ranges, not values"),
        ("others", r#"sum by (pod) (depth{pod=~"syntax-.*"})"#, "is of a ready pod of this service"),
        ("unsummed", r#"sum by (n) (many{n=~"1.?"})"#, "11 series without a label `pod`"),
        ("flood", "flood", "10001 series, more than 10000"),
    ];
    let mut services = Vec::new();
    let mut pages = Vec::new();
    for (name, query, _) in &cases {
        let service = deep(folder.path(), name, query).await;
        pages.extend(targets(&service));
        services.push(service);
    }
    let bare = scraped(folder.path(), "bare").await;
    bare.pods[0].app.page(Page::Text("up 1\n".to_owned()));
    // A thousand series of which one is ours are no trouble.
    let good = deep(folder.path(), "good", "depth or on (pod) thousand").await;
    pages.extend(targets(&good));
    let other = App::start(([127, 0, 0, 1], 0).into()).await;
    let mut text = String::new();
    for n in 0..10_001 {
        writeln!(text, "flood{{n=\"{n}\"}} 1").unwrap();
    }
    for n in 0..1000 {
        writeln!(text, "thousand{{pod=\"p{n}\"}} 1\nmany{{n=\"{n}\"}} 1").unwrap();
    }
    other.page(Page::Text(text));
    pages.push(Target { address: other.address, labels: Vec::new() });
    let prometheus = Prometheus::start(&pages, SCRAPED_EVERY).await;
    let weir = weir(folder.path(), &prometheus.url(), &[]).await;
    phase(&weir, "good", "deep", "Limiting").await;
    for (name, _, words) in &cases {
        let message = missing(&weir, name, words).await;
        assert!(message.contains("spec.metrics[0].prometheus.query: "), "{message}");
        // Nothing is known, so nothing is limited.
        View(weir.status().await.unwrap()).phase(&key(name), "deep", "Idle").unwrap();
    }
    // Two sources are asked for cpu, and what each says is shown.
    let message = missing(&weir, "bare", "from Prometheus: the query gives no series").await;
    assert!(message.contains("process_cpu_seconds_total"), "{message}");
    // A query that is mended is asked at once, whatever its pause was.
    put(folder.path(), "syntax.policy.yaml", &policy("syntax", "Max", "depth"));
    phase(&weir, "syntax", "deep", "Limiting").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_series_are_refused_by_name_and_fill_no_memory() {
    let folder = temp_dir();
    // A quarter of them on the page, four times each by the query.
    let copy = |n| format!("label_replace(f,\"k\",\"{n}\",\"\",\"\")");
    let query = format!("({} or {}) or ({} or {})", copy(1), copy(2), copy(3), copy(4));
    let service = deep(folder.path(), "flood", &query).await;
    let page = (0..250_000).map(|n| format!("f{{n=\"{n}\"}} 1\n")).collect();
    service.pods[0].app.page(Page::Text(page));
    let _counted = deep(folder.path(), "counted", "count(f)").await;
    let good = scraped(folder.path(), "good").await;
    let prometheus = Prometheus::start(&targets(&service), Duration::from_secs(15)).await;
    let more = ["--prometheus-timeout", "150s", "--prometheus-interval", "3s"];
    let weir = weir(folder.path(), &prometheus.url(), &more).await;
    weir.until(DEADLINE, "all series are there", |status| {
        let rule = status.rule(&key("counted"), "deep")?;
        if rule["observed"][0]["value"].as_f64() == Some(250e3) { Ok(()) } else { Err(rule.to_string()) }
    })
    .await;
    let message =
        missing_within(DEADLINE * 6, &weir, "flood", "larger than 8 MiB: choose fewer series, or aggregate them").await;
    assert!(message.contains("spec.metrics[0].prometheus.query: "), "{message}");
    phase(&weir, "good", "hot", "Limiting").await;
    good.burn(0.1);
    phase(&weir, "good", "hot", "Idle").await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", weir.id().unwrap())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 200 << 10, "{peak}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_by_pods_is_asked_however_often_the_pods_change() {
    let folder = temp_dir();
    let mut service = deep(folder.path(), "churn", "sum by (pod) (depth{pod=~\"$pods\"})").await;
    service.add().await;
    let prometheus = Prometheus::start(&targets(&service), SCRAPED_EVERY).await;
    let weir = weir(folder.path(), &prometheus.url(), &["--prometheus-interval", "2s"]).await;
    // Of the second pod nothing is measured; it comes and goes ten times in an interval.
    let service = RefCell::new(service);
    weir.until(DEADLINE, "it limits although the query never stays", |status| {
        let mut service = service.borrow_mut();
        service.pods[1].ready = !service.pods[1].ready;
        service.write(folder.path());
        status.phase(&key("churn"), "deep", "Limiting").map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_that_ends_or_grows_old_is_missing_and_the_limit_holds() {
    let folder = temp_dir();
    let ends = deep(folder.path(), "ends", "sum by (pod) (depth{pod=~\"$pods\"})").await;
    let old = deep(folder.path(), "old", "depth{pod=~\"$pods\"}").await;
    // With a time of its own, as cAdvisor gives; Prometheus writes no end for such a series.
    let timed = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        old.pods[0].app.page(Page::Text(format!("depth 200 {now}\n")));
    };
    timed();
    let pages = [targets(&ends), targets(&old)].concat();
    let prometheus = Prometheus::start(&pages, SCRAPED_EVERY).await;
    let weir = weir(folder.path(), &prometheus.url(), &["--prometheus-lookback", "2s"]).await;
    eventually(DEADLINE, "both are limited", async || {
        timed();
        let status = View(weir.status().await.map_err(|error| error.to_string())?);
        status.phase(&key("ends"), "deep", "Limiting")?;
        status.phase(&key("old"), "deep", "Limiting").map(drop)
    })
    .await;
    // From now on one page fails, and the other says the same old sample again and again.
    ends.pods[0].app.page(Page::Status(500));
    missing(&weir, "ends", "the query gives no series").await;
    missing(&weir, "old", "the query gives no series").await;
    let status = View(weir.status().await.unwrap());
    status.phase(&key("ends"), "deep", "Limiting").unwrap();
    status.phase(&key("old"), "deep", "Limiting").unwrap();
    // What is there again is believed again.
    depth(&ends.pods[0].app, "10");
    phase(&weir, "ends", "deep", "Idle").await;
}

/// A service whose rule rests on cpu as its pods' own pages say it.
async fn scraped(folder: &Path, name: &str) -> Service {
    let service = Service::start("ns-a", name, 1).await;
    service.burn(0.95);
    service.write(folder);
    let rule = "- name: hot\n  when: cpu > 80% until cpu < 50% for 1s\n  limit: 30 requests per second per pod";
    put(folder, &format!("{name}.policy.yaml"), &limiter("ns-a", name, rule));
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_prometheus_moves_no_rule_that_rests_on_another_provider() {
    let folder = temp_dir();
    let service = deep(folder.path(), "asked", "sum by (pod) (depth{pod=~\"$pods\"})").await;
    let scraped = scraped(folder.path(), "scraped").await;
    let mut prometheus = Prometheus::start(&targets(&service), SCRAPED_EVERY).await;
    let weir = weir(folder.path(), &prometheus.url(), &[]).await;
    phase(&weir, "asked", "deep", "Limiting").await;
    phase(&weir, "scraped", "hot", "Limiting").await;

    prometheus.kill().await;
    depth(&service.pods[0].app, "10");
    missing(&weir, "asked", "Prometheus cannot be reached").await;
    // Long after `after` the limit of the one holds, and the other follows its own metric.
    let status = View(weir.status().await.unwrap());
    status.phase(&key("asked"), "deep", "Limiting").unwrap();
    status.expect(&key("scraped"), "MetricsAvailable", true, "Available").unwrap();
    status.phase(&key("scraped"), "hot", "Limiting").unwrap();
    scraped.burn(0.1);
    phase(&weir, "scraped", "hot", "Idle").await;
    View(weir.status().await.unwrap()).phase(&key("asked"), "deep", "Limiting").unwrap();

    prometheus.restart().await;
    phase(&weir, "asked", "deep", "Idle").await;
    let log = weir.log();
    assert_eq!(log.matches("Prometheus gives no answers").count(), 1, "{log}");
    assert_eq!(log.matches("Prometheus answers again").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_hung_or_no_prometheus_is_said_and_costs_nobody_else() {
    for hung in [true, false] {
        let folder = temp_dir();
        let _service = deep(folder.path(), "asked", "depth").await;
        let _scraped = scraped(folder.path(), "scraped").await;
        let silent = Silent::start().await;
        let other = App::start(([127, 0, 0, 1], 0).into()).await;
        let address = if hung { silent.address } else { other.address };
        let weir = weir(folder.path(), &format!("http://{address}"), &["--prometheus-timeout", "300ms"]).await;
        missing(&weir, "asked", if hung { "did not answer within 300 ms" } else { "no Prometheus" }).await;
        phase(&weir, "scraped", "hot", "Limiting").await;
        View(weir.status().await.unwrap()).phase(&key("asked"), "deep", "Idle").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_go_by_url_or_by_token_file_and_never_into_a_message() {
    // The password is `test`; this hash of it stands in Prometheus' own documentation.
    const WEB: &str = "basic_auth_users: {admin: \"$2b$12$hNf2lSsxfm0.i4a.1kVpSOVyBCfIB51VRjgBUyv6kdnyTlgWj81Ay\"}\n";
    let folder = temp_dir();
    let service = deep(folder.path(), "asked", "depth").await;
    let prometheus = Prometheus::start_with(&targets(&service), SCRAPED_EVERY, WEB).await;
    let address = prometheus.address;
    let right = weir(folder.path(), &format!("http://admin:test@{address}"), &[]).await;
    phase(&right, "asked", "deep", "Limiting").await;
    let wrong = weir(folder.path(), &format!("http://admin:secret@{address}"), &[]).await;
    let message = missing(&wrong, "asked", "401 Unauthorized instead of 200; give credentials").await;
    assert!(!message.contains("secret") && !wrong.log().contains("secret"), "{message}\n{}", wrong.log());
    let secrets = temp_dir();
    let token = secrets.path().join("token");
    let silent = Silent::start().await;
    let more = ["--prometheus-timeout", "300ms", "--prometheus-header", "X-Scope-OrgID: shop"];
    let more = [&["--prometheus-token-file", token.to_str().unwrap()][..], &more].concat();
    let bearer = weir(folder.path(), &format!("http://{}", silent.address), &more).await;
    missing(&bearer, "asked", "cannot be used: ").await;
    for text in ["first", "second"] {
        std::fs::write(&token, format!("{text}\n")).unwrap();
        eventually(DEADLINE, "the token is sent", async || {
            let heard = silent.heard();
            let token = heard.contains(&format!("authorization: Bearer {text}\r\n"));
            if token && heard.contains("x-scope-orgid: shop") { Ok(()) } else { Err(heard) }
        })
        .await;
    }
}

#[tokio::test]
async fn without_a_prometheus_the_status_says_how_to_name_one() {
    let folder = temp_dir();
    let _service = deep(folder.path(), "asked", "depth").await;
    let weir = Weir::start(folder.path(), &[]).await;
    let message = missing(&weir, "asked", "there is no Prometheus to ask").await;
    assert!(message.contains("--prometheus URL") && message.contains("WEIR_PROMETHEUS"), "{message}");
}

/// What the usual exporters say of `shop/cart` at a time, in seconds since the epoch: half a core of one, 64 of 256 MiB, 20 requests per second of
/// which 2 fail and 4 are refused by a limit, all answered within 100 ms. Its pod has two containers, of which one has been
/// started again; a proxy, the pod's own container and the sum of all must not count.
fn exporters(at: f64, since: f64) -> String {
    let (seconds, at) = (at - since, (at * 1000.0) as i64);
    let container = |name: &str| format!("namespace=\"shop\",pod=\"cart-0\",container=\"{name}\"");
    let istio = "reporter=\"destination\",destination_service_name=\"cart\",destination_service_namespace=\"shop\",\
                 namespace=\"shop\",pod=\"cart-0\"";
    let mut text = String::new();
    let restarted = seconds - if seconds < 60.0 { 0.0 } else { 60.0 };
    let containers = [
        ("app", 0.4, seconds, 48),
        ("worker", 0.1, restarted, 16),
        ("istio-proxy", 3.0, seconds, 900),
        ("POD", 0.2, seconds, 1),
        ("", 3.7, seconds, 965),
    ];
    for (name, cores, seconds, mebibytes) in containers {
        let labels = container(name);
        writeln!(text, "container_cpu_usage_seconds_total{{{labels},cpu=\"total\"}} {} {at}", cores * seconds).unwrap();
        writeln!(text, "container_memory_working_set_bytes{{{labels}}} {} {at}", mebibytes << 20).unwrap();
    }
    for (resource, limit) in [("cpu", 1.0), ("memory", 268_435_456.0)] {
        for (name, part) in [("app", 0.75), ("worker", 0.25), ("istio-proxy", 2.0)] {
            let (labels, limit) = (container(name), part * limit);
            writeln!(text, "kube_pod_container_resource_limits{{{labels},resource=\"{resource}\"}} {limit} {at}")
                .unwrap();
        }
    }
    for (code, flags, rate) in [(200, "-", 14.0), (503, "-", 2.0), (429, "RL", 4.0)] {
        let labels = format!("{istio},response_code=\"{code}\",response_flags=\"{flags}\"");
        writeln!(text, "istio_requests_total{{{labels}}} {} {at}", rate * seconds).unwrap();
        for le in ["50", "100", "+Inf"] {
            let count = if le == "50" { 0.0 } else { rate * seconds };
            writeln!(text, "istio_request_duration_milliseconds_bucket{{{labels},le=\"{le}\"}} {count} {at}").unwrap();
        }
    }
    // An application that counts itself: 8 a second, of which 2 fail, all answered within half a second.
    let own = "namespace=\"shop\",pod=\"plain-0\",service=\"plain\"";
    for (code, rate) in [(200, 6.0), (500, 2.0)] {
        writeln!(text, "http_requests_total{{{own},method=\"GET\",code=\"{code}\"}} {} {at}", rate * seconds).unwrap();
    }
    for (le, rate) in [("0.1", 0.0), ("0.5", 8.0), ("+Inf", 8.0)] {
        writeln!(text, "http_request_duration_seconds_bucket{{{own},le=\"{le}\"}} {} {at}", rate * seconds).unwrap();
    }
    let labels = "namespace=\"shop\",pod=\"cart-0\",envoy_http_conn_manager_prefix=\"in_8080\"";
    writeln!(text, "envoy_http_downstream_rq_active{{{labels}}} 7 {at}").unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_languages_words_come_from_the_usual_exporters() {
    let page = App::start(([127, 0, 0, 1], 0).into()).await;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let since = now() - 100.0;
    // The first reads tell of the minute before, in steps of ten seconds, so that rates need not wait for one.
    let next = |reads: u64| Page::Text(exporters(now() - 10.0 * 7_u64.saturating_sub(reads) as f64, since));
    page.page(next(0));
    let target = Target { address: page.address, labels: Vec::new() };
    let prometheus = Prometheus::start(&[target], SCRAPED_EVERY).await;
    let service = |name: &str| ServiceKey { namespace: "shop".to_owned(), name: name.to_owned() };
    let expected = [
        ("cart", Word::Cpu, 0.5),
        ("cart", Word::Memory, 0.25),
        ("cart", Word::Requests, 20.0),
        ("cart", Word::Answers, 16.0),
        ("cart", Word::Refused, 4.0),
        ("cart", Word::Errors, 0.125),
        ("cart", Word::ErrorsPerSecond, 2.0),
        ("cart", Word::Latency(50), 0.075),
        ("cart", Word::Inflight, 7.0),
        // The same pod, of which its manifest says what it may use: twice what kube-state-metrics says.
        ("known", Word::Cpu, 0.25),
        ("known", Word::Memory, 0.125),
        ("plain", Word::Requests, 8.0),
        ("plain", Word::Answers, 8.0),
        ("plain", Word::Errors, 0.25),
        ("plain", Word::ErrorsPerSecond, 2.0),
        ("plain", Word::Latency(50), 0.3),
    ];
    let query = |(name, word, _): &(&str, Word, f64)| {
        let amount = if *word == Word::Cpu { 2.0 } else { 536_870_912.0 };
        Query {
            service: service(name),
            word: word.clone(),
            promql: None,
            pods: vec![if *name == "plain" { "plain-0" } else { "cart-0" }.to_owned()],
            amounts: (*name == "known").then(|| ("cart-0".to_owned(), amount)).into_iter().collect(),
        }
    };
    let wanted = Wanted { queries: expected.iter().map(query).collect(), ..Wanted::default() };
    let config = Config {
        url: prometheus.url(),
        interval: Duration::from_millis(500),
        timeout: Duration::from_secs(2),
        lookback: Duration::from_secs(90),
        token_file: None,
        headers: Vec::new(),
    };
    let (_wanted_tx, wanted_rx) = watch::channel(Arc::new(wanted));
    let (samples_tx, mut samples_rx) = mpsc::channel(1024);
    let (health, shutdown) = (HealthBoard::default(), CancellationToken::new());
    let provider = operator::metrics::prometheus::Prometheus::new(config, Meters::default()).unwrap();
    let task = provider.spawn(wanted_rx, samples_tx, health.clone(), shutdown.clone());
    let seen = Arc::new(parking_lot::Mutex::new(BTreeMap::new()));
    let collected = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Some(batch) = samples_rx.recv().await {
            for sample in batch {
                if let Measure::Number(word, value) = sample.measure {
                    collected.lock().insert((ServiceKey::clone(&sample.service), word), (sample.pod, value));
                }
            }
        }
    });
    eventually(DEADLINE, "every word has its value", async || {
        page.page(next(page.reads()));
        let seen = seen.lock();
        for (name, word, value) in &expected {
            let (service, found) = (service(name), seen.get(&(service(name), word.clone())));
            if found.is_none_or(|(_, found)| (found - value).abs() > value * 0.1) {
                return Err(format!("{name} {word}: {found:?}, not {value}: {:?}", health.query(&service, word)));
            }
        }
        Ok(())
    })
    .await;
    let seen = seen.lock().clone();
    assert_eq!(seen[&(service("cart"), Word::Cpu)].0.as_deref(), Some("cart-0"));
    assert_eq!(seen[&(service("cart"), Word::Latency(50))].0, None);
    shutdown.cancel();
    task.await.unwrap();
}
