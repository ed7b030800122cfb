//! The task that writes: at most once a second, when there is news, on a thread that may wait for the disk.

use std::{sync::atomic::AtomicU64, time::Duration};

use jiff::Timestamp;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::Counter, gauge::ConstGauge, gauge::Gauge},
    registry::Registry,
};
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until},
};
use tracing::{error, info, warn};

use super::{Detail, Error, Folder, Keeper, Kept, Shared, Waiting, Wants};

/// Between the beginnings of two writes.
const PACE: Duration = Duration::from_secs(1);

/// How keeping goes.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    writes: Counter<u64, AtomicU64>,
    errors: Counter<u64, AtomicU64>,
    damaged: Gauge,
}

impl Metrics {
    /// Shows them on the metrics page, as `weir_checkpoint_…`; the age is that of what `keeper` holds.
    pub fn register(&self, keeper: &Keeper, kept: &Kept, registry: &mut Registry) {
        let damages: usize = kept.damaged.values().map(Vec::len).sum();
        self.damaged.set(i64::try_from(damages).unwrap_or(i64::MAX));
        let registry = registry.sub_registry_with_prefix("weir_checkpoint");
        registry.register("writes", "Files of decisions written", self.writes.clone());
        registry.register("errors", "Attempts to write decisions that failed", self.errors.clone());
        registry.register("damaged", "Damages found in kept decisions at the start", self.damaged.clone());
        registry.register_collector(Box::new(Age(keeper.pending.clone())));
    }

    pub(super) fn written(&self) {
        self.writes.inc();
    }

    pub(super) fn failed(&self) {
        self.errors.inc();
    }

    #[cfg(test)]
    pub(super) fn writes(&self) -> u64 {
        self.writes.get()
    }
}

#[derive(Debug)]
struct Age(Shared);

impl Collector for Age {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let since = self.0.lock().since;
        let age = since.map_or(0.0, |since| Timestamp::now().duration_since(since).as_secs_f64().max(0.0));
        let gauge = ConstGauge::new(age);
        let help = "Seconds for which the oldest decision that is not on disk has waited, 0 when all are";
        gauge.encode(encoder.encode_descriptor("age_seconds", help, None, gauge.metric_type())?)
    }
}

/// Writes to `folder` what the returned keeper is given. The task ends with a last write when the keeper is dropped.
#[must_use]
pub fn spawn(folder: Folder, metrics: Metrics) -> (Keeper, JoinHandle<()>) {
    let (keeper, Waiting { pending, woken }) = Keeper::new(Wants { decisions: Some(Detail::Restart), memories: true });
    (keeper, tokio::spawn(run(folder, pending, woken, metrics)))
}

async fn run(mut folder: Folder, pending: Shared, mut woken: watch::Receiver<()>, metrics: Metrics) {
    let mut failing = false;
    let mut open = true;
    while open {
        if !folder.is_behind() && pending.lock().news.is_empty() {
            open = woken.changed().await.is_ok();
        } else {
            open = woken.has_changed().is_ok();
        }
        let began = Instant::now();
        let news = std::mem::take(&mut pending.lock().news);
        let now = Timestamp::now();
        let written = spawn_blocking(move || {
            folder.take(news, now);
            let written = folder.write(now);
            (folder, written)
        });
        let written = match written.await {
            Ok((back, written)) => {
                folder = back;
                written
            }
            Err(error) => {
                error!(%error, "the writer of decisions broke off; decisions are not kept any more");
                return;
            }
        };
        note(written, &mut failing, &metrics);
        if !failing {
            let mut pending = pending.lock();
            pending.since = (!pending.news.is_empty()).then_some(now);
        }
        if open {
            tokio::select! {
                () = sleep_until(began + PACE) => {}
                // The last write does not wait for its turn.
                () = closed(&mut woken) => {}
            }
        }
    }
}

async fn closed(woken: &mut watch::Receiver<()>) {
    while woken.changed().await.is_ok() {}
}

/// A line when writing begins to fail and one when it works again; every failure is counted.
fn note(written: Result<usize, Error>, failing: &mut bool, metrics: &Metrics) {
    match written {
        Ok(files) => {
            metrics.writes.inc_by(files as u64);
            if std::mem::take(failing) {
                info!("--state-dir: decisions are written again");
            }
        }
        Err(error) => {
            metrics.errors.inc();
            if !std::mem::replace(failing, true) {
                let error = format!("{:#}", anyhow::Error::new(error));
                warn!(%error, "--state-dir: decisions are not kept now; Weir goes on and tries again each second");
            }
        }
    }
}
