//! One service as `translate` sees it: endpoints from slices, joined with their pods.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use limiter::policy::Policy;

use super::model::{EndpointSliceModel, PodModel, Resource, ServiceModel};
use crate::intent::{Inbound, Protocol, ServiceKey};

/// A service with everything that concerns it.
#[derive(Clone, Debug)]
pub struct ServiceView<'a> {
    /// Which service.
    pub key: &'a ServiceKey,
    /// Its endpoints by pod name.
    pub endpoints: BTreeMap<&'a str, Endpoint>,
    /// Accepted policies that apply to it, in the order of their keys.
    pub policies: Vec<&'a Policy>,
}

impl ServiceView<'_> {
    /// Names of the ready pods, in order.
    pub fn ready_pods(&self) -> impl Iterator<Item = &str> {
        self.endpoints.iter().filter(|(_, endpoint)| endpoint.ready).map(|(pod, _)| *pod)
    }
}

/// A pod as an endpoint of the service.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Takes requests.
    pub ready: bool,
    /// Ports on which its proxy listens.
    pub inbound: Vec<Inbound>,
    /// Address, port and path of its metrics page; `None` without any port.
    pub metrics: Option<(SocketAddr, String)>,
    /// CPU in cores.
    pub cpu_cores: Option<Resource>,
    /// Memory in bytes.
    pub memory_bytes: Option<Resource>,
}

pub(super) fn build<'a>(
    key: &'a ServiceKey,
    service: &'a ServiceModel,
    slices: Option<&'a BTreeMap<String, EndpointSliceModel>>,
    pods: &'a BTreeMap<(String, String), PodModel>,
    policies: Vec<&'a Policy>,
) -> ServiceView<'a> {
    let mut endpoints: BTreeMap<&str, Endpoint> = BTreeMap::new();
    for slice in slices.into_iter().flat_map(BTreeMap::values) {
        for endpoint in &slice.endpoints {
            let pod = pods.get(&(key.namespace.clone(), endpoint.pod.clone()));
            let entry = endpoints.entry(&endpoint.pod).or_insert_with(|| Endpoint {
                ready: endpoint.ready,
                inbound: Vec::new(),
                metrics: None,
                cpu_cores: pod.and_then(|pod| pod.cpu_cores),
                memory_bytes: pod.and_then(|pod| pod.memory_bytes),
            });
            entry.ready &= endpoint.ready;
            for port in &slice.ports {
                let listener = SocketAddr::new(endpoint.address, port.port);
                if entry.inbound.iter().any(|inbound| inbound.listener == listener) {
                    continue; // the same pod in a second slice, as with two address families of one port
                }
                let by_name = || service.protocols.get(&port.name).copied();
                let protocol = port.protocol.or_else(by_name).unwrap_or(Protocol::Http);
                let mapped = pod.and_then(|pod| pod.inbound.get(&port.port).copied());
                let application = mapped.unwrap_or_else(|| loopback(endpoint.address, port.port));
                entry.inbound.push(Inbound { listener, application, protocol });
            }
            entry.inbound.sort_by_key(|inbound| inbound.listener);
            if entry.metrics.is_none() {
                let path = pod.and_then(|pod| pod.metrics_path.clone()).unwrap_or_else(|| "/metrics".to_owned());
                let page = pod.and_then(|pod| pod.metrics_port).map(|port| SocketAddr::new(endpoint.address, port));
                // Without a port of its own the page is the application's: asked directly, so that no limit refuses it.
                let page = page.or_else(|| entry.inbound.first().map(|inbound| inbound.application));
                entry.metrics = page.map(|address| (address, path));
            }
        }
    }
    ServiceView { key, endpoints, policies }
}

/// Where an application listens that shares the port with its proxy: the loopback of the same family.
fn loopback(address: IpAddr, port: u16) -> SocketAddr {
    match address {
        IpAddr::V4(_) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
        IpAddr::V6(_) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port),
    }
}
