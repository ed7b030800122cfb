//! What an application sends anywhere, handed to its proxy by iptables: HTTP by host, TLS by name, bytes by address.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring};
use testkit::{
    app::App,
    dns::Dns,
    mesh::{self, Service, limiter, put},
    ports::{self, Network},
    proxy::Proxy,
    temp_dir,
    weir::Weir,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
    time::timeout,
};

const DEADLINE: Duration = Duration::from_secs(30);
/// Addresses of Services, at which nobody listens: whoever gets an answer there was led elsewhere.
const REVIEWS: [u8; 4] = [10, 126, 0, 10];
const DB: [u8; 4] = [10, 126, 0, 11];
const FIRST: [u8; 4] = [10, 126, 0, 12];
const SECOND: [u8; 4] = [10, 126, 0, 13];
/// That of the API server, where somebody listens: it is passed on as it is.
const API: [u8; 4] = [10, 126, 0, 15];
/// That of a Service whose only endpoint has an IPv6 address.
const SIX: [u8; 4] = [10, 126, 0, 16];
/// Nobody's.
const NONE: [u8; 4] = [10, 126, 0, 14];
const KEY: &str = "smartlimiters.weir.dev/bookinfo/reviews";
const SPLIT: &str = "trafficsplits.split.smi-spec.io/bookinfo/shared";

/// A server of bytes, which tells its name and closes.
struct Bytes {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Bytes {
    /// It waits for the client to say something, if it is not `first` to speak.
    async fn start(address: SocketAddr, name: &'static str, first: bool) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    if !first {
                        let _ = stream.read(&mut [0; 4096]).await;
                    }
                    let _ = stream.write_all(name.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An application whose calls are redirected, told by the address that it has.
#[derive(Clone, Copy)]
struct Caller(IpAddr);

impl Caller {
    /// All that is sent from `source` goes to `port` instead.
    async fn redirected(source: IpAddr, port: u16) -> Self {
        let namespace = TcpListener::bind((IpAddr::from([10, 77, 0, 2]), 0)).await;
        assert!(
            namespace.is_ok(),
            "iptables needs a network namespace of its own: run `make test`, or scripts/in-namespace"
        );
        let rule = format!("-t nat -A OUTPUT -p tcp -s {source} -j REDIRECT --to-ports {port}");
        let output = Command::new("iptables").args(rule.split(' ')).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(source)
    }

    /// What is answered until the end, after these words if there are any.
    async fn say(self, to: impl Into<SocketAddr>, words: &[u8]) -> Result<String, String> {
        let told = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind((self.0, 0).into())?;
            let mut stream = socket.connect(to.into()).await?;
            stream.write_all(words).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let told = timeout(DEADLINE, told).await.map_err(|_| "no answer".to_owned())?;
        told.map_err(|error| error.to_string())
    }

    /// The status and the body of the answer to a GET.
    async fn get(self, to: impl Into<SocketAddr>, host: &str) -> Result<(u16, String), String> {
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = self.say(to, request.as_bytes()).await?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no head: {answer:?}"))?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or_else(|| head.to_owned())?, body.to_owned()))
    }

    /// What is answered to the first words of TLS for this name.
    async fn hello(self, to: impl Into<SocketAddr>, name: &str) -> Result<String, String> {
        self.greet(to, name, true).await
    }

    /// The same of a client that names nobody.
    async fn nameless(self, to: impl Into<SocketAddr>) -> Result<String, String> {
        self.greet(to, "unsaid.example", false).await
    }

    async fn greet(self, to: impl Into<SocketAddr>, name: &str, says: bool) -> Result<String, String> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        // Whoever looks at nothing but this takes it for plain HTTP.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.enable_sni = says;
        let mut connection = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
        let mut words = Vec::new();
        connection.write_tls(&mut words).unwrap();
        self.say(to, &words).await
    }
}

/// The manifests of a Service with its own address, one port and one endpoint.
fn manifests(name: &str, port: (&str, u16), own: [u8; 4], endpoint: SocketAddr) -> String {
    let (word, number) = port;
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: bookinfo}}\n\
         spec: {{clusterIP: {}, ports: [{{name: {word}, port: {number}}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, namespace: bookinfo, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: {}\nports: [{{name: {word}, port: {}}}]\nendpoints:\n- {{addresses: [\"{}\"]}}\n",
        IpAddr::from(own),
        if endpoint.is_ipv4() { "IPv4" } else { "IPv6" },
        endpoint.port(),
        endpoint.ip()
    )
}

/// A mesh with `reviews` (HTTP), `db` (the server speaks first), `first` and `second` (TLS), and `page`, whose application's calls are redirected.
struct Mesh {
    folder: tempfile::TempDir,
    weir: Weir,
    proxy: Proxy,
    reviews: Service,
    caller: Caller,
    network: Network,
    port: u16,
    page: Service,
    _server: Proxy,
    servers: Vec<Bytes>,
}

impl Mesh {
    /// With these documents besides.
    async fn start(more: &str) -> Self {
        Self::start_with(more, |_| {}).await
    }

    /// The same, after a change of the bootstrap of the caller's proxy.
    async fn start_with(more: &str, change: impl FnOnce(&mut serde_json::Value)) -> Self {
        let folder = temp_dir();
        let network = Network::routable();
        let port = ports::free().port();
        let reviews = Service::start("bookinfo", "reviews", 1).await;
        let page = Service::start("bookinfo", "page", 1).await;
        let own = IpAddr::from(REVIEWS);
        let text = reviews.manifests().replace("spec: {ports", &format!("spec: {{clusterIP: {own}, ports"));
        put(folder.path(), "reviews.yaml", &text);
        let inbound = format!("inbound.weir.dev/{}:", page.port());
        let text = page.manifests().replace(&inbound, &format!("outbound.weir.dev/intercept: \"{port}\", {inbound}"));
        put(folder.path(), "page.yaml", &text);
        let mut servers = Vec::new();
        for (name, word, number, own, first) in [
            ("db", "mysql", 3306, DB, true),
            ("first", "https", 443, FIRST, false),
            ("second", "https", 443, SECOND, false),
        ] {
            let server = Bytes::start((network.address(1), 0).into(), name, first).await;
            put(folder.path(), &format!("{name}.yaml"), &manifests(name, (word, number), own, server.address));
            servers.push(server);
        }
        put(folder.path(), "more.yaml", more);
        let weir = Weir::start(folder.path(), &[]).await;
        let server = Proxy::start(&weir, &reviews, 0).await;
        let proxy = Proxy::start_with(&weir, &page, 0, change).await;
        let caller = Caller::redirected(network.address(100), port).await;
        let mesh = Self { folder, weir, proxy, reviews, caller, network, port, page, _server: server, servers };
        testkit::eventually(DEADLINE, "it listens", async || {
            let listeners = mesh.proxy.admin("/listeners").await;
            if listeners.contains(&format!("0.0.0.0:{port}")) { Ok(()) } else { Err(listeners) }
        })
        .await;
        mesh
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_an_application_sends_goes_through_its_proxy_and_what_is_unknown_as_it_would_without() {
    let rules = "- name: all\n  matches: [{path: {type: Exact, value: /limited}}]\n  limit: 5 requests per hour per pod\n  burst: 1";
    let policy = limiter("bookinfo", "reviews", rules).replace("  rules:", "  enforceAt: Client\n  rules:");
    let mesh = Mesh::start(&policy).await;
    let caller = mesh.caller;
    mesh.weir.until(DEADLINE, "the caller carries it", |status| status.programmed(KEY, 1)).await;
    for (to, host) in [(80, "reviews"), (80, "reviews.bookinfo:80"), (8080, "reviews:80")] {
        assert_eq!(caller.get((REVIEWS, to), host).await.unwrap().0, 200, "{host} at {to}");
    }
    assert_eq!(mesh.reviews.pods[0].app.served(), 3);
    let limited = b"GET /limited HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n";
    let answers =
        [caller.say((REVIEWS, 80), limited).await.unwrap(), caller.say((REVIEWS, 80), limited).await.unwrap()];
    assert!(answers[0].starts_with("HTTP/1.1 200") && answers[1].starts_with("HTTP/1.1 429"), "{answers:?}");

    // Bytes, whoever speaks first; to a Service's address, and past all Services.
    let started = Instant::now();
    assert_eq!(caller.say((DB, 3306), b"").await.unwrap(), "db");
    assert!(started.elapsed() < Duration::from_millis(150), "nobody waits at such a port: {:?}", started.elapsed());
    assert_eq!(caller.hello((FIRST, 443), "first.example").await.unwrap(), "first", "by its address");
    let other = Bytes::start((mesh.network.address(2), 0).into(), "other", true).await;
    let late = Bytes::start((mesh.network.address(2), 0).into(), "late", false).await;
    assert_eq!(caller.say(other.address, b"").await.unwrap(), "other");
    assert_eq!(caller.say(late.address, b"\0\x01 what?").await.unwrap(), "late");
    assert_eq!(caller.hello(late.address, "late.example").await.unwrap(), "late");
    let unknown = mesh.reviews.pods[0].app.address;
    assert_eq!(
        caller.get(unknown, "nothing.example").await.unwrap().0,
        200,
        "an unknown host goes where it was meant to"
    );
    let closed = ports::free();
    assert_eq!(caller.get(closed, "nothing.example").await.unwrap().0, 503);
    assert_eq!(caller.say(closed, b"\0\x01").await.unwrap_or_default(), "");
    // The proxy's own port leads nowhere, rather than to itself.
    let own = Caller(mesh.network.address(101));
    assert_eq!(own.say((mesh.network.address(1), mesh.port), b"\0\x01").await.unwrap_or_default(), "");
    assert!(mesh.proxy.stat("listener_manager.lds.update_rejected").await == 0);
}

/// A Service of bytes and two that its connections are shared out to.
const SHARED: [u8; 4] = [10, 126, 0, 17];
const ONE: [u8; 4] = [10, 126, 0, 18];
const TWO: [u8; 4] = [10, 126, 0, 19];

fn shared(weights: [u32; 2]) -> String {
    let [one, two] = weights;
    format!(
        "apiVersion: split.smi-spec.io/v1alpha2\nkind: TrafficSplit\nmetadata: {{name: shared, namespace: bookinfo}}\n\
         spec: {{service: shared, backends: [{{service: one, weight: {one}}}, {{service: two, weight: {two}}}]}}\n"
    )
}

/// Connections of bytes are shared out by weight, of callers that have everything and of those that start with nothing; one that is open stays
/// open whatever its server's share becomes.
async fn connections_are_shared_out(more: &str) {
    let mesh = Mesh::start(more).await;
    let root = Bytes::start((mesh.network.address(3), 0).into(), "root", false).await;
    let one = Bytes::start((mesh.network.address(4), 0).into(), "one", false).await;
    let two = Bytes::start((mesh.network.address(5), 0).into(), "two", false).await;
    for (name, own, server) in [("shared", SHARED, &root), ("one", ONE, &one), ("two", TWO, &two)] {
        put(mesh.folder.path(), &format!("{name}.yaml"), &manifests(name, ("tcp", 4000), own, server.address));
    }
    put(mesh.folder.path(), "split.yaml", &shared([1, 0]));
    let said = async |wanted: &str| {
        testkit::eventually(DEADLINE, wanted, async || match mesh.caller.say((SHARED, 4000), b"hello").await {
            Ok(answer) if answer == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    };
    said("one").await;
    // Open, and silent until the end.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((mesh.caller.0, 0).into()).unwrap();
    let mut open = socket.connect((SHARED, 4000).into()).await.unwrap();
    testkit::eventually(DEADLINE, "it has reached its server", async || {
        let stats = mesh.proxy.admin("/clusters").await;
        let active =
            stats.lines().any(|line| line.contains(&one.address.to_string()) && line.ends_with("cx_active::1"));
        if active { Ok(()) } else { Err(stats) }
    })
    .await;
    for weights in [[3, 1], [1, 3], [1, 1]] {
        put(mesh.folder.path(), "split.yaml", &shared(weights));
        let wanted = f64::from(weights[0]) * 100.0 / f64::from(weights[0] + weights[1]);
        mesh.weir
            .until(DEADLINE, "the weights are at the proxy", |view| {
                let percent = view.percent(SPLIT, "one")?;
                view.expect(SPLIT, "Programmed", true, "Programmed")?;
                if percent == wanted { Ok(()) } else { Err(percent.to_string()) }
            })
            .await;
        let mut counts = [0_u32; 2];
        for _ in 0..120 {
            match mesh.caller.say((SHARED, 4000), b"hello").await.unwrap().as_str() {
                "one" => counts[0] += 1,
                "two" => counts[1] += 1,
                other => panic!("{other}"),
            }
        }
        let expected = f64::from(weights[0]) * 120.0 / f64::from(weights[0] + weights[1]);
        assert!((f64::from(counts[0]) - expected).abs() <= 8.0, "{weights:?}: {counts:?}");
    }
    put(mesh.folder.path(), "split.yaml", &shared([0, 1]));
    said("two").await;
    open.write_all(b"still there?").await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, open.read_to_string(&mut answer)).await.expect("in time").unwrap();
    assert_eq!(answer, "one", "the connection was not closed by any of this");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_shared_out_and_stay_open_while_weights_move() {
    connections_are_shared_out("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_starts_with_nothing_shares_connections_out_as_any() {
    connections_are_shared_out(&lazy("load: OnDemand")).await;
}

/// A `LazyConfig` of the callers' namespace.
fn lazy(spec: &str) -> String {
    mesh::lazy("bookinfo", "all", spec)
}

/// Of how long something took, at most this.
async fn within<T>(most: Duration, what: &str, done: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let found = done.await;
    assert!(started.elapsed() < most, "{what}: {:?}", started.elapsed());
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_starts_with_nothing_asks_for_names_and_addresses_and_refuses_what_is_unknown() {
    let api = Bytes::start((API, 443).into(), "api", false).await;
    let kubernetes = manifests("kubernetes", ("https", 443), API, api.address).replace("bookinfo", "default");
    let config = lazy("load: OnDemand, unknownHosts: Refuse, always: [known.example]");
    let mesh = Mesh::start(&format!("{config}---\n{kubernetes}")).await;
    let caller = mesh.caller;
    let at_once = Duration::from_secs(2);
    for _ in 0..2 {
        assert_eq!(within(at_once, "HTTP", caller.get((REVIEWS, 80), "reviews")).await.unwrap().0, 200);
        assert_eq!(within(at_once, "bytes", caller.say((DB, 3306), b"")).await.unwrap(), "db");
        // Two names at one address, which is neither's.
        for name in ["first", "second"] {
            for host in [format!("{name}.bookinfo"), format!("{name}.bookinfo.svc.cluster.local")] {
                let answer = within(at_once, &host, caller.hello((NONE, 443), &host)).await;
                assert_eq!(answer.unwrap(), name, "{host}");
            }
        }
        let unknown = mesh.reviews.pods[0].app.address;
        assert_eq!(within(at_once, "an unknown host", caller.get(unknown, "nothing.example")).await.unwrap().0, 404);
        let hello = within(at_once, "an unknown name", caller.hello((FIRST, 443), "nothing.example")).await;
        assert_eq!(hello.unwrap_or_default(), "");
        // TLS that names nobody could be meant for anybody, but for the API server, whose clients never name it.
        let hello = within(at_once, "no name", caller.nameless((FIRST, 443))).await;
        assert_eq!(hello.unwrap_or_default(), "");
        assert_eq!(within(at_once, "the API server", caller.nameless((API, 443))).await.unwrap(), "api");
        let bytes = within(at_once, "an unknown address", caller.say(unknown, b"\0\x01")).await;
        assert_eq!(bytes.unwrap_or_default(), "");
        // What stands behind a Service may be called by its own address.
        assert_eq!(within(at_once, "an endpoint", caller.say(mesh.servers[0].address, b"")).await.unwrap(), "db");
        let late = within(at_once, "no Service yet", caller.say((NONE, 3306), b"")).await;
        assert_eq!(late.unwrap_or_default(), "");
    }
    let asked = mesh.proxy.admin("/clusters").await;
    for name in ["+first.bookinfo:443", "@10.126.0.11:3306", "+nothing.example:443", "+-:443", "@10.126.0.14:3306"] {
        assert!(asked.contains(&format!("out/{}/{name}::", mesh.page.node(0))), "{name}: {asked}");
    }
    // Envoy does not ask again, so what comes later is told to it.
    put(mesh.folder.path(), "late.yaml", &manifests("late", ("mysql", 3306), NONE, mesh.servers[0].address));
    testkit::eventually(DEADLINE, "the Service is there now", async || {
        let answer = caller.say((NONE, 3306), b"").await.unwrap_or_default();
        if answer == "db" { Ok(()) } else { Err(answer) }
    })
    .await;
    std::fs::remove_file(mesh.folder.path().join("late.yaml")).unwrap();
    testkit::eventually(DEADLINE, "the Service is gone", async || {
        let answer = caller.say((NONE, 3306), b"").await.unwrap_or_default();
        if answer.is_empty() { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(mesh.proxy.stat("listener_manager.lds.update_rejected").await, 0);
    assert_eq!(mesh.proxy.stat("cluster_manager.cds.update_rejected").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_starts_with_nothing_may_pass_on_what_is_unknown() {
    let mesh = Mesh::start(&lazy("load: OnDemand, unknownHosts: Passthrough, never: [second]")).await;
    let caller = mesh.caller;
    let late = Bytes::start((mesh.network.address(2), 0).into(), "late", false).await;
    for _ in 0..2 {
        assert_eq!(caller.get((REVIEWS, 80), "reviews").await.unwrap().0, 200);
        let unknown = mesh.reviews.pods[0].app.address;
        assert_eq!(caller.get(unknown, "nothing.example").await.unwrap().0, 200, "no DNS knows it");
        assert_eq!(caller.say((DB, 3306), b"").await.unwrap(), "db");
        assert_eq!(caller.hello((NONE, 443), "first.bookinfo").await.unwrap(), "first");
        assert_eq!(caller.hello(late.address, "late.example").await.unwrap(), "late");
        assert_eq!(caller.nameless(late.address).await.unwrap(), "late");
        assert_eq!(caller.say(late.address, b"\0\x01").await.unwrap(), "late");
        assert_eq!(caller.hello((NONE, 443), "second.bookinfo").await.unwrap_or_default(), "", "never");
        assert_eq!(caller.say((SECOND, 443), b"\0\x01").await.unwrap_or_default(), "", "never");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_below_a_listed_domain_are_found_by_dns_wherever_they_were_sent() {
    let network = Network::routable();
    let IpAddr::V4(host) = network.address(1) else { unreachable!("networks of the kit are IPv4") };
    let dns = Dns::start("domain.example", host).await;
    let app = App::start((host, 0).into()).await;
    let _tls = Bytes::start((host, 443).into(), "tls", false).await;
    let config = lazy("load: OnDemand, unknownHosts: Refuse, always: [\"*.domain.example\"]");
    let mesh = Mesh::start_with(&config, |bootstrap| dns.asked_by(bootstrap)).await;
    let caller = mesh.caller;
    let port = app.address.port();
    for call in 1..3 {
        // To an address at which nobody is: only the name can have led there.
        for name in ["a.domain.example", "b.a.Domain.example"] {
            let (status, body) = caller.get((NONE, port), &format!("{name}:{port}")).await.unwrap();
            assert_eq!((status, body.as_str()), (200, "ok\n"), "{name}");
        }
        assert_eq!(app.served(), 2 * call);
        assert_eq!(caller.hello((NONE, 443), "tls.domain.example").await.unwrap(), "tls");
        // The domain itself is not below it, nor is what only ends as it does.
        for name in ["domain.example", "adomain.example", "a.other.example"] {
            assert_eq!(caller.get((host, port), &format!("{name}:{port}")).await.unwrap().0, 404, "{name}");
            assert_eq!(caller.hello((host, 443), name).await.unwrap_or_default(), "", "{name}");
        }
    }
    assert_eq!(mesh.proxy.stat("cluster_manager.cds.update_rejected").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_with_an_ipv6_address_is_loaded_like_any() {
    // Where the system has no IPv6 nothing can answer there, and that is said.
    let own = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let app = match std::net::TcpListener::bind(own) {
        Ok(_) => Some(App::start(own).await),
        Err(_) => None,
    };
    let address = app.as_ref().map_or(SocketAddr::from((Ipv6Addr::LOCALHOST, 1)), |app| app.address);
    let six = manifests("six", ("http", 80), SIX, address);
    let mesh = Mesh::start(&format!("{}---\n{six}", lazy("load: OnDemand"))).await;
    let wanted = if app.is_some() { 200 } else { 503 };
    for _ in 0..2 {
        assert_eq!(mesh.caller.get((SIX, 80), "six").await.unwrap().0, wanted);
    }
    assert_eq!(app.map_or(2, |app| app.served()), 2);
}
