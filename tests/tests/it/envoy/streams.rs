//! What Envoy streams of its own statistics: rules on requests, errors and latency, with no metrics page and no Prometheus.

use std::{net::SocketAddr, time::Duration};

use http_body_util::Full;
use testkit::{
    eventually,
    http::{Connection, send},
    mesh::{Service, limiter, put},
    proxy::Proxy,
    status::View,
    temp_dir,
    weir::Weir,
};
use tokio::{sync::watch, task::JoinSet, time::MissedTickBehavior};

const DEADLINE: Duration = Duration::from_secs(30);
const KEY: &str = "smartlimiters.weir.dev/ns-a/checkout";

const RULES: &str = "
- name: slow
  when: p99 latency > 200ms for 1s until p99 latency < 100ms for 1s
  limit: 900 requests per second per pod
- name: failing
  when: errors > 5% and errors per second > 1 until errors < 1% for 1s
  limit: 800 requests per second per pod
- name: busy
  when: requests > 100 until requests < 80 for 1s
  limit: 20 requests per second per pod
- name: crowded
  when: inflight > 5 until inflight < 1 for 1s
  limit: 700 requests per second per pod
";

/// Connections that each send 20 requests a second, one after the other, until it is dropped.
struct Traffic {
    connections: JoinSet<()>,
    address: SocketAddr,
    /// What was answered last.
    status: watch::Sender<u16>,
}

impl Traffic {
    fn start(address: SocketAddr, connections: usize) -> Self {
        let mut traffic = Self { connections: JoinSet::new(), address, status: watch::Sender::default() };
        traffic.set(connections);
        traffic
    }

    fn set(&mut self, connections: usize) {
        self.connections = JoinSet::new();
        for _ in 0..connections {
            let (address, status) = (self.address, self.status.clone());
            self.connections.spawn(async move {
                let mut ticks = tokio::time::interval(Duration::from_millis(50));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                loop {
                    // The proxy may be away.
                    let Ok(mut connection) = Connection::open(address, None).await else {
                        ticks.tick().await;
                        continue;
                    };
                    while let Ok(answered) = connection.get("/").await {
                        status.send_replace(answered);
                        ticks.tick().await;
                    }
                }
            });
        }
    }
}

/// Makes a gRPC call that has no message: its status.
async fn call(address: SocketAddr) -> String {
    let request = http::Request::post(format!("http://{address}/")).header("content-type", "application/grpc");
    let response = send(request.body(Full::default()).unwrap()).await.unwrap();
    response.headers()["grpc-status"].to_str().unwrap().to_owned()
}

/// The service has no metrics page, so that nothing but Envoy can know anything.
fn write(service: &Service, folder: &std::path::Path) {
    let manifests = service.manifests();
    let scraped = format!(", prometheus.io/port: \"{}\"", service.pods[0].app.address.port());
    assert!(manifests.contains(&scraped), "{manifests}");
    put(folder, "service.yaml", &manifests.replace(&scraped, ""));
    let policy = limiter("ns-a", "checkout", RULES) + "  onMissingMetric: {action: Hold, after: 1s}\n";
    put(folder, "policy.yaml", &policy);
}

/// The value of a rule's metric, which must be Envoy's.
fn observed(status: &View, rule: &str, metric: &str) -> Result<f64, String> {
    let rule = status.rule(KEY, rule)?;
    let observed = rule["observed"].as_array().map_or(&[][..], Vec::as_slice);
    let found = observed.iter().find(|observed| observed["metric"] == metric && observed["source"] == "envoy");
    found.and_then(|found| found["value"].as_f64()).ok_or_else(|| format!("no {metric} of envoy: {rule}"))
}

async fn phases(weir: &Weir, what: &str, expected: [(&str, &str); 4]) {
    weir.until(DEADLINE, what, |status| {
        status.expect(KEY, "MetricsAvailable", true, "Available")?;
        expected.iter().try_for_each(|(rule, phase)| status.phase(KEY, rule, phase).map(drop))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_on_latency_errors_and_requests_come_into_force_and_go() {
    const IDLE: [(&str, &str); 4] = [("slow", "Idle"), ("failing", "Idle"), ("busy", "Idle"), ("crowded", "Idle")];
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    write(&service, folder.path());
    let weir = Weir::start(folder.path(), &[]).await;
    let proxy = Proxy::start(&weir, &service, 0).await;
    let app = &service.pods[0].app;
    weir.until(DEADLINE, "it is programmed", |status| status.programmed(KEY, 1)).await;
    phases(&weir, "without a request everything is known and idle", IDLE).await;
    let mut traffic = Traffic::start(service.pods[0].inbound, 3);
    weir.until(DEADLINE, "60 requests a second are seen", |status| {
        let requests = observed(status, "busy", "requests")?;
        if (30.0..70.0).contains(&requests) { Ok(()) } else { Err(requests.to_string()) }
    })
    .await;

    // Slow: within a bucket of the truth, and not below it.
    app.answers(200, Duration::from_millis(300));
    weir.until(DEADLINE, "it is slow", |status| {
        status.phase(KEY, "slow", "Limiting")?;
        let p99 = observed(status, "slow", "p99 latency")?;
        if (0.299..0.5).contains(&p99) { Ok(()) } else { Err(p99.to_string()) }
    })
    .await;
    app.answers(200, Duration::ZERO);
    phases(&weir, "it is fast again", IDLE).await;

    // Slow again, and then without any traffic: that must not hold the rule for ever.
    app.answers(200, Duration::from_millis(300));
    weir.until(DEADLINE, "it is slow again", |status| status.phase(KEY, "slow", "Limiting").map(drop)).await;
    traffic.set(0);
    phases(&weir, "nothing is asked any more", IDLE).await;

    // Failing.
    app.answers(503, Duration::ZERO);
    traffic.set(3);
    weir.until(DEADLINE, "it fails", |status| {
        status.phase(KEY, "failing", "Limiting")?;
        let errors = observed(status, "failing", "errors")?;
        if errors > 0.9 { Ok(()) } else { Err(errors.to_string()) }
    })
    .await;
    app.answers(200, Duration::ZERO);
    phases(&weir, "it works again", IDLE).await;

    // Failing calls under HTTP 200. A status that blames the call, not the server, is no failure.
    traffic.set(0);
    app.grpc_status(Some(5));
    let served = app.served();
    while app.served() < served + 30 {
        assert_eq!(call(traffic.address).await, "5");
    }
    app.grpc_status(Some(13));
    eventually(DEADLINE, "calls fail", async || {
        // 8 is RESOURCE_EXHAUSTED: Weir's own, should this be too fast for the rule on requests.
        assert!(["13", "8"].contains(&call(traffic.address).await.as_str()));
        let status = View(weir.status().await.map_err(|error| format!("{error:#}"))?);
        status.phase(KEY, "failing", "Limiting").map(drop)
    })
    .await;
    let failed = proxy.stats("^weir.grpc_failed").await;
    assert_eq!(failed.keys().collect::<Vec<_>>(), ["weir.grpc_failed.flags.-"]);
    assert!(failed.values().sum::<u64>() <= app.served() - served - 30, "NOT_FOUND does not count: {failed:?}");
    let demand = proxy.stats("^weir.demand").await;
    assert!(demand.values().sum::<u64>() > 200, "every request is counted: {demand:?}");
    app.grpc_status(None);
    phases(&weir, "calls work again", IDLE).await;

    // Busy: what Weir refuses is offered still, and no error of the application.
    traffic.set(12);
    weir.until(DEADLINE, "it is busy", |status| status.phase(KEY, "busy", "Limiting").map(drop)).await;
    let served = app.served();
    eventually(DEADLINE, "many are refused", async || {
        let status = View(weir.status().await.map_err(|error| format!("{error:#}"))?);
        status.phase(KEY, "busy", "Limiting").expect("offered requests do not fall because Weir refuses them");
        status.phase(KEY, "failing", "Idle").expect("what Weir refuses is no error");
        let errors = observed(&status, "failing", "errors")?;
        assert!(errors < 0.01, "{errors}");
        if app.served() > served + 60 { Ok(()) } else { Err(app.served() - served) }.map_err(|more| more.to_string())
    })
    .await;
    traffic.set(2);
    phases(&weir, "it is calm", IDLE).await;

    // Crowded: requests that are not answered.
    app.answers(200, Duration::from_secs(20));
    traffic.set(8);
    weir.until(DEADLINE, "it is crowded", |status| status.phase(KEY, "crowded", "Limiting").map(drop)).await;
    traffic.set(0);
    phases(&weir, "clients have given up", IDLE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stops_holds_the_limit_and_is_said_to_be_missing() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    write(&service, folder.path());
    let weir = Weir::start(folder.path(), &[]).await;
    let app = &service.pods[0].app;
    app.answers(500, Duration::ZERO);
    let _traffic = Traffic::start(service.pods[0].inbound, 2);
    let failing = |status: &View| status.phase(KEY, "failing", "Limiting").map(drop);
    let missing = |status: &View, words: &str| {
        failing(status)?;
        let message = status.expect(KEY, "MetricsAvailable", false, "Missing")?;
        if message.contains(words) && message.contains("checkout-0") { Ok(()) } else { Err(message) }
    };

    let proxy = Proxy::start(&weir, &service, 0).await;
    weir.until(DEADLINE, "it fails", failing).await;
    drop(proxy);
    weir.until(DEADLINE, "the proxy is gone", |status| missing(status, "is not connected")).await;

    // A bootstrap of one's own, that serves and tells nothing. What the application does now, nobody knows.
    app.answers(200, Duration::ZERO);
    let mute = Proxy::start_with(&weir, &service, 0, |bootstrap| {
        bootstrap.as_object_mut().unwrap().remove("stats_sinks").unwrap();
    })
    .await;
    let served = app.served();
    weir.until(DEADLINE, "it does not stream", |status| missing(status, "does not stream")).await;
    eventually(DEADLINE, "it serves meanwhile", async || {
        let status = View(weir.status().await.map_err(|error| format!("{error:#}"))?);
        failing(&status).expect("the limit is held");
        if app.served() > served + 100 { Ok(()) } else { Err(format!("{} requests", app.served() - served)) }
    })
    .await;
    drop(mute);

    // Counters begin at zero again with the process; a stream that comes back is believed again.
    let _proxy = Proxy::start(&weir, &service, 0).await;
    weir.until(DEADLINE, "it is seen to work", |status| {
        status.expect(KEY, "MetricsAvailable", true, "Available")?;
        status.phase(KEY, "failing", "Idle").map(drop)
    })
    .await;
}
