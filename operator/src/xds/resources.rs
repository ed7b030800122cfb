//! Stage: intent to encoded Envoy resources. Pure; one runtime layer per pod; one listener, route configuration,
//! cluster and load assignment per inbound port of each pod; `outbound` does what leads to other services.
//!
//! Versions are hashes of the ordered intent, never of protobuf bytes (maps encode in random order), so all replicas and
//! restarts agree on them.

mod cluster;
pub mod endpoint;
pub mod extension;
pub mod limiter;
mod listener;
pub mod logger;
mod outbound;
mod reply;
mod route;
pub mod runtime;
pub mod slots;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use bytes::Bytes;
use envoy_types::pb::{
    envoy::config::core::v3::{
        Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, address,
        config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
    },
    google::protobuf::Any,
};
use prost::Message;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    intent::{Inbound, PodIntent, Protocol, ServiceIntent, ServiceKey, Sidecar},
    xds::{NodeKey, ResourceType, names, wire},
};

use self::slots::Slots;

/// Part of every version: moves when this module builds something else from the same intent.
const GENERATOR: u32 = 4;

/// A resource of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its type.
    pub resource_type: ResourceType,
    /// Its name, unique in its type.
    pub name: Arc<str>,
    /// The only node that sees it.
    pub node: NodeKey,
    /// Hash of the intent that it was built from.
    pub version: Arc<str>,
    /// The encoded `envoy.service.discovery.v3.Resource`.
    pub encoded: Bytes,
    /// Clusters of the node that must be ready before it is there. Only of virtual hosts, since requests wait for them.
    pub needs: Needs,
}

/// Names of clusters; `None`: none.
pub type Needs = Option<Arc<[Arc<str>]>>;

/// Builds all resources of a service, ordered by pod, then port, then push order.
#[must_use]
pub fn build(service: &ServiceKey, intent: &ServiceIntent) -> Vec<Resource> {
    rebuild(service, &ServiceIntent::default(), Vec::new(), intent)
}

/// Like [`build`], but takes over from `old_resources` (built from `old` for the same service) all that the difference
/// between the intents does not touch: when only numbers changed, only route configurations of the pods concerned are
/// encoded.
#[must_use]
pub fn rebuild(
    service: &ServiceKey,
    old: &ServiceIntent,
    old_resources: Vec<Resource>,
    new: &ServiceIntent,
) -> Vec<Resource> {
    let same_shapes = old.limits == new.limits && old.routes == new.routes;
    let mut old_by_pod: HashMap<String, Vec<Resource>> = HashMap::new();
    for resource in old_resources {
        match old_by_pod.get_mut(resource.node.pod()) {
            Some(of_pod) => of_pod.push(resource),
            None => {
                old_by_pod.insert(resource.node.pod().to_owned(), vec![resource]);
            }
        }
    }
    let mut builder = Builder::new(new);
    let mut outbound = outbound::Builder::default();
    let mut resources = Vec::new();
    for (name, pod) in &new.pods {
        let of_pod = old_by_pod.remove(name).unwrap_or_default();
        let before = old.pods.get(name);
        if same_shapes && !of_pod.is_empty() && before == Some(pod) {
            resources.extend(of_pod);
            continue;
        }
        let node = NodeKey::of(service, name);
        let (out, own) = of_pod.into_iter().partition(|resource| names::is_outbound(&resource.name));
        builder.pod(&node, pod, own, &mut resources);
        if before.is_some_and(|before| {
            before.outbound == pod.outbound && before.destinations == pod.destinations && before.streams == pod.streams
        }) {
            resources.extend::<Vec<_>>(out);
        } else {
            outbound.pod(&node, pod, out, &mut resources);
        }
    }
    resources
}

/// What the pods of one intent share, computed when first needed.
struct Builder<'a> {
    intent: &'a ServiceIntent,
    slots: Slots,
    /// Hash of what the routes of all pods have in common.
    shapes: u64,
    filters: Option<listener::Filters>,
    /// Version and encoded routes by hash of the numbers.
    routes: HashMap<u64, (Arc<str>, Option<route::Shared>)>,
}

impl<'a> Builder<'a> {
    fn new(intent: &'a ServiceIntent) -> Self {
        let shapes = hash(&(GENERATOR, &intent.limits, &intent.routes));
        Self { intent, slots: Slots::of(intent), shapes, filters: None, routes: HashMap::new() }
    }

    fn pod(&mut self, node: &NodeKey, pod: &PodIntent, old: Vec<Resource>, resources: &mut Vec<Resource>) {
        let PodIntent {
            inbound,
            values,
            sidecar,
            outbound: _,
            destinations: _,
            streams: _,
            outbound_bounds: _,
            bounds: _,
            paused: _,
        } = pod;
        let mut old = Old::new(old);
        let mut add = |resource_type: ResourceType,
                       name: &Arc<str>,
                       version: Arc<str>,
                       encode_value: &mut dyn FnMut() -> Vec<u8>| {
            resources.push(old.or_encode(resource_type, node, name, version, encode_value));
        };
        let layer = runtime::Layer::of(pod);
        // By the name that its bootstrap has.
        let name: Arc<str> = match sidecar {
            Some(Sidecar { named: false, .. }) => {
                names::runtime(&NodeKey::unnamed(node.namespace(), node.pod())).into()
            }
            _ => names::runtime(node).into(),
        };
        add(ResourceType::Runtime, &name, layer.version(), &mut || layer.build(node, &name).encode_to_vec());
        let numbers = hash(values);
        for port in inbound {
            let Inbound { listener, application, protocol } = port;
            let name: Arc<str> = names::inbound(node, port).into();
            add(ResourceType::Cluster, &name, version(&(GENERATOR, "cluster", protocol)), &mut || {
                cluster::build(&name, port).encode_to_vec()
            });
            add(ResourceType::Endpoints, &name, version(&(GENERATOR, "endpoints", application)), &mut || {
                endpoint::build(&name, &[*application]).encode_to_vec()
            });
            let slots = match protocol {
                Protocol::Http | Protocol::Http2 => Some(&self.slots),
                Protocol::Tcp => None,
            };
            let intercepted = sidecar.is_some_and(|sidecar| sidecar.intercepts);
            let what = if intercepted { "intercepted listener" } else { "listener" };
            add(ResourceType::Listener, &name, version(&(GENERATOR, what, listener, slots)), &mut || {
                let filters = self.filters.get_or_insert_with(|| listener::Filters::new(&self.slots));
                listener::build(&name, port, intercepted, filters).encode_to_vec()
            });
            if slots.is_some() {
                let (route_version, shared) =
                    self.routes.entry(numbers).or_insert_with(|| (version(&("route", self.shapes, numbers)), None));
                add(ResourceType::Route, &name, route_version.clone(), &mut || {
                    let shared = shared.get_or_insert_with(|| {
                        route::Shared::new(&self.intent.limits, self.intent.routes.iter(), values)
                    });
                    route::build(&name, shared)
                });
            }
        }
    }
}

/// What a pod had before, by type and name.
struct Old(BTreeMap<(ResourceType, Arc<str>), Resource>);

impl Old {
    fn new(resources: Vec<Resource>) -> Self {
        Self(
            resources.into_iter().map(|resource| ((resource.resource_type, resource.name.clone()), resource)).collect(),
        )
    }

    /// The resource as it was, if it has this version; else encoded.
    fn or_encode(
        &mut self,
        resource_type: ResourceType,
        node: &NodeKey,
        name: &Arc<str>,
        version: Arc<str>,
        encode_value: &mut dyn FnMut() -> Vec<u8>,
    ) -> Resource {
        let old = self.0.remove(&(resource_type, name.clone())).filter(|old| old.version == version);
        old.unwrap_or_else(|| Resource {
            resource_type,
            name: name.clone(),
            node: node.clone(),
            encoded: encode(resource_type, name, &version, encode_value()),
            version,
            needs: None,
        })
    }
}

fn hash(part: &impl Serialize) -> u64 {
    // Ordered maps and plain values only: the text is the same everywhere.
    let text = serde_json::to_vec(part).expect("plain data with text keys always serialises");
    xxh3_64(&text)
}

fn version(part: &impl Serialize) -> Arc<str> {
    format!("{:016x}", hash(part)).into()
}

/// An encoded `envoy.service.discovery.v3.Resource`.
fn encode(resource_type: ResourceType, name: &str, version: &str, value: Vec<u8>) -> Bytes {
    let resource = wire::Resource {
        version: version.into(),
        resource: Some(wire::Any { type_url: resource_type.type_url().into(), value: value.into() }),
        name: name.into(),
        aliases: Vec::new(),
    };
    resource.encode_to_vec().into()
}

/// An encoded `Resource` as it was, by which what was asked for under the names of `aliases` is answered too. The encodings of a message's fields,
/// one after the other, are the encoding of the message.
pub(crate) fn also_named(encoded: &Bytes, aliases: &[impl AsRef<str>]) -> Bytes {
    let aliases = aliases.iter().map(|alias| alias.as_ref().to_owned()).collect();
    let more = wire::Resource { aliases, ..wire::Resource::default() };
    [encoded.as_ref(), &more.encode_to_vec()].concat().into()
}

fn any<M: prost::Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn from_ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

fn socket_address(address: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
            ..SocketAddress::default()
        })),
    }
}

#[cfg(test)]
mod tests;
