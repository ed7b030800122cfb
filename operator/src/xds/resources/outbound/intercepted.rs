//! Clusters of a way out to which iptables hands all that the application sends: of what goes where it was meant to go, of what goes nowhere, and
//! of the connections that Envoy has asked about.

use std::sync::Arc;

use prost::Message;

use super::{
    super::{Old, Resource, cluster, version},
    GENERATOR, assignment,
};
use crate::{
    intent::{Hop, PodIntent, Stream},
    xds::{NodeKey, ResourceType, names},
};

/// Adds those that the pod needs.
pub(super) fn add(node: &NodeKey, pod: &PodIntent, old: &mut Old, resources: &mut Vec<Resource>) {
    if pod.outbound.iter().all(|outbound| outbound.intercepted.is_none()) {
        return;
    }
    for (name, hop) in [(names::ORIGINAL_CLUSTER, Hop::Original), (names::REFUSED_CLUSTER, Hop::Nowhere)] {
        add_cluster(node, &name.into(), &name.replace('/', "_"), &hop, old, resources);
    }
    for Stream { called, to } in &pod.streams {
        add_cluster(node, &names::stream(node, called).into(), &names::stream_stat_name(called), to, old, resources);
    }
}

fn add_cluster(
    node: &NodeKey,
    name: &Arc<str>,
    stat_name: &str,
    to: &Hop,
    old: &mut Old,
    resources: &mut Vec<Resource>,
) {
    let of_cluster = match to {
        Hop::To(destination) if !destination.shares.is_empty() => version(&(GENERATOR, "shared stream")),
        Hop::To(destination) => version(&(GENERATOR, "stream", &destination.dns)),
        Hop::Original => version(&(GENERATOR, "stream", "original")),
        Hop::Nowhere => version(&(GENERATOR, "stream", "nowhere")),
    };
    resources.push(old.or_encode(ResourceType::Cluster, node, name, of_cluster, &mut || {
        cluster::stream(name, stat_name, to).encode_to_vec()
    }));
    if let Hop::To(destination) = to
        && destination.dns.is_none()
    {
        resources.push(assignment(node, name, destination, old));
    }
}
