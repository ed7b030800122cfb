//! The kill switch, under load.

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use testkit::{
    eventually,
    http::{self, Connection},
    mesh::{Service, limiter, put},
    proxy::Proxy,
    temp_dir,
    weir::{self, Weir},
};

const DEADLINE: Duration = Duration::from_secs(30);
const KEY: &str = "smartlimiters.weir.dev/ns-a/checkout";
const RULES: &str = "- name: few\n  limit: 5 requests per hour per pod\n  burst: 2";

/// Exit code and what was printed.
fn said(weir: &Weir, arguments: &[&str]) -> (i32, String) {
    let mut command: Command = weir::command(arguments);
    let output = command.args(["--admin-address", &weir.admin.to_string()]).output().unwrap();
    let Output { status, stdout, stderr } = output;
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    (status.code().expect("the process was not killed"), text)
}

async fn post(weir: &Weir, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut request = ::http::Request::post(format!("http://{}{path}", weir.admin));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = http::send(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    (response.status().as_u16(), String::from_utf8_lossy(response.body()).into_owned())
}

/// Sends requests until one is answered so; how long that took.
async fn until(connection: &mut Connection, answer: u16) -> Duration {
    let begun = Instant::now();
    while connection.get("/").await.unwrap() != answer {
        assert!(begun.elapsed() < DEADLINE, "{answer} never comes");
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_lifts_every_limit_in_milliseconds_and_resume_restores_it_with_its_buckets() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 2).await;
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &limiter("ns-a", "checkout", RULES));
    let weir = Weir::start(folder.path(), &[]).await;
    let proxies = Proxy::start_all(&weir, &service).await;
    weir.until(DEADLINE, "the policy is programmed", |status| status.programmed(KEY, 1)).await;
    let mut connections = Vec::new();
    for pod in &service.pods {
        let mut connection = Connection::open(pod.inbound, None).await.unwrap();
        assert_eq!(connection.burst("/", 10).await.unwrap(), (2, 8));
        connections.push(connection);
    }

    // Under load: the same connection asks all the time, and only the switch moves.
    let mut took = Vec::new();
    for _ in 0..10 {
        for (path, answer) in [("/pause", 200), ("/resume", 429)] {
            assert_eq!(post(&weir, path, &[]).await.0, 200);
            took.push(until(&mut connections[0], answer).await);
        }
    }
    took.sort();
    eprintln!("switch to effect: median {:?}, longest {:?}", took[took.len() / 2], took[took.len() - 1]);
    assert!(took[took.len() / 2] < Duration::from_millis(100), "{took:?}");

    let (code, text) = said(&weir, &["pause"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("everything is paused; ") && text.contains("2 of 2 proxies obey"), "{text}");
    let (code, again) = said(&weir, &["pause"]);
    assert_eq!((code, &*again), (0, "everything is paused; 2 of 2 proxies obey\n"), "once more is no change");
    for connection in &mut connections {
        assert_eq!(connection.burst("/", 20).await.unwrap(), (20, 0));
    }
    weir.until(DEADLINE, "the status says so", |status| {
        status.programmed(KEY, 1)?;
        let message = status.expect(KEY, "Limiting", false, "Paused")?;
        assert!(message.contains("weir resume"), "{message}");
        let rule = status.phase(KEY, "few", "Limiting")?;
        let message = rule["message"].as_str().unwrap();
        assert!(message.starts_with("paused by an operator, nothing is enforced: "), "{rule}");
        Ok(())
    })
    .await;
    let (code, text) = said(&weir, &["status"]);
    assert_eq!(code, 0);
    assert!(text.starts_with("PAUSED by an operator: nothing is enforced anywhere"), "{text}");

    let (code, text) = said(&weir, &["resume"]);
    assert_eq!(code, 0, "{text}");
    for (connection, (pod, proxy)) in connections.iter_mut().zip(service.pods.iter().zip(&proxies)) {
        assert_eq!(connection.burst("/", 10).await.unwrap(), (0, 10), "the bucket is as empty as before");
        let port = pod.inbound.port();
        assert_eq!(proxy.stat(&format!("http.in_{port}.downstream_cx_total")).await, 1);
        assert_eq!(proxy.stat(&format!("http.in_{port}.downstream_cx_destroy")).await, 0);
    }
    weir.until(DEADLINE, "the status says so", |status| status.expect(KEY, "Limiting", true, "Limiting")).await;
    assert!(!said(&weir, &["status"]).1.contains("PAUSED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_service_is_paused_alone_and_later_ones_with_all_the_others() {
    let folder = temp_dir();
    let (one, other) = (Service::start("ns-a", "one", 1).await, Service::start("ns-a", "other", 1).await);
    let write = |service: &Service| {
        service.write(folder.path());
        put(folder.path(), &format!("{}.yaml", service.name), &limiter("ns-a", &service.name, RULES));
    };
    write(&one);
    let weir = Weir::start(folder.path(), &[]).await;
    let _proxy = Proxy::start(&weir, &one, 0).await;
    let programmed = async |name: &str| {
        let key = format!("smartlimiters.weir.dev/ns-a/{name}");
        weir.until(DEADLINE, "the policy is programmed", |status| status.programmed(&key, 1)).await;
    };
    programmed("one").await;

    let (code, text) = said(&weir, &["pause", "--service", "ns-a/one"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("Service ns-a/one is paused; "), "{text}");
    write(&other);
    let _proxy_of_other = Proxy::start(&weir, &other, 0).await;
    programmed("other").await;
    let mut to_one = Connection::open(one.pods[0].inbound, None).await.unwrap();
    let mut to_other = Connection::open(other.pods[0].inbound, None).await.unwrap();
    assert_eq!(to_one.burst("/", 10).await.unwrap(), (10, 0));
    assert_eq!(to_other.burst("/", 10).await.unwrap(), (2, 8));
    assert!(said(&weir, &["status"]).1.starts_with("PAUSED by an operator: nothing is enforced at ns-a/one until"));

    assert_eq!(said(&weir, &["pause"]).0, 0);
    let (code, text) = said(&weir, &["resume", "--service", "ns-a/one"]);
    assert_eq!(code, 2);
    assert!(text.contains("everything is paused, Service ns-a/one with it"), "{text}");
    let third = Service::start("ns-a", "third", 1).await;
    write(&third);
    let proxy_of_third = Proxy::start(&weir, &third, 0).await;
    programmed("third").await;
    let mut to_third = Connection::open(third.pods[0].inbound, None).await.unwrap();
    assert_eq!(to_third.burst("/", 10).await.unwrap(), (10, 0), "a service that comes later is paused too");

    // A proxy that is away cannot be told, and is named.
    drop(proxy_of_third);
    weir.until(DEADLINE, "it is away", |status| {
        let proxies = status.0["proxies"].to_string();
        if proxies.contains("ns-a/third") { Err(proxies) } else { Ok(()) }
    })
    .await;
    let (code, text) = said(&weir, &["resume", "--timeout", "500ms"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("2 of 3 proxies obey") && text.contains("ns-a/third/third-0 is not connected"), "{text}");
    assert_eq!(to_one.burst("/", 10).await.unwrap(), (0, 10), "resume without a service resumes everything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_cannot_obey_is_named_and_only_a_post_of_ours_moves_the_switch() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &limiter("ns-a", "checkout", RULES));
    let weir = Weir::start(folder.path(), &[]).await;
    let _old = Proxy::start_with(&weir, &service, 0, |bootstrap| {
        bootstrap["layered_runtime"]["layers"].as_array_mut().unwrap().remove(1);
    })
    .await;
    weir.until(DEADLINE, "the policy is programmed", |status| status.programmed(KEY, 1)).await;

    let (code, text) = said(&weir, &["pause", "--service", "ns-a/chekcout"]);
    assert_eq!(code, 2);
    assert!(text.contains("there is no Service ns-a/chekcout"), "{text}");
    let (code, text) = said(&weir, &["pause", "--service", "checkout"]);
    assert_eq!(code, 2);
    assert!(text.contains("expected NAMESPACE/NAME"), "{text}");
    assert_eq!(post(&weir, "/pause", &[("origin", "https://example.com")]).await.0, 403);
    for path in ["/pause?services=ns-a/checkout", "/pause?service=checkout", "/resume?service=%0a/x"] {
        assert_eq!(post(&weir, path, &[]).await.0, 400, "{path}");
    }
    assert_eq!(http::get(weir.admin, "/resume").await.unwrap().status(), 405);
    let progress = http::get_json(weir.admin, "/pause").await.unwrap();
    assert_eq!(
        (progress["paused"]["all"].as_bool(), progress["proxies"].as_u64()),
        (Some(false), Some(1)),
        "{progress}"
    );

    let (code, text) = said(&weir, &["pause", "--timeout", "500ms"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("ns-a/checkout/checkout-0 has no runtime layer and cannot obey"), "{text}");
    let reason =
        weir.until(DEADLINE, "it is not programmed", |status| status.expect(KEY, "Programmed", false, "Pending"));
    reason.await;
    assert_eq!(said(&weir, &["resume"]).0, 0, "it never took the pause");
    weir.until(DEADLINE, "it is programmed", |status| status.programmed(KEY, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlives_the_process_where_decisions_are_kept() {
    let (folder, state) = (temp_dir(), temp_dir());
    let kept = ["--state-dir", state.path().to_str().unwrap()];
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &limiter("ns-a", "checkout", RULES));
    let weir = Weir::start(folder.path(), &kept).await;
    let _proxy = Proxy::start(&weir, &service, 0).await;
    weir.until(DEADLINE, "the policy is programmed", |status| status.programmed(KEY, 1)).await;
    assert_eq!(said(&weir, &["pause", "--service", "ns-a/checkout"]).0, 0);
    let file = state.path().join("decisions/pauses.json");
    eventually(DEADLINE, "it is written", async || if file.is_file() { Ok(()) } else { Err("not there") }).await;
    let (xds, admin) = (weir.xds, weir.admin);
    weir.kill().await.unwrap();
    let mut weir = Weir::spawn(folder.path(), xds, admin, &kept);
    weir.ready().await;
    weir.until(DEADLINE, "the proxy is back", |status| status.programmed(KEY, 1)).await;
    assert!(
        weir.metric("weir_xds_resources_total").await < 0.5,
        "nothing was sent again, so nothing was enforced meanwhile"
    );
    let mut connection = Connection::open(service.pods[0].inbound, None).await.unwrap();
    assert_eq!(connection.burst("/", 10).await.unwrap(), (10, 0));
    assert_eq!(said(&weir, &["resume"]).0, 0);
    assert_eq!(connection.burst("/", 10).await.unwrap(), (0, 10));
    // What cannot be read pauses nothing, and is said.
    eventually(DEADLINE, "it is written", async || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if text.contains("checkout") { Err(text) } else { Ok(()) }
    })
    .await;
    weir.kill().await.unwrap();
    std::fs::write(&file, "{\"all\": tru").unwrap();
    let mut weir = Weir::spawn(folder.path(), xds, admin, &kept);
    weir.ready().await;
    weir.until(DEADLINE, "it is said", |status| {
        let problems = status.0["problems"].to_string();
        if problems.contains("pauses.json") && status.0["paused"].is_null() { Ok(()) } else { Err(problems) }
    })
    .await;
}
