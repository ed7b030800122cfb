//! Two Weirs for the same proxies, with the rights and the arguments of the chart's: one decides, the other carries it out, and either may end
//! at any moment.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use testkit::{
    app::Page,
    clock::Clock,
    cluster::Cluster,
    eventually,
    http::Connection,
    mesh::{Service, limiter},
    mount::Mount,
    ports::{self, Network},
    proxy::Proxy,
    weir::Weir,
};

const SOON: Duration = Duration::from_secs(40);
/// A limit that shows in three requests, and its end.
const HOT: &str = "- name: hot\n  when: cpu > 60% for 300ms until cpu < 30% for 300ms\n  limit: 6 requests per hour per pod\n  burst: 3";

/// Where a replica serves.
#[derive(Clone, Copy)]
struct Seat {
    xds: SocketAddr,
    admin: SocketAddr,
    link: SocketAddr,
}

/// A namespace with the chart, a Service of two pods with a limit in it, and two Weirs.
struct Pair<'a> {
    cluster: &'a Cluster,
    namespace: String,
    service: Service,
    kubeconfig: std::path::PathBuf,
    seats: [Seat; 2],
    weirs: [Option<Weir>; 2],
    mounts: Vec<Mount>,
    /// Each has a wall clock of its own.
    clocks: Option<[Clock; 2]>,
}

impl<'a> Pair<'a> {
    async fn install(cluster: &'a Cluster) -> Self {
        Self::install_by(cluster, HOT, None).await
    }

    async fn install_by(cluster: &'a Cluster, rules: &str, clocks: Option<[Clock; 2]>) -> Self {
        cluster.install_crds().await;
        let namespace = cluster.namespace("replicas").await;
        let watched = format!("namespaces={{{namespace}}}");
        let chart =
            ["install", "weir", "charts/weir", "--namespace", &namespace, "--set", &watched, "--set", "replicas=2"];
        cluster.helm(&chart).await.unwrap();
        let service = Service::start_in(Network::routable(), &namespace, "cart", 2).await;
        cluster.put(&service).await;
        cluster.apply(&limiter(&namespace, "cart", rules)).await.unwrap();
        let kubeconfig = cluster.service_account_kubeconfig(&namespace, "weir").await;
        let seats = [(); 2].map(|()| Seat { xds: ports::free(), admin: ports::free(), link: ports::free() });
        let mut pair =
            Self { cluster, namespace, service, kubeconfig, seats, weirs: [None, None], mounts: Vec::new(), clocks };
        pair.start(0).await;
        pair.start(1).await;
        pair
    }

    async fn start(&mut self, which: usize) {
        let Seat { xds, admin, link } = self.seats[which];
        let places = format!("--ca-config-map={}/weir-ca", self.namespace);
        let (link, name) = (format!("--replica-address={link}"), format!("--replica-name=weir-{which}"));
        let arguments = [
            "--namespace",
            &self.namespace,
            "--certificate-service=weir",
            "--certificate-secret=weir-certificate",
            &places,
            "--checkpoint-config-map=weir-checkpoint",
            "--lease=weir",
            &link,
            &name,
        ];
        let mut weir = match &self.clocks {
            Some(clocks) => Weir::spawn_trusted_by(&clocks[which], &self.kubeconfig, xds, admin, &arguments),
            None => Weir::spawn_trusted(&self.kubeconfig, xds, admin, &arguments),
        };
        weir.ready().await;
        self.weirs[which] = Some(weir);
    }

    fn weir(&self, which: usize) -> &Weir {
        self.weirs[which].as_ref().expect("it runs")
    }

    fn key(&self) -> String {
        format!("smartlimiters.weir.dev/{}/cart", self.namespace)
    }

    /// The replica that leads, once exactly one does.
    async fn leader(&self) -> usize {
        eventually(SOON, "one replica leads", async || {
            let mut leads = Vec::new();
            for (which, weir) in self.weirs.iter().enumerate() {
                if let Some(weir) = weir
                    && weir.metric("weir_replica_leads").await > 0.5
                {
                    leads.push(which);
                }
            }
            match leads[..] {
                [one] => Ok(one),
                _ => Err(format!("{leads:?}")),
            }
        })
        .await
    }

    /// Whom proxies are told to trust.
    async fn authorities(&self) -> String {
        let text = r#"--output=go-template={{index .data "ca.crt"}}"#;
        let map = ["get", "configmap", "weir-ca", "--namespace", &self.namespace, text];
        eventually(SOON, "proxies are told whom to trust", async || match self.cluster.kubectl(&map).await {
            Ok(text) if text.contains("BEGIN CERTIFICATE") => Ok(text),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// The proxy of a pod, which begins with this replica and knows the other.
    async fn proxy(&mut self, pod: usize, first: usize) -> Proxy {
        let token = self.cluster.pod_token(&self.namespace, &self.service.pods[pod].name).await;
        let mount = Mount::new(&self.authorities().await, &token);
        let Service { namespace, name, pods, .. } = &self.service;
        let trust = mount.trust(&format!("weir.{}.svc", self.namespace));
        let other = self.seats[1 - first].xds.port();
        // One priority after the other, so that the test knows where it is.
        let second = move |bootstrap: &mut serde_json::Value| {
            let weir = &mut bootstrap["static_resources"]["clusters"][0];
            weir["outlier_detection"] = serde_json::json!({
                "consecutive_5xx": 1, "interval": "0.1s", "base_ejection_time": "2s", "max_ejection_percent": 100,
            });
            weir["common_lb_config"] = serde_json::json!({"healthy_panic_threshold": {"value": 0}});
            let load = &mut weir["load_assignment"]["endpoints"];
            let mut next = load[0].clone();
            next["priority"] = 1.into();
            next["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["port_value"] = other.into();
            load.as_array_mut().expect("a list of endpoints").push(next);
        };
        let node = (namespace.as_str(), name.as_str(), pods[pod].name.as_str());
        let proxy = Proxy::start_trusting(self.seats[first].xds, node, Some(trust), second).await;
        self.mounts.push(mount);
        proxy
    }

    /// Two proxies, one at each replica.
    async fn proxies(&mut self) -> [Proxy; 2] {
        let proxies = [self.proxy(0, 0).await, self.proxy(1, 1).await];
        for which in [0, 1] {
            self.streams(which, 1.0).await;
        }
        proxies
    }

    async fn streams(&self, which: usize, wanted: f64) {
        eventually(SOON, "so many proxies are there", async || {
            let streams = self.weir(which).metric("weir_xds_streams").await;
            if (streams - wanted).abs() < 0.5 { Ok(()) } else { Err(format!("{streams} at weir-{which}")) }
        })
        .await;
    }

    /// Waits until the leader says that the limit is in this phase and that both proxies have it.
    async fn until(&self, leader: usize, phase: &str) {
        let key = self.key();
        self.weir(leader).until(SOON, phase, |status| status.phase(&key, "hot", phase).map(drop)).await;
        self.weir(leader)
            .until(SOON, "both proxies have it", |status| {
                status.programmed(&key, 1)?;
                let proxies = &status.policy(&key)?["status"]["proxies"];
                if proxies["programmed"] == 2 { Ok(()) } else { Err(proxies.to_string()) }
            })
            .await;
    }

    /// Waits until the follower is told what the leader decides.
    async fn linked(&self, follower: usize) {
        eventually(SOON, "it is told", async || {
            let linked = self.weir(follower).metric("weir_replica_linked").await;
            if linked > 0.5 { Ok(()) } else { Err(self.weir(follower).log()) }
        })
        .await;
    }

    /// Waits until everything decided is in the checkpoint.
    async fn kept(&self, leader: usize) {
        eventually(SOON, "everything decided is kept", async || {
            let age = self.weir(leader).metric("weir_checkpoint_age_seconds").await;
            let writes = self.weir(leader).metric("weir_checkpoint_writes_total").await;
            if age == 0.0 && writes > 0.5 {
                Ok(())
            } else {
                Err(format!("{age} {writes}\n{}", self.weir(leader).log()))
            }
        })
        .await;
    }

    /// How many of so many requests each pod's proxy admits.
    async fn admitted(&self, requests: usize) -> [usize; 2] {
        let mut admitted = [0; 2];
        for (admitted, pod) in admitted.iter_mut().zip(&self.service.pods) {
            *admitted = Connection::open(pod.inbound, None).await.unwrap().burst("/", requests).await.unwrap().0;
        }
        admitted
    }

    fn page(&self, page: &Page) {
        for pod in &self.service.pods {
            pod.app.page(page.clone());
        }
    }
}

/// What the proxies hold and since when, but for what they think of the addresses of Weir.
async fn held(proxies: &[Proxy; 2]) -> [String; 2] {
    let held = |held: String| {
        let mut dump: serde_json::Value = serde_json::from_str(&held).expect("it is JSON");
        for config in dump["configs"].as_array_mut().expect("a dump has configs") {
            config.as_object_mut().expect("a section").remove("static_endpoint_configs");
        }
        dump.to_string()
    };
    [held(proxies[0].held().await), held(proxies[1].held().await)]
}

#[tokio::test(flavor = "multi_thread")]
async fn one_decides_both_carry_it_out_and_the_other_takes_over() {
    let mut pair = Pair::install(Cluster::shared().await).await;
    let proxies = pair.proxies().await;
    let leader = pair.leader().await;
    let follower = 1 - leader;
    pair.linked(follower).await;
    pair.service.burn(0.9);
    pair.until(leader, "Limiting").await;
    assert_eq!(pair.admitted(10).await, [3, 3], "on both");
    pair.weir(follower)
        .until(SOON, "the follower says whose it is", |status| {
            let rule = status.rule(&pair.key(), "hot")?.to_string();
            if rule.contains("as the leading replica has decided") { Ok(()) } else { Err(rule) }
        })
        .await;
    let before = held(&proxies).await;

    // The leader ends without a word. Its proxy goes to the other, which sends it nothing and lifts nothing.
    pair.weirs[leader].take().expect("it runs").kill().await.unwrap();
    let killed = Instant::now();
    pair.streams(follower, 2.0).await;
    assert_eq!(pair.admitted(10).await, [0, 0], "limits stand");
    pair.service.burn(0.0);
    let key = pair.key();
    pair.weir(follower)
        .until(SOON, "it decides", |status| match status.phase(&key, "hot", "Limiting") {
            Ok(_) => Err("not yet".to_owned()),
            Err(_) => Ok(()),
        })
        .await;
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(pair.leader().await, follower);
    pair.until(follower, "Idle").await;
    assert_ne!(held(&proxies).await, before);
    assert_eq!(pair.admitted(10).await, [10, 10]);

    // The one that was killed comes back and follows.
    pair.start(leader).await;
    pair.linked(leader).await;
    assert_eq!(pair.leader().await, follower, "nobody is deposed");
    pair.service.burn(0.9);
    pair.until(follower, "Limiting").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_both_killed_and_no_metrics_nothing_changes_at_any_proxy() {
    let mut pair = Pair::install(Cluster::shared().await).await;
    let proxies = pair.proxies().await;
    let leader = pair.leader().await;
    pair.linked(1 - leader).await;
    pair.service.burn(0.9);
    pair.until(leader, "Limiting").await;
    pair.kept(leader).await;
    let before = held(&proxies).await;

    pair.page(&Page::Close);
    for which in [0, 1] {
        pair.weirs[which].take().expect("it runs").kill().await.unwrap();
    }
    for which in [0, 1] {
        pair.start(which).await;
    }
    let leader = pair.leader().await;
    pair.linked(1 - leader).await;
    pair.until(leader, "Limiting").await;
    assert_eq!(held(&proxies).await, before, "down to the moment of the last update");
    for which in [0, 1] {
        assert!(pair.weir(which).metric("weir_xds_resources_total").await < 0.5, "nothing was sent again");
    }

    // It goes on from there.
    pair.page(&Page::Cpu);
    pair.service.burn(0.0);
    pair.until(leader, "Idle").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_decides_no_more() {
    let mut pair = Pair::install(Cluster::shared().await).await;
    let proxies = pair.proxies().await;
    let leader = pair.leader().await;
    let other = 1 - leader;
    pair.linked(other).await;
    pair.service.burn(0.9);
    pair.until(leader, "Limiting").await;
    let before = held(&proxies).await;

    pair.weir(leader).signal(Signal::SIGSTOP);
    eventually(SOON, "the other leads", async || {
        let leads = pair.weir(other).metric("weir_replica_leads").await;
        if leads > 0.5 { Ok(()) } else { Err(leads) }
    })
    .await;
    pair.weir(leader).signal(Signal::SIGCONT);
    assert_eq!(pair.leader().await, other);
    pair.linked(leader).await;
    pair.until(other, "Limiting").await;
    assert_eq!(held(&proxies).await, before, "nothing has changed at any proxy");
    let epochs = [pair.weir(0).metric("weir_replica_epoch").await, pair.weir(1).metric("weir_replica_epoch").await];
    assert!((epochs[0] - epochs[1]).abs() < 0.5 && epochs[0] > 1.5, "{epochs:?}");

    // Somebody deletes the Lease: it is there again soon.
    pair.cluster.kubectl(&["delete", "lease", "weir", "--namespace", &pair.namespace]).await.unwrap();
    eventually(SOON, "the Lease is there again", async || {
        pair.cluster.kubectl(&["get", "lease", "weir", "--namespace", &pair.namespace]).await
    })
    .await;
    let epoch = pair.weir(pair.leader().await).metric("weir_replica_epoch").await;

    // By hand somebody writes nonsense into the Lease: who leads gives way, and an epoch never comes back.
    let nonsense = r#"{"spec":{"holderIdentity":"nobody","leaseTransitions":0,"leaseDurationSeconds":3}}"#;
    let patch = ["patch", "lease", "weir", "--namespace", &pair.namespace, "--type=merge", "-p", nonsense];
    pair.cluster.kubectl(&patch).await.unwrap();
    eventually(SOON, "somebody leads in a newer epoch", async || {
        let now = pair.weir(pair.leader().await).metric("weir_replica_epoch").await;
        if now > epoch { Ok(()) } else { Err(now) }
    })
    .await;
    let leader = pair.leader().await;
    pair.linked(1 - leader).await;
    assert_eq!(held(&proxies).await, before, "nothing has changed at any proxy");
    pair.service.burn(0.0);
    pair.until(leader, "Idle").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_told_to_end_hands_over_at_once() {
    let mut pair = Pair::install(Cluster::shared().await).await;
    let _proxies = pair.proxies().await;
    let leader = pair.leader().await;
    let other = 1 - leader;
    pair.linked(other).await;
    pair.service.burn(0.9);
    pair.until(leader, "Limiting").await;

    let weir = pair.weirs[leader].take().expect("it runs");
    let stopping = tokio::spawn(weir.stop());
    pair.streams(other, 2.0).await;
    stopping.await.unwrap().unwrap();
    let ended = Instant::now();
    assert_eq!(pair.leader().await, other);
    let took = ended.elapsed();
    assert!(took < Duration::from_secs(5), "the Lease was laid down: {took:?}");
    pair.service.burn(0.0);
    pair.until(other, "Idle").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_stood_still_gets_the_newest() {
    let mut pair = Pair::install(Cluster::shared().await).await;
    let _proxies = pair.proxies().await;
    let leader = pair.leader().await;
    let follower = 1 - leader;
    pair.linked(follower).await;
    pair.service.burn(0.9);
    pair.until(leader, "Limiting").await;

    pair.weir(follower).signal(Signal::SIGSTOP);
    let key = pair.key();
    for (cores, phase) in [(0.0, "Idle"), (0.9, "Limiting"), (0.0, "Idle")] {
        pair.service.burn(cores);
        pair.weir(leader).until(SOON, "it decides on", |status| status.phase(&key, "hot", phase).map(drop)).await;
    }
    eventually(SOON, "the leader has let go of it", async || {
        let followers = pair.weir(leader).metric("weir_replica_followers").await;
        if followers < 0.5 { Ok(()) } else { Err(followers) }
    })
    .await;
    pair.weir(follower).signal(Signal::SIGCONT);
    pair.linked(follower).await;
    pair.until(leader, "Idle").await;
    assert_eq!(pair.admitted(10).await, [10, 10]);
}

/// What comes to a port of this namespace is dropped, while this lives.
struct Cut(u16);

impl Cut {
    fn new(port: u16) -> Self {
        Self::turn("-I", port);
        Self(port)
    }

    fn turn(verb: &str, port: u16) {
        let port = port.to_string();
        let rule = [verb, "INPUT", "-p", "tcp", "--dport", &port, "-j", "DROP"];
        let done = std::process::Command::new("iptables").args(rule).status().expect("iptables runs");
        assert!(done.success(), "iptables {verb}: {done}");
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        Self::turn("-D", self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_link_cut_one_decides_and_the_other_holds() {
    let mut pair = Pair::install(Cluster::shared().await).await;
    let _proxies = pair.proxies().await;
    let leader = pair.leader().await;
    let follower = 1 - leader;
    pair.linked(follower).await;
    pair.service.burn(0.9);
    pair.until(leader, "Limiting").await;
    assert_eq!(pair.admitted(10).await, [3, 3]);

    let cut = Cut::new(pair.seats[leader].link.port());
    eventually(SOON, "both have noticed", async || {
        let linked = pair.weir(follower).metric("weir_replica_linked").await;
        let followers = pair.weir(leader).metric("weir_replica_followers").await;
        if linked + followers < 0.5 { Ok(()) } else { Err(format!("{linked} {followers}")) }
    })
    .await;
    pair.service.burn(0.0);
    let key = pair.key();
    pair.weir(leader).until(SOON, "it decides on", |status| status.phase(&key, "hot", "Idle").map(drop)).await;
    eventually(SOON, "its own proxy lets go, the other's holds", async || {
        let admitted = pair.admitted(10).await;
        if (admitted[leader], admitted[follower]) == (10, 0) { Ok(()) } else { Err(format!("{admitted:?}")) }
    })
    .await;
    assert_eq!(pair.leader().await, leader, "the Lease says so to both");
    drop(cut);
    pair.linked(follower).await;
    pair.until(leader, "Idle").await;
    assert_eq!(pair.admitted(10).await, [10, 10]);
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_are_apart_move_no_limit() {
    // Measured by the proxies alone, one of which is the other replica's.
    let busy = "- name: hot\n  when: requests.max > 5 for 300ms until requests.max < 1 for 300ms\n  \
                limit: 6 requests per hour per pod\n  burst: 3";
    let clocks = [Clock::new(), Clock::new()];
    clocks[0].set_ahead(600);
    let mut pair = Pair::install_by(Cluster::shared().await, busy, Some(clocks)).await;
    let proxies = pair.proxies().await;
    let leader = pair.leader().await;
    let follower = 1 - leader;
    pair.linked(follower).await;
    // Only the follower's proxy has traffic.
    let inbound = pair.service.pods[follower].inbound;
    let traffic = tokio::spawn(async move {
        let mut connection = Connection::open(inbound, None).await.unwrap();
        let mut beat = tokio::time::interval(Duration::from_millis(20));
        loop {
            beat.tick().await;
            connection.get("/").await.unwrap();
        }
    });
    pair.until(leader, "Limiting").await;
    let before = held(&proxies).await;
    pair.weirs[leader].take().expect("it runs").kill().await.unwrap();
    pair.streams(follower, 2.0).await;
    assert_eq!(pair.leader().await, follower);
    pair.until(follower, "Limiting").await;
    assert_eq!(held(&proxies).await, before, "nothing has changed at any proxy");
    traffic.abort();
    pair.until(follower, "Idle").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_switch_of_any_replica_holds_for_all() {
    let mut pair = Pair::install(Cluster::shared().await).await;
    let _proxies = pair.proxies().await;
    let leader = pair.leader().await;
    pair.linked(1 - leader).await;
    pair.service.burn(0.9);
    pair.until(leader, "Limiting").await;
    assert_eq!(pair.admitted(10).await, [3, 3]);
    for (which, verb, admitted) in [(1 - leader, "pause", [10, 10]), (leader, "resume", [0, 0])] {
        let request = http::Request::post(format!("http://{}/{verb}", pair.seats[which].admin));
        let answer = testkit::http::send(request.body(Vec::new().into()).unwrap()).await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        eventually(SOON, verb, async || {
            let now = pair.admitted(10).await;
            if now == admitted { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    }
}
