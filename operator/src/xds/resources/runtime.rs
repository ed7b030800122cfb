//! Runtime layers: a pod's queue bounds, and whether anything is enforced there.
//!
//! Runtime is read at every request, so a value is in force as soon as it has arrived; nothing is warmed, drained or reset.

use std::{collections::HashMap, sync::Arc};

use envoy_types::pb::{
    envoy::service::runtime::v3::Runtime,
    google::protobuf::{Struct, Value, value::Kind},
};
use serde::Serialize;

use crate::{
    intent::{Bounds, DestinationKey, Inbound, PodIntent, Priority, Protocol},
    xds::{
        NodeKey, names,
        resources::{GENERATOR, version},
    },
};

/// What one pod's layer says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Layer<'a> {
    paused: bool,
    /// Ports that are bounded. Empty: the clusters' own value, which is no bound.
    ports: Vec<&'a Inbound>,
    bounds: Bounds,
    /// Bounds of requests to other services.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    outbound: &'a [(DestinationKey, Bounds)],
}

impl<'a> Layer<'a> {
    pub(super) fn of(pod: &'a PodIntent) -> Self {
        let bounds = if pod.paused { Bounds::default() } else { pod.bounds };
        // Envoy bounds connections of bytes by other means.
        let ports = pod.inbound.iter().filter(|port| bounds != Bounds::default() && port.protocol != Protocol::Tcp);
        let outbound = if pod.paused { &[] } else { pod.outbound_bounds.as_slice() };
        Self { paused: pod.paused, ports: ports.collect(), bounds, outbound }
    }

    pub(super) fn version(&self) -> Arc<str> {
        version(&(GENERATOR, "runtime", self))
    }

    pub(super) fn build(&self, node: &NodeKey, name: &str) -> Runtime {
        let enforced = if self.paused { 0 } else { 100 };
        let mut fields = HashMap::from([(names::ENFORCED_RUNTIME_KEY.to_owned(), number(enforced))]);
        let inbound = self.ports.iter().map(|port| (names::inbound(node, port), self.bounds));
        let outbound = self.outbound.iter().map(|(key, bounds)| (names::destination(node, key), *bounds));
        for (cluster, bounds) in inbound.chain(outbound) {
            let bounds = [(Priority::Default, bounds.default), (Priority::High, bounds.high)];
            fields.extend(bounds.into_iter().filter_map(|(priority, bound)| {
                Some((names::max_requests_runtime_key(&cluster, priority), number(bound?)))
            }));
        }
        Runtime { name: name.into(), layer: Some(Struct { fields }) }
    }
}

/// Version of a layer that says what an Envoy without it does anyway: enforce, and bound nothing.
#[must_use]
pub fn at_rest() -> Arc<str> {
    Layer::default().version()
}

fn number(value: u32) -> Value {
    Value { kind: Some(Kind::NumberValue(value.into())) }
}
