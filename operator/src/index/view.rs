//! One service as `translate` sees it: endpoints from slices, joined with their pods.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use limiter::policy::{EnforceAt, Policy};

use super::{
    edges::Enforcer,
    gateway::GatewayModel,
    model::{EndpointSliceModel, PageModel, PodModel, Resource, ServiceModel, Unfit, WayOut},
};
use crate::intent::{Inbound, Protocol, ServiceKey, Sidecar};

/// A service with everything that concerns it.
#[derive(Clone, Debug)]
pub struct ServiceView<'a> {
    /// Which service.
    pub key: &'a ServiceKey,
    /// Its endpoints by pod name.
    pub endpoints: BTreeMap<&'a str, Endpoint>,
    /// Accepted policies that apply to it, in the order of their keys.
    pub policies: Vec<&'a Arc<Policy>>,
    /// Pods whose proxies enforce those of the policies that are not enforced at the service's own, by place.
    pub enforcers: BTreeMap<EnforceAt, Vec<Enforcer>>,
    /// The Gateway of the same name, whose proxies the endpoints are.
    pub gateway: Option<&'a GatewayModel>,
    /// The pods' port by the number that callers use.
    pub pod_ports: BTreeMap<u16, u16>,
    /// Has a selector, by which a cluster finds its endpoints.
    pub selects: bool,
    /// Nothing can be limited on it.
    pub unfit: Option<&'a Unfit>,
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
    /// Its address; the first one of several.
    pub address: IpAddr,
    /// Where its proxy takes what the application sends to other services; never a port of `inbound` or of the Gateway.
    pub outbound: Option<WayOut>,
    /// Ports on which its proxy listens.
    pub inbound: Vec<Inbound>,
    /// What injection has put there.
    pub sidecar: Option<Sidecar>,
    /// Its metrics page; `None` when there is none to read.
    pub page: Option<Page>,
    /// CPU in cores.
    pub cpu_cores: Option<Resource>,
    /// Memory in bytes.
    pub memory_bytes: Option<Resource>,
}

/// Where a pod's metrics page is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Address and port.
    pub address: SocketAddr,
    /// Path, which begins with `/`.
    pub path: String,
    /// It is served over TLS.
    pub tls: bool,
    /// The Pod's annotations name it, at the pod's own address. Otherwise it is looked for where the application answers, which
    /// only a Weir on the same machine may reach.
    pub annotated: bool,
}

/// What the pods of a service listen on, by the pods' numbers.
pub(super) struct Ports<'a> {
    slices: Option<&'a BTreeMap<String, EndpointSliceModel>>,
    gateway: Option<&'a GatewayModel>,
    /// By the number that callers use.
    pod_ports: BTreeMap<u16, u16>,
}

impl<'a> Ports<'a> {
    pub(super) fn new(
        service: &ServiceModel,
        slices: Option<&'a BTreeMap<String, EndpointSliceModel>>,
        gateway: Option<&'a GatewayModel>,
    ) -> Self {
        let slice_ports = || slices.into_iter().flat_map(BTreeMap::values).flat_map(|slice| &slice.ports);
        let pod_port = |name: &str| slice_ports().find(|port| port.name == name).map(|port| port.port);
        let mapped = service.ports.iter().filter_map(|port| Some((port.port, pod_port(&port.name)?)));
        Self { slices, gateway, pod_ports: mapped.collect() }
    }

    /// Whether the Gateway listens on this port of the pods.
    fn of_gateway(&self, port: u16) -> bool {
        self.gateway.is_some_and(|gateway| gateway.listens(port, &self.pod_ports))
    }

    /// Whether the pod's proxy listens on this port for requests to the service.
    pub(super) fn taken(&self, pod: &str, port: u16) -> bool {
        let mut slices = self.slices.into_iter().flat_map(BTreeMap::values);
        self.of_gateway(port)
            || slices.any(|slice| slice.ports.iter().any(|own| own.port == port) && slice.names_pod(pod))
    }

    /// Where the pod's proxy takes what the application sends to other services, unless that port is taken: one proxy has
    /// one listener by port.
    pub(super) fn way_out(&self, pod: &str, model: &PodModel) -> Option<WayOut> {
        model.outbound.filter(|way_out| !self.taken(pod, way_out.listener.port()))
    }
}

pub(super) fn build<'a>(
    key: &'a ServiceKey,
    service: &'a ServiceModel,
    slices: Option<&'a BTreeMap<String, EndpointSliceModel>>,
    pods: &'a BTreeMap<(String, String), PodModel>,
    policies: Vec<&'a Arc<Policy>>,
    gateway: Option<&'a GatewayModel>,
) -> ServiceView<'a> {
    let ports = Ports::new(service, slices, gateway);
    let mut endpoints: BTreeMap<&str, Endpoint> = BTreeMap::new();
    for slice in slices.into_iter().flat_map(BTreeMap::values) {
        for endpoint in &slice.endpoints {
            let pod = pods.get(&(key.namespace.clone(), endpoint.pod.clone()));
            let entry = endpoints.entry(&endpoint.pod).or_insert_with(|| Endpoint {
                ready: endpoint.ready,
                address: endpoint.address,
                outbound: pod.and_then(|pod| ports.way_out(&endpoint.pod, pod)),
                inbound: Vec::new(),
                sidecar: pod.and_then(|pod| pod.sidecar),
                page: None,
                cpu_cores: pod.and_then(|pod| pod.cpu_cores),
                memory_bytes: pod.and_then(|pod| pod.memory_bytes),
            });
            entry.ready &= endpoint.ready;
            for port in &slice.ports {
                let listener = SocketAddr::new(endpoint.address, port.port);
                // Of a pod's port there is one proxy listener, by whose port resources are named: on the first address, when slices
                // of two address families, or of two names, have the port.
                if ports.of_gateway(port.port)
                    || entry.inbound.iter().any(|inbound| inbound.listener.port() == port.port)
                {
                    continue;
                }
                let by_name = || service.ports.iter().find(|own| own.name == port.name).map(|own| own.protocol);
                let protocol = port.protocol.or_else(by_name).unwrap_or(Protocol::Http);
                let mapped =
                    pod.and_then(|pod| pod.inbound.get(&port.port)).map(|application| application.at(endpoint.address));
                let application = match entry.sidecar {
                    // The proxy has no port of its own, so the application listens as it would without it.
                    Some(Sidecar { intercepts: true, .. }) => mapped.unwrap_or(listener),
                    _ => mapped.unwrap_or_else(|| loopback(endpoint.address, port.port)),
                };
                entry.inbound.push(Inbound { listener, application, protocol });
            }
            entry.inbound.sort_by_key(|inbound| inbound.listener);
            if entry.page.is_none() {
                entry.page = page(pod.map(|pod| &pod.page), endpoint.address, &entry.inbound);
            }
        }
    }
    ServiceView {
        key,
        endpoints,
        policies,
        enforcers: BTreeMap::new(),
        gateway,
        pod_ports: ports.pod_ports,
        selects: service.selects,
        unfit: service.unfit.as_ref(),
    }
}

/// The metrics page of a pod at this address.
fn page(model: Option<&PageModel>, address: IpAddr, inbound: &[Inbound]) -> Option<Page> {
    let default = PageModel::default();
    let PageModel { scrape, port, path, tls, container_port } = model.unwrap_or(&default);
    let asked = scrape.unwrap_or(port.is_some());
    let declared = || container_port.or_else(|| inbound.first().map(|inbound| inbound.listener.port()));
    let address = match (scrape, asked) {
        (Some(false), _) => return None,
        (_, true) => SocketAddr::new(address, port.or_else(declared)?),
        // Asked directly, so that no limit refuses it.
        _ => inbound.first()?.application,
    };
    let path = path.clone().unwrap_or_else(|| "/metrics".to_owned());
    Some(Page { address, path, tls: *tls, annotated: asked })
}

/// Where an application listens that shares the port with its proxy: the loopback of the same family.
fn loopback(address: IpAddr, port: u16) -> SocketAddr {
    match address {
        IpAddr::V4(_) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
        IpAddr::V6(_) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port),
    }
}
