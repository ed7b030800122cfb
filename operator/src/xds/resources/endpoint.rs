//! Load assignments: where the application of an inbound port answers, and where other services do.

use std::net::SocketAddr;

use bytes::Bytes;
use envoy_types::pb::{
    envoy::config::{
        core::v3::{Address, Locality, SocketAddress, address, socket_address::PortSpecifier},
        endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
    },
    google::protobuf::UInt32Value,
};
use prost::Message;

use crate::{
    intent::Share,
    xds::{
        ResourceType,
        resources::{encode, socket_address},
    },
};

/// Version of an assignment without endpoints: all are alike, and that of a removed one, too, as Envoy ignores its removal.
pub const EMPTY_VERSION: &str = "empty";

/// All of `addresses`, with equal weight.
pub(super) fn build(name: &str, addresses: &[SocketAddr]) -> ClusterLoadAssignment {
    let all = || locality(Locality::default(), addresses, 1);
    ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: (!addresses.is_empty()).then(all).into_iter().collect(),
        ..ClusterLoadAssignment::default()
    }
}

/// Those of `shares`, each a locality by the name of its Service: Envoy chooses among localities by weight, and what has a connection keeps it.
pub(super) fn shared(name: &str, shares: &[Share]) -> ClusterLoadAssignment {
    let endpoints = shares.iter().map(|Share { service, weight, endpoints }| {
        let (region, zone) = (service.namespace.clone(), service.name.clone());
        locality(Locality { region, zone, ..Locality::default() }, endpoints, *weight)
    });
    ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: endpoints.collect(),
        ..ClusterLoadAssignment::default()
    }
}

fn locality(locality: Locality, addresses: &[SocketAddr], weight: u32) -> LocalityLbEndpoints {
    let endpoint = |address: &SocketAddr| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(socket_address(*address)),
            ..Endpoint::default()
        })),
        load_balancing_weight: Some(UInt32Value { value: 1 }),
        ..LbEndpoint::default()
    };
    LocalityLbEndpoints {
        locality: Some(locality),
        lb_endpoints: addresses.iter().map(endpoint).collect(),
        load_balancing_weight: Some(UInt32Value { value: weight }),
        ..LocalityLbEndpoints::default()
    }
}

/// What answers at this name in DNS.
pub(super) fn by_name(name: &str, host: &str, port: u16) -> ClusterLoadAssignment {
    let address = Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: host.into(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        })),
    };
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint { address: Some(address), ..Endpoint::default() })),
        ..LbEndpoint::default()
    };
    let locality = LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..LocalityLbEndpoints::default() };
    ClusterLoadAssignment { cluster_name: name.into(), endpoints: vec![locality], ..ClusterLoadAssignment::default() }
}

/// An encoded `Resource` without endpoints: what a removed assignment becomes while its cluster stays.
#[must_use]
pub fn empty(name: &str) -> Bytes {
    let assignment = ClusterLoadAssignment { cluster_name: name.into(), ..ClusterLoadAssignment::default() };
    encode(ResourceType::Endpoints, name, EMPTY_VERSION, assignment.encode_to_vec())
}
