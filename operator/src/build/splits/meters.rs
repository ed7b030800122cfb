//! What a dashboard shows of splits.

use std::{collections::BTreeMap, sync::atomic::AtomicU64};

use limiter::split::{SplitKey, shares::TOTAL};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::intent::ServiceKey;

/// The shares of arms. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    share: Family<Of, Gauge<f64, AtomicU64>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    namespace: String,
    split: String,
    backend: String,
}

impl Meters {
    /// Shows them on the metrics page, as `weir_split_share`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "The part of a SmartSplit's requests that callers' proxies are told to send to a backend, 0 to 1";
        registry.sub_registry_with_prefix("weir_split").register("share", help, self.share.clone());
    }
}

/// Which of them are shown, by root.
#[derive(Debug, Default)]
pub(super) struct Shown {
    meters: Meters,
    shown: BTreeMap<ServiceKey, Vec<Of>>,
}

impl Shown {
    pub(super) fn new(meters: Meters) -> Self {
        Self { meters, shown: BTreeMap::new() }
    }

    /// What the arms of a split have now, of [`TOTAL`]; those it had before are forgotten.
    pub(super) fn show<'a>(
        &mut self,
        root: &ServiceKey,
        split: &SplitKey,
        arms: impl Iterator<Item = (&'a ServiceKey, u32)>,
    ) {
        let mut now = Vec::new();
        for (arm, share) in arms {
            let of = Of { namespace: split.namespace.clone(), split: split.name.clone(), backend: arm.name.clone() };
            self.meters.share.get_or_create(&of).set(f64::from(share) / f64::from(TOTAL));
            now.push(of);
        }
        let before = self.shown.insert(root.clone(), now.clone()).unwrap_or_default();
        self.drop_all(before.iter().filter(|of| !now.contains(of)));
    }

    /// The split is gone.
    pub(super) fn forget(&mut self, root: &ServiceKey) {
        let before = self.shown.remove(root).unwrap_or_default();
        self.drop_all(before.iter());
    }

    fn drop_all<'a>(&self, gone: impl Iterator<Item = &'a Of>) {
        for of in gone {
            self.meters.share.remove(of);
        }
    }
}
