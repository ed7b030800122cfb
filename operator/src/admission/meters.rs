//! Weir's own metrics about admission.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Counts reviews by how they ended.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    reviews: Family<Labels, Counter>,
    pods: Family<Labels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: &'static str,
}

impl Meters {
    /// Shows them on the metrics page, as `weir_admission_reviews_total` and `weir_admission_pods_total`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("weir_admission");
        registry.register("reviews", "Objects that the API server asked about, by the answer", self.reviews.clone());
        registry.register("pods", "Pods that may want a sidecar, by what became of that", self.pods.clone());
    }

    pub(super) fn count_pod(&self, result: &'static str) {
        self.pods.get_or_create(&Labels { result }).inc();
    }

    pub(super) fn count(&self, result: &'static str) {
        self.reviews.get_or_create(&Labels { result }).inc();
    }
}
