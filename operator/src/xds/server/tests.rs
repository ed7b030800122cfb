use std::net::SocketAddr;

use super::*;
use crate::{
    intent::{Inbound, LimitShape, LimitValue, PodIntent, Priority, Protocol, Route, ServiceIntent, ServiceKey},
    xds::{
        client::{DeltaClient, Error as ClientError, versions},
        resources,
        wire::DeltaDiscoveryRequest,
    },
};
use limiter::{policy::Mode, quota::Rate};

const DEADLINE: Duration = Duration::from_secs(10);
const NAME: &str = "in/ns-a/checkout/checkout-0/15080";

struct Weir {
    table: Table,
    proxies: Proxies,
    address: SocketAddr,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<Result<(), Error>>,
}

async fn weir() -> Weir {
    let (table, proxies, shutdown) = (Table::new(), Proxies::new(), CancellationToken::new());
    let listener = crate::identity::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = listener.local_addr().expect("bound");
    // Nobody asks for what is not there.
    let (asks_tx, _) = mpsc::channel(1);
    let server = tokio::spawn(serve(
        Served { table: table.clone(), proxies: proxies.clone(), asks_tx },
        Routes::default(),
        listener.into(),
        Door::open(),
        Leaving::at_once(shutdown.clone()),
    ));
    Weir { table, proxies, address, shutdown, server }
}

fn service() -> ServiceKey {
    ServiceKey { namespace: "ns-a".into(), name: "checkout".into() }
}

fn intent(requests_per_second: u64, protocol: Protocol) -> ServiceIntent {
    let rate = Rate { milli_requests: requests_per_second * 1_000, interval: Duration::from_secs(1) };
    let inbound =
        Inbound { listener: ([127, 0, 0, 1], 15080).into(), application: ([127, 0, 0, 1], 8080).into(), protocol };
    let pod = PodIntent {
        inbound: vec![inbound],
        values: vec![Some(LimitValue { rate, burst: 5, lowest: rate })],
        ..PodIntent::default()
    };
    ServiceIntent {
        limits: vec![LimitShape {
            bucket: "ns-a/limit/all".into(),
            per: None,
            service_wide: true,
            mode: Mode::Enforce,
        }],
        routes: vec![Route {
            name: "all".into(),
            matches: Vec::new(),
            limits: vec![0],
            priority: Priority::Default,
            classes: Vec::new(),
        }],
        pods: [("checkout-0".to_owned(), pod)].into(),
    }
}

async fn client(weir: &Weir) -> DeltaClient {
    DeltaClient::connect(weir.address, "ns-a/checkout/checkout-0").await.expect("a stream")
}

async fn next(client: &mut DeltaClient) -> (ResourceType, DeltaDiscoveryResponse) {
    let response = timeout(DEADLINE, client.next()).await.expect("a response in time").expect("an open stream");
    (ResourceType::from_type_url(&response.type_url).expect("a type that is served"), response)
}

/// Waits for a condition that a stream brings about.
async fn until(weir: &Weir, condition: impl Fn(&Proxies) -> bool) {
    let mut changes = weir.proxies.changes();
    let wait = async {
        while !condition(&weir.proxies) {
            changes.changed().await.expect("the sender lives");
        }
    };
    timeout(DEADLINE, wait).await.expect("the condition holds in time");
}

/// Subscribes to everything as Envoy does, and acknowledges it.
async fn start(client: &mut DeltaClient) -> Vec<ResourceType> {
    let mut order = Vec::new();
    client.subscribe(ResourceType::Cluster, &[]).await.expect("open");
    client.subscribe(ResourceType::Listener, &[]).await.expect("open");
    client.subscribe(ResourceType::Endpoints, &[NAME]).await.expect("open");
    client.subscribe(ResourceType::Route, &[NAME]).await.expect("open");
    while order.len() < 4 {
        let (resource_type, response) = next(client).await;
        assert_eq!(versions(&response)[0].0, NAME);
        client.ack(&response).await.expect("open");
        order.push(resource_type);
    }
    order
}

#[tokio::test]
async fn a_proxy_gets_everything_then_only_what_changed() {
    let weir = weir().await;
    weir.table.replace(&service(), resources::build(&service(), &intent(10, Protocol::Http)));
    let mut client = client(&weir).await;
    let mut seen = start(&mut client).await;
    seen.sort();
    let port = [ResourceType::Cluster, ResourceType::Endpoints, ResourceType::Listener, ResourceType::Route];
    assert_eq!(seen, port);
    let node: NodeKey = "ns-a/checkout/checkout-0".parse().expect("a node");
    until(&weir, |proxies| proxies.programmed(&node, &weir.table.versions(&node))).await;

    weir.table.replace(&service(), resources::build(&service(), &intent(20, Protocol::Http)));
    assert!(!weir.proxies.programmed(&node, &weir.table.versions(&node)));
    let (resource_type, response) = next(&mut client).await;
    assert_eq!(resource_type, ResourceType::Route);
    assert_eq!(response.resources.len(), 1);
    client.ack(&response).await.expect("open");
    until(&weir, |proxies| proxies.programmed(&node, &weir.table.versions(&node))).await;

    // The application speaks another protocol now: the cluster changes, and its endpoints come again.
    weir.table.replace(&service(), resources::build(&service(), &intent(20, Protocol::Http2)));
    assert_eq!(next(&mut client).await.0, ResourceType::Cluster);
    assert_eq!(next(&mut client).await.0, ResourceType::Endpoints);

    weir.table.remove(&service());
    for expected in [ResourceType::Route, ResourceType::Listener, ResourceType::Cluster] {
        let (resource_type, response) = next(&mut client).await;
        assert_eq!(resource_type, expected);
        assert_eq!(response.removed_resources, [NAME]);
    }
}

#[tokio::test]
async fn a_refused_version_comes_once_and_is_reported() {
    let weir = weir().await;
    weir.table.replace(&service(), resources::build(&service(), &intent(10, Protocol::Http)));
    let mut client = client(&weir).await;
    start(&mut client).await;
    let node: NodeKey = "ns-a/checkout/checkout-0".parse().expect("a node");
    weir.table.replace(&service(), resources::build(&service(), &intent(20, Protocol::Http)));
    let (_, refused) = next(&mut client).await;
    client.nack(&refused, "regex is too large").await.expect("open");
    until(&weir, |proxies| !proxies.refusals(&node).is_empty()).await;
    let refusal = &weir.proxies.refusals(&node)[0];
    assert_eq!(refusal.resources, versions(&refused));
    assert_eq!(refusal.message, "regex is too large");
    assert!(!weir.proxies.programmed(&node, &weir.table.versions(&node)));

    // Asking again does not bring it back; the next version does come, and is the next thing that comes.
    client.subscribe(ResourceType::Route, &[NAME]).await.expect("open");
    weir.table.replace(&service(), resources::build(&service(), &intent(30, Protocol::Http)));
    let (_, better) = next(&mut client).await;
    assert_ne!(versions(&better), versions(&refused));
    client.ack(&better).await.expect("open");
    until(&weir, |proxies| proxies.refusals(&node).is_empty()).await;
}

#[tokio::test]
async fn a_reconnecting_proxy_is_sent_nothing_that_it_has() {
    let weir = weir().await;
    weir.table.replace(&service(), resources::build(&service(), &intent(10, Protocol::Http)));
    let node: NodeKey = "ns-a/checkout/checkout-0".parse().expect("a node");
    let had = weir.table.versions(&node);
    let mut client = client(&weir).await;
    for (resource_type, name, version) in &had {
        let names: &[&str] = if resource_type.has_wildcard() { &[] } else { &[name] };
        client.resume(*resource_type, names, &[(name, version)]).await.expect("open");
    }
    until(&weir, |proxies| proxies.programmed(&node, &had)).await;
    // Had anything been sent, it would come before this.
    weir.table.replace(&service(), resources::build(&service(), &intent(11, Protocol::Http)));
    let (resource_type, response) = next(&mut client).await;
    assert_eq!((resource_type, response.nonce.as_str()), (ResourceType::Route, "1"));
}

#[tokio::test]
async fn a_proxy_that_is_not_known_yet_waits_and_is_visible() {
    let weir = weir().await;
    let mut client = client(&weir).await;
    client.subscribe(ResourceType::Listener, &[]).await.expect("open");
    let (_, empty) = next(&mut client).await;
    assert!(empty.resources.is_empty());
    assert_eq!(weir.proxies.connected(), 1);
    weir.table.replace(&service(), resources::build(&service(), &intent(10, Protocol::Http)));
    assert_eq!(versions(&next(&mut client).await.1)[0].0, NAME);
    drop(client);
    until(&weir, |proxies| proxies.connected() == 0).await;
}

async fn ending(weir: &Weir, node: &str, request: DeltaDiscoveryRequest) -> Box<Status> {
    let mut client = DeltaClient::connect(weir.address, node).await.expect("a stream");
    client.send(request).await.expect("open");
    match timeout(DEADLINE, client.next()).await.expect("an end in time") {
        Err(ClientError::Status(status)) => status,
        other => panic!("a status, not {other:?}"),
    }
}

#[tokio::test]
async fn a_stream_that_breaks_the_rules_ends_with_a_reason() {
    let weir = weir().await;
    let status = ending(&weir, "checkout-0", DeltaDiscoveryRequest::default()).await;
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("<namespace>/<service>/<pod>"), "{status}");
    let many = DeltaDiscoveryRequest {
        type_url: ResourceType::Route.type_url().into(),
        resource_names_subscribe: (0..60_000).map(|n| n.to_string()).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    let status = ending(&weir, "ns-a/checkout/checkout-0", many).await;
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.message().contains("50000 names"), "{status}");
}

#[tokio::test]
async fn shutdown_ends_streams_and_the_server() {
    let weir = weir().await;
    let mut client = client(&weir).await;
    client.subscribe(ResourceType::Listener, &[]).await.expect("open");
    next(&mut client).await;
    weir.shutdown.cancel();
    let end = timeout(DEADLINE, client.next()).await.expect("an end in time");
    assert!(matches!(&end, Err(ClientError::Status(status)) if status.code() == tonic::Code::Unavailable), "{end:?}");
    timeout(DEADLINE, weir.server).await.expect("ends in time").expect("no panic").expect("no error");
}

#[test]
fn a_stream_for_an_extension_configuration_is_known_by_the_name_it_asks_for() {
    let asks = |names: &[&str]| DeltaDiscoveryRequest {
        resource_names_subscribe: names.iter().map(|name| (*name).into()).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    let node = Seat::Extension.node(&asks(&["limits/ns-a/checkout/checkout-0"])).expect("a node");
    assert_eq!(node, NodeKey::new("ns-a", "checkout", "checkout-0"));
    let long = "x".repeat(9_000);
    for names in [&[][..], &["limits/ns-a/checkout"], &["ns-a/checkout/checkout-0"], &["limits//a/b"], &[&long]] {
        let status = Seat::Extension.node(&asks(names)).expect_err("no name of ours");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains("limits/<namespace>/<service>/<pod>"), "{status}");
    }
}
