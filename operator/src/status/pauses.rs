//! How far a pause, or its end, has come among the proxies.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    build::Builder,
    intent::{Pauses, ServiceKey},
    xds::{NodeKey, ResourceType, names, proxies::Proxies},
};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// What is paused.
    pub paused: Pauses,
    /// Proxies that are to obey: those of services with policies.
    pub proxies: usize,
    /// Those that have not acknowledged it, by node id, and why.
    pub waiting: BTreeMap<String, Waiting>,
}

/// Why a proxy is not known to obey.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Waiting {
    /// It is connected and has not acknowledged yet.
    Pending,
    /// It is connected and never asked for its runtime layer.
    NoRuntimeLayer,
    /// It is not connected.
    NotConnected,
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pending => "has not acknowledged yet",
            Self::NoRuntimeLayer => {
                "has no runtime layer and cannot obey: start it with the output of this version's `weir bootstrap`"
            }
            Self::NotConnected => "is not connected: if it runs, it does what it did until it is back",
        })
    }
}

/// The progress among the proxies of `service`, or of all.
#[must_use]
pub fn progress(builder: &Builder, proxies: &Proxies, service: Option<&ServiceKey>) -> Progress {
    let mut progress = Progress { paused: builder.pauses().clone(), ..Progress::default() };
    let index = builder.index();
    let keys = index.service_keys().filter(|key| service.is_none_or(|service| service == *key));
    for view in keys.filter_map(|key| index.service(key)).filter(|view| !view.policies.is_empty()) {
        for pod in view.endpoints.keys() {
            progress.proxies += 1;
            let node = NodeKey::of(view.key, pod);
            if let Some(waiting) = waiting(builder, proxies, &node) {
                progress.waiting.insert(node.to_string(), waiting);
            }
        }
    }
    progress
}

fn waiting(builder: &Builder, proxies: &Proxies, node: &NodeKey) -> Option<Waiting> {
    if !proxies.is_connected(node) {
        return Some(Waiting::NotConnected);
    }
    let name = names::runtime(node);
    let wanted =
        builder.table().view(node)[ResourceType::Runtime.index()].get(&*name).map(|entry| entry.version.clone());
    match (proxies.acknowledged(node, ResourceType::Runtime, &name), wanted) {
        (Some(holds), Some(wanted)) if holds == wanted => None,
        (None, _) if builder.pauses().covers(&node.service_key()) => Some(Waiting::NoRuntimeLayer),
        // What never took a pause need not take its end.
        (None, _) => None,
        _ => Some(Waiting::Pending),
    }
}
