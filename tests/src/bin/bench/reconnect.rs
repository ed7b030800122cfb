//! A whole `weir run` is killed and started again: 1,000 delta streams over TLS come back and say what they have.
//!
//! Clients try again as Envoy does, by the bootstrap's backoff: at random within 0.1 s, then within twice of it, up to 0.5 s. Where
//! nothing is to be sent the protocol says nothing, so each asks at last for a name that is not there: the answer comes after
//! whatever was sent again.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use operator::xds::{
    ResourceType,
    client::{DeltaClient, versions},
};
use testkit::{
    authority::{Authority, Signed},
    dial,
    mesh::put,
    ports, temp_dir,
    weir::Weir,
};
use tokio::{sync::watch, task::JoinSet};
use tonic::metadata::MetadataMap;

use crate::{
    clock, mesh,
    report::{Durations, Row, ms},
    streams::{Arrivals, follows},
};

const STREAMS: usize = 1000;
const ROUNDS: usize = 5;
const NAME: &str = "weir.example";
/// A name that no proxy has.
const MARKER: &str = "none/of/these";
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));
/// What is sent late is counted, too.
const QUIET: Duration = Duration::from_secs(1);

pub(crate) fn run() -> anyhow::Result<Vec<Row>> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let local = tokio::task::LocalSet::new();
        local.run_until(measure()).await
    })
}

/// What all clients share.
struct Mesh {
    address: SocketAddr,
    authorities: String,
    arrivals: Arrivals,
    /// Resources that were sent.
    sent: AtomicUsize,
}

async fn measure() -> anyhow::Result<Vec<Row>> {
    let (config, certificates, state) = (temp_dir(), temp_dir(), temp_dir());
    let rule = "name: all, limit: 10 requests per second per pod".to_owned();
    put(config.path(), "service.yaml", &mesh::service(mesh::SERVICE, STREAMS));
    put(config.path(), "policy.yaml", &mesh::policy("all", mesh::SERVICE, &[rule]));
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let own = servers.server(NAME, -1, 30);
    put(certificates.path(), "tls.crt", &own.certificate);
    put(certificates.path(), "tls.key", &own.key);
    put(certificates.path(), "clients.crt", clients.pem());
    let (xds, admin) = (ports::free(), ports::free());
    let start = || start(config.path(), certificates.path(), state.path(), xds, admin);
    let mut weir = start();
    weir.ready().await;

    eprintln!("connecting {STREAMS} streams");
    let mesh = Arc::new(Mesh {
        address: xds,
        authorities: servers.pem().to_owned(),
        arrivals: Arrivals::new(STREAMS),
        sent: AtomicUsize::new(0),
    });
    let mut tasks = JoinSet::new();
    for pod in 0..STREAMS {
        let name = format!("{}-{pod}", mesh::SERVICE);
        let signed = clients.client(&format!("{}/{name}", mesh::NAMESPACE), None);
        let node = format!("{}/{}/{name}", mesh::NAMESPACE, mesh::SERVICE);
        let mesh = mesh.clone();
        tasks.spawn(async move { client(&mesh, &node, &signed, pod).await.with_context(|| node.clone()) });
    }
    let all = async |tasks: &mut JoinSet<anyhow::Result<()>>| {
        tokio::select! {
            all = mesh.arrivals.all() => all,
            Some(ended) = tasks.join_next() => { ended??; anyhow::bail!("a client ended") }
        }
    };
    all(&mut tasks).await?;
    let first = mesh.sent.load(Ordering::Relaxed);
    anyhow::ensure!(first >= 4 * STREAMS, "a client had less than four resources: {first} in all");

    let (mut from_kill, mut from_ready, mut sent_again) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        tokio::time::sleep(QUIET).await;
        mesh.arrivals.begin();
        mesh.sent.store(0, Ordering::Relaxed);
        let (ready_tx, mut ready_rx) = watch::channel(None);
        weir.kill().await?;
        let killed = clock::now();
        weir = start();
        // Whether it is ready is asked beside the clients, not by one that waits for them.
        let waiting = async {
            weir.ready().await;
            ready_tx.send_replace(Some(clock::now()));
        };
        let (last, ()) = tokio::join!(all(&mut tasks), waiting);
        let (last, ready) = (last?, ready_rx.borrow_and_update().context("it is ready")?);
        tokio::time::sleep(QUIET).await;
        from_kill.push(last.saturating_sub(killed));
        from_ready.push(last.saturating_sub(ready));
        sent_again += mesh.sent.load(Ordering::Relaxed);
    }
    weir.stop().await?;
    let (from_kill, from_ready) = (Durations::new(from_kill)?, Durations::new(from_ready)?);
    Ok(vec![
        Row::goal(
            format!(
                "Weir killed and started, to the last of {STREAMS} streams over TLS confirmed, median (max) of {ROUNDS}"
            ),
            "at most 3 s",
            format!("{} ({})", ms(from_kill.percentile(50)), ms(from_kill.max())),
            from_kill.max() <= Duration::from_secs(3),
        ),
        Row::plain(
            "the same from when it is ready",
            format!("{} ({})", ms(from_ready.percentile(50)), ms(from_ready.max())),
        ),
        Row::goal(
            format!("resources sent again, of {} that they have, in all {ROUNDS}", first * ROUNDS),
            "0",
            sent_again.to_string(),
            sent_again == 0,
        ),
    ])
}

fn start(config: &Path, certificates: &Path, state: &Path, xds: SocketAddr, admin: SocketAddr) -> Weir {
    let clients = certificates.join("clients.crt");
    let [certificates, clients, state] = [certificates, clients.as_path(), state].map(|path| path.to_string_lossy());
    let arguments = ["--certificate-dir", &certificates, "--xds-client-ca", &clients, "--state-dir", &state];
    Weir::spawn(config, xds, admin, &arguments)
}

/// Connects again and again, each time with what it has.
async fn client(mesh: &Mesh, node: &str, own: &Signed, seed: usize) -> anyhow::Result<()> {
    let mut held: BTreeMap<ResourceType, BTreeMap<String, String>> = BTreeMap::new();
    let mut random = seed as u64 + 1;
    loop {
        let mut within = BACKOFF.0;
        let client = loop {
            let opened = match dial::dial(mesh.address, NAME, &mesh.authorities, Some(own)).await {
                Ok(channel) => DeltaClient::open_with(channel, node, MetadataMap::new()).await.ok(),
                Err(_) => None,
            };
            if let Some(client) = opened {
                break client;
            }
            // xorshift
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            tokio::time::sleep(within.mul_f64((random % 1000) as f64 / 1000.0)).await;
            within = (within * 2).min(BACKOFF.1);
        };
        // It ends when Weir does.
        let _ = stream(mesh, client, &mut held).await;
    }
}

async fn stream(
    mesh: &Mesh,
    mut client: DeltaClient,
    held: &mut BTreeMap<ResourceType, BTreeMap<String, String>>,
) -> anyhow::Result<()> {
    let is_new = held.is_empty();
    for resource_type in [ResourceType::Cluster, ResourceType::Endpoints, ResourceType::Listener, ResourceType::Route] {
        let wildcard = matches!(resource_type, ResourceType::Cluster | ResourceType::Listener);
        let has = held.get(&resource_type);
        if !wildcard && has.is_none() {
            continue;
        }
        let has: Vec<(&str, &str)> =
            has.into_iter().flatten().map(|(name, version)| (name.as_str(), version.as_str())).collect();
        let names: Vec<&str> = has.iter().map(|(name, _)| *name).filter(|_| !wildcard).collect();
        client.resume(resource_type, &names, &has).await?;
    }
    if !is_new {
        client.subscribe(ResourceType::Route, &[MARKER]).await?;
    }
    loop {
        let response = client.next().await?;
        let Some(resource_type) = ResourceType::from_type_url(&response.type_url) else { continue };
        mesh.sent.fetch_add(response.resources.len(), Ordering::Relaxed);
        let marked = response.removed_resources.iter().any(|name| name == MARKER);
        client.ack(&response).await?;
        let new = versions(&response);
        if let Some(follows) = follows(resource_type).filter(|_| is_new) {
            let names: Vec<&str> = new.iter().map(|(name, _)| name.as_str()).collect();
            client.subscribe(follows, &names).await?;
        }
        let has_all = is_new && resource_type == ResourceType::Route && !new.is_empty();
        held.entry(resource_type).or_default().extend(new);
        if marked || has_all {
            mesh.arrivals.arrived();
        }
    }
}
