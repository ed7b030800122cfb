//! OpenTelemetry: a decision is followed to the proxies and back, and a collector that is away costs nothing.

use std::time::{Duration, Instant};

use operator::xds::{
    ResourceType::{Cluster, Endpoints, Listener, Route},
    client::DeltaClient,
};
use testkit::{
    collector::{Collector, Span},
    eventually,
    mesh::{Service, limiter, put},
    ports, temp_dir,
    weir::Weir,
};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);
const KEY: &str = "smartlimiters.weir.dev/ns-a/checkout";

fn limit(folder: &tempfile::TempDir, per_second: u32) {
    let rule = format!("- name: calm\n  limit: {per_second} requests per second per pod");
    put(folder.path(), "policy.yaml", &limiter("ns-a", "checkout", &rule));
}

/// Subscribes as Envoy does and takes everything.
async fn proxy(weir: &Weir, service: &Service) -> DeltaClient {
    let name = service.resource(0);
    let mut client = DeltaClient::connect(weir.xds, &service.node(0)).await.unwrap();
    for (resource_type, names) in [(Cluster, &[][..]), (Listener, &[]), (Endpoints, &[&*name]), (Route, &[&*name])] {
        client.subscribe(resource_type, names).await.unwrap();
    }
    for _ in 0..4 {
        let response = timeout(DEADLINE, client.next()).await.unwrap().unwrap();
        client.ack(&response).await.unwrap();
    }
    weir.until(DEADLINE, "it has everything", |status| status.programmed(KEY, 1)).await;
    client
}

/// The trace of the decision that set this limit, once it has an answer of this name.
async fn trace(collector: &Collector, limit: &str, answer: &str) -> Vec<Span> {
    eventually(DEADLINE, "the trace is whole", async || {
        let spans = collector.spans();
        let root =
            spans.iter().find(|span| span.attributes.get("weir.limit.after").is_some_and(|after| after == limit));
        let root = root.ok_or_else(|| format!("no decision for {limit} in {spans:#?}"))?;
        let trace: Vec<Span> = spans.iter().filter(|span| span.trace == root.trace).cloned().collect();
        if trace.iter().any(|span| span.name == answer) { Ok(trace) } else { Err(format!("{trace:#?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_followed_to_the_proxy_and_back() {
    let (folder, collector) = (temp_dir(), Collector::start(ports::free()).await);
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    limit(&folder, 30);
    let endpoint = format!("http://{}", collector.address);
    let weir = Weir::start(folder.path(), &["--otlp-endpoint", &endpoint, "--otlp-sample", "1"]).await;
    let mut client = proxy(&weir, &service).await;

    limit(&folder, 40);
    let response = timeout(DEADLINE, client.next()).await.unwrap().unwrap();
    client.ack(&response).await.unwrap();
    let spans = trace(&collector, "40 requests per second", "ack").await;
    let named = |name: &str| {
        let mut of_name = spans.iter().filter(|span| span.name == name);
        let one = of_name.next().unwrap_or_else(|| panic!("no {name} in {spans:#?}"));
        assert_eq!(of_name.next(), None, "{name} once: {spans:#?}");
        one
    };
    let (root, push, ack) = (named("decide"), named("push"), named("ack"));
    assert_eq!(spans.len(), 5, "decide, translate, publish, push, ack: {spans:#?}");
    assert!(root.parent.is_empty());
    for child in ["translate", "publish", "push"] {
        assert_eq!(named(child).parent, root.id, "{child}");
    }
    assert_eq!(ack.parent, push.id);
    for (earlier, later) in [(root, named("translate")), (named("translate"), named("publish")), (push, ack)] {
        assert!(earlier.time.0 <= later.time.0 && later.time.0 <= later.time.1, "{earlier:?} {later:?}");
    }
    let attributes = [
        (root, "weir.service", "ns-a/checkout"),
        (root, "weir.rule", "calm"),
        (root, "weir.limit.before", "30 requests per second"),
        (named("publish"), "weir.proxies", "1"),
        (push, "weir.proxy", "ns-a/checkout/checkout-0"),
        (push, "xds.type", "route"),
        (ack, "xds.resources", "1"),
    ];
    for (span, key, value) in attributes {
        assert_eq!(span.attributes.get(key).map(String::as_str), Some(value), "{key} of {span:?}");
    }
    assert_eq!(root.service, "weir");

    // What a refusal says is at the end of its trace.
    limit(&folder, 50);
    let response = timeout(DEADLINE, client.next()).await.unwrap().unwrap();
    client.nack(&response, "the regex is too large").await.unwrap();
    let spans = trace(&collector, "50 requests per second", "nack").await;
    let nack = spans.iter().find(|span| span.name == "nack").unwrap();
    assert_eq!(nack.error.as_deref(), Some("the regex is too large"));

    // A proxy that comes later is no part of an old decision, and the end loses nothing.
    let before = collector.spans().iter().filter(|span| span.name == "push").count();
    let _late = proxy(&weir, &service).await;
    limit(&folder, 60);
    weir.until(DEADLINE, "it is decided", |status| {
        status.policy(KEY)?["generation"].as_u64().filter(|g| *g == 4).ok_or("".into())
    })
    .await;
    timeout(DEADLINE, client.next()).await.unwrap().unwrap();
    weir.stop().await.unwrap();
    let spans = collector.spans();
    let pushes: Vec<&Span> = spans.iter().filter(|span| span.name == "push").skip(before).collect();
    assert!(
        pushes.iter().all(|push| push.attributes["xds.type"] == "route") && (1..=2).contains(&pushes.len()),
        "{pushes:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_is_said_once_and_holds_nothing_up() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    limit(&folder, 30);
    let address = ports::free();
    let weir =
        Weir::start(folder.path(), &["--otlp-endpoint", &format!("http://{address}"), "--otlp-sample", "1"]).await;
    let mut client = proxy(&weir, &service).await;
    let said = |word: &'static str| {
        let log = weir.log();
        async move { if log.contains(word) { Ok(()) } else { Err(log) } }
    };
    eventually(DEADLINE, "it is said", || said("takes no traces")).await;
    for per_second in 31..40 {
        limit(&folder, per_second);
        let began = Instant::now();
        let response = timeout(DEADLINE, client.next()).await.unwrap().unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "a push waited {:?}", began.elapsed());
        client.ack(&response).await.unwrap();
    }
    // It comes back, and so do the traces.
    let collector = Collector::start(address).await;
    limit(&folder, 99);
    let response = timeout(DEADLINE, client.next()).await.unwrap().unwrap();
    client.ack(&response).await.unwrap();
    trace(&collector, "99 requests per second", "ack").await;
    eventually(DEADLINE, "that is said, too", || said("takes traces again")).await;
    assert_eq!(weir.log().matches("takes no traces").count(), 1, "{}", weir.log());
    // And away again: the end waits for it only so long.
    drop(collector);
    limit(&folder, 100);
    timeout(DEADLINE, client.next()).await.unwrap().unwrap();
    drop(client);
    let began = Instant::now();
    assert!(weir.stop().await.unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(5), "stopping took {:?}", began.elapsed());
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_is_refused() {
    for (endpoint, words) in [
        ("collector:4317", "expected a URL such as http://collector:4317"),
        ("https://collector:4317", "TLS to the collector is not supported"),
    ] {
        let folder = temp_dir();
        let weir = Weir::spawn(folder.path(), ports::free(), ports::free(), &["--otlp-endpoint", endpoint]);
        let (status, log) = weir.ended().await.unwrap();
        assert!(status.code() == Some(2) && log.contains(words), "{endpoint}: {log}");
    }
}
