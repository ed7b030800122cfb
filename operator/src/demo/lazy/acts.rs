//! What is played, act by act, and what is measured meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};

use super::{
    CALLERS,
    caller::Caller,
    findings::{Findings, Forgetting, Holding, Restart, Side, megabytes, millis, seconds},
    mesh::Mesh,
    steady::{PER_SECOND, Steady},
};
use crate::{
    demo::{get, say, stage::Stage},
    metrics::text::{Found, Wanted, scan},
};

/// How long a proxy may take to have what it starts with, and to come back to Weir.
const PATIENCE: Duration = Duration::from_secs(60);
/// Calls of each service after the first.
const LATER: usize = 10;
/// Nothing is known of it.
const UNKNOWN: &str = "nowhere.demo";
/// When what is not forgotten is given up on.
const FORGETS: Duration = Duration::from_secs(45);
/// How long Weir stays away, and how long is looked at what it sends when it is back.
const LOOK: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(250);
/// Something is said at least this often.
const LINE: Duration = Duration::from_secs(3);

/// Plays everything. Processes that are started stay.
pub(super) async fn play(
    stage: &mut Stage,
    mesh: &Mesh,
    callers: &mut [Caller; CALLERS],
    admin: SocketAddr,
) -> anyhow::Result<Findings> {
    let mut findings = Findings { services: mesh.services(), called: mesh.called(), ..Findings::default() };
    start(stage, callers, &mut findings).await?;
    calls(callers, &mut findings).await?;
    let last_call = Instant::now();
    for (caller, side) in callers.iter().zip(&mut findings.sides) {
        side.after_calls = holding(caller).await?;
    }
    show_calls(&findings);
    unknown(callers, &mut findings).await;
    let [kept, other, ..] = &*findings.called else { bail!("too few services are called") };
    let (kept, other) = (kept.clone(), other.clone());
    let steady = Steady::begin(&kept, callers)?;
    forgetting(stage, callers, &steady, (kept, other.clone()), last_call, &mut findings).await?;
    let forgotten = steady.seconds();
    restart(stage, callers, &steady, &other, admin, &mut findings).await?;
    let report = steady.end().await?;
    for (target, side) in report.targets.iter().zip(&mut findings.sides) {
        side.while_forgetting = target.sum(0..forgotten);
        side.while_restarting = target.sum(forgotten..usize::MAX);
    }
    Ok(findings)
}

/// Weir, then the proxies one after the other, so that each has the machine for itself.
async fn start(stage: &mut Stage, callers: &mut [Caller; CALLERS], findings: &mut Findings) -> anyhow::Result<()> {
    say("1. Weir and both proxies start");
    let begun = Instant::now();
    stage.start_weir("weir")?;
    stage.weir_is_ready().await?;
    say(&format!("   weir   has read {} services after {}", findings.services, seconds(begun.elapsed())));
    let has = [findings.services, 0];
    for ((caller, side), least) in callers.iter_mut().zip(&mut findings.sides).zip(has) {
        let begun = Instant::now();
        stage.start_proxy(caller.name, &caller.pod(), caller.admin)?;
        stage.answered(caller.admin, "/ready").await?;
        let ready = complete(stage, caller, begun, least).await?;
        *side = Side { name: caller.name, ready, at_start: holding(caller).await?, ..Side::default() };
        let Holding { clusters, allocated } = &side.at_start;
        let (name, ready, allocated) = (side.name, seconds(ready), megabytes(*allocated));
        say(&format!(
            "   {name:<6} is ready after {ready}, with {} clusters and {allocated} allocated",
            clusters.len()
        ));
    }
    Ok(())
}

/// Waits until a proxy takes requests and has clusters of at least so many services: how long after `begun`.
async fn complete(stage: &mut Stage, caller: &mut Caller, begun: Instant, least: usize) -> anyhow::Result<Duration> {
    loop {
        stage.check()?;
        let opened = caller.open().await;
        let ready = begun.elapsed();
        let state = match opened {
            Ok(()) => match caller.clusters().await?.len() {
                clusters if clusters >= least => return Ok(ready),
                clusters => format!("it has clusters of {clusters} services of {least}"),
            },
            Err(error) => format!("{error:#}"),
        };
        if ready > PATIENCE {
            bail!("the proxy of {} is not ready after {} s: {state}", caller.name, PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn holding(caller: &Caller) -> anyhow::Result<Holding> {
    let allocated = caller.allocated().await?;
    Ok(Holding { clusters: caller.clusters().await?.into_iter().collect(), allocated })
}

/// Each service once, through one proxy and then the other, then again and again.
async fn calls(callers: &mut [Caller; CALLERS], findings: &mut Findings) -> anyhow::Result<()> {
    say(&format!("2. {} services are called, one after the other, through both", findings.called.len()));
    findings.note(findings.sides[1].at_start.clusters.len());
    for service in &findings.called.clone() {
        for (caller, side) in callers.iter_mut().zip(&mut findings.sides) {
            side.first.add(service, &caller.call(service).await);
        }
        let clusters = callers[1].clusters().await?.len();
        findings.grown.push(clusters);
        findings.note(clusters);
    }
    for _ in 0..LATER {
        for service in &findings.called {
            for (caller, side) in callers.iter_mut().zip(&mut findings.sides) {
                side.later.add(service, &caller.call(service).await);
            }
        }
    }
    Ok(())
}

fn show_calls(findings: &Findings) {
    for side in &findings.sides {
        let Side { name, first, later, after_calls, .. } = side;
        say(&format!(
            "   {name:<6} first calls: median {}, worst {}; {} later ones: median {}, worst {}; now {} clusters, {} allocated",
            millis(first.median()),
            millis(first.worst()),
            later.count(),
            millis(later.median()),
            millis(later.worst()),
            after_calls.clusters.len(),
            megabytes(after_calls.allocated)
        ));
    }
    let grown: Vec<String> = findings.grown.iter().map(usize::to_string).collect();
    say(&format!("   clusters of `lazy` after each first call: {}", grown.join(" ")));
}

async fn unknown(callers: &mut [Caller; CALLERS], findings: &mut Findings) {
    say(&format!("3. a host that nothing is known of is called: {UNKNOWN}"));
    let answer = callers[1].call(UNKNOWN).await;
    let words = answer.body.trim().split(';').next().unwrap_or_default();
    say(&format!("   lazy   answers {} after {}: {words}", answer.status, millis(answer.after)));
    findings.unknown = answer;
}

/// Waits until only the service that is called all the time is left, then calls another one again.
async fn forgetting(
    stage: &mut Stage,
    callers: &mut [Caller; CALLERS],
    steady: &Steady,
    (kept, other): (String, String),
    last_call: Instant,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    say(&format!(
        "4. from now on only {kept} is called, {PER_SECOND} times a second through each; what is not called is forgotten"
    ));
    let wanted = BTreeSet::from([kept.clone()]);
    let (mut shown, mut line) = (None, Instant::now());
    let (after, left) = loop {
        stage.check()?;
        let clusters = callers[1].clusters().await?;
        findings.note(clusters.len());
        let after = last_call.elapsed();
        if shown != Some(clusters.len()) || line.elapsed() > LINE {
            (shown, line) = (Some(clusters.len()), Instant::now());
            say(&format!(
                "   {:>4.0} s: `lazy` has {} clusters; {}",
                after.as_secs_f64(),
                clusters.len(),
                steady.so_far()
            ));
        }
        if clusters == wanted {
            break (Some(after), clusters);
        }
        if after > FORGETS {
            break (None, clusters);
        }
        tokio::time::sleep(TICK).await;
    };
    let allocated = callers[1].allocated().await?;
    let again = callers[1].call(&other).await;
    let clusters_again: Vec<String> = callers[1].clusters().await?.into_iter().collect();
    findings.note(clusters_again.len());
    say(&format!(
        "   {} allocated; {other} is called again: {} after {}, and `lazy` has {} clusters",
        megabytes(allocated),
        again.status,
        millis(again.after),
        clusters_again.len()
    ));
    let left = left.into_iter().collect();
    findings.forgetting = Forgetting { kept, other, after, left, again, clusters_again };
    Ok(())
}

/// Kills Weir and starts it again, while calls go on.
async fn restart(
    stage: &mut Stage,
    callers: &mut [Caller; CALLERS],
    steady: &Steady,
    other: &str,
    admin: SocketAddr,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    say("5. Weir is killed, and started again");
    let sent_before = metric(admin, "weir_xds_resources_total").await?;
    let before = held(callers).await?;
    stage.kill_weir().await;
    let killed = Instant::now();
    go_on(stage, callers, other, findings).await?;
    say(&format!("   weir   is gone; {}", steady.so_far()));
    stage.start_weir("weir-again")?;
    stage.weir_is_ready().await?;
    while metric(admin, "weir_xds_streams").await? < CALLERS as f64 {
        stage.check()?;
        ensure!(killed.elapsed() < PATIENCE, "the proxies are not back at Weir after {} s", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    say(&format!("   weir   is back after {}, and both proxies are", seconds(killed.elapsed())));
    go_on(stage, callers, other, findings).await?;
    let sent_after = metric(admin, "weir_xds_resources_total").await?;
    let after = held(callers).await?;
    say(&format!("   weir   has sent {sent_after} resources, {sent_before} before it was killed; {}", steady.so_far()));
    let pairs = callers.iter().zip(before.iter().zip(&after));
    let changed = pairs.filter(|(_, (before, after))| before != after).map(|(caller, _)| caller.name).collect();
    let calls = std::mem::take(&mut findings.restart.calls);
    findings.restart = Restart { sent_before, sent_after, calls, changed };
    Ok(())
}

/// Lets time pass, while both call the other service, so that it is not forgotten.
async fn go_on(
    stage: &mut Stage,
    callers: &mut [Caller; CALLERS],
    service: &str,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let until = Instant::now() + LOOK;
    while Instant::now() < until {
        stage.check()?;
        for caller in &mut *callers {
            findings.restart.calls.add(service, &caller.call(service).await);
        }
        findings.note(callers[1].clusters().await?.len());
        tokio::time::sleep(TICK).await;
    }
    Ok(())
}

async fn held(callers: &[Caller; CALLERS]) -> anyhow::Result<[serde_json::Value; CALLERS]> {
    let [eager, lazy] = callers;
    Ok([eager.held().await?, lazy.held().await?])
}

/// The sum of a metric of Weir's; 0 where there is none.
async fn metric(admin: SocketAddr, name: &str) -> anyhow::Result<f64> {
    let (status, page) = get(admin, "/metrics", Duration::from_secs(5)).await?;
    ensure!(status == 200, "http://{admin}/metrics answers {status}");
    let labels = BTreeMap::new();
    match scan(page.as_bytes(), &[Wanted { name, labels: &labels }])[..] {
        [Found::Sum(sum)] => Ok(sum),
        [Found::Nothing] => Ok(0.0),
        _ => bail!("http://{admin}/metrics: {name} is not a number"),
    }
}
