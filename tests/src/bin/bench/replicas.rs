//! Two replicas on a real API server, with a real Envoy at each: what the link between them costs, and how soon the other takes over.

mod load;
pub(crate) mod soak;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context;
use jiff::Timestamp;
use testkit::{
    cluster::Cluster,
    eventually,
    mesh::limiter,
    replicas::{Pair, held},
};
use tokio::task::JoinSet;

use self::load::{Count, Load};
use crate::{
    clock,
    http::{Connection, request},
    in_a_task,
    report::{Durations, Row, ms},
};

const STEPS: usize = 30;
const ROUNDS: usize = 10;
const COOL: Duration = Duration::from_millis(1200);
const SOON: Duration = Duration::from_secs(40);
/// On each proxy; refused is what is above the limit.
const OFFERED: u32 = 100;

pub(crate) fn run() -> anyhow::Result<Vec<Row>> {
    in_a_task(async {
        let cluster = Cluster::shared().await;
        let mut rows = link(cluster).await?;
        rows.extend(taken_over(cluster).await?);
        Ok(rows)
    })
}

/// When answers of each kind first came at one proxy, in nanoseconds of the wall clock; 0: none since it was reset.
#[derive(Debug, Default)]
struct Seen {
    admitted: AtomicI64,
    limited: AtomicI64,
}

/// Sends a request a millisecond, for as long as it is polled.
async fn watch(address: SocketAddr, seen: Arc<Seen>) -> anyhow::Result<()> {
    let mut connection = Connection::open(address, None).await?;
    let request = request("/");
    loop {
        connection.send(&request).await?;
        let first = match connection.status().await? {
            200 => &seen.admitted,
            429 => &seen.limited,
            other => anyhow::bail!("the proxy answered {other}"),
        };
        let _ = first.compare_exchange(0, wall(), Relaxed, Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Now, as logs tell it.
fn wall() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// From a decision, as the leader's log dates it, to the first 429 at its own proxy and at the follower's.
async fn link(cluster: &Cluster) -> anyhow::Result<Vec<Row>> {
    // A new name in each step: a rule that is gone takes its limit away at once, where a release takes six seconds.
    let rule = |step: usize| {
        format!("- name: hot-{step}\n  when: cpu > 60% until cpu < 30%\n  limit: 1 request per day per pod\n  burst: 1")
    };
    let mut pair = Pair::install(cluster, &rule(0)).await;
    let _proxies = pair.proxies().await;
    let leader = pair.leader().await;
    pair.linked(1 - leader).await;
    let mut tasks = JoinSet::new();
    let seen = [leader, 1 - leader].map(|pod| {
        let seen = Arc::new(Seen::default());
        tasks.spawn(watch(pair.service.pods[pod].inbound, seen.clone()));
        seen
    });
    // The first step does not count: it warms everything up.
    let (mut own, mut other, mut apart) = (Vec::new(), Vec::new(), Vec::new());
    for step in 0..=STEPS {
        // At a moment that has no fixed place between two reads of the page.
        tokio::time::sleep(Duration::from_millis(500 + (step as u64 * 97) % 250)).await;
        seen.iter().for_each(|seen| seen.limited.store(0, Relaxed));
        pair.service.burn(0.9);
        let limited = both(&seen, |seen| &seen.limited, &tasks).await?;
        let decided = decided(&pair.weir(leader).log()).context("the leader's log tells of no decision")?;
        if step > 0 {
            let since = |at: i64, from: i64| Duration::from_nanos(u64::try_from(at - from).unwrap_or(0));
            own.push(since(limited[0], decided));
            other.push(since(limited[1], decided));
            apart.push(since(limited[1], limited[0]));
        }
        seen.iter().for_each(|seen| seen.admitted.store(0, Relaxed));
        pair.service.burn(0.0);
        // Rates are taken over half a second: a rule that comes sooner finds the CPU still busy, and limits at once.
        tokio::time::sleep(COOL).await;
        cluster.apply(&limiter(&pair.namespace, "cart", &rule(step + 1))).await?;
        both(&seen, |seen| &seen.admitted, &tasks).await?;
    }
    let all = |times: &Durations| {
        format!("{} (p50 {}, max {})", ms(times.percentile(99)), ms(times.percentile(50)), ms(times.max()))
    };
    let (own, other, apart) = (Durations::new(own)?, Durations::new(other)?, Durations::new(apart)?);
    Ok(vec![
        Row::goal(
            format!("decision to the first 429 at a proxy of the follower, p99 of {}", other.count()),
            "at most 15 ms",
            all(&other),
            other.percentile(99) <= Duration::from_millis(15),
        ),
        Row::plain("the same at a proxy of the leader, p99", all(&own)),
        Row::plain("how much later the follower's was, p99", all(&apart)),
    ])
}

/// When both proxies first answered so.
async fn both(
    seen: &[Arc<Seen>; 2],
    kind: fn(&Seen) -> &AtomicI64,
    tasks: &JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<[i64; 2]> {
    let end = clock::now() + SOON;
    loop {
        let at = [kind(&seen[0]).load(Relaxed), kind(&seen[1]).load(Relaxed)];
        if !at.contains(&0) {
            return Ok(at);
        }
        anyhow::ensure!(tasks.len() == 2 && clock::now() < end, "no change of answers within {SOON:?}: {at:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// When a rule last began to limit.
fn decided(log: &str) -> Option<i64> {
    let line = log.lines().rev().find(|line| line.contains("a rule moved") && line.contains("to=Limiting"))?;
    let time = line.split_whitespace().find_map(|word| word.parse::<Timestamp>().ok())?;
    i64::try_from(time.as_nanosecond()).ok()
}

/// The leader killed, and told to end, while a limit is in force under load.
async fn taken_over(cluster: &Cluster) -> anyhow::Result<Vec<Row>> {
    let rules = "- name: hot\n  when: cpu > 60% for 300ms until cpu < 30% for 300ms\n  limit: 160 requests per second across all pods";
    let mut pair = Pair::install(cluster, rules).await;
    let proxies = pair.proxies().await;
    let load = Load::start(pair.service.pods.iter().map(|pod| pod.inbound), OFFERED);
    let (mut next, mut changed) = (Vec::new(), 0);
    limiting(&pair).await;
    let began = load.counts();
    for _ in 0..ROUNDS {
        let leader = limiting(&pair).await;
        let (other, before) = (1 - leader, held(&proxies).await);
        pair.weirs[leader].take().context("it runs")?.kill().await?;
        let killed = clock::now();
        pair.streams(other, 2.0).await;
        changed += held(&proxies).await.iter().zip(&before).filter(|(now, before)| now != before).count();
        pair.service.burn(0.0);
        let key = pair.key();
        pair.weir(other)
            .until(SOON, "it decides", |status| match status.phase(&key, "hot", "Limiting") {
                Ok(_) => Err("not yet".to_owned()),
                Err(_) => Ok(()),
            })
            .await;
        next.push(clock::now() - killed);
        pair.start(leader).await;
    }
    let (mut leads, mut there) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let leader = limiting(&pair).await;
        let (other, before) = (1 - leader, held(&proxies).await);
        let weir = pair.weirs[leader].take().context("it runs")?;
        let told = clock::now();
        let stopping = tokio::spawn(weir.stop());
        let (decides, streams) = tokio::join!(
            async {
                eventually(SOON, "the other decides", async || {
                    let leads = pair.weir(other).metric("weir_replica_leads").await;
                    if leads > 0.5 { Ok(clock::now() - told) } else { Err(leads) }
                })
                .await
            },
            async {
                pair.streams(other, 2.0).await;
                clock::now() - told
            }
        );
        leads.push(decides);
        there.push(streams);
        stopping.await??;
        changed += held(&proxies).await.iter().zip(&before).filter(|(now, before)| now != before).count();
        pair.start(leader).await;
    }
    let sum =
        |of: fn(&Count) -> u64| load.counts().iter().zip(&began).map(|(now, began)| of(now) - of(began)).sum::<u64>();
    let (failed, asked) = (sum(|count| count.failed), sum(|count| count.admitted + count.refused + count.failed));
    let (next, leads, there) = (Durations::new(next)?, Durations::new(leads)?, Durations::new(there)?);
    let worst = |times: &Durations| {
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        format!("{} (p50 {})", seconds(times.max()), seconds(times.percentile(50)))
    };
    Ok(vec![
        Row::goal(
            format!("leader killed to the next decision, worst of {ROUNDS}"),
            "at most 8 s",
            worst(&next),
            next.max() <= Duration::from_secs(8),
        ),
        Row::plain(format!("SIGTERM to the leader until the other decides, worst of {ROUNDS}"), worst(&leads)),
        Row::plain(
            format!("SIGTERM to the leader until both proxies are at the other, worst of {ROUNDS}"),
            worst(&there),
        ),
        Row::goal(
            format!("requests that failed in these {} rounds", 2 * ROUNDS),
            "0",
            format!("{failed} of {asked}"),
            failed == 0,
        ),
        Row::goal(
            "proxies that held something else after it, down to the moment of the last update",
            "0",
            changed.to_string(),
            changed == 0,
        ),
    ])
}

/// Waits until two replicas are linked and the limit is in force; the one that leads.
async fn limiting(pair: &Pair<'_>) -> usize {
    pair.service.burn(0.9);
    let leader = pair.leader().await;
    pair.linked(1 - leader).await;
    pair.until(leader, "Limiting").await;
    leader
}
