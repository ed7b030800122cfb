//! Priority classes and shadow mode, as real Envoys carry them out and count them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use testkit::{
    eventually,
    http::Connection,
    mesh::{Service, limiter, put},
    proxy::Proxy,
    temp_dir,
    weir::Weir,
};
use tokio::{task::JoinSet, time::MissedTickBehavior};

const DEADLINE: Duration = Duration::from_secs(30);
const KEY: &str = "smartlimiters.weir.dev/ns-a/checkout";

/// Requests of one kind, from connections that send 20 a second each until it is dropped.
struct Traffic {
    asked: Arc<AtomicU64>,
    served: Arc<AtomicU64>,
    _connections: JoinSet<()>,
}

impl Traffic {
    fn start(address: SocketAddr, tier: Option<&'static str>, connections: usize) -> Self {
        let (asked, served) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let (asked, served) = (asked.clone(), served.clone());
            tasks.spawn(async move {
                let mut ticks = tokio::time::interval(Duration::from_millis(50));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                let mut connection = Connection::open(address, None).await.expect("the proxy listens");
                loop {
                    ticks.tick().await;
                    let mut request = http::Request::get("/");
                    if let Some(tier) = tier {
                        request = request.header("tier", tier);
                    }
                    let request = request.body(Full::<Bytes>::default()).expect("a request");
                    let status = connection.send(request).await.expect("the proxy answers").status();
                    asked.fetch_add(1, Relaxed);
                    served.fetch_add(u64::from(status == 200), Relaxed);
                }
            });
        }
        Self { asked, served, _connections: tasks }
    }

    /// Asked and served until now.
    fn counts(&self) -> (u64, u64) {
        (self.asked.load(Relaxed), self.served.load(Relaxed))
    }

    /// The part that is served of about this many further requests.
    async fn served_of(&self, requests: u64) -> f64 {
        let (asked, served) = self.counts();
        eventually(DEADLINE, "requests are sent", async || {
            let now = self.counts().0 - asked;
            if now >= requests { Ok(()) } else { Err(now) }
        })
        .await;
        let (asked_now, served_now) = self.counts();
        (served_now - served) as f64 / (asked_now - asked) as f64
    }
}

async fn start(rules: &str) -> (tempfile::TempDir, Service, Weir, Proxy) {
    let folder = temp_dir();
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(folder.path());
    put(folder.path(), "policy.yaml", &limiter("ns-a", "checkout", rules));
    let weir = Weir::start(folder.path(), &[]).await;
    let proxy = Proxy::start(&weir, &service, 0).await;
    weir.until(DEADLINE, "it is programmed", |status| status.programmed(KEY, 1)).await;
    (folder, service, weir, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_class_is_served_whole_while_the_others_share_the_rest() {
    let rule = "
- name: all
  limit: 100 requests per second per pod
  burst: 50
  priorities:
  - {name: paying, matches: [{headers: [{name: tier, value: paying}]}]}
  - {name: trying, matches: [{headers: [{name: tier, value: trying}]}]}
";
    let (_folder, service, weir, _proxy) = start(rule).await;
    let inbound = service.pods[0].inbound;
    let paying = Traffic::start(inbound, Some("paying"), 3);
    let _trying = Traffic::start(inbound, Some("trying"), 4);
    let others = Traffic::start(inbound, None, 8);
    weir.until(DEADLINE, "the classes have limits of their own", |status| {
        let classes = &status.rule(KEY, "all")?["classes"];
        let limit = |class: usize| classes[class]["perSecond"].as_f64().ok_or_else(|| classes.to_string());
        let limits = (limit(0)?, limit(1)?, limit(2)?);
        let fit = limits.0 == 100.0 && (20.0..60.0).contains(&limits.1) && limits.2 < 10.0;
        if fit { Ok(()) } else { Err(format!("{limits:?}")) }
    })
    .await;
    // Before the demand was known, all had emptied the rule's bucket together.
    eventually(DEADLINE, "the first class is served whole", async || {
        let (served, others) = tokio::join!(paying.served_of(200), others.served_of(400));
        if served >= 0.99 && others < 0.1 { Ok(()) } else { Err(format!("{served} and {others}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_in_shadow_mode_refuses_nothing_and_tells_what_it_would() {
    let rules = "
- {name: tight, mode: Shadow, limit: 20 requests per second per pod}
- {name: loose, mode: Shadow, limit: 900 requests per second per pod}
- {name: real, limit: 500 requests per second per pod}
";
    let (_folder, service, weir, proxy) = start(rules).await;
    let traffic = Traffic::start(service.pods[0].inbound, None, 5);
    weir.until(DEADLINE, "Envoy tells what would be refused", |status| {
        let tight = status.rule(KEY, "tight")?;
        let excess = tight["excess"].as_f64().ok_or_else(|| tight.to_string())?;
        let loose = status.rule(KEY, "loose")?["excess"].as_f64();
        let message = tight["message"].as_str().unwrap_or_default();
        let told =
            message.starts_with("shadow: would refuse ") && message.contains("limiting to 20 requests per second");
        if (65.0..90.0).contains(&excess) && loose == Some(0.0) && told { Ok(()) } else { Err(tight.to_string()) }
    })
    .await;
    let (asked, served) = traffic.counts();
    assert!(asked > 0 && asked == served, "{served} of {asked} were served");
    let counted =
        proxy.stat("weir.shadow.smartlimiters.weir.dev/ns-a/checkout/tight.http_local_rate_limit.rate_limited");
    assert!(counted.await > 0);
}
