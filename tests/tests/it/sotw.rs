//! State-of-the-world ADS: a real Envoy that speaks it, and a client that says what Envoy does not.

use std::time::{Duration, Instant};

use operator::xds::{
    ResourceType::{self, Cluster, Endpoints, Listener, Route},
    bootstrap::Protocol,
    client::SotwClient,
    wire::DiscoveryResponse,
};
use serde_json::json;
use testkit::{
    app::App,
    eventually,
    http::{Connection, send},
    mesh::{Service, lazy, limiter, put, without_proxy},
    proxy::Proxy,
    temp_dir,
    weir::Weir,
};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);
const KEY: &str = "smartlimiters.weir.dev/ns-a/checkout";

/// A narrow bucket that is soon empty, and a wide rule to be edited.
fn policy(path: &str, per_second: u32) -> String {
    let rules = format!(
        "- name: few\n  matches: [{{path: {{type: {path}}}}}]\n  limit: 5 requests per hour per pod\n  burst: 3\n\
         - name: wide\n  limit: {per_second} requests per second per pod"
    );
    limiter("ns-a", "checkout", &rules)
}

async fn proxy(weir: &Weir, service: &Service, pod: usize, regex_steps: u32) -> Proxy {
    Proxy::start_with(weir, service, pod, |bootstrap| {
        bootstrap["dynamic_resources"]["ads_config"]["api_type"] = json!(Protocol::Sotw.api_type());
        let layer = json!({"re2.max_program_size.error_level": regex_steps});
        bootstrap["layered_runtime"]["layers"][0]["static_layer"] = layer;
    })
    .await
}

/// Updates that a proxy took and refused, by type.
async fn updates(proxy: &Proxy, of: &str) -> (u64, u64) {
    let stats = proxy.stats("update_(success|rejected)").await;
    let sum = |what: &str| {
        let of_type = stats.iter().filter(|(name, _)| name.contains(of) && name.ends_with(what));
        of_type.map(|(_, count)| count).sum()
    };
    (sum("update_success"), sum("update_rejected"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_envoy_takes_everything_follows_changes_and_is_sent_nothing_after_a_restart() {
    let folder = temp_dir();
    let mut service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &policy("PathPrefix, value: /few", 1000));
    let weir = Weir::start(folder.path(), &[]).await;
    let proxy = proxy(&weir, &service, 0, 32_768).await;
    weir.until(DEADLINE, "the policy is programmed", |status| status.programmed(KEY, 1)).await;
    let mut connection = Connection::open(service.pods[0].inbound, None).await.unwrap();
    assert_eq!(connection.burst("/few", 10).await.unwrap(), (3, 7));
    let listeners = updates(&proxy, "listener_manager.lds").await;
    for change in 1..=10_u32 {
        put(folder.path(), "policy.yaml", &policy("PathPrefix, value: /few", 1000 + change));
        weir.until(DEADLINE, "the change is programmed", |status| status.programmed(KEY, u64::from(change) + 1)).await;
        assert_eq!(connection.burst("/few", 2).await.unwrap(), (0, 2), "change {change} filled the bucket");
    }
    assert_eq!(updates(&proxy, "listener_manager.lds").await, listeners, "a number is in routes alone");

    // The protocol changes, and with it the cluster, which waits for endpoints that did not change: Envoy gives up after 15 s.
    for (port, change) in [("http2-web", 0), ("http", 1)] {
        let changed = Instant::now();
        put(
            folder.path(),
            "ns-a.checkout.yaml",
            &service.manifests().replace("name: http,", &format!("name: {port},")),
        );
        eventually(DEADLINE, "the changed cluster is warm and acknowledged", async || {
            let modified = proxy.stat("cluster_manager.cluster_modified").await;
            let warming = proxy.stat("cluster_manager.warming_clusters").await;
            if modified > change && warming == 0 {
                Ok(())
            } else {
                Err(format!("{modified} modified, {warming} warming"))
            }
        })
        .await;
        weir.until(DEADLINE, "it is programmed", |status| status.programmed(KEY, 11)).await;
        assert!(changed.elapsed() < Duration::from_secs(8), "the cluster waited {:?}", changed.elapsed());
    }
    // The endpoints move.
    let started = updates(&proxy, "cluster.in_").await.0;
    service.pods[0].app = testkit::app::App::start((service.pods[0].inbound.ip(), 0).into()).await;
    service.write(folder.path());
    eventually(DEADLINE, "the endpoints are taken", async || {
        let now = updates(&proxy, "cluster.in_").await.0;
        if now > started { Ok(()) } else { Err(now) }
    })
    .await;
    assert_eq!(connection.burst("/", 5).await.unwrap(), (5, 0));

    let held = proxy.stats("update_success").await;
    let (xds, admin) = (weir.xds, weir.admin);
    weir.kill().await.unwrap();
    assert_eq!(connection.burst("/few", 2).await.unwrap(), (0, 2), "the limit holds without Weir");
    let mut weir = Weir::spawn(folder.path(), xds, admin, &[]);
    weir.ready().await;
    weir.until(DEADLINE, "what it holds counts as taken", |status| status.programmed(KEY, 1)).await;
    assert_eq!(proxy.stats("update_success").await, held, "something was sent again");
    assert!(weir.metric("weir_xds_pushes_total").await < 0.5, "something was sent again");

    // Everything goes by absence.
    std::fs::remove_file(folder.path().join("ns-a.checkout.yaml")).unwrap();
    eventually(DEADLINE, "listener and cluster are gone", async || {
        let clusters = proxy.admin("/clusters?format=json").await;
        let seen = proxy.admin("/listeners").await + &clusters;
        if seen.contains("in/ns-a") { Err(seen) } else { Ok(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_envoy_that_refuses_keeps_what_it_had_and_is_asked_once() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &policy("PathPrefix, value: /few", 1000));
    let weir = Weir::start(folder.path(), &[]).await;
    let proxy = proxy(&weir, &service, 0, 20).await;
    weir.until(DEADLINE, "the policy is programmed", |status| status.programmed(KEY, 1)).await;
    put(folder.path(), "policy.yaml", &policy("RegularExpression, value: \"/few/[a-z]{1,40}/[0-9]{1,40}\"", 1000));
    let message =
        weir.until(DEADLINE, "the refusal shows", |status| status.expect(KEY, "Programmed", false, "Rejected")).await;
    assert!(message.contains("program size"), "{message}");
    let mut connection = Connection::open(service.pods[0].inbound, None).await.unwrap();
    assert_eq!(connection.burst("/few/abc/123", 6).await.unwrap(), (3, 3), "what it had stays in force");
    put(folder.path(), "policy.yaml", &policy("PathPrefix, value: /other", 1000));
    weir.until(DEADLINE, "the mended one is taken", |status| status.programmed(KEY, 3)).await;
    assert_eq!(updates(&proxy, "rds").await.1, 1, "the refused version was sent again");
    assert_eq!(connection.burst("/other", 6).await.unwrap(), (0, 6), "the bucket is as empty as it was");
}

async fn next(client: &mut SotwClient) -> (ResourceType, DiscoveryResponse) {
    timeout(DEADLINE, client.next()).await.expect("a response in time").unwrap()
}

#[tokio::test]
async fn clusters_and_listeners_come_in_full_in_order_and_count_as_programmed() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &policy("PathPrefix, value: /few", 1000));
    let weir = Weir::start(folder.path(), &[]).await;
    weir.until(DEADLINE, "the policy is read", |status| status.policy(KEY).map(drop)).await;
    let name = service.resource(0);
    let mut client = SotwClient::connect(weir.xds, &service.node(0)).await.unwrap();
    client.subscribe(Cluster, &[]).await.unwrap();
    let mut held = Vec::new();
    for (resource_type, then) in [
        (Cluster, Some((Endpoints, true))),
        (Endpoints, Some((Listener, false))),
        (Listener, Some((Route, true))),
        (Route, None),
    ] {
        let (came, response) = next(&mut client).await;
        assert_eq!((came, response.resources.len()), (resource_type, 1));
        client.ack(came, &response).await.unwrap();
        held.push((came, response.version_info));
        if let Some((next, by_name)) = then {
            let names: &[&str] = if by_name { &[&name] } else { &[] };
            client.subscribe(next, names).await.unwrap();
        }
    }
    weir.until(DEADLINE, "all is taken", |status| status.programmed(KEY, 1)).await;

    // It comes back: silence, until something changes.
    drop(client);
    let mut client = SotwClient::connect(weir.xds, &service.node(0)).await.unwrap();
    for (resource_type, version) in &held {
        let names: &[&str] = if resource_type.has_wildcard() { &[] } else { &[&name] };
        client.resume(*resource_type, names, version).await.unwrap();
    }
    weir.until(DEADLINE, "what it holds counts as taken", |status| status.programmed(KEY, 1)).await;
    put(folder.path(), "policy.yaml", &policy("PathPrefix, value: /few", 1001));
    let (resource_type, refused) = next(&mut client).await;
    assert_eq!((resource_type, refused.nonce.as_str()), (Route, "1"), "something was sent again");
    client.nack(Route, "no").await.unwrap();
    let message =
        weir.until(DEADLINE, "the refusal shows", |status| status.expect(KEY, "Programmed", false, "Rejected")).await;
    assert!(message.contains("no"), "{message}");
    put(folder.path(), "policy.yaml", &policy("PathPrefix, value: /few", 1002));
    let (_, mended) = next(&mut client).await;
    assert_ne!(mended.version_info, refused.version_info, "the refused version came again");
    client.ack(Route, &mended).await.unwrap();
    weir.until(DEADLINE, "it is mended", |status| status.programmed(KEY, 3)).await;

    std::fs::remove_file(folder.path().join("ns-a.checkout.yaml")).unwrap();
    for expected in [Listener, Cluster] {
        let (resource_type, response) = next(&mut client).await;
        assert_eq!((resource_type, response.resources.len()), (expected, 0), "they go by absence, backwards");
        client.ack(resource_type, &response).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_cannot_ask_is_told_of_and_limits_all_the_same() {
    const LAZY: &str = "lazyconfigs.weir.dev/ns-a/lazy";
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    put(folder.path(), "service.yaml", &service.calling());
    put(folder.path(), "policy.yaml", &policy("PathPrefix, value: /few", 1000));
    let app = App::start((service.client(0), 0).into()).await;
    put(folder.path(), "other.yaml", &without_proxy("ns-a", "other", "http", app.address));
    put(folder.path(), "lazy.yaml", &lazy("ns-a", "lazy", "hold: 1s"));
    let weir = Weir::start(folder.path(), &[]).await;
    let _proxy = proxy(&weir, &service, 0, 32_768).await;
    let programmed = weir
        .until(DEADLINE, "it is said", |status| {
            let mut lazies = status.0["lazies"].as_array().into_iter().flatten();
            let report = lazies.find(|report| report["key"] == LAZY).ok_or("it is not told")?;
            let programmed = &report["status"]["conditions"][1];
            if programmed["reason"] == "NotCarriedOut" { Ok(programmed.clone()) } else { Err(report.to_string()) }
        })
        .await;
    let said = programmed["message"].as_str().unwrap_or_default();
    assert!(said.contains("the proxy ns-a/checkout/checkout-0 asks for the whole state each time (SotW)"), "{said}");
    // What comes to it is limited as ever.
    let inbound = service.pods[0].inbound;
    let burst = async |requests: usize| {
        eventually(DEADLINE, "it serves", async || {
            let mut connection = Connection::open(inbound, None).await.map_err(|error| format!("{error:#}"))?;
            connection.burst("/few", requests).await.map_err(|error| format!("{error:#}"))
        })
        .await
    };
    assert_eq!(burst(10).await, (3, 7));
    // What its application sends is answered, and goes nowhere.
    let call = async || {
        let request = http::Request::get(format!("http://{}/", service.outbound(0))).header("host", "other");
        let answer = send(request.body(Vec::new().into()).unwrap()).await;
        answer.map(|answer| answer.status().as_u16()).map_err(|error| format!("{error:#}"))
    };
    let becomes = async |wanted: u16| {
        eventually(DEADLINE, &format!("calls are answered {wanted}"), async || match call().await? {
            status if status == wanted => Ok(()),
            status => Err(status.to_string()),
        })
        .await;
    };
    becomes(404).await;
    assert_eq!(app.served(), 0);

    // Without a `LazyConfig` it has everything.
    std::fs::remove_file(folder.path().join("lazy.yaml")).unwrap();
    becomes(200).await;
    assert_eq!(burst(2).await, (0, 2), "the bucket is as empty as it was");
}
