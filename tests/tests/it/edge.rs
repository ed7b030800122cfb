//! Limits on the way to a service: at its callers, and at a gateway in front of it.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use testkit::{
    eventually,
    http::{self, Connection},
    mesh::{Service, limiter, put},
    project_root,
    proxy::Proxy,
    temp_dir,
    weir::Weir,
};

const DEADLINE: Duration = Duration::from_secs(30);
const KEY: &str = "smartlimiters.weir.dev/bookinfo/reviews";

/// The limiter of `reviews`, enforced elsewhere.
fn at(place: &str, rules: &str) -> String {
    limiter("bookinfo", "reviews", rules).replace("  rules:", &format!("  enforceAt: {place}\n  rules:"))
}

/// GETs `path` of `host` through the proxy at `address`.
async fn ask(address: SocketAddr, host: &str, path: &str) -> ::http::Response<Bytes> {
    let request = ::http::Request::get(format!("http://{address}{path}")).header("host", host);
    http::send(request.body(Full::default()).unwrap()).await.unwrap()
}

/// How many of so many requests are answered 200; every other one 429.
async fn admitted(address: SocketAddr, host: &str, path: &str, requests: usize) -> usize {
    let mut admitted = 0;
    for _ in 0..requests {
        match ask(address, host, path).await.status().as_u16() {
            200 => admitted += 1,
            429 => {}
            other => panic!("{host}{path} answered {other}"),
        }
    }
    admitted
}

/// Requests that the proxy of the first pod of a service took from outside.
async fn arrived(proxy: &Proxy, service: &Service) -> u64 {
    proxy.stat(&format!("http.in_{}.downstream_rq_total", service.pods[0].inbound.port())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_at_callers_is_enforced_before_a_request_leaves_and_moves_while_they_run() {
    let folder = temp_dir();
    let reviews = Service::start("bookinfo", "reviews", 1).await;
    let mut page = Service::start("bookinfo", "page", 2).await;
    reviews.write(folder.path());
    put(folder.path(), "page.yaml", &page.calling());
    let rules = |limit: u32, burst: u32| {
        format!(
            "- name: all\n  limit: {limit} requests per hour across all pods\n  burst: {burst}\n- name: search\n  matches: [{{path: {{type: PathPrefix, value: /search}}}}]\n  limit: 5 requests per hour per pod\n  burst: 1"
        )
    };
    put(folder.path(), "policy.yaml", &at("Client", &rules(20, 6)));
    let weir = Weir::start(folder.path(), &[]).await;
    let server = Proxy::start(&weir, &reviews, 0).await;
    let callers = Proxy::start_all(&weir, &page).await;
    let shares = async |generation: u64, wanted: &str| {
        weir.until(DEADLINE, "the callers carry it", |status| {
            status.programmed(KEY, generation)?;
            let found = status.rule(KEY, "all")?["shares"].as_str().unwrap_or_default().to_owned();
            if found == wanted { Ok(status.policy(KEY)?["status"]["proxies"].clone()) } else { Err(found) }
        })
        .await
    };
    let proxies = shares(1, "10 x2").await;
    assert_eq!(proxies, serde_json::json!({"total": 2, "programmed": 2}), "the target's own proxy carries nothing");

    // Every name of the service leads there, and to the same bucket; each caller has its half of the burst.
    for name in ["reviews", "reviews:80", "reviews.bookinfo"] {
        assert_eq!(admitted(page.outbound(0), name, "/", 1).await, 1, "{name}");
    }
    assert_eq!(admitted(page.outbound(0), "reviews.bookinfo.svc.cluster.local:80", "/", 10).await, 0);
    assert_eq!(admitted(page.outbound(1), "reviews", "/search/a", 5).await, 1, "a rule of its own");
    assert_eq!(admitted(page.outbound(1), "reviews", "/", 5).await, 2);
    let served = reviews.pods[0].app.served();
    assert_eq!(served, 6);
    assert_eq!(arrived(&server, &reviews).await, served, "what is refused never leaves the caller");
    assert_eq!(admitted(page.outbound(0), "page", "/", 20).await, 20, "another service");
    // Whoever calls past the proxy is not limited: that is what `enforceAt: Server` is for.
    assert_eq!(http::get(reviews.pods[0].inbound, "/").await.unwrap().status(), 200);

    // Raised while a connection is open, which stays open.
    let mut open = Connection::open(page.outbound(1), None).await.unwrap();
    let request = || ::http::Request::get("/").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(open.send(request()).await.unwrap().status(), 404, "its host is an address");
    let listeners = callers[1].stat("listener_manager.listener_modified").await;
    put(folder.path(), "policy.yaml", &at("Client", &rules(4000, 400)));
    shares(2, "2000 x2").await;
    eventually(DEADLINE, "the raised limit is felt", async || {
        let status = ask(page.outbound(1), "reviews", "/").await.status();
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(open.send(request()).await.unwrap().status(), 404);
    assert_eq!(callers[1].stat("listener_manager.listener_modified").await, listeners, "nothing is drained");

    // A caller that goes leaves its share.
    page.pods[0].ready = false;
    put(folder.path(), "page.yaml", &page.calling());
    shares(2, "4000 x1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_host_is_told_what_is_known_and_endpoints_are_followed() {
    let folder = temp_dir();
    let mut reviews = Service::start("bookinfo", "reviews", 2).await;
    let page = Service::start("other", "page", 1).await;
    reviews.write(folder.path());
    put(folder.path(), "page.yaml", &page.calling());
    put(folder.path(), "policy.yaml", &at("Client", "- {name: all, limit: 1 request per day per pod, burst: 1}"));
    let weir = Weir::start(folder.path(), &[]).await;
    let _servers = Proxy::start_all(&weir, &reviews).await;
    let _caller = Proxy::start(&weir, &page, 0).await;
    let from = page.outbound(0);
    eventually(DEADLINE, "the way is open", async || match http::get(from, "/").await {
        Ok(response) if response.status() == 404 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let unknown = ask(from, "nothing.example", "/").await;
    assert_eq!(unknown.status(), 404);
    let body = String::from_utf8_lossy(unknown.body()).into_owned();
    assert!(body.starts_with("weir: no Service is known by this host"), "{body}");
    assert_eq!(ask(from, "reviews", "/").await.status(), 404, "a short name is the caller's own namespace's");

    // The limit is for callers of its own namespace, and says that there is none.
    assert_eq!(admitted(from, "reviews.bookinfo", "/", 10).await, 10);
    weir.until(DEADLINE, "nobody enforces it", |status| {
        let message = status.expect(KEY, "Programmed", false, "NoEndpoints")?;
        if message.contains("outbound.weir.dev/listen") { Ok(()) } else { Err(message) }
    })
    .await;
    let served = |service: &Service| service.pods.iter().map(|pod| pod.app.served()).collect::<Vec<_>>();
    assert_eq!(served(&reviews), [5, 5], "both pods take their turn");
    reviews.pods[1].ready = false;
    reviews.write(folder.path());
    let left_alone = eventually(DEADLINE, "the pod that is not ready is left alone", async || {
        let before = served(&reviews)[1];
        for _ in 0..4 {
            assert_eq!(ask(from, "reviews.bookinfo", "/").await.status(), 200);
        }
        if served(&reviews)[1] == before { Ok(before) } else { Err(before) }
    })
    .await;
    assert_eq!(served(&reviews)[1], left_alone);
}

/// A Gateway in front of services of its namespace; its Service is `edge`.
fn gateway(edge: &Service, routes: &str) -> String {
    let port = edge.pods[0].inbound.port();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: bookinfo}}
spec: {{gatewayClassName: weir, listeners: [{{name: http, port: {port}, protocol: HTTP}}]}}\n{routes}"
    )
}

fn route(name: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: bookinfo}}
spec:\n  parentRefs: [{{name: edge}}]\n  hostnames: [{name}.example.com]\n  rules:\n{rules}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_limits_one_host_of_two_and_follows_weights() {
    let folder = temp_dir();
    let reviews = Service::start("bookinfo", "reviews", 1).await;
    let next = Service::start("bookinfo", "next", 1).await;
    let edge = Service::start("bookinfo", "edge", 2).await;
    for service in [&reviews, &next, &edge] {
        service.write(folder.path());
    }
    let routes = |reviews: u32, next: u32| {
        let split = format!(
            "  - backendRefs: [{{name: reviews, port: 80, weight: {reviews}}}, {{name: next, port: 80, weight: {next}}}]\n"
        );
        route("shop", "  - backendRefs: [{name: reviews, port: 80}]\n")
            + &route("split", &split)
            + &route(
                "open",
                "  - matches: [{path: {type: PathPrefix, value: /a}}]\n    backendRefs: [{name: next, port: 80}]\n",
            )
    };
    put(folder.path(), "gateway.yaml", &gateway(&edge, &routes(1, 3)));
    let weir = Weir::start(folder.path(), &[]).await;
    let _servers = [Proxy::start(&weir, &reviews, 0).await, Proxy::start(&weir, &next, 0).await];
    let proxies = Proxy::start_all(&weir, &edge).await;
    let address = |pod: usize| edge.pods[pod].inbound;
    eventually(DEADLINE, "the gateway serves", async || {
        for pod in 0..2 {
            match http::get(address(pod), "/").await {
                Ok(response) if response.status() == 404 => {}
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(())
    })
    .await;

    let unknown = ask(address(0), "nothing.example.com", "/").await;
    let body = String::from_utf8_lossy(unknown.body()).into_owned();
    assert_eq!(
        (unknown.status().as_u16(), body.as_str()),
        (404, "weir: no HTTPRoute of this Gateway takes this host\n")
    );
    let unmatched = ask(address(0), "open.example.com", "/b").await;
    assert_eq!(unmatched.status(), 404);
    assert!(String::from_utf8_lossy(unmatched.body()).contains("no rule"), "{:?}", unmatched.body());

    // One in four goes to `reviews`: 4 standard deviations are 28 of 400.
    assert_eq!(admitted(address(0), "split.example.com:8080", "/", 400).await, 400);
    let share = reviews.pods[0].app.served();
    assert!(share.abs_diff(100) <= 35, "{share} of 400");
    assert_eq!(share + next.pods[0].app.served(), 400);

    put(
        folder.path(),
        "policy.yaml",
        &at(
            "Gateway",
            "- name: all\n  limit: 20 requests per hour across all pods\n  burst: 6\n- name: clients\n  matches: [{method: POST}]\n  limit: 5 requests per hour per client ip\n  burst: 1",
        ),
    );
    let counted = weir
        .until(DEADLINE, "both gateways carry it", |status| {
            status.programmed(KEY, 1)?;
            let shares = status.rule(KEY, "all")?["shares"].as_str().unwrap_or_default().to_owned();
            if shares == "10 x2" { Ok(status.policy(KEY)?["status"]["proxies"].clone()) } else { Err(shares) }
        })
        .await;
    assert_eq!(counted, serde_json::json!({"total": 2, "programmed": 2}));
    let before = reviews.pods[0].app.served();
    assert_eq!(admitted(address(0), "shop.example.com", "/", 10).await, 3, "half of the burst");
    assert_eq!(reviews.pods[0].app.served() - before, 3, "what is refused never gets there");
    assert_eq!(admitted(address(0), "split.example.com", "/", 10).await, 0, "every route that leads there is charged");
    assert_eq!(admitted(address(0), "open.example.com", "/a", 20).await, 20, "the other host is not limited");
    assert_eq!(admitted(address(1), "shop.example.com", "/", 10).await, 3, "the other gateway pod has its own half");

    // A moved weight is followed; nothing is drained for it.
    let listeners = proxies[0].stat("listener_manager.listener_modified").await;
    std::fs::remove_file(folder.path().join("policy.yaml")).unwrap();
    put(folder.path(), "gateway.yaml", &gateway(&edge, &routes(0, 1)));
    eventually(DEADLINE, "all goes to the other one", async || {
        let before = next.pods[0].app.served();
        let mut answers = BTreeSet::new();
        for _ in 0..20 {
            answers.insert(ask(address(0), "split.example.com", "/").await.status().as_u16());
        }
        let there = next.pods[0].app.served() - before;
        if there == 20 { Ok(()) } else { Err(format!("{there} of 20: {answers:?}")) }
    })
    .await;
    assert_eq!(proxies[0].stat("listener_manager.listener_modified").await, listeners);
}

#[tokio::test(flavor = "multi_thread")]
async fn real_envoys_take_the_examples() {
    for (example, service, pods) in [("callers", "page", 2), ("gateway", "edge", 2)] {
        let folder = project_root().join("examples").join(example);
        let weir = Weir::start(&folder, &[]).await;
        for pod in 0..pods {
            let id = format!("shop/{service}/{service}-{pod}");
            let proxy = Proxy::start_as(weir.xds, ("shop", service, &format!("{service}-{pod}")), |_| {}).await;
            let refused = weir
                .until(DEADLINE, "it has taken everything", |status| {
                    let proxy = &status.0["proxies"][&id];
                    if proxy["known"] == true { Ok(proxy["refused"].clone()) } else { Err(proxy.to_string()) }
                })
                .await;
            assert_eq!(refused, serde_json::Value::Null, "{id}");
            let listeners = eventually(DEADLINE, "it listens", async || {
                let listeners = proxy.admin("/listeners").await;
                if listeners.contains("out/shop/") { Ok(listeners) } else { Err(listeners) }
            })
            .await;
            assert!(listeners.contains(&format!("out/{id}/")), "{listeners}");
        }
    }
}
