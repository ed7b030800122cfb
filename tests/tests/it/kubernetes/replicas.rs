//! Two Weirs for the same proxies, with the rights and the arguments of the chart's: one decides, the other carries it out, and either may end
//! at any moment.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::{
    app::Page,
    clock::Clock,
    cluster::Cluster,
    eventually,
    http::Connection,
    replicas::{Pair, held},
};

const SOON: Duration = Duration::from_secs(40);
/// A limit that shows in three requests, and its end.
const HOT: &str = "- name: hot\n  when: cpu > 60% for 300ms until cpu < 30% for 300ms\n  limit: 6 requests per hour per pod\n  burst: 3";

#[tokio::test(flavor = "multi_thread")]
async fn one_decides_both_carry_it_out_and_the_other_takes_over() {
    let (mut pair, proxies, leader) = Pair::limiting(Cluster::shared().await, HOT).await;
    let follower = 1 - leader;
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
    let (mut pair, proxies, leader) = Pair::limiting(Cluster::shared().await, HOT).await;
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
    let (pair, proxies, leader) = Pair::limiting(Cluster::shared().await, HOT).await;
    let other = 1 - leader;
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
    let (mut pair, _proxies, leader) = Pair::limiting(Cluster::shared().await, HOT).await;
    let other = 1 - leader;

    let weir = pair.weirs[leader].take().expect("it runs");
    let began = Instant::now();
    let stopping = tokio::spawn(weir.stop());
    assert_eq!(pair.leader().await, other);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "the Lease is laid down before the proxies have left: {took:?}");
    pair.streams(other, 2.0).await;
    stopping.await.unwrap().unwrap();
    pair.service.burn(0.0);
    pair.until(other, "Idle").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_stood_still_gets_the_newest() {
    let (pair, _proxies, leader) = Pair::limiting(Cluster::shared().await, HOT).await;
    let follower = 1 - leader;

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
    let (pair, _proxies, leader) = Pair::limiting(Cluster::shared().await, HOT).await;
    let follower = 1 - leader;
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
    let (pair, _proxies, leader) = Pair::limiting(Cluster::shared().await, HOT).await;
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
