//! A limit that steers itself on a service in trouble: it stays between floor and ceiling, and status says what it rests on.

use std::{net::SocketAddr, time::Duration};

use testkit::{
    http::Connection,
    mesh::{Service, limiter, put},
    proxy::Proxy,
    status::View,
    temp_dir,
    weir::Weir,
};
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(60);
const KEY: &str = "smartlimiters.weir.dev/ns-a/checkout";
const FLOOR: f64 = 20.0;
const CEILING: f64 = 200.0;
const RULE: &str = "- name: steer\n  adapt: keep inflight below 8, between 20 and 200 requests per second per pod";

/// Callers that ask again 50 ms after every answer, until this is dropped.
fn callers(address: SocketAddr, path: &'static str) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for _ in 0..40 {
        callers.spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_millis(50));
            beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                let Ok(mut connection) = Connection::open(address, None).await else {
                    beat.tick().await;
                    continue;
                };
                while connection.get(path).await.is_ok() {
                    beat.tick().await;
                }
            }
        });
    }
    callers
}

/// The rule's limit in requests per second, which must never leave its bounds.
fn limit(status: &View) -> Result<Option<f64>, String> {
    let rule = status.rule(KEY, "steer")?;
    let limit = rule["perSecond"].as_f64();
    if let Some(limit) = limit {
        assert!((FLOOR..=CEILING).contains(&limit), "{rule}");
    }
    Ok(limit)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_answered_the_floor_is_in_force_and_what_is_answered_again_raises_it() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &limiter("ns-a", "checkout", RULE));
    let weir = Weir::start(folder.path(), &[]).await;
    let _proxies = Proxy::start_all(&weir, &service).await;
    let app = &service.pods[0].app;
    let _callers = callers(service.pods[0].inbound, "/hold");

    weir.until(DEADLINE, "the floor is in force", |status| {
        let rule = status.rule(KEY, "steer")?.to_string();
        if limit(status)? == Some(FLOOR) { Ok(()) } else { Err(rule) }
    })
    .await;
    assert_eq!(app.served(), 0);
    weir.until(DEADLINE, "the limit rises", |status| {
        app.release();
        let rule = status.rule(KEY, "steer")?.to_string();
        if limit(status)? > Some(2.0 * FLOOR) { Ok(()) } else { Err(rule) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_all_go_and_come_back_find_a_limit_between_its_bounds() {
    let folder = temp_dir();
    let mut service = Service::start("ns-a", "checkout", 2).await;
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &limiter("ns-a", "checkout", RULE));
    let weir = Weir::start(folder.path(), &[]).await;
    let proxies = Proxy::start_all(&weir, &service).await;
    let _callers = callers(service.pods[0].inbound, "/");
    let _others = callers(service.pods[1].inbound, "/");
    let steered = |status: &View| match limit(status)? {
        Some(_) => status.expect(KEY, "MetricsAvailable", true, "Available").map(drop),
        None => Err("no limit".to_owned()),
    };
    weir.until(DEADLINE, "it is steered", steered).await;

    drop(proxies);
    service.pods.iter_mut().for_each(|pod| pod.ready = false);
    service.write(folder.path());
    weir.until(DEADLINE, "nobody is left", |status| {
        limit(status)?;
        let message = status.expect(KEY, "MetricsAvailable", false, "Missing")?;
        // Metrics may be stale a moment before it is seen why.
        if message.contains(" is not connected") { Ok(()) } else { Err(message) }
    })
    .await;

    service.pods.iter_mut().for_each(|pod| pod.ready = true);
    service.write(folder.path());
    let _proxies = Proxy::start_all(&weir, &service).await;
    weir.until(DEADLINE, "it is steered again", steered).await;
}
