//! What proxies say of the calls that their applications make, as far as it is kept: when each destination was last called, and whether
//! it is in use now.
//!
//! Bounded by the pods that there are, and by what a proxy may name in its messages.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::Builder;
use crate::{intent::ServiceKey, metrics::calls::Calls, xds::NodeKey};

/// Most destinations that are kept of one pod; those that were called least lately go.
const MOST_DESTINATIONS: usize = 20_000;

/// How one pod uses one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// When it was last seen to be called, or to have a request that had not ended; `None`: not since this Weir hears its proxy.
    pub last: Option<Timestamp>,
    /// Requests and connections when its proxy last told.
    pub active: u64,
}

/// Of one pod.
#[derive(Debug, Default)]
pub struct Uses {
    /// When its proxy last told of all it uses: what it did not name was as told before. `None`: never.
    pub told: Option<Timestamp>,
    /// By [`crate::xds::names::destination_stat_name`].
    pub destinations: BTreeMap<Arc<str>, Use>,
}

/// Of all pods.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// It is wanted of every service whom its pods call.
    pub(super) wants_all: bool,
    pods: BTreeMap<NodeKey, Uses>,
}

impl Heard {
    /// Keeps of a service only what `pods` has said, in order.
    pub(super) fn keep(&mut self, service: &ServiceKey, pods: &[String]) {
        // No pod is called "", so this is before all of the service's.
        let from = NodeKey::of(service, "");
        let of_service = |node: &&NodeKey| node.namespace() == service.namespace && node.service() == service.name;
        let held = self.pods.range(from..).map(|(node, _)| node).take_while(of_service);
        let gone = held.filter(|node| !pods.iter().any(|pod| pod == node.pod())).cloned();
        for node in gone.collect::<Vec<_>>() {
            self.pods.remove(&node);
        }
    }
}

impl Uses {
    fn take(&mut self, calls: Calls) {
        let Calls { node: _, at: _, used_at, used, unknown: _ } = calls;
        let Some(at) = used_at else { return };
        self.told = self.told.max(used_at);
        for used in used {
            let held = self.destinations.entry(used.stat_name).or_insert(Use { last: None, active: 0 });
            held.active = used.active;
            if used.requests > 0 || used.inflight > 0 {
                held.last = held.last.max(Some(at));
            }
        }
        if self.destinations.len() > MOST_DESTINATIONS {
            let mut lasts: Vec<Option<Timestamp>> = self.destinations.values().map(|held| held.last).collect();
            lasts.sort_unstable();
            let oldest = lasts[lasts.len() - MOST_DESTINATIONS];
            self.destinations.retain(|_, held| held.last >= oldest);
            // Of those that were called at the same time, too.
            while self.destinations.len() > MOST_DESTINATIONS {
                self.destinations.pop_last();
            }
        }
    }
}

impl Builder {
    /// Wants from now on of every service whom its pods call.
    #[must_use]
    pub fn with_calls(mut self) -> Self {
        self.heard.wants_all = true;
        self
    }

    /// Takes in what proxies say of the calls that their applications make. What proxies of unknown pods say is left alone.
    pub fn hear_calls(&mut self, calls: Vec<Calls>, _now: Timestamp) {
        for calls in calls {
            let Some(built) = self.built.get(&calls.node.service_key()) else { continue };
            if built.intent.pods.contains_key(calls.node.pod()) {
                self.heard.pods.entry(calls.node.clone()).or_default().take(calls);
            }
        }
    }

    /// How a pod uses other services; `None`: its proxy has not told since this Weir hears it.
    #[must_use]
    pub fn uses(&self, node: &NodeKey) -> Option<&Uses> {
        self.heard.pods.get(node)
    }
}

#[cfg(test)]
mod tests;
