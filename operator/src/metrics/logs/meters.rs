//! Weir's own metrics about the access log.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Counts entries by what became of them.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    entries: Family<Labels, Counter>,
    hosts: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

/// See [`Meters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It names a host that nothing was known of.
    Taken,
    /// Its request went where it was to go.
    Known,
    /// It names no host, or there were too many in its message.
    Dropped,
}

impl Outcome {
    const fn label(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Known => "known",
            Self::Dropped => "dropped",
        }
    }
}

impl Meters {
    /// Shows them on the metrics page, as `weir_unknown_entries_total` and `weir_unknown_hosts_dropped_total`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("weir_unknown");
        let help =
            "Entries of proxies' access logs about calls to hosts that nothing was known of, by what became of them";
        registry.register("entries", help, self.entries.clone());
        let help = "Hosts of such entries that were left out, as too many of one proxy waited to be looked at";
        registry.register("hosts_dropped", help, self.hosts.clone());
    }

    pub(super) fn count(&self, outcome: Outcome, entries: usize) {
        if entries > 0 {
            self.entries.get_or_create(&Labels { outcome: outcome.label() }).inc_by(entries as u64);
        }
    }

    pub(super) fn left_out(&self, hosts: usize) {
        self.hosts.inc_by(hosts as u64);
    }
}
