//! What replicas count of each other.

use std::{sync::atomic::AtomicU64, time::Instant};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::role::Standings;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Meters {
    leads: Gauge,
    epoch: Gauge,
    pub(super) followers: Gauge,
    pub(super) linked: Gauge,
    pub(super) told: Counter<u64, AtomicU64>,
    pub(super) taken: Counter<u64, AtomicU64>,
    pub(super) dropped: Counter<u64, AtomicU64>,
    pub(super) skipped: Counter<u64, AtomicU64>,
    pub(super) round_trip: Histogram,
}

/// Upper bounds in seconds: two replicas in one zone need a millisecond or two, one that is busy building some tenths.
const ROUND_TRIPS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

impl Default for Meters {
    fn default() -> Self {
        Self {
            leads: Gauge::default(),
            epoch: Gauge::default(),
            followers: Gauge::default(),
            linked: Gauge::default(),
            told: Counter::default(),
            taken: Counter::default(),
            dropped: Counter::default(),
            skipped: Counter::default(),
            round_trip: Histogram::new(ROUND_TRIPS),
        }
    }
}

impl Meters {
    /// Shows them on the metrics page, as `weir_replica_…`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("weir_replica");
        registry.register("leads", "1 while this replica decides what metrics drive", self.leads.clone());
        registry.register("epoch", "The epoch that this replica knows", self.epoch.clone());
        registry.register("followers", "Replicas that follow this one", self.followers.clone());
        registry.register("linked", "1 while this replica is told by the leader", self.linked.clone());
        registry.register("told", "Messages of decisions sent to replicas that follow", self.told.clone());
        registry.register("taken", "Messages of decisions taken from the leader", self.taken.clone());
        registry.register("dropped", "Messages of decisions dropped: of an epoch that is over", self.dropped.clone());
        let skipped = "Parts of messages of another version that this one does not know";
        registry.register("skipped", skipped, self.skipped.clone());
        let round_trip =
            "From telling a replica to its answer that it has carried that out, by the clock of the one that decides";
        registry.register_with_unit("round_trip", round_trip, Unit::Seconds, self.round_trip.clone());
    }

    /// Shows what this replica is, until `shutdown`.
    pub(super) fn follow(&self, mut standing: Standings, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
        let (meters, stop) = (self.clone(), shutdown.clone());
        let following = async move {
            loop {
                let now = standing.borrow_and_update().clone();
                meters.leads.set(i64::from(now.decides(Instant::now())));
                meters.epoch.set(i64::try_from(now.epoch).unwrap_or(i64::MAX));
                if standing.changed().await.is_err() {
                    return;
                }
            }
        };
        tasks.spawn(async move { stop.run_until_cancelled(following).await.unwrap_or_default() });
    }
}
