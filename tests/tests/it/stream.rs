//! The whole process, seen by a delta ADS client: what Envoy would get, and what a hostile peer would.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use operator::xds::{
    ResourceType::{self, Cluster, Endpoints, Listener, Route, Runtime},
    client::{DeltaClient, Error, versions},
    wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
};
use tempfile::TempDir;
use testkit::{
    eventually,
    mesh::{Service, limiter, put},
    temp_dir,
    weir::Weir,
};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);
const KEY: &str = "smartlimiters.weir.dev/ns-a/checkout";

struct World {
    weir: Weir,
    service: Service,
    folder: TempDir,
}

async fn world(replicas: usize) -> World {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", replicas).await;
    service.write(folder.path());
    let world = World { weir: Weir::start(folder.path(), &[]).await, service, folder };
    world.limit(30);
    world.weir.until(DEADLINE, "the policy is read", |status| status.policy(KEY).map(drop)).await;
    world
}

impl World {
    fn limit(&self, per_second: u32) {
        let rule = format!("- name: calm\n  limit: {per_second} requests per second per pod");
        put(self.folder.path(), "policy.yaml", &limiter("ns-a", "checkout", &rule));
    }

    async fn client(&self, pod: usize) -> DeltaClient {
        DeltaClient::connect(self.weir.xds, &self.service.node(pod)).await.unwrap()
    }

    async fn streams(&self, count: f64) {
        eventually(DEADLINE, "streams are counted", async || {
            let streams = self.weir.metric("weir_xds_streams").await;
            if (streams - count).abs() < 0.5 { Ok(()) } else { Err(streams) }
        })
        .await;
    }
}

async fn next(client: &mut DeltaClient) -> (ResourceType, DeltaDiscoveryResponse) {
    let response = timeout(DEADLINE, client.next()).await.expect("a response in time").unwrap();
    (ResourceType::from_type_url(&response.type_url).unwrap(), response)
}

/// Subscribes as Envoy does, takes everything, and says what it holds.
async fn start(client: &mut DeltaClient, name: &str) -> BTreeMap<&'static str, (String, String)> {
    subscribe(client, name).await;
    let mut held = BTreeMap::new();
    while held.len() < 5 {
        let (resource_type, response) = next(client).await;
        client.ack(&response).await.unwrap();
        held.extend(versions(&response).into_iter().map(|version| (resource_type.label(), version)));
    }
    held
}

/// `name` is that of the pod's only port.
async fn subscribe(client: &mut DeltaClient, name: &str) {
    client.subscribe(Runtime, &[&layer(name)]).await.unwrap();
    client.subscribe(Cluster, &[]).await.unwrap();
    client.subscribe(Listener, &[]).await.unwrap();
    client.subscribe(Endpoints, &[name]).await.unwrap();
    client.subscribe(Route, &[name]).await.unwrap();
}

/// Name of the runtime layer of the pod with this port.
fn layer(port: &str) -> String {
    let (pod, _) = port.rsplit_once('/').unwrap();
    pod.replacen("in/", "rt/", 1)
}

#[tokio::test]
async fn what_is_referred_to_comes_first_and_a_change_sends_one_resource() {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 2).await;
    let weir = Weir::start(folder.path(), &[]).await;
    let world = World { weir, service, folder };
    let name = world.service.resource(0);
    let mut client = world.client(0).await;
    // Nothing is there yet. Each subscription is answered, so that Envoy does not wait.
    subscribe(&mut client, &name).await;
    let mut answered = Vec::new();
    while answered.len() < 5 {
        let (resource_type, response) = next(&mut client).await;
        assert!(response.resources.is_empty());
        client.ack(&response).await.unwrap();
        answered.push(resource_type);
    }
    answered.sort();
    assert_eq!(answered, [Runtime, Cluster, Endpoints, Listener, Route]);

    world.service.write(world.folder.path());
    for expected in [Runtime, Cluster, Endpoints, Listener, Route] {
        let (resource_type, response) = next(&mut client).await;
        let names: Vec<_> = versions(&response).into_iter().map(|(name, _)| name).collect();
        let name = if expected == Runtime { layer(&name) } else { name.clone() };
        assert_eq!((resource_type, names), (expected, vec![name]), "what is referred to comes first");
        client.ack(&response).await.unwrap();
    }

    world.limit(30);
    let (resource_type, response) = next(&mut client).await;
    assert_eq!((resource_type, response.resources.len()), (Route, 1), "a limit that comes is one route configuration");
    client.ack(&response).await.unwrap();
    world.limit(40);
    let (resource_type, changed) = next(&mut client).await;
    assert_eq!((resource_type, changed.resources.len()), (Route, 1), "a limit that changes is one route configuration");
    assert_ne!(versions(&changed), versions(&response));
    client.ack(&changed).await.unwrap();

    std::fs::remove_file(world.folder.path().join("ns-a.checkout.yaml")).unwrap();
    for expected in [Route, Listener, Cluster, Runtime] {
        let (resource_type, response) = next(&mut client).await;
        let name = if expected == Runtime { layer(&name) } else { name.clone() };
        assert_eq!((resource_type, response.removed_resources), (expected, vec![name]), "removal goes backwards");
    }
}

#[tokio::test]
async fn a_refused_version_is_sent_once_and_the_next_good_one_mends_it() {
    let world = world(1).await;
    let name = world.service.resource(0);
    let mut client = world.client(0).await;
    start(&mut client, &name).await;
    world.weir.until(DEADLINE, "all is taken", |status| status.programmed(KEY, 1)).await;

    world.limit(31);
    let (_, refused) = next(&mut client).await;
    client.nack(&refused, "the regex is too large").await.unwrap();
    let message = world
        .weir
        .until(DEADLINE, "the refusal shows", |status| status.expect(KEY, "Programmed", false, "Rejected"))
        .await;
    assert!(message.contains("the regex is too large") && message.contains("ns-a/checkout/checkout-0"), "{message}");
    // The same text again, an unrelated object, and a new request: nothing of it brings the version back.
    world.limit(31);
    put(world.folder.path(), "other.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: other, namespace: ns-a}\n");
    client.subscribe(Route, &[&name]).await.unwrap();
    world.limit(32);
    let (_, mended) = next(&mut client).await;
    assert_ne!(versions(&mended), versions(&refused), "the refused version came again");
    client.ack(&mended).await.unwrap();
    world.weir.until(DEADLINE, "it is mended", |status| status.programmed(KEY, 3)).await;
    assert!((world.weir.metric("weir_xds_nacks_total").await - 1.0).abs() < 0.5);
}

#[tokio::test]
async fn a_client_that_comes_back_is_sent_nothing_even_by_another_process() {
    let world = world(1).await;
    let name = world.service.resource(0);
    let mut client = world.client(0).await;
    let held = start(&mut client, &name).await;
    drop(client);
    let (xds, admin) = (world.weir.xds, world.weir.admin);
    world.weir.kill().await.unwrap();
    let mut weir = Weir::spawn(world.folder.path(), xds, admin, &[]);
    weir.ready().await;
    let world = World { weir, ..world };
    world.weir.until(DEADLINE, "the policy is read", |status| status.policy(KEY).map(drop)).await;

    let mut client = world.client(0).await;
    for resource_type in [Runtime, Cluster, Listener, Endpoints, Route] {
        let (name, version) = &held[resource_type.label()];
        let names: &[&str] = if resource_type.has_wildcard() { &[] } else { &[name] };
        client.resume(resource_type, names, &[(name, version)]).await.unwrap();
    }
    world.weir.until(DEADLINE, "what it holds counts as taken", |status| status.programmed(KEY, 1)).await;
    // Whatever was sent would come before this.
    world.limit(33);
    let (resource_type, response) = next(&mut client).await;
    assert_eq!((resource_type, response.nonce.as_str()), (Route, "1"));
}

#[tokio::test]
async fn nobody_is_told_of_another_pod() {
    let world = world(2).await;
    let other = world.service.resource(1);
    let mut client = world.client(0).await;
    client.subscribe(Route, &[&other]).await.unwrap();
    client.subscribe(Cluster, &["*", &other]).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let (resource_type, response) = next(&mut client).await;
        assert!(versions(&response).iter().all(|(name, _)| *name == world.service.resource(0)), "{response:?}");
        client.ack(&response).await.unwrap();
        if response.removed_resources == [other.clone()] {
            seen.push(resource_type);
        }
    }
    seen.sort();
    assert_eq!(seen, [Cluster, Route], "what is not its own is answered as not there");
}

async fn refusal(mut client: DeltaClient) -> tonic::Status {
    loop {
        match timeout(DEADLINE, client.next()).await.expect("an end in time") {
            Ok(_) => {}
            Err(Error::Status(status)) => return *status,
            Err(other) => panic!("a status, not {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_flood_ends_its_own_stream_and_leaves_the_neighbour_alone() {
    let world = world(2).await;
    let name = world.service.resource(0);
    let mut neighbour = world.client(0).await;
    start(&mut neighbour, &name).await;

    let mut at_once = world.client(1).await;
    let names: Vec<String> = (0..60_000).map(|number| format!("in/ns-a/checkout/none-{number}/80")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    at_once.subscribe(Endpoints, &names).await.unwrap();
    let mut bit_by_bit = world.client(1).await;
    let flood = tokio::spawn(async move {
        for round in 0..2_000 {
            let names: Vec<String> = (0..50).map(|number| format!("none-{round}-{number}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            if bit_by_bit.subscribe(Route, &names).await.is_err() {
                break;
            }
        }
        refusal(bit_by_bit).await
    });
    for per_second in 50..60 {
        world.limit(per_second);
        let pushed = std::time::Instant::now();
        let (resource_type, response) = next(&mut neighbour).await;
        assert_eq!(resource_type, Route);
        assert!(pushed.elapsed() < Duration::from_secs(5), "the neighbour waited {:?}", pushed.elapsed());
        neighbour.ack(&response).await.unwrap();
    }
    for status in [refusal(at_once).await, flood.await.unwrap()] {
        assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("50000 names"), "{status}");
    }
    world
        .weir
        .until(DEADLINE, "only the neighbour is left", |status| match &status.0["proxies"] {
            proxies if proxies.as_object().is_some_and(|proxies| proxies.len() == 1) => Ok(()),
            proxies => Err(proxies.to_string()),
        })
        .await;
    world.streams(1.0).await;
}

/// Bytes of memory that a process has had at most.
fn most_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_of_requests_fills_no_memory_and_holds_up_nobody() {
    const REQUEST: usize = 2_000_000;
    let world = world(2).await;
    let name = world.service.resource(0);
    let mut neighbour = world.client(0).await;
    start(&mut neighbour, &name).await;
    let mut talker = world.client(1).await;
    start(&mut talker, &world.service.resource(1)).await;
    let before = most_memory(world.weir.id().unwrap());
    let done = Arc::new(AtomicBool::new(false));
    let flood = tokio::spawn({
        let done = done.clone();
        async move {
            let names: Vec<String> =
                (0..4_000).map(|number| format!("{number}-{}", "x".repeat(REQUEST / 4_000))).collect();
            for round in 0..1_000_000_000 / REQUEST {
                let mut request = DeltaDiscoveryRequest { type_url: Route.type_url().to_owned(), ..Default::default() };
                // Nothing that is answered: who does not read its answers is not read either.
                match round % 2 {
                    0 => request.resource_names_unsubscribe.clone_from(&names),
                    _ => {
                        request.response_nonce = "none of Weir's".to_owned();
                        request.error_detail = Some(Default::default());
                        request.error_detail.as_mut().unwrap().message = "x".repeat(REQUEST);
                    }
                }
                talker.send(request).await.unwrap();
            }
            done.store(true, Ordering::Relaxed);
            talker
        }
    });
    let mut per_second = 100;
    while !done.load(Ordering::Relaxed) {
        per_second += 1;
        world.limit(per_second);
        let pushed = std::time::Instant::now();
        let (resource_type, response) = next(&mut neighbour).await;
        assert_eq!(resource_type, Route);
        assert!(pushed.elapsed() < Duration::from_secs(5), "the neighbour waited {:?}", pushed.elapsed());
        neighbour.ack(&response).await.unwrap();
    }
    drop(flood.await.unwrap());
    let more = most_memory(world.weir.id().unwrap()) - before;
    assert!(more < 100 << 20, "{} MB more than before", more >> 20);
    assert!(per_second > 105, "{per_second}");
}

#[tokio::test]
async fn a_node_id_of_another_form_is_refused_with_the_right_one() {
    let world = world(1).await;
    let long = "x".repeat(300);
    for node in ["", "checkout-0", "ns-a/checkout", "ns-a/checkout/checkout-0/more", "ns-a//checkout-0", &long] {
        let mut client = DeltaClient::connect(world.weir.xds, node).await.unwrap();
        client.subscribe(Cluster, &[]).await.unwrap();
        let status = refusal(client).await;
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{node}: {status}");
        assert!(status.message().contains("<namespace>/<service>/<pod>"), "{node}: {status}");
        assert!(status.message().len() < 400, "{node}: {status}");
    }
    world.streams(0.0).await;
}

#[tokio::test]
async fn streams_that_break_off_leave_nothing_behind() {
    let world = world(1).await;
    let name = world.service.resource(0);
    let mut client = world.client(0).await;
    start(&mut client, &name).await;
    world.streams(1.0).await;
    for round in 0..20 {
        let mut client = DeltaClient::connect(world.weir.xds, &format!("ns-a/checkout/passing-{round}")).await.unwrap();
        client.subscribe(Cluster, &[]).await.unwrap();
        client
            .send(DeltaDiscoveryRequest { type_url: "type.googleapis.com/none".into(), ..Default::default() })
            .await
            .unwrap();
        if round % 2 == 0 {
            timeout(DEADLINE, client.next()).await.unwrap().unwrap();
        }
    }
    world.streams(1.0).await;
    world
        .weir
        .until(DEADLINE, "only one proxy is known", |status| match &status.0["proxies"] {
            proxies if proxies.as_object().is_some_and(|proxies| proxies.len() == 1) => Ok(()),
            proxies => Err(proxies.to_string()),
        })
        .await;
    // The one that stayed is served as before.
    world.limit(44);
    assert_eq!(next(&mut client).await.0, Route);
}
