//! How far a pause, or its end, has come among the proxies.

use std::collections::{BTreeMap, BTreeSet};

use limiter::policy::EnforceAt;
use serde::{Deserialize, Serialize};

use crate::{
    build::Builder,
    intent::{Pauses, PodIntent, ServiceKey},
    xds::{NodeKey, ResourceType, names, proxies::Proxies},
};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// What is paused.
    pub paused: Pauses,
    /// Proxies that are to obey: those that enforce a policy, of its targets or of callers and gateways, and callers of splits that are steered.
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

/// The progress among the proxies that enforce what is decided about `service`, or about anything; and those of its own that
/// enforce something for others.
#[must_use]
pub fn progress(builder: &Builder, proxies: &Proxies, service: Option<&ServiceKey>) -> Progress {
    let mut progress = Progress { paused: builder.pauses().clone(), ..Progress::default() };
    let connected = connected(builder, proxies);
    for ((namespace, pod), asked) in asked(builder, service) {
        progress.proxies += 1;
        let Some(nodes) = connected.get(&(namespace, pod.clone())) else {
            let node = asked.services.first().map(|service| NodeKey::of(service, &pod));
            progress.waiting.extend(node.map(|node| (node.to_string(), Waiting::NotConnected)));
            continue;
        };
        let waiting = |node: &NodeKey| Some((node.to_string(), waiting(builder, proxies, node, &asked)?));
        progress.waiting.extend(nodes.iter().find_map(waiting));
    }
    progress
}

/// Namespace and name.
type PodKey = (String, String);

/// A pod that is to obey.
#[derive(Default)]
struct Asked {
    /// Services that it belongs to.
    services: BTreeSet<ServiceKey>,
    /// It enforces limits of other services, which its routes hold.
    elsewhere: bool,
    /// Its routes share out requests as it is decided.
    shares: bool,
}

fn asked(builder: &Builder, service: Option<&ServiceKey>) -> BTreeMap<PodKey, Asked> {
    let mut pods: BTreeMap<PodKey, Asked> = BTreeMap::new();
    let index = builder.index();
    let keys = index.service_keys().filter(|key| service.is_none_or(|service| service == *key));
    for view in keys.filter_map(|key| index.service(key)) {
        let own = view.policies.iter().any(|policy| policy.enforce_at == EnforceAt::Server);
        // Of all services, the limited ones name these.
        let of_one = builder.built(view.key).filter(|_| service.is_some());
        let for_others = |pod: &str| of_one.and_then(|built| built.intent.pods.get(pod)).is_some_and(limits_others);
        for pod in view.endpoints.keys().filter(|pod| own || for_others(pod)) {
            let asked = pods.entry((view.key.namespace.clone(), (*pod).to_owned())).or_default();
            asked.services.insert(view.key.clone());
        }
        for enforcer in view.enforcers.into_values().flatten() {
            let asked = pods.entry((enforcer.namespace, enforcer.pod)).or_default();
            asked.services.extend(enforcer.services);
            asked.elsewhere = true;
        }
    }
    let steers = |root: &ServiceKey| service.is_none_or(|service| service == root);
    for (root, _) in index.steered_roots().filter(|(root, split)| split.steer.is_some() && steers(root)) {
        for owner in index.sharing_out(root) {
            let callers = builder.built(&owner).into_iter().flat_map(|built| &built.intent.pods);
            for (pod, _) in callers.filter(|(_, pod)| !pod.outbound.is_empty()) {
                let asked = pods.entry((owner.namespace.clone(), pod.clone())).or_default();
                asked.services.insert(owner.clone());
                asked.shares = true;
            }
        }
    }
    pods
}

fn limits_others(pod: &PodIntent) -> bool {
    pod.outbound.iter().flat_map(|outbound| &outbound.hosts).any(|host| !host.limits.is_empty())
}

/// Node ids of connected proxies by pod: a pod of several services has one proxy, which says that it belongs to one of them.
fn connected(builder: &Builder, proxies: &Proxies) -> BTreeMap<PodKey, Vec<NodeKey>> {
    let mut pods: BTreeMap<PodKey, Vec<NodeKey>> = BTreeMap::new();
    for (node, _) in proxies.snapshot().into_iter().filter(|(_, proxy)| proxy.connected_since.is_some()) {
        let built = builder.built(&node.service_key());
        if built.is_some_and(|built| built.intent.pods.contains_key(node.pod())) {
            pods.entry((node.namespace().to_owned(), node.pod().to_owned())).or_default().push(node);
        }
    }
    pods
}

fn waiting(builder: &Builder, proxies: &Proxies, node: &NodeKey, asked: &Asked) -> Option<Waiting> {
    let table = builder.table();
    let paused = builder.pauses().covers(&node.service_key());
    let attached = table.is_attached(node);
    let acknowledged = |name: String| proxies.acknowledged(node, ResourceType::Runtime, &name);
    let unnamed = || names::runtime(&NodeKey::unnamed(node.namespace(), node.pod()));
    let runtime = acknowledged(names::runtime(node)).or_else(|| acknowledged(unnamed()));
    if !attached && paused && runtime.is_none() {
        return Some(Waiting::NoRuntimeLayer);
    }
    let needed = |of: ResourceType| match of {
        // What never took a pause need not take its end.
        ResourceType::Runtime => runtime.is_some(),
        // A paused proxy enforces nothing, whatever its routes say; what is shared out they say alone.
        ResourceType::Route => (asked.shares && !attached) || (asked.elsewhere && !paused),
        _ => attached,
    };
    let versions = table.versions(node).into_iter();
    let mut needed = versions.filter(|(of, ..)| needed(*of));
    let holds = needed.all(|(of, name, version)| proxies.acknowledged(node, of, &name) == Some(version));
    (!holds).then_some(Waiting::Pending)
}

#[cfg(test)]
mod tests;
