//! Weir's own metrics about who is who.

use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// Counts callers by what became of them, and tells when the certificate expires.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    accepted: Family<Accepted, Counter>,
    refused: Family<Refused, Counter>,
    expiry: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Accepted {
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

impl Meters {
    /// Shows them on the metrics page, as `weir_identity_accepted_total`, `weir_identity_refused_total` and
    /// `weir_identity_certificate_expiry_timestamp_seconds`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("weir_identity");
        let help = "Callers whose credential was found good, by how that was found";
        registry.register("accepted", help, self.accepted.clone());
        let help = "Callers that got nothing, by the reason";
        registry.register("refused", help, self.refused.clone());
        let help = "When the certificate expires that Weir serves, in Unix time; 0 before there is one";
        registry.register_with_unit("certificate_expiry_timestamp", help, Unit::Seconds, self.expiry.clone());
    }

    pub(super) fn accepted(&self, by: &'static str) {
        self.accepted.get_or_create(&Accepted { by }).inc();
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Refused { reason }).inc();
    }

    pub(super) fn expires(&self, at: Timestamp) {
        self.expiry.set(at.as_second());
    }
}
