//! Who a proxy is: known by its token alone, on a real API server, for real Envoys and for callers that lie.
//!
//! The chart makes everything around it, as in a cluster; Weir itself runs here, with the rights and the arguments of the chart's.

use std::{net::SocketAddr, time::Duration};

use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::metrics::v3::{
        StreamMetricsMessage, metrics_service_client::MetricsServiceClient, stream_metrics_message::Identifier,
    },
};
use operator::xds::{
    ResourceType,
    client::{DeltaClient, Error},
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};
use testkit::{
    authority::{Authority, Signed},
    cluster::{Cluster, Server, credentials},
    dial, eventually,
    http::{self, Connection},
    mesh::{Service, limiter},
    mount::Mount,
    ports::{self, Network},
    proxy::Proxy,
    weir::{self, Weir},
};
use tonic::{Code, Request, Status, metadata::MetadataMap};

const SOON: Duration = Duration::from_secs(40);
const SECRET: &str = "weir-certificate";

/// A namespace with the chart, a Service of two pods with a limit in it, and Weir as the chart starts it.
pub(super) struct Place<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) namespace: String,
    pub(super) service: Service,
    pub(super) weir: Weir,
}

impl<'a> Place<'a> {
    pub(super) async fn install(cluster: &'a Cluster) -> Self {
        Self::install_at(cluster, ports::free()).await
    }

    /// With the admin page at this address.
    async fn install_at(cluster: &'a Cluster, admin: SocketAddr) -> Self {
        cluster.install_crds().await;
        let namespace = cluster.namespace("identity").await;
        let watched = format!("namespaces={{{namespace}}}");
        let chart = ["install", "weir", "charts/weir", "--namespace", &namespace, "--set", &watched];
        cluster.helm(&chart).await.unwrap();
        let service = Service::start_in(Network::routable(), &namespace, "cart", 2).await;
        cluster.put(&service).await;
        let calm = "- name: calm\n  limit: 10 requests per hour per pod";
        cluster.apply(&limiter(&namespace, "cart", calm)).await.unwrap();
        let kubeconfig = cluster.service_account_kubeconfig(&namespace, "weir").await;
        let places = format!("{namespace}/weir-ca");
        let arguments = [
            "--namespace",
            &namespace,
            "--certificate-service=weir",
            "--certificate-secret",
            SECRET,
            "--ca-config-map",
            &places,
        ];
        let mut weir = Weir::spawn_trusted(&kubeconfig, ports::free(), admin, &arguments);
        weir.ready().await;
        Self { cluster, namespace, service, weir }
    }

    fn name(&self) -> String {
        format!("weir.{}.svc", self.namespace)
    }

    /// Whom proxies are told to trust.
    async fn authorities(&self) -> String {
        self.cluster.authorities(&self.namespace).await
    }

    pub(super) async fn token(&self, pod: usize) -> String {
        self.cluster.pod_token(&self.namespace, &self.service.pods[pod].name).await
    }

    /// The token of a pod, good for so many seconds.
    async fn short_token(&self, pod: usize, seconds: i64) -> String {
        let token = self.token(pod).await;
        self.cluster.resigned(&token, |claims| claims["exp"] = json!(jiff::Timestamp::now().as_second() + seconds))
    }

    pub(super) async fn mount(&self, token: &str) -> Mount {
        Mount::new(&self.authorities().await, token)
    }

    /// The proxy of the first pod.
    pub(super) async fn proxy(&self, mount: &Mount) -> Proxy {
        self.proxy_of(0, mount).await
    }

    async fn proxy_of(&self, pod: usize, mount: &Mount) -> Proxy {
        let Service { namespace, name, pods, .. } = &self.service;
        let trust = mount.trust(&self.name());
        Proxy::start_trusting(self.weir.xds, (namespace, name, &pods[pod].name), Some(trust), |_| {}).await
    }

    /// What somebody gets who presents this and says to be that node.
    async fn stream(&self, metadata: MetadataMap, node: &str) -> Result<DeltaClient, Status> {
        stream(self.weir.xds, &self.name(), &self.authorities().await, metadata, node).await
    }

    /// What becomes of somebody's statistics.
    async fn report(&self, metadata: MetadataMap, node: &str) -> Status {
        let channel = dial::dial(self.weir.xds, &self.name(), &self.authorities().await, None).await.unwrap();
        let node = Node { id: node.to_owned(), ..Node::default() };
        let message = StreamMetricsMessage {
            identifier: Some(Identifier { node: Some(node) }),
            ..StreamMetricsMessage::default()
        };
        let mut request = Request::new(tokio_stream::iter([message]));
        *request.metadata_mut() = metadata;
        match MetricsServiceClient::new(channel).stream_metrics(request).await {
            Ok(_) => Status::ok(""),
            Err(status) => status,
        }
    }

    async fn connected(&self, proxy: &Proxy, wanted: bool) {
        eventually(SOON, &format!("connected: {wanted}"), async || {
            let state = proxy.stat("control_plane.connected_state").await;
            if (state == 1) == wanted { Ok(()) } else { Err(format!("{state}\n{}", self.weir.log())) }
        })
        .await;
    }
}

async fn stream(
    address: SocketAddr,
    name: &str,
    authorities: &str,
    metadata: MetadataMap,
    node: &str,
) -> Result<DeltaClient, Status> {
    let refused = |error: Error| match error {
        Error::Status(status) => *status,
        other => Status::unknown(other.to_string()),
    };
    let channel = dial::dial(address, name, authorities, None).await.unwrap();
    let mut client = DeltaClient::open_with(channel, node, metadata).await.map_err(refused)?;
    // Who is refused may be so before it has asked for anything.
    let _ = client.subscribe(ResourceType::Cluster, &[]).await;
    let first = client.next().await.map_err(refused)?;
    assert!(!first.resources.is_empty(), "{first:?}");
    Ok(client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_with_the_token_of_its_pod_is_served_and_limits() {
    let place = Place::install(Cluster::shared().await).await;
    let mount = place.mount(&place.token(0).await).await;
    let proxy = place.proxy(&mount).await;
    let other = place.mount(&place.token(1).await).await;
    let _other = place.proxy_of(1, &other).await;
    place.connected(&proxy, true).await;
    let key = format!("smartlimiters.weir.dev/{}/cart", place.namespace);
    place.weir.until(SOON, "it is programmed", |status| status.programmed(&key, 1).map(drop)).await;
    let (admitted, refused) =
        Connection::open(place.service.pods[0].inbound, None).await.unwrap().burst("/", 30).await.unwrap();
    assert!((1..=10).contains(&admitted) && refused >= 20, "{admitted} admitted, {refused} refused");
    // Its statistics come by the same door.
    eventually(SOON, "each opens two streams", async || {
        let accepted = place.weir.metric("weir_identity_accepted_total").await;
        if accepted >= 4.0 { Ok(()) } else { Err(accepted) }
    })
    .await;
    assert!(!place.weir.log().contains("a caller gets nothing"), "{}", place.weir.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_proves_nothing_or_is_of_another_gets_nothing() {
    let cluster = Cluster::shared().await;
    let place = Place::install(cluster).await;
    let [node, other] = [0, 1].map(|pod| place.service.node(pod));
    let token = place.token(0).await;
    assert!(place.stream(dial::bearer(&token), &node).await.is_ok());

    let stranger = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let stranger = PrivatePkcs8KeyDer::from_pem_slice(stranger.as_bytes()).unwrap();
    let resigned = |change: &dyn Fn(&mut Value)| dial::bearer(&cluster.resigned(&token, change));
    let elsewhere = cluster.namespace("elsewhere").await;
    let unbound = cluster.token(&place.namespace, "default", &["weir"]).await;
    let refused = [
        ("none", MetadataMap::new(), Code::Unauthenticated, "no credential"),
        ("garbage", dial::bearer("garbage"), Code::Unauthenticated, "no token of a service account"),
        ("forged", dial::bearer(&credentials::resign(&stranger, &token, |_| {})), Code::Unauthenticated, "signature"),
        ("expired", resigned(&|claims| claims["exp"] = json!(1_700_000_000)), Code::Unauthenticated, "has expired"),
        ("another audience", resigned(&|claims| claims["aud"] = json!(["api"])), Code::Unauthenticated, "audience"),
        ("unbound", dial::bearer(&unbound), Code::Unauthenticated, "bound to no pod"),
        (
            "a pod that was never",
            resigned(&|claims| claims["kubernetes.io"]["pod"]["uid"] = json!("0000")),
            Code::Unauthenticated,
            "the API server refuses it",
        ),
        (
            "an account of another namespace",
            resigned(&|claims| claims["kubernetes.io"]["namespace"] = json!(elsewhere)),
            Code::Unauthenticated,
            "the API server refuses it",
        ),
    ];
    let before = place.weir.metric("weir_identity_refused_total").await;
    let mut asked = 0.0;
    for (what, metadata, code, words) in refused {
        for status in
            [place.stream(metadata.clone(), &node).await.expect_err(what), place.report(metadata.clone(), &node).await]
        {
            assert!(status.code() == code && status.message().contains(words), "{what}: {status:?}");
            asked += 1.0;
        }
    }
    // A good token, and a lie about who that is.
    let mine = dial::bearer(&token);
    let service = &place.service.name;
    let elsewhere = format!("{elsewhere}/{service}/{}", place.service.pods[0].name);
    for node in [&other, &elsewhere] {
        for status in [place.stream(mine.clone(), node).await.expect_err(node), place.report(mine.clone(), node).await]
        {
            assert!(status.code() == Code::PermissionDenied && status.message().contains("is of pod"), "{status:?}");
            asked += 1.0;
        }
    }
    assert_eq!(place.report(mine, &node).await.code(), Code::Ok);
    assert_eq!(place.weir.metric("weir_identity_refused_total").await - before, asked);
    let log = place.weir.log();
    assert!(log.contains("a caller gets nothing") && !log.contains(&token), "the log tells it, and no token");

    // A pod that is gone.
    let gone = place.token(1).await;
    let name = &place.service.pods[1].name;
    let delete = ["delete", "pod", name, "--namespace", &place.namespace, "--grace-period=0", "--force"];
    cluster.kubectl(&delete).await.unwrap();
    let status = place.stream(dial::bearer(&gone), &other).await.expect_err("a pod that is gone");
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token_and_comes_back_with_the_next() {
    let place = Place::install(Cluster::shared().await).await;
    let node = place.service.node(0);
    let mut stream = place.stream(dial::bearer(&place.short_token(0, 3).await), &node).await.unwrap();
    let ended = tokio::time::timeout(SOON, stream.next()).await.expect("it ends");
    let Err(Error::Status(ended)) = ended else { panic!("it goes on") };
    assert!(ended.code() == Code::Unavailable && ended.message().contains("has expired"), "{ended:?}");

    let mount = place.mount(&place.short_token(0, 8).await).await;
    let proxy = place.proxy(&mount).await;
    place.connected(&proxy, true).await;
    let held = async || proxy.held().await.matches("calm").count();
    let limits = held().await;
    // Removed, empty, of nobody: each stream fails, and what the proxy has stays in force.
    mount.remove("token");
    place.connected(&proxy, false).await;
    for text in ["", "garbage"] {
        mount.put("token", text);
        let tried =
            proxy.stat("cluster.weir.upstream_rq_total").await + proxy.stat("cluster.weir.upstream_rq_401").await;
        eventually(SOON, "it tries again", async || {
            let now =
                proxy.stat("cluster.weir.upstream_rq_total").await + proxy.stat("cluster.weir.upstream_rq_401").await;
            if now > tried { Ok(()) } else { Err(now) }
        })
        .await;
        place.connected(&proxy, false).await;
    }
    assert_eq!(held().await, limits, "limits stay");
    mount.put("token", &place.token(0).await);
    place.connected(&proxy, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_never_speak_hold_up_nobody() {
    let place = Place::install(Cluster::shared().await).await;
    let node = place.service.node(0);
    let (token, authorities) = (dial::bearer(&place.token(0).await), place.authorities().await);
    let mut silent = Vec::new();
    for _ in 0..2_000 {
        silent.push(tokio::net::TcpStream::connect(place.weir.xds).await.unwrap());
    }
    let name = place.name();
    let asked = stream(place.weir.xds, &name, &authorities, token, &node);
    tokio::time::timeout(Duration::from_secs(3), asked).await.expect("at once").unwrap();
    // And they are not kept for ever.
    let mut first = silent.swap_remove(0);
    let mut word = [0];
    let closed = tokio::io::AsyncReadExt::read(&mut first, &mut word);
    assert!(matches!(tokio::time::timeout(SOON, closed).await, Ok(Ok(0) | Err(_))), "it is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_is_not_trusted() {
    let place = Place::install(Cluster::shared().await).await;
    let right = place.authorities().await;
    let mount = Mount::new(Authority::new("another").pem(), &place.token(0).await);
    let proxy = place.proxy(&mount).await;
    eventually(SOON, "the proxy refuses Weir", async || {
        let failed = proxy.stat("cluster.weir.ssl.fail_verify_error").await;
        if failed > 0 { Ok(()) } else { Err(failed) }
    })
    .await;
    assert_eq!(place.weir.metric("weir_identity_accepted_total").await, 0.0, "no token was sent");
    mount.put("ca.crt", &right);
    place.connected(&proxy, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_renewed_while_streams_stay() {
    let place = Place::install(Cluster::shared().await).await;
    place.authorities().await;
    let secret = async |data: Value| {
        let data = json!({"stringData": data}).to_string();
        let patch = ["patch", "secret", SECRET, "--namespace", &place.namespace, "--type=merge", "--patch", &data];
        place.cluster.kubectl(&patch).await.unwrap();
    };
    let text = async |name: &str| {
        let text = format!("--output=go-template={{{{with (index .data {name:?})}}}}{{{{base64decode .}}}}{{{{end}}}}");
        let get = ["get", "secret", SECRET, "--namespace", &place.namespace, &text];
        place.cluster.kubectl(&get).await.unwrap()
    };
    // As if half of its time were gone: the next one is made, and its authority published, but not served.
    let authority = Authority::new("first");
    let Signed { certificate, key } = authority.server(&place.name(), -50, 40);
    secret(json!({"tls.crt": certificate, "tls.key": key, "ca.crt": authority.pem()})).await;
    let next = eventually(SOON, "the next one is made", async || {
        let next = text("next.crt").await;
        if next.contains("BEGIN CERTIFICATE") { Ok(next) } else { Err(next) }
    })
    .await;
    assert_eq!(text("tls.crt").await, certificate, "not yet served");
    let both = eventually(SOON, "proxies are told of both", async || {
        let told = place.authorities().await;
        let first = told.contains(authority.pem());
        if first && told.matches("BEGIN").count() == 2 { Ok(told) } else { Err(told) }
    })
    .await;
    let mount = Mount::new(&both, &place.token(0).await);
    let proxy = place.proxy(&mount).await;
    place.connected(&proxy, true).await;
    let connections = proxy.stat("cluster.weir.upstream_cx_total").await;
    // Under load: requests through the proxy, and streams that come and go.
    let (inbound, over) = (place.service.pods[0].inbound, tokio_util::sync::CancellationToken::new());
    let load = tokio::spawn({
        let over = over.clone();
        async move {
            let mut connection = Connection::open(inbound, None).await.unwrap();
            let mut answered = 0;
            while !over.is_cancelled() {
                let (admitted, refused) = connection.burst("/", 50).await.unwrap();
                assert_eq!(admitted + refused, 50, "each is answered 200 or 429");
                answered += 50;
            }
            answered
        }
    });
    let callers = tokio::spawn({
        let (over, xds, name, both) = (over.clone(), place.weir.xds, place.name(), both.clone());
        let (token, node) = (dial::bearer(&place.token(0).await), place.service.node(0));
        async move {
            let mut streams = 0;
            while !over.is_cancelled() {
                stream(xds, &name, &both, token.clone(), &node).await.unwrap();
                streams += 1;
            }
            streams
        }
    });

    // As if two thirds were.
    let Signed { certificate, key } = authority.server(&place.name(), -80, 10);
    secret(json!({"tls.crt": certificate, "tls.key": key})).await;
    eventually(SOON, "the next one takes its turn", async || {
        let now = text("tls.crt").await;
        if now == next { Ok(()) } else { Err(now) }
    })
    .await;
    eventually(SOON, "it is served", async || {
        let alone = both.replace(authority.pem(), "");
        dial::dial(place.weir.xds, &place.name(), &alone, None).await.map(drop).map_err(|error| format!("{error:?}"))
    })
    .await;
    place.connected(&proxy, true).await;
    assert_eq!(proxy.stat("cluster.weir.upstream_cx_total").await, connections, "the streams have stayed");
    // A proxy that was told long ago still trusts it.
    let late = place.proxy(&mount).await;
    place.connected(&late, true).await;
    over.cancel();
    let (answered, streams) = (load.await.unwrap(), callers.await.unwrap());
    assert!(answered > 100 && streams > 5, "{answered} requests, {streams} streams");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_page_tells_nothing_to_whom_the_api_server_does_not_let_read_it() {
    let cluster = Cluster::start().await;
    let network = Network::routable();
    let place = Place::install_at(&cluster, SocketAddr::new(network.address(1), network.port())).await;
    let admin = place.weir.admin;
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/metrics", 403), ("/status", 403), ("/pause", 403)] {
        let answer = http::get(admin, path).await.unwrap();
        let said = String::from_utf8_lossy(answer.body()).into_owned();
        assert!(answer.status() == status && (status == 200 || said.contains("HTTPS alone")), "{path}: {answer:?}");
    }
    let mount = place.mount("").await;
    let name = place.name();
    // What `weir status` says with a token, or without.
    let status = async |token: Option<&str>| {
        let mut arguments =
            vec!["status".to_owned(), format!("--admin-address={admin}"), format!("--server-name={name}")];
        arguments.push(format!("--ca-file={}", mount.path("ca.crt").display()));
        if let Some(token) = token {
            mount.put("token", token);
            arguments.push(format!("--token-file={}", mount.path("token").display()));
        }
        let output = tokio::task::spawn_blocking(move || weir::command(arguments).output()).await.unwrap().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert!(status(None).await.contains("401 Unauthorized: send a token"), "{}", status(None).await);
    assert!(status(Some("garbage")).await.contains("401 Unauthorized"));
    cluster.kubectl(&["create", "serviceaccount", "reader", "--namespace", &place.namespace]).await.unwrap();
    let (token, own) = tokio::join!(
        cluster.token(&place.namespace, "reader", &[]),
        cluster.token(&place.namespace, "reader", &["weir"])
    );
    let said = status(Some(&token)).await;
    let user = format!("403 Forbidden: system:serviceaccount:{}:reader may not get /status: give it", place.namespace);
    assert!(said.contains(&user), "{said}");

    let role = ["create", "clusterrole", "weir-reader", "--verb=get", "--non-resource-url=/status"];
    cluster.kubectl(&role).await.unwrap();
    let account = format!("--serviceaccount={}:reader", place.namespace);
    let bind = ["create", "clusterrolebinding", "weir-reader", "--clusterrole=weir-reader", &account];
    cluster.kubectl(&bind).await.unwrap();
    for token in [&token, &own] {
        eventually(SOON, "it may read", async || {
            let said = status(Some(token)).await;
            if said.contains("smartlimiters.weir.dev/") { Ok(()) } else { Err(said) }
        })
        .await;
    }
    cluster.kill(Server::ApiServer);
    assert!(status(Some(&token)).await.contains("smartlimiters.weir.dev/"), "who was let in still is");
    assert!(status(Some("garbage")).await.contains("503 Service Unavailable"));
    let other = Authority::new("another");
    mount.put("ca.crt", other.pem());
    let said = status(Some(&token)).await;
    assert!(said.contains(&format!("is not {name} by --ca-file")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_server_is_away_its_keys_tell_who_is_who() {
    let cluster = Cluster::start().await;
    let place = Place::install(&cluster).await;
    let node = place.service.node(0);
    let authorities = place.authorities().await;
    let token = place.token(0).await;
    let stranger = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let stranger = PrivatePkcs8KeyDer::from_pem_slice(stranger.as_bytes()).unwrap();
    let forged = credentials::resign(&stranger, &token, |_| {});
    eventually(SOON, "the keys are known", async || {
        let log = place.weir.log();
        if log.contains("the API server's keys are known") { Ok(()) } else { Err(log) }
    })
    .await;
    let ask = async |token: &str| {
        stream(place.weir.xds, &place.name(), &authorities, dial::bearer(token), &node).await.map(drop)
    };
    // The second pod is gone, and another one has its name: a manifest by which it is known to have been seen.
    let (gone, name) = (place.token(1).await, &place.service.pods[1].name);
    let second = async |token: &str| {
        let node = place.service.node(1);
        stream(place.weir.xds, &place.name(), &authorities, dial::bearer(token), &node).await.map(drop)
    };
    let delete = ["delete", "pod", name, "--namespace", &place.namespace, "--grace-period=0", "--force"];
    cluster.kubectl(&delete).await.unwrap();
    let again = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {}, annotations: {{inbound.weir.dev/8080: seen}}}}\n\
         spec: {{containers: [{{name: app, image: app}}]}}\n",
        place.namespace
    );
    cluster.apply(&again).await.unwrap();
    place
        .weir
        .until(SOON, "it is seen", |status| match status.0["problems"].to_string() {
            problems if problems.contains("the value \\\"seen\\\"") => Ok(()),
            problems => Err(problems),
        })
        .await;
    let new = place.token(1).await;
    cluster.stop(Server::ApiServer);
    assert!(ask(&token).await.is_ok());
    let refused = second(&gone).await.unwrap_err();
    assert!(
        refused.code() == Code::Unauthenticated && refused.message().contains("another one has its name"),
        "{refused:?}"
    );
    // The one that is there now comes in. Whether it is an endpoint yet is for its controller, which may be behind.
    let channel = dial::dial(place.weir.xds, &place.name(), &authorities, None).await.unwrap();
    let mut client = DeltaClient::open_with(channel, &place.service.node(1), dial::bearer(&new)).await.unwrap();
    client.subscribe(ResourceType::Cluster, &[]).await.unwrap();
    assert!(client.next().await.is_ok());
    assert_eq!(ask(&forged).await.unwrap_err().code(), Code::Unauthenticated);
    let expired = cluster.resigned(&token, |claims| claims["exp"] = json!(1_700_000_000));
    assert_eq!(ask(&expired).await.unwrap_err().code(), Code::Unauthenticated);
    assert!(place.weir.log().contains("the API server is away"), "{}", place.weir.log());
    cluster.cont(Server::ApiServer);
    cluster.kill(Server::ApiServer);
    assert!(ask(&token).await.is_ok(), "dead is as good as silent");
}
