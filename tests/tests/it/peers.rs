//! Two Weirs without Kubernetes: of a list that both have, the first that is alive decides.

use std::time::Duration;

use testkit::{
    authority::Authority,
    eventually,
    http::Connection,
    mesh::{Service, limiter, put},
    peers::{NAME, Peers},
    temp_dir,
    weir::{self, Weir},
};

const SOON: Duration = Duration::from_secs(40);
const KEY: &str = "smartlimiters.weir.dev/ns-a/checkout";
const HOT: &str = "- name: hot\n  when: cpu > 60% for 300ms until cpu < 30% for 300ms\n  limit: 6 requests per hour per pod\n  burst: 3";

struct World {
    service: Service,
    config: tempfile::TempDir,
    peers: Peers,
}

impl World {
    async fn new() -> Self {
        let world =
            Self { service: Service::start("ns-a", "checkout", 2).await, config: temp_dir(), peers: Peers::new() };
        world.service.write(world.config.path());
        put(world.config.path(), "policy.yaml", &limiter("ns-a", "checkout", HOT));
        world
    }

    async fn weir(&self, which: usize) -> Weir {
        self.peers.start(which, self.config.path()).await
    }

    async fn admits(&self, pod: usize, wanted: usize) {
        let inbound = self.service.pods[pod].inbound;
        eventually(SOON, &format!("pod {pod} admits {wanted} of ten"), async || {
            let (admitted, _) = Connection::open(inbound, None).await.unwrap().burst("/", 10).await.unwrap();
            if admitted == wanted { Ok(()) } else { Err(admitted) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_that_is_alive_decides_and_takes_the_memory_of_who_did_meanwhile() {
    let world = World::new().await;
    let first = world.weir(0).await;
    let second = world.weir(1).await;
    first.until_metric(SOON, "weir_replica_leads", 1.0).await;
    second.until_metric(SOON, "weir_replica_linked", 1.0).await;
    let (_proxy, _mount) = world.peers.proxy(1, &world.service, 1, |_| {}).await;
    let programmed = |status: &testkit::status::View| {
        let proxies = &status.policy(KEY)?["status"]["proxies"];
        if proxies["programmed"] == 1 { Ok(()) } else { Err(proxies.to_string()) }
    };
    first.until(SOON, "it knows of the other's proxy", programmed).await;
    world.service.burn(0.9);
    first.until(SOON, "it limits", |status| status.phase(KEY, "hot", "Limiting").map(drop)).await;
    world.admits(1, 0).await;

    // The first ends: the second decides alone, and nothing changes until it has something new to say.
    first.kill().await.unwrap();
    second.until_metric(SOON, "weir_replica_leads", 1.0).await;
    world.admits(1, 0).await;
    world.service.burn(0.0);
    second.until(SOON, "it lets go", |status| status.phase(KEY, "hot", "Idle").map(drop)).await;
    world.service.burn(0.9);
    second.until(SOON, "it limits", |status| status.phase(KEY, "hot", "Limiting").map(drop)).await;

    // It comes back without any memory of its own and without metrics: what it decides from then on is what was decided.
    for pod in &world.service.pods {
        pod.app.page(testkit::app::Page::Close);
    }
    let first = world.weir(0).await;
    first.until_metric(SOON, "weir_replica_leads", 1.0).await;
    second.until_metric(SOON, "weir_replica_linked", 1.0).await;
    first.until(SOON, "it limits as before", |status| status.phase(KEY, "hot", "Limiting").map(drop)).await;
    world.admits(1, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_replica_is_not_let_in() {
    let world = World::new().await;
    let first = world.weir(0).await;
    // Certificates of the same authority for another name, and of another authority for the same name.
    let Peers { servers, clients, .. } = &world.peers;
    let stranger = Authority::new("stranger");
    for (own, authority) in
        [(servers.server("other.example", -1, 30), servers), (stranger.server(NAME, -1, 30), &stranger)]
    {
        let certificates = temp_dir();
        put(certificates.path(), "tls.crt", &own.certificate);
        put(certificates.path(), "tls.key", &own.key);
        put(certificates.path(), "ca.crt", authority.pem());
        put(certificates.path(), "clients.crt", clients.pem());
        let mut second = world.peers.spawn_with(1, world.config.path(), certificates.path());
        second.ready().await;
        second.until_metric(SOON, "weir_replica_leads", 1.0).await;
        assert!(second.metric("weir_replica_taken_total").await < 0.5, "it was told nothing");
    }
    assert!(first.metric("weir_replica_followers").await < 0.5);
}

#[tokio::test]
async fn what_does_not_go_together_is_said() {
    let world = World::new().await;
    let config = world.config.path().to_str().unwrap();
    let folder = world.peers.certificates.path().to_str().unwrap();
    for (arguments, said) in [
        (&["--peers", "127.0.0.1:1"][..], "--peers needs --replica-address"),
        (&["--replica-address", "0.0.0.0:1", "--peers", "0.0.0.0:1"], "is no address by which others reach this one"),
        (&["--replica-address", "127.0.0.1:1", "--peers", "127.0.0.1:1"], "--replica-address needs a certificate"),
        (
            &["--replica-address", "127.0.0.1:1", "--certificate-dir", folder],
            "needs --lease NAME with --kubernetes, or --peers",
        ),
        (
            &["--replica-address", "127.0.0.1:1", "--certificate-dir", folder, "--peers", "127.0.0.1:2,127.0.0.1:3"],
            "--peers 127.0.0.1:2,127.0.0.1:3 must name this replica, too, as its --replica-address 127.0.0.1:1",
        ),
        (
            &["--replica-address", "127.0.0.1:1", "--certificate-dir", folder, "--lease", "weir"],
            "--lease is for --kubernetes: with --config give --peers",
        ),
        (
            &["--checkpoint-config-map", "weir"],
            "--checkpoint-config-map is for --kubernetes: with --config give --state-dir",
        ),
    ] {
        let output = weir::command([&["run", "--config", config], arguments].concat()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(said), "{arguments:?}: {error}");
    }
}
