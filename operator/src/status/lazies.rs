//! What Weir says of a `LazyConfig`: for whom it is in force, what their proxies have loaded, and its two conditions.

use std::collections::BTreeSet;

use crds::{
    Condition, LazyConfigStatus, Time,
    conditions::{ConditionReason as Reason, ConditionType},
    lazy_config::{LazyProxies, LazyServices},
};
use jiff::Timestamp;
use limiter::lazy::Lazy;
use serde::{Deserialize, Serialize};

use super::conditions::{Verdict, refused};
use crate::{
    build::Builder,
    index::{Index, LazyEntry, Standing},
    intent::{Called, ServiceKey},
    xds::{
        NodeKey,
        names::{self, ResourceType},
        proxies::Proxies,
    },
};

/// One `LazyConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LazyReport {
    /// `lazyconfigs.weir.dev/<namespace>/<name>`.
    pub key: String,
    /// File and line.
    pub origin: String,
    /// Counts the texts of the object.
    pub generation: i64,
    /// As the object's own status would say it.
    pub status: LazyConfigStatus,
}

/// What Envoy allocates for one port of a Service, with the statistics of `weir bootstrap` and one endpoint: measured by the benchmark
/// `lazy` with 1,000 and with 5,000 services (docs/performance.md).
const BYTES_OF_ONE: usize = 35_000;

/// The proxies of the pods for which one is in force.
#[derive(Debug, Default)]
struct Served {
    /// Pods whose applications send requests through their proxies.
    calling: usize,
    connected: usize,
    programmed: usize,
    /// A pod whose proxy is connected by the state-of-the-world protocol.
    sotw: Option<NodeKey>,
    /// Node and what it said of a version that it refused.
    refused: Vec<(NodeKey, String)>,
    loaded: BTreeSet<ServiceKey>,
    /// Ports of Services that each of the proxies has, summed up.
    ports: usize,
}

pub(super) fn lazy_status(entry: &LazyEntry, builder: &Builder, proxies: &Proxies, now: Timestamp) -> LazyConfigStatus {
    let index = builder.index();
    let standing = entry.accepted.as_deref().map(|lazy| index.standing(lazy)).unwrap_or_default();
    let served = served(&standing, builder, proxies);
    let everything = index.destinations().map(|(_, ports)| ports.len()).sum::<usize>() * served.connected;
    let saved = everything.saturating_sub(served.ports) * BYTES_OF_ONE;
    let verdicts = [
        (ConditionType::Accepted, accepted(entry, &standing)),
        (ConditionType::Programmed, programmed(entry, &standing, &served)),
    ];
    let condition = |(type_, (status, reason, message)): (ConditionType, Verdict)| Condition {
        type_: type_.to_string(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_string(),
        message,
        observed_generation: Some(entry.generation),
        last_transition_time: Time(now),
    };
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    LazyConfigStatus {
        observed_generation: Some(entry.generation),
        conditions: verdicts.into_iter().map(condition).collect(),
        workloads: Some(count(standing.pods.len())),
        proxies: Some(LazyProxies { total: count(served.connected), programmed: count(served.programmed) }),
        services: Some(LazyServices {
            loaded: count(served.loaded.len()),
            known: count(known(index)),
            saved_bytes: count(saved),
        }),
    }
}

/// Services that a proxy could be told of.
fn known(index: &Index) -> usize {
    index.destinations().filter(|(_, ports)| !ports.is_empty()).count()
}

fn served(standing: &Standing, builder: &Builder, proxies: &Proxies) -> Served {
    let mut served = Served::default();
    for pod in &standing.pods {
        let services = builder.index().services_of_pod(pod);
        if builder.index().calls(pod) {
            served.calling += 1;
        }
        let mut nodes = services.iter().map(|service| NodeKey::of(service, &pod.1));
        let Some(node) = nodes.find(|node| proxies.is_connected(node)) else { continue };
        served.connected += 1;
        let versions = builder.table().versions(&node);
        let clusters = versions.iter().filter(|(of, ..)| *of == ResourceType::Cluster);
        for service in clusters.filter_map(|(_, name, _)| destination(&node, name)) {
            served.ports += 1;
            served.loaded.insert(service);
        }
        if proxies.speaks_sotw(&node) {
            // It refuses the route configuration, in words that name no mend.
            served.sotw = Some(node);
        } else if let Some(refusal) = proxies.refusals(&node).pop() {
            served.refused.push((node, refusal.message));
        } else if proxies.programmed(&node, &versions) {
            served.programmed += 1;
        }
    }
    served
}

/// The service that a cluster of this name leads to, on the way out of `node`.
fn destination(node: &NodeKey, cluster: &str) -> Option<ServiceKey> {
    match names::called(node, ResourceType::Cluster, cluster)? {
        Called::Destination(key) if !key.is_outside() => Some(key.service),
        _ => None,
    }
}

fn accepted(entry: &LazyEntry, standing: &Standing) -> Verdict {
    if let Some(verdict) = refused(&entry.problems, entry.accepted.as_ref().map(|it| it.generation)) {
        return verdict;
    }
    let names: Vec<String> = standing.older.keys().map(ToString::to_string).collect();
    let others = names.join(", ");
    if standing.pods.is_empty() && !names.is_empty() && standing.narrower == 0 {
        let message = format!(
            "{others}, which is older, holds for every pod that this is for: remove one, or choose other pods in workloadSelector"
        );
        return (false, Reason::Conflicted, message);
    }
    let mut message = "the configuration is understood".to_owned();
    if !names.is_empty() {
        message.push_str(&format!("; for some of its pods {others} holds, which is older"));
    }
    (true, Reason::Accepted, message)
}

fn programmed(entry: &LazyEntry, standing: &Standing, served: &Served) -> Verdict {
    let Some(lazy) = &entry.accepted else {
        return (false, Reason::NotAccepted, "nothing of this object was ever accepted".to_owned());
    };
    if standing.pods.is_empty() {
        return nowhere(lazy, standing);
    }
    if let Some((node, message)) = served.refused.first() {
        let more = match served.refused.len() {
            1 => String::new(),
            count => format!(" (and {} more proxies)", count - 1),
        };
        let message = format!("the proxy {node}{more} refused it and keeps what it had: {message}");
        return (false, Reason::Rejected, message);
    }
    if let Some(node) = &served.sotw {
        let message = format!(
            "the proxy {node} asks for the whole state each time (SotW), and single hosts are fetched by delta alone: start Envoy with \
             the output of `weir bootstrap`, whose ads_config says api_type: DELTA_GRPC"
        );
        return (false, Reason::NotCarriedOut, message);
    }
    if served.calling == 0 {
        let message = "no application of these pods sends its requests through its proxy: annotate the Pods with \
                       outbound.weir.dev/listen, for example 127.0.0.1:15001, and send requests there";
        return (false, Reason::NotCarriedOut, message.to_owned());
    }
    if served.connected == 0 {
        let message = "no proxy of these pods is connected: start Envoy with the output of `weir bootstrap`";
        return (false, Reason::NoProxies, message.to_owned());
    }
    if served.programmed < served.connected {
        let message = "some proxies have not acknowledged the newest version yet";
        return (false, Reason::Pending, message.to_owned());
    }
    (true, Reason::Programmed, "every connected proxy of these pods has what it should".to_owned())
}

/// Why it is in force for no pod.
fn nowhere(lazy: &Lazy, standing: &Standing) -> Verdict {
    if standing.narrower > 0 {
        let message = "narrower objects hold for every pod that this is for";
        return (false, Reason::Overridden, message.to_owned());
    }
    if !standing.older.is_empty() {
        return (false, Reason::Overridden, "an older object holds for every pod, as Accepted says".to_owned());
    }
    let message = match &lazy.selector {
        Some(_) => "no pod behind a Service has these labels: mend workloadSelector, or start such pods",
        None => "there are no pods behind Services yet: start some, or add EndpointSlices that name them",
    };
    (false, Reason::NoEndpoints, message.to_owned())
}

#[cfg(test)]
mod tests;
