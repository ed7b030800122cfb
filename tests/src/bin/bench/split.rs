//! From a moved weight to moved traffic on a real Envoy.
//!
//! All requests for a Service go to one version, then to the other, 250 times each, while two connections of a caller send one request after
//! the other. Time runs from before the builder takes the change to the first answer of the other version, so it includes the translation and
//! one round trip through the proxy.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use testkit::mesh::without_proxy;

use crate::{
    clock,
    http::{self, Connection},
    mesh,
    report::{Durations, Row, ms},
    rig::Rig,
};

const TOGGLES: usize = 250;
const CONNECTIONS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(10);
/// What the versions answer, by which they are told apart.
const ANSWERS: [u16; 2] = [200, 201];

/// When the newest answers of each version came, in nanoseconds; 0: none since it was reset.
#[derive(Debug, Default)]
struct Seen {
    first: [AtomicU64; 2],
    answers: AtomicU64,
    stop: AtomicBool,
}

fn split(to: usize) -> String {
    let weight = |version: usize| u8::from(version == to);
    format!(
        "---\napiVersion: split.smi-spec.io/v1alpha2\nkind: TrafficSplit\nmetadata: {{name: web, namespace: {}}}\n\
         spec: {{service: web, backends: [{{service: v0, weight: {}}}, {{service: v1, weight: {}}}]}}\n",
        mesh::NAMESPACE,
        weight(0),
        weight(1)
    )
}

pub(crate) fn run() -> anyhow::Result<Vec<Row>> {
    let versions =
        [http::spawn_upstream()?, http::spawn_upstream_that("HTTP/1.1 201 OK\r\ncontent-length: 3\r\n\r\nok\n")?];
    let services = ["web", "v0", "v1"].into_iter().zip([versions[0], versions[0], versions[1]]);
    let services =
        services.map(|(name, address)| format!("---\n{}", without_proxy(mesh::NAMESPACE, name, "http", address)));
    let mut rig = Rig::start_calling(&(services.collect::<String>() + &split(0)))?;
    let seen = Arc::new(Seen::default());
    let (address, watched) = (rig.address, seen.clone());
    let load = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let connections = (0..CONNECTIONS).map(|_| ask(address, &watched));
            futures::future::try_join_all(connections).await.map(drop)
        })
    });
    first(&seen.first[0], &load)?;
    let destroyed = rig.connections("downstream_cx_destroy")?;
    let mut moved = Vec::new();
    for toggle in 0..2 * TOGGLES {
        let to = (toggle + 1) % 2;
        let changes = mesh::changes(&split(to))?;
        seen.first[to].store(0, Ordering::Relaxed);
        let start = clock::now();
        rig.apply(changes);
        moved.push(first(&seen.first[to], &load)?.saturating_sub(start));
        // An odd pause, so that toggles do not fall in step with anything.
        std::thread::sleep(Duration::from_micros(3000 + (toggle as u64 * 977) % 5000));
    }
    let closed = rig.connections("downstream_cx_destroy")? - destroyed;
    seen.stop.store(true, Ordering::Relaxed);
    load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
    let moved = Durations::new(moved)?;
    let p99 = moved.percentile(99);
    Ok(vec![
        Row::goal(
            format!("moved weight to moved traffic, p99 of {}", moved.count()),
            "at most 10 ms",
            format!("{} (p50 {}, max {})", ms(p99), ms(moved.percentile(50)), ms(moved.max())),
            p99 <= Duration::from_millis(10),
        ),
        Row::goal(
            format!("connections closed by {} moved weights, of {CONNECTIONS}; requests that failed", 2 * TOGGLES),
            "0; 0",
            format!("{closed}; 0, of {}", seen.answers.load(Ordering::Relaxed)),
            closed == 0,
        ),
    ])
}

fn first(seen: &AtomicU64, load: &JoinHandle<anyhow::Result<()>>) -> anyhow::Result<Duration> {
    let start = clock::now();
    loop {
        match seen.load(Ordering::Relaxed) {
            0 => {}
            at => return Ok(Duration::from_nanos(at)),
        }
        anyhow::ensure!(!load.is_finished(), "a connection was closed or answered wrongly");
        anyhow::ensure!(clock::now() - start < PATIENCE, "no answer of the other version within {PATIENCE:?}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// One request after the other until told to stop.
async fn ask(address: SocketAddr, seen: &Seen) -> anyhow::Result<()> {
    let request = b"GET / HTTP/1.1\r\nhost: web\r\n\r\n";
    let mut connection = Connection::open(address, None).await?;
    while !seen.stop.load(Ordering::Relaxed) {
        connection.send(request).await?;
        let status = connection.status().await?;
        let now = u64::try_from(clock::now().as_nanos()).unwrap_or(u64::MAX);
        seen.answers.fetch_add(1, Ordering::Relaxed);
        let version = ANSWERS.iter().position(|answer| *answer == status);
        let Some(version) = version else { anyhow::bail!("the proxy answered {status}") };
        let _ = seen.first[version].compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }
    Ok(())
}
