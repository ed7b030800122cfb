//! From a step of a metric to the first 429, through a whole `weir run` that scrapes a metrics page as it does by default.
//!
//! The page is scripted: its `process_cpu_seconds_total` grows by 0.1 of the pod's one core, then, from the step on, by all
//! of it. The rule says `cpu > 80%`. In each round the rule has a new name, so that it starts idle with a full bucket; the step
//! comes at a moment that has no fixed place between two reads.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use parking_lot::Mutex;
use testkit::{ports, weir::Weir};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use crate::{
    clock,
    http::{self, Connection, request},
    mesh,
    report::{Durations, Row, ms},
    rig,
};

const ROUNDS: usize = 25;
const IDLE: f64 = 0.1;
const BUSY: f64 = 1.0;
/// The rate of the counter is taken over half a second; after this it knows nothing of the last round.
const FORGOTTEN: Duration = Duration::from_millis(1200);
/// From a written file to the rule in the proxy, with much to spare.
const APPLIED: Duration = Duration::from_millis(500);
/// Requests before the step, all of which must pass.
const EARLY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run() -> anyhow::Result<Vec<Row>> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        // A task, so that a panic of the test kit ends this benchmark and not all of them.
        tokio::spawn(measure()).await?
    })
}

async fn measure() -> anyhow::Result<Vec<Row>> {
    let cpu = Arc::new(Cpu::default());
    let metrics = spawn_page(cpu.clone()).await?;
    let (address, application) = (ports::free(), http::spawn_upstream()?);
    let (config, folder) = (testkit::temp_dir(), testkit::temp_dir());
    std::fs::write(config.path().join("pod.yaml"), rig::pod(address, application, metrics))?;
    write_rule(config.path(), 0)?;
    let weir = Weir::start(config.path(), &[]).await;
    let _envoy = rig::start_envoy(weir.xds, &folder).await?;

    let mut times = Vec::new();
    for round in 1..=ROUNDS {
        cpu.run_at(IDLE);
        tokio::time::sleep(FORGOTTEN).await;
        write_rule(config.path(), round)?;
        // Steps are spread over the interval of reads.
        let spread = Duration::from_millis(((round * 97) % 250) as u64);
        // Until then the rule of the last round may still limit.
        tokio::time::sleep(APPLIED).await;
        let mut connection = Connection::open(address, None).await?;
        let early = until_limited(&mut connection, EARLY + spread).await?;
        anyhow::ensure!(early.is_none(), "limited before the step; the log of weir:\n{}", weir.log());
        let start = clock::now();
        cpu.run_at(BUSY);
        let limited = until_limited(&mut connection, PATIENCE).await?;
        let Some(limited) = limited else {
            anyhow::bail!("no 429 within {PATIENCE:?}; the log of weir:\n{}", weir.log())
        };
        times.push(limited - start);
    }
    weir.stop().await?;

    let times = Durations::new(times)?;
    let worst = times.max();
    Ok(vec![Row::goal(
        format!("step of the CPU to the first 429, worst of {}", times.count()),
        "at most 1 s",
        format!("{} (p50 {}, best {})", ms(worst), ms(times.percentile(50)), ms(times.percentile(1))),
        worst <= Duration::from_secs(1),
    )])
}

/// Replaces the file at once, as editors that mean well do.
fn write_rule(config: &std::path::Path, round: usize) -> anyhow::Result<()> {
    let rule = format!("name: hot-{round}, when: cpu > 80%, limit: 10 requests per second per pod");
    let hidden = config.join(".policy");
    std::fs::write(&hidden, mesh::policy("hot", mesh::SERVICE, &[rule]))?;
    std::fs::rename(hidden, config.join("policy.yaml"))?;
    Ok(())
}

/// Sends a request a millisecond until one is refused, and says when that was.
async fn until_limited(connection: &mut Connection, patience: Duration) -> anyhow::Result<Option<Duration>> {
    let request = request("/");
    let end = clock::now() + patience;
    while clock::now() < end {
        connection.send(&request).await?;
        let answer = timeout(PATIENCE, connection.status()).await.context("the proxy does not answer")?;
        match answer? {
            200 => tokio::time::sleep(Duration::from_millis(1)).await,
            429 => return Ok(Some(clock::now())),
            other => anyhow::bail!("the proxy answered {other}"),
        }
    }
    Ok(None)
}

/// A process that uses this much of a core.
#[derive(Default)]
struct Cpu(Mutex<(Duration, f64, f64)>);

impl Cpu {
    fn run_at(&self, cores: f64) {
        let now = clock::now();
        let mut state = self.0.lock();
        let (since, before, used) = *state;
        *state = (now, cores, used + before * now.saturating_sub(since).as_secs_f64());
    }

    fn seconds(&self) -> f64 {
        let (since, cores, used) = *self.0.lock();
        used + cores * clock::now().saturating_sub(since).as_secs_f64()
    }
}

/// Serves the metrics page on loopback.
async fn spawn_page(cpu: Arc<Cpu>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let cpu = cpu.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                // Each read is one small request.
                while stream.read(&mut buffer).await? > 0 {
                    let page = format!("process_cpu_seconds_total {}\n", cpu.seconds());
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
                        page.len()
                    );
                    stream.write_all(format!("{head}{page}").as_bytes()).await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    Ok(address)
}
