//! Weir on a real Kubernetes API server: what a mesh of 1,000 Services costs, and how soon an applied limit is enforced.
//!
//! The objects are written to the API server before Weir starts; nothing stands behind their addresses but one Service with a
//! real Envoy. Writes are counted from the API server's audit log.

mod load;

use std::{path::Path, time::Duration};

use anyhow::Context;
use operator::xds::{ResourceType, client::DeltaClient};
use testkit::{cluster::Cluster, mesh, ports, ports::Network, proxy::Proxy, weir::Weir};

use crate::{
    clock,
    http::{Connection, request},
    in_a_task,
    report::{Durations, Row, ms},
};

const SERVICES: usize = 1000;
const ENDPOINTS: usize = 10;
const POLICIES: usize = 500;
/// One window for CPU and for writes.
const IDLE: Duration = Duration::from_secs(60);
/// Until what follows a start has been written and collected.
const SETTLE: Duration = Duration::from_secs(30);
const CHURN: Duration = Duration::from_secs(20);
const CHANGES_A_SECOND: u32 = 50;
const APPLIES: usize = 60;
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run() -> anyhow::Result<Vec<Row>> {
    in_a_task(measure())
}

async fn measure() -> anyhow::Result<Vec<Row>> {
    let cluster = Cluster::start().await;
    cluster.install_crds().await;
    let mut rows = applied(&cluster).await?;
    eprintln!("writing {SERVICES} Services with {ENDPOINTS} pods each and {POLICIES} SmartLimiters to the API server");
    load::write(cluster.client().await, SERVICES, ENDPOINTS, POLICIES).await?;
    rows.extend(mesh_of_a_thousand(&cluster).await?);
    Ok(rows)
}

/// From `kubectl apply` to the first 429.
async fn applied(cluster: &Cluster) -> anyhow::Result<Vec<Row>> {
    let namespace = cluster.namespace("bench").await;
    let service = mesh::Service::start_in(Network::routable(), &namespace, "cart", 1).await;
    cluster.put(&service).await;
    let weir = Weir::watch(cluster.kubeconfig(), &["--namespace", &namespace]).await;
    let _proxy = Proxy::start(&weir, &service, 0).await;
    let limit = mesh::limiter(&namespace, "cart", "- name: all\n  limit: 1 request per day per pod");
    let mut connection = Connection::open(service.pods[0].inbound, None).await?;
    let mut times = Vec::new();
    for _ in 0..APPLIES {
        cluster.apply(&limit).await?;
        let returned = clock::now();
        times.push(until(&mut connection, 429).await?.saturating_sub(returned));
        cluster.kubectl(&["delete", "wsl", "cart", "--namespace", &namespace]).await?;
        until(&mut connection, 200).await?;
    }
    weir.stop().await?;
    let times = Durations::new(times)?;
    let p99 = times.percentile(99);
    Ok(vec![Row::goal(
        format!("`kubectl apply` returned to the first 429, p99 of {}", times.count()),
        "at most 300 ms",
        format!("{} (p50 {}, max {})", ms(p99), ms(times.percentile(50)), ms(times.max())),
        p99 <= Duration::from_millis(300),
    )])
}

/// When the first answer with this status came.
async fn until(connection: &mut Connection, status: u16) -> anyhow::Result<Duration> {
    let request = request("/");
    let deadline = clock::now() + PATIENCE;
    loop {
        connection.send(&request).await?;
        if connection.status().await? == status {
            return Ok(clock::now());
        }
        anyhow::ensure!(clock::now() < deadline, "no answer {status} within {PATIENCE:?}");
    }
}

async fn mesh_of_a_thousand(cluster: &Cluster) -> anyhow::Result<Vec<Row>> {
    let began = clock::now();
    let mut weir = Weir::spawn_watch(cluster.kubeconfig(), ports::free(), ports::free(), &[]);
    weir.ready().await;
    let ready = clock::now() - began;
    let process = weir.id().context("weir has ended")?;
    let cpu = || clock::cpu_of(process).context("weir has ended");

    tokio::time::sleep(SETTLE).await;
    let (mark, before) = (cluster.mark(), cpu()?);
    tokio::time::sleep(IDLE).await;
    let idle = (cpu()? - before).as_secs_f64() / IDLE.as_secs_f64();
    let ours = |entry: &testkit::cluster::audit::Entry| entry.user_agent.starts_with("weir/") && entry.writes();
    let writes = cluster.audit(mark).into_iter().filter(ours).count();

    // A proxy of a service that nothing touches.
    let node = format!("{}/s{}/s{}-0", load::namespace(SERVICES - 1), SERVICES - 1, SERVICES - 1);
    let mut bystander = DeltaClient::connect(weir.xds, &node).await?;
    for kind in [ResourceType::Cluster, ResourceType::Listener] {
        bystander.subscribe(kind, &["*"]).await?;
        let response =
            tokio::time::timeout(PATIENCE, bystander.next()).await.context("nothing for the bystander")??;
        bystander.ack(&response).await?;
    }
    let before = (cpu()?, weir.metric("weir_builds_total").await);
    let changes = load::churn(cluster.client().await, CHURN, CHANGES_A_SECOND).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let used = (cpu()? - before.0).as_secs_f64() / CHURN.as_secs_f64();
    let builds = weir.metric("weir_builds_total").await - before.1;
    let disturbed = tokio::time::timeout(Duration::from_millis(100), bystander.next()).await.is_ok();
    let resident = resident_mib(process)?;
    weir.stop().await?;

    Ok(vec![
        Row::goal("start to ready", "at most 10 s", format!("{:.2} s", ready.as_secs_f64()), ready.as_secs() < 10),
        Row::goal("memory", "at most 300 MB", format!("{resident:.0} MB"), resident <= 300.0),
        Row::goal("CPU while idle", "at most 1 % of a core", format!("{:.2} %", idle * 100.0), idle <= 0.01),
        Row::goal("API writes a minute while idle", "0", writes.to_string(), writes == 0),
        Row::goal(
            format!("services built for {changes} changed endpoints"),
            "one for each at most",
            format!("{builds:.0}"),
            builds > 0.0 && builds <= changes as f64,
        ),
        Row::goal("messages to the proxy of another service", "0", u8::from(disturbed).to_string(), !disturbed),
        Row::goal(
            format!("CPU at {CHANGES_A_SECOND} changes a second"),
            "at most 10 % of a core",
            format!("{:.1} %", used * 100.0),
            used <= 0.1,
        ),
    ])
}

/// The most memory that a process had resident.
fn resident_mib(process: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1000.0)
}
