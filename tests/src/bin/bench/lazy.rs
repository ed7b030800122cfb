//! One caller in a mesh of which it calls twenty services: its proxy has everything from the start, or what is listed, or what is called.
//!
//! A whole `weir run` and real Envoys, all forms in one run. Memory is what Envoy itself says is allocated, resources are counted on its
//! admin page. Every service leads to one small server, so that a service costs what its configuration costs.

mod caller;

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use testkit::{mesh::put, temp_dir, weir::Weir};
use tokio::task::JoinSet;

use self::caller::{Caller, Form, Memory};
use crate::{
    http,
    mesh::NAMESPACE,
    report::{Durations, Row, ms},
};

/// Services of the mesh, and how many of them are called.
const MESHES: [usize; 2] = [1_000, 5_000];
const USED: usize = 20;
/// Services that are called for the first time, one after the other; then again and again.
const COLD: std::ops::Range<usize> = 100..300;
const WARM_ROUNDS: usize = 5;
/// Services that are called for the first time all at once.
const AT_ONCE: std::ops::Range<usize> = 300..350;
/// What reaches a proxy after a change reaches it within this.
const WINDOW: Duration = Duration::from_secs(3);
/// Bytes of what keeps a connection alive in that time.
const PINGS: u64 = 64;
/// Nobody calls it.
const UNRELATED: &str = "unrelated";

pub(crate) fn run() -> anyhow::Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let upstream = http::spawn_upstream()?;
    let mut rows = Vec::new();
    for services in MESHES {
        eprintln!("a mesh of {services} services");
        rows.extend(runtime.block_on(memory(services, upstream))?);
    }
    rows.extend(runtime.block_on(calls(MESHES[0], upstream))?);
    Ok(rows)
}

/// A folder with so many services, and a caller for each form; a `weir run` on it.
struct Mesh {
    folder: tempfile::TempDir,
    weir: Weir,
    upstream: SocketAddr,
}

impl Mesh {
    async fn start(services: usize, upstream: SocketAddr) -> Self {
        let folder = temp_dir();
        let text: String = (0..services - 1).map(|n| service(&format!("s{n}"), upstream, &["127.0.0.1"])).collect();
        put(folder.path(), "services.yaml", &text);
        put(folder.path(), "unrelated.yaml", &service(UNRELATED, upstream, &["127.0.0.1"]));
        let weir = Weir::start(folder.path(), &[]).await;
        Self { folder, weir, upstream }
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    async fn caller(&self, form: Form) -> anyhow::Result<Caller> {
        Caller::start(form, self.folder(), self.weir.xds, self.upstream, &host(0)).await
    }
}

fn host(service: usize) -> String {
    format!("s{service}")
}

fn service(name: &str, upstream: SocketAddr, addresses: &[&str]) -> String {
    let port = upstream.port();
    let mut text = format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec: {{ports: [{{name: http, port: 80, targetPort: {port}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: {NAMESPACE}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints:
"
    );
    for (pod, address) in addresses.iter().enumerate() {
        let _ = writeln!(text, "- {{addresses: [{address}], targetRef: {{kind: Pod, name: {name}-{pod}}}}}");
    }
    text
}

/// Memory and time to start of each form.
async fn memory(services: usize, upstream: SocketAddr) -> anyhow::Result<Vec<Row>> {
    let mesh = Mesh::start(services, upstream).await;
    let mut rows = Vec::new();
    let mut measured: Vec<(Form, Memory)> = Vec::new();
    for form in Form::ALL {
        eprintln!("{services} services: {}", form.name());
        let caller = mesh.caller(form).await?;
        if form != Form::Nothing {
            for used in 0..USED {
                anyhow::ensure!(caller.get(&host(used)).await? == 200, "{} does not answer", host(used));
            }
        }
        let memory = caller.memory().await?;
        eprintln!("  {} allocated, first answer after {}", mb(memory.allocated), ms(caller.first_answer));
        rows.push(Row::plain(
            format!("{services} services, {USED} of them called: {}", form.name()),
            format!(
                "{} allocated, {} clusters, first answer {} after the start",
                mb(memory.allocated),
                memory.clusters,
                ms(caller.first_answer)
            ),
        ));
        measured.push((form, memory));
    }
    let allocated = |form| measured.iter().find(|(of, _)| *of == form).map_or(0, |(_, memory)| memory.allocated);
    let (full, nothing) = (allocated(Form::Deferred), allocated(Form::Nothing));
    for form in [Form::Declared, Form::OnDemand] {
        let less = |of: u64, than: u64| 100.0 * (1.0 - of as f64 / than.max(1) as f64);
        let all = less(allocated(form), full);
        let above = less(allocated(form).saturating_sub(nothing), full.saturating_sub(nothing));
        rows.push(Row::goal(
            format!("{services} services: {} against {}", form.name(), Form::Deferred.name()),
            "at least 85 % less allocated",
            format!("{all:.1} % less ({above:.1} % above a proxy without a way out)"),
            all >= 85.0,
        ));
    }
    Ok(rows)
}

/// What a first call costs, and what a change elsewhere does.
async fn calls(services: usize, upstream: SocketAddr) -> anyhow::Result<Vec<Row>> {
    let mesh = Mesh::start(services, upstream).await;
    let eager = mesh.caller(Form::Statistics).await?;
    let lazy = mesh.caller(Form::OnDemand).await?;
    let mut rows = Vec::new();
    let [eager_first, lazy_first] = [&eager, &lazy].map(|caller| latencies(caller, 1));
    let (eager_first, lazy_first) = (eager_first.await?, lazy_first.await?);
    let added = |percent| lazy_first.percentile(percent).saturating_sub(eager_first.percentile(percent));
    rows.push(Row::goal(
        format!("first call of {} services, p50 (p99): on demand against everything", lazy_first.count()),
        "at most 5 (20) ms more",
        format!(
            "{} ({}) against {} ({})",
            ms(lazy_first.percentile(50)),
            ms(lazy_first.percentile(99)),
            ms(eager_first.percentile(50)),
            ms(eager_first.percentile(99))
        ),
        added(50) <= Duration::from_millis(5) && added(99) <= Duration::from_millis(20),
    ));
    let (eager_warm, lazy_warm) = (latencies(&eager, WARM_ROUNDS).await?, latencies(&lazy, WARM_ROUNDS).await?);
    rows.push(Row::plain(
        format!("{} later calls, p50 (p99): on demand against everything", lazy_warm.count()),
        format!(
            "{} ({}) against {} ({})",
            ms(lazy_warm.percentile(50)),
            ms(lazy_warm.percentile(99)),
            ms(eager_warm.percentile(50)),
            ms(eager_warm.percentile(99))
        ),
    ));
    for (caller, what) in [(&eager, "everything"), (&lazy, "on demand")] {
        let worst = at_once(caller).await?;
        rows.push(Row::plain(
            format!("{} services called for the first time at once: {what}", worst.count()),
            format!("all answered 200; median {}, worst {}", ms(worst.percentile(50)), ms(worst.max())),
        ));
    }
    rows.extend(unrelated(&mesh, &eager, &lazy).await?);
    Ok(rows)
}

/// How long calls of services take, one after the other.
async fn latencies(caller: &Caller, rounds: usize) -> anyhow::Result<Durations> {
    let mut connection = http::Connection::open(caller.address, None).await?;
    let mut latencies = Vec::new();
    for _ in 0..rounds {
        for service in COLD {
            let begun = Instant::now();
            connection.send(&caller::request(&host(service))).await?;
            let status = connection.status().await?;
            latencies.push(begun.elapsed());
            anyhow::ensure!(status == 200, "{} is answered {status}", host(service));
        }
    }
    Durations::new(latencies)
}

async fn at_once(caller: &Caller) -> anyhow::Result<Durations> {
    let address = caller.address;
    let mut connections = Vec::new();
    for service in AT_ONCE {
        connections.push((host(service), http::Connection::open(address, None).await?));
    }
    let mut tasks = JoinSet::new();
    for (host, mut connection) in connections {
        tasks.spawn(async move {
            let begun = Instant::now();
            connection.send(&caller::request(&host)).await?;
            let status = connection.status().await?;
            anyhow::ensure!(status == 200, "{host} is answered {status}");
            Ok(begun.elapsed())
        });
    }
    let mut holds = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        holds.push(ended??);
    }
    Durations::new(holds)
}

/// What reaches proxies when the endpoints of a service change that they do not call.
async fn unrelated(mesh: &Mesh, eager: &Caller, lazy: &Caller) -> anyhow::Result<Vec<Row>> {
    let bytes = async || anyhow::Ok([eager.received().await?, lazy.received().await?]);
    let sent = async || mesh.weir.metric("weir_xds_resources_total").await;
    let begun = bytes().await?;
    tokio::time::sleep(WINDOW).await;
    let (before, resources) = (bytes().await?, sent().await);
    put(mesh.folder(), "unrelated.yaml", &service(UNRELATED, mesh.upstream, &["127.0.0.1", "127.0.0.2"]));
    tokio::time::sleep(WINDOW).await;
    let (after, resources) = (bytes().await?, sent().await - resources);
    let [to_eager, to_lazy] = [0, 1].map(|at| {
        let silence = before[at].saturating_sub(begun[at]);
        (after[at].saturating_sub(before[at]), silence)
    });
    let shown = |(change, silence): (u64, u64)| format!("{change} bytes ({silence} in as long without a change)");
    let what = "an endpoint of a service that is not called changes:";
    Ok(vec![
        Row::plain(format!("{what} everything"), shown(to_eager)),
        // Envoy and Weir ask each other whether they are there, every five and ten seconds.
        Row::goal(format!("{what} on demand"), "0 bytes", shown(to_lazy), to_lazy.0 <= to_lazy.1 + PINGS),
        Row::goal(format!("{what} resources sent to both"), "1, to the first", resources.to_string(), resources == 1.0),
    ])
}

fn mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
