//! What must not happen: a closed connection, a refilled bucket, a limit lost or sent again.

use std::time::Duration;

use testkit::{
    eventually,
    http::Connection,
    mesh::{Service, limiter, put},
    proxy::Proxy,
    temp_dir,
    weir::Weir,
};

const DEADLINE: Duration = Duration::from_secs(30);
const KEY: &str = "smartlimiters.weir.dev/ns-a/checkout";

/// A narrow bucket that is soon empty, and a wide rule to be edited.
fn rules(per_second: u32) -> String {
    let rules = format!(
        "- name: few\n  matches: [{{path: {{type: PathPrefix, value: /few}}}}]\n  limit: 5 requests per hour per pod\n  burst: 3\n\
         - name: wide\n  limit: {per_second} requests per second per pod"
    );
    limiter("ns-a", "checkout", &rules)
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_changes_close_no_connection_and_refill_no_bucket() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &rules(1000));
    let weir = Weir::start(folder.path(), &[]).await;
    let proxy = Proxy::start(&weir, &service, 0).await;
    weir.until(DEADLINE, "the policy is programmed", |status| status.programmed(KEY, 1)).await;
    let mut connection = Connection::open(service.pods[0].inbound, None).await.unwrap();
    assert_eq!(connection.burst("/few", 10).await.unwrap(), (3, 7));
    let listeners = proxy.stat("listener_manager.lds.update_success").await;
    let mut admitted = 0;
    for change in 1..=20_u32 {
        put(folder.path(), "policy.yaml", &rules(1000 + change));
        weir.until(DEADLINE, "the change is programmed", |status| {
            status.programmed(KEY, u64::from(change) + 1)?;
            let rule = status.phase(KEY, "wide", "Limiting")?;
            if rule["perSecond"].as_f64() == Some(f64::from(1000 + change)) { Ok(()) } else { Err(rule.to_string()) }
        })
        .await;
        admitted += connection.burst("/few", 2).await.unwrap().0;
        assert_eq!(connection.get("/").await.unwrap(), 200);
    }
    assert_eq!(admitted, 0, "no change of another rule gives the empty bucket a token");
    let port = service.pods[0].inbound.port();
    assert_eq!(proxy.stat(&format!("http.in_{port}.downstream_cx_total")).await, 1, "one connection for everything");
    assert_eq!(proxy.stat(&format!("http.in_{port}.downstream_cx_destroy")).await, 0);
    assert_eq!(proxy.stat("listener_manager.lds.update_success").await, listeners, "the listener was not touched");
    assert_eq!(proxy.stats("update_rejected").await.values().sum::<u64>(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_outlive_a_killed_weir_and_nothing_is_sent_again_when_it_is_back() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &rules(1000));
    let weir = Weir::start(folder.path(), &[]).await;
    let proxy = Proxy::start(&weir, &service, 0).await;
    weir.until(DEADLINE, "the policy is programmed", |status| status.programmed(KEY, 1)).await;
    let inbound = service.pods[0].inbound;
    let mut connection = Connection::open(inbound, None).await.unwrap();
    assert_eq!(connection.burst("/few", 10).await.unwrap(), (3, 7));
    let before = proxy.held().await;

    // Traffic that must not notice any of it.
    let (stop_tx, stop_rx) = tokio::sync::watch::channel(false);
    let traffic = tokio::spawn(async move {
        let mut connection = Connection::open(inbound, None).await.unwrap();
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        let mut answers = 0;
        while !*stop_rx.borrow() {
            ticks.tick().await;
            assert_eq!(connection.get("/").await.unwrap(), 200, "after {answers} answers");
            answers += 1;
        }
        answers
    });
    let (xds, admin) = (weir.xds, weir.admin);
    weir.kill().await.unwrap();
    eventually(DEADLINE, "Envoy notices", async || match proxy.stat("control_plane.connected_state").await {
        0 => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(connection.burst("/few", 20).await.unwrap(), (0, 20), "the limit holds without Weir");
    assert_eq!(proxy.held().await, before);

    let mut weir = Weir::spawn(folder.path(), xds, admin, &[]);
    weir.ready().await;
    weir.until(DEADLINE, "the proxy is back and has everything", |status| status.programmed(KEY, 1)).await;
    assert_eq!(connection.burst("/few", 20).await.unwrap(), (0, 20), "the bucket is as empty as before");
    assert!(weir.metric("weir_xds_resources_total").await < 0.5, "nothing was sent again");
    assert_eq!(proxy.held().await, before, "down to the moment of the last update");
    // It is the same line of life: a change gets through.
    put(folder.path(), "policy.yaml", &rules(1001));
    weir.until(DEADLINE, "a change is programmed", |status| status.programmed(KEY, 2)).await;
    assert_ne!(proxy.held().await, before);
    stop_tx.send(true).unwrap();
    assert!(traffic.await.unwrap() > 10, "traffic went on all the time");
}
