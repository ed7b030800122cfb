//! Steady load on the proxies, which goes on whatever happens to Weir, and what became of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::timeout};

use crate::{
    clock,
    http::{Connection, request},
};

const PATIENCE: Duration = Duration::from_secs(5);
/// Until a bucket of a tenth of a second is full.
const GAP: Duration = Duration::from_millis(100);

/// What became of requests, at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    pub(super) at: Duration,
    pub(super) admitted: u64,
    pub(super) refused: u64,
    pub(super) failed: u64,
    /// How long nothing was asked, beyond [`GAP`] at a time: this machine was busy, and the bucket full.
    pub(super) stalled: Duration,
}

#[derive(Debug, Default)]
struct Counters {
    admitted: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    stalled_micros: AtomicU64,
}

/// Load on each of several proxies, until it is dropped.
pub(super) struct Load {
    counters: Vec<Arc<Counters>>,
    _tasks: JoinSet<()>,
}

impl Load {
    /// So many requests per second on each of these addresses.
    pub(super) fn start(addresses: impl IntoIterator<Item = SocketAddr>, per_second: u32) -> Self {
        let (mut counters, mut tasks) = (Vec::new(), JoinSet::new());
        for address in addresses {
            let counter = Arc::new(Counters::default());
            counters.push(counter.clone());
            tasks.spawn(ask(address, per_second, counter));
        }
        Self { counters, _tasks: tasks }
    }

    /// For each address.
    pub(super) fn counts(&self) -> Vec<Count> {
        let count = |counters: &Arc<Counters>| Count {
            at: clock::now(),
            admitted: counters.admitted.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            failed: counters.failed.load(Relaxed),
            stalled: Duration::from_micros(counters.stalled_micros.load(Relaxed)),
        };
        self.counters.iter().map(count).collect()
    }
}

async fn ask(address: SocketAddr, per_second: u32, counters: Arc<Counters>) {
    // What was late is made up for, so that the load is what was asked for.
    let mut beat = tokio::time::interval(Duration::from_secs(1) / per_second);
    let request = request("/");
    let (mut connection, mut last) = (None, clock::now());
    loop {
        beat.tick().await;
        let answer = timeout(PATIENCE, async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => Connection::open(address, None).await?,
            };
            open.send(&request).await?;
            let status = open.status().await?;
            connection = Some(open);
            anyhow::Ok(status)
        });
        let counter = match answer.await {
            Ok(Ok(200)) => &counters.admitted,
            Ok(Ok(429)) => &counters.refused,
            other => {
                eprintln!("a request to {address} failed: {other:?}");
                &counters.failed
            }
        };
        counter.fetch_add(1, Relaxed);
        let now = clock::now();
        let stalled = (now - last).saturating_sub(GAP);
        counters.stalled_micros.fetch_add(u64::try_from(stalled.as_micros()).unwrap_or(u64::MAX), Relaxed);
        last = now;
    }
}
