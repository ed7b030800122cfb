//! Tenants: what objects of a namespace may do beyond its own services, as whoever runs Weir says it.

use std::{net::SocketAddr, path::Path, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use limiter::promql;
use testkit::{
    app::{App, Page},
    eventually, http,
    mesh::{Service, limiter, put},
    prometheus::{Prometheus, Target},
    proxy::Proxy,
    temp_dir,
    weir::{self, Weir},
};

const SOON: Duration = Duration::from_secs(30);
const LABEL: &str = "namespace";

/// A page whose series Prometheus gives to this namespace.
async fn page(namespace: &str, text: &str) -> (App, Target) {
    let app = App::start(([127, 0, 0, 1], 0).into()).await;
    app.page(Page::Text(text.to_owned()));
    let target = Target { address: app.address, labels: vec![(LABEL, namespace.to_owned())] };
    (app, target)
}

/// Prometheus' own parser reads what was put in: whatever is held finds nothing of another namespace.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_query_finds_nothing_of_another_namespace() {
    let text = |value: u32| {
        let names = ["depth", "job:depth:sum", "by", "offset", "bool", "on", "sum", "start", "inf_total", "a"];
        names.iter().fold(String::new(), |text, name| text + &format!("{name} {value}\n"))
    };
    let (_own, own) = page("shop", &text(10)).await;
    let (_other, other) = page("till", &text(666)).await;
    let prometheus = Prometheus::start(&[own, other], Duration::from_millis(250)).await;
    eventually(SOON, "both are read", async || {
        match prometheus.ask("max(depth) + min(depth) + 0 * count(max_over_time(depth[5m:1s]))").await {
            Ok(found) if found.to_string().contains("676") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let mut held_and_found = 0;
    for (query, is_held) in [
        ("depth", true),
        ("depth{}", true),
        (r#"{__name__="depth"}"#, true),
        (r#"{__name__=~".+"}"#, true),
        (r#"depth{namespace="$namespace"}"#, true),
        ("job:depth:sum", true),
        ("max(depth)", true),
        ("max by (namespace) (depth)", true),
        ("max(depth) by (namespace)", true),
        ("max without(instance)(depth)", true),
        ("topk(1, depth)", true),
        (r#"count_values("v", depth)"#, true),
        ("max_over_time(depth[5m])", true),
        ("max_over_time(depth[5m:1s])", true),
        ("max_over_time(max(depth)[10s:1s])", true),
        ("depth offset -1s", true),
        ("depth @ end()", true),
        ("depth + on (job) group_left (namespace) max by (job) (depth)", true),
        ("depth == bool on (namespace, instance, job) depth", true),
        ("vector(1) or depth", true),
        ("depth and ignoring (x) a", true),
        ("depth # {\n or a", true),
        ("-depth ^ 1.5e0 * 0x1", true),
        (r#"label_replace(depth, "namespace", "shop", "job", ".*")"#, true),
        ("sort_desc((((depth))))", true),
        ("{__name__=\"by\"}", true),
        ("inf_total", true),
        ("vector(INF) or a", true),
        // What Prometheus reads and the other file does not, or reads as something else.
        ("by", false),
        ("max(by)", false),
        ("sum by (by) (by)", false),
        ("offset offset -1s", false),
        ("bool + bool", false),
        ("on * on(job) on", false),
        ("sum", false),
        ("max(start)", false),
        ("# \r max(depth)", true),
        ("depth{namespace=\"till\"}", false),
        ("depth{namespace=~\".*\"}", false),
        ("depth{\"namespace\"=\"till\"}", false),
        ("absent(depth{namespace=\"till\"})", false),
    ] {
        let held = promql::hold(query, LABEL, "shop");
        assert_eq!(held.is_ok(), is_held, "{query}: {held:?}");
        let Ok(held) = held else { continue };
        let held = promql::Template::parse(&held).unwrap().render("shop", "cart", &[]);
        // A page that is read late is stale for a moment: it finds something in the end, and never anything of the other.
        eventually(SOON, &held, async || {
            let found = prometheus.ask(&held).await.map_err(|error| format!("{error:#}"))?;
            let text = found.to_string();
            assert!(!text.contains("till") && !text.contains("666"), "{held} finds {text}");
            if found["result"].as_array().is_none_or(Vec::is_empty) { Err("nothing".to_owned()) } else { Ok(()) }
        })
        .await;
        // Not held, it does.
        let free = promql::Template::parse(query).unwrap().render("shop", "cart", &[]);
        held_and_found += u32::from(prometheus.ask(&free).await.unwrap().to_string().contains("666"));
    }
    assert!(held_and_found > 15, "{held_and_found}");
}

/// A limit while `depth` is over 100 anywhere that the query may look.
fn deep(namespace: &str, query: &str) -> String {
    let rule = "- name: deep\n  when: depth > 100 until depth < 50\n  limit: 5 requests per second per pod";
    limiter(namespace, "cart", rule)
        + &format!("  metrics: [{{name: depth, type: Count, reduce: Max, prometheus: {{query: '{query}'}}}}]\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_asks_what_its_namespace_may_ask() {
    let folder = temp_dir();
    let key = "smartlimiters.weir.dev/shop/cart";
    let service = Service::start("shop", "cart", 1).await;
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &deep("shop", "max(depth)"));
    let (_own, own) = page("shop", "depth 10\n").await;
    let (_other, other) = page("till", "depth 666\n").await;
    let prometheus = Prometheus::start(&[own, other], Duration::from_millis(250)).await;
    let url = prometheus.url();
    let start = async |more: &[&str]| Weir::start(folder.path(), &[&["--prometheus", &url], more].concat()).await;

    // A folder is of the one who runs Weir.
    let weir = start(&[]).await;
    weir.until(SOON, "it sees all", |status| status.phase(key, "deep", "Limiting").map(drop)).await;
    weir.stop().await.unwrap();
    let weir = start(&["--allow-promql", "till,shop"]).await;
    weir.until(SOON, "it may see all", |status| status.phase(key, "deep", "Limiting").map(drop)).await;
    weir.stop().await.unwrap();

    let weir = start(&["--promql-namespace-label", LABEL]).await;
    weir.until(SOON, "it sees its own", |status| {
        status.expect(key, "MetricsAvailable", true, "Available")?;
        let rule = status.phase(key, "deep", "Idle")?;
        if rule["observed"][0]["value"] == 10.0 { Ok(()) } else { Err(rule.to_string()) }
    })
    .await;
    // What says another namespace is not accepted, and the last good form stays.
    put(folder.path(), "policy.yaml", &deep("shop", "max(depth{namespace=\"till\"})"));
    let message = weir.until(SOON, "it is told", |status| status.expect(key, "Accepted", false, "NotAllowed")).await;
    for words in ["spec.metrics[0].prometheus.query: column 11: ", "namespace=\"shop\" alone", "generation 1 stays"] {
        assert!(message.contains(words), "no {words:?} in {message}");
    }
    weir.stop().await.unwrap();

    // An object that was accepted by the Weir before, and may not ask any more: nothing of it is in force, and it says so.
    let weir = start(&["--allow-promql", "till"]).await;
    let message = weir.until(SOON, "it is told", |status| status.expect(key, "Accepted", false, "NotAllowed")).await;
    for words in ["spec.metrics[0].prometheus: ", "\"shop\" may not ask Prometheus", "--allow-promql shop", "scrape"] {
        assert!(message.contains(words), "no {words:?} in {message}");
    }
    weir.until(SOON, "nothing follows", |status| status.expect(key, "Limiting", false, "NotAccepted")).await;
    weir.stop().await.unwrap();
}

/// Where the proxy of the first pod takes what its application sends.
fn outbound(service: &Service) -> SocketAddr {
    (service.pods[0].inbound.ip(), 15001).into()
}

/// The service, whose pods call through their proxies.
fn write_calling(folder: &Path, service: &Service) {
    let mut text = service.manifests();
    for pod in &service.pods {
        let inbound = format!("/{}: \"{}\"", pod.inbound.port(), pod.app.address);
        text = text.replace(&inbound, &format!("{inbound}, outbound.weir.dev/listen: \"{}\"", outbound(service)));
    }
    put(folder, &format!("{}.yaml", service.namespace), &text);
}

/// How many of six requests to the cart of the shop are answered 200; the others 429.
async fn admitted(caller: &Service) -> usize {
    let mut admitted = 0;
    for _ in 0..6 {
        let request = ::http::Request::get(format!("http://{}/", outbound(caller))).header("host", "cart.shop");
        match http::send(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap().status().as_u16() {
            200 => admitted += 1,
            429 => {}
            other => panic!("{other}"),
        }
    }
    admitted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_at_callers_stays_in_its_namespace_unless_allowed() {
    let folder = temp_dir();
    let key = "smartlimiters.weir.dev/shop/cart";
    let cart = Service::start("shop", "cart", 1).await;
    cart.write(folder.path());
    let (near, far) = (Service::start("shop", "page", 1).await, Service::start("till", "desk", 1).await);
    for caller in [&near, &far] {
        write_calling(folder.path(), caller);
    }
    // A limit of another's on a Service that only has the same name.
    let other = limiter("till", "cart", "- name: none\n  limit: 1 request per hour per pod\n  burst: 1");
    put(folder.path(), "other.yaml", &other);
    let rule = "- name: all\n  limit: 4 requests per hour across all pods\n  burst: 4";
    let policy = limiter("shop", "cart", rule).replace("  rules:", "  enforceAt: Client\n  rules:");
    put(folder.path(), "policy.yaml", &policy.replace("kind: Service, name: page", "kind: Service, name: cart"));

    for (arguments, total, shares, expected) in
        [(&[][..], 1, "4 x1", (4, 6)), (&["--allow-client-limits", "shop"], 2, "2 x2", (2, 2))]
    {
        let weir = Weir::start(folder.path(), arguments).await;
        let _server = Proxy::start(&weir, &cart, 0).await;
        let _near = Proxy::start(&weir, &near, 0).await;
        let _far = Proxy::start(&weir, &far, 0).await;
        let (message, proxies) = weir
            .until(SOON, "the callers carry it", |status| {
                let message = status.expect(key, "Programmed", true, "Programmed")?;
                let rule = status.rule(key, "all")?;
                if rule["shares"] != shares {
                    return Err(rule.to_string());
                }
                Ok((message, status.policy(key)?["status"]["proxies"].clone()))
            })
            .await;
        assert_eq!(proxies["total"], total, "{proxies}");
        assert_eq!(proxies["unlimited"].as_u64(), (total == 1).then_some(1), "{proxies}");
        assert_eq!(message.contains("--allow-client-limits shop"), total == 1, "{message}");
        assert_eq!((admitted(&near).await, admitted(&far).await), expected, "{arguments:?}");
        let other = "smartlimiters.weir.dev/till/cart";
        weir.until(SOON, "nobody else's", |status| status.expect(other, "Accepted", false, "TargetNotFound")).await;
        weir.stop().await.unwrap();
    }
}

#[test]
fn what_is_typed_about_namespaces_is_checked() {
    for (arguments, words) in [
        (["--allow-promql", "Shop"], "expected the name of a namespace"),
        (["--allow-client-limits", "a,b c"], "or * for all, found \"b c\""),
        (["--promql-namespace-label", "name-space"], "expected the name of a label"),
        (["--promql-namespace-label", "__name__"], "expected the name of a label"),
    ] {
        let output = weir::command(["run", "--config", "."].into_iter().chain(arguments)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{arguments:?}: {said}");
    }
}
