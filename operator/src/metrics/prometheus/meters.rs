//! Weir's own metrics about asking Prometheus.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Counts questions by how they ended.
#[derive(Clone, Debug)]
pub struct Meters {
    queries: Family<Labels, Counter>,
    duration: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

impl Default for Meters {
    fn default() -> Self {
        let bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
        Self { queries: Family::default(), duration: Histogram::new(bounds) }
    }
}

impl Meters {
    /// Shows them on the metrics page, as `weir_prometheus_queries_total` and `weir_prometheus_query_duration_seconds`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("weir_prometheus");
        registry.register("queries", "Questions to Prometheus, by how they ended", self.queries.clone());
        let help = "From a question to Prometheus to its answer or failure";
        registry.register_with_unit("query_duration", help, Unit::Seconds, self.duration.clone());
    }

    pub(super) fn count(&self, outcome: &'static str, seconds: f64) {
        self.queries.get_or_create(&Labels { outcome }).inc();
        self.duration.observe(seconds);
    }
}
