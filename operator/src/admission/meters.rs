//! Weir's own metrics about admission.

use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// Counts reviews by how they ended, and tells when the certificate expires.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    reviews: Family<Labels, Counter>,
    expiry: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: &'static str,
}

impl Meters {
    /// Shows them on the metrics page, as `weir_admission_reviews_total` and
    /// `weir_admission_certificate_expiry_timestamp_seconds`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("weir_admission");
        registry.register("reviews", "Objects that the API server asked about, by the answer", self.reviews.clone());
        let help = "When the certificate expires that the webhook serves, in Unix time; 0 before there is one";
        registry.register_with_unit("certificate_expiry_timestamp", help, Unit::Seconds, self.expiry.clone());
    }

    pub(super) fn count(&self, result: &'static str) {
        self.reviews.get_or_create(&Labels { result }).inc();
    }

    pub(super) fn expires(&self, at: Timestamp) {
        self.expiry.set(at.as_second());
    }
}
