//! Weir's own metrics about building.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::{metrics::counter::Counter, registry::Registry};

use crate::build::Counts;

/// What was built since the start, for the metrics page.
#[derive(Debug, Default)]
pub struct Counters {
    builds: Counter<u64, AtomicU64>,
    decisions: Counter<u64, AtomicU64>,
    resources: Counter<u64, AtomicU64>,
    forgotten: Counter<u64, AtomicU64>,
}

impl Counters {
    /// Shows them on the metrics page, as `weir_builds_total` and so on.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("weir");
        registry.register("builds", "Services translated again", self.builds.clone());
        registry.register("decisions", "Services whose rules were stepped", self.decisions.clone());
        registry.register("resources", "Resources that differed and were published", self.resources.clone());
        let help = "What proxies had asked for and was forgotten, since it was not called or others took its place";
        registry.register("forgotten", help, self.forgotten.clone());
    }

    /// Takes the builder's numbers over. Called by the build task alone.
    pub fn set(&self, counts: Counts) {
        let Counts { builds, decisions, resources, forgotten } = counts;
        for (counter, value) in [
            (&self.builds, builds),
            (&self.decisions, decisions),
            (&self.resources, resources),
            (&self.forgotten, forgotten),
        ] {
            counter.inner().store(value, Ordering::Relaxed);
        }
    }
}
