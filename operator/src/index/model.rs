//! Validated models of Kubernetes objects: only what Weir uses of them.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use k8s_openapi::{
    api::{
        core::v1::{Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use limiter::{
    metric::PROXY_CONTAINERS,
    problem::{Problem, Reason},
    quantity::quantity,
};
use serde::Serialize;

use super::Labels;
use crate::intent::{Protocol, Sidecar};

/// Label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Annotation of a Pod, with the port at the end: where the application answers what arrives at that port.
const INBOUND: &str = "inbound.weir.dev/";
/// Annotation of a Pod that injection has put a sidecar into: how that comes by the requests (`inject::MARK`).
const SIDECAR: &str = "sidecar.weir.dev/interception";
/// Annotation of a Pod: the Service that its sidecar names (`inject::NAMED`).
const NAMED: &str = "inject.weir.dev/service";
/// Annotation of a Pod: where its proxy takes the requests that the application sends to other services.
pub(super) const OUTBOUND: &str = "outbound.weir.dev/listen";
/// Annotation of a Pod: the port at which its proxy takes all that iptables hands to it of what the application sends.
pub(super) const INTERCEPT: &str = "outbound.weir.dev/intercept";

/// A Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceModel {
    /// Its labels, which selectors match.
    pub labels: BTreeMap<String, String>,
    /// TCP ports, in the object's order.
    pub ports: Vec<ServicePort>,
    /// Its own addresses; none of one that is headless.
    pub addresses: Vec<IpAddr>,
    /// Has a selector, by which a cluster finds its endpoints.
    pub selects: bool,
    /// Nothing can be limited on it.
    pub unfit: Option<Unfit>,
}

/// Why nothing can be limited on a Service, whatever pods there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Unfit {
    /// It is another name for this host.
    ExternalName(String),
    /// It has ports, none of them TCP.
    NoTcpPort,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExternalName(host) => write!(
                f,
                "it is of type ExternalName, another name for {host:?}, so it has no pods with proxies: name a Service that has \
                 pods, or give this one a selector or EndpointSlices instead of the name"
            ),
            Self::NoTcpPort => f.write_str(
                "all its ports are UDP or SCTP, and limits are for HTTP requests: name a Service that serves HTTP, or add a TCP port",
            ),
        }
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, which the slices' ports share; may be empty.
    pub name: String,
    /// The number that callers use.
    pub port: u16,
    /// From `appProtocol` or the name's prefix.
    pub protocol: Protocol,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSliceModel {
    /// The Service it belongs to.
    pub service: String,
    /// Ports of every endpoint.
    pub ports: Vec<PortModel>,
    /// Endpoints.
    pub endpoints: Vec<EndpointModel>,
}

impl EndpointSliceModel {
    /// Whether an endpoint of this slice is the pod.
    #[must_use]
    pub fn names_pod(&self, pod: &str) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.pod == pod)
    }
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortModel {
    /// Its name, which is the Service port's.
    pub name: String,
    /// The pods' port.
    pub port: u16,
    /// From the slice's `appProtocol`, when it has one.
    pub protocol: Option<Protocol>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointModel {
    /// The pod's name, or the address when the endpoint has no `targetRef`.
    pub pod: String,
    /// The pod's address.
    pub address: IpAddr,
    /// Takes requests. Kubernetes says: absent means ready.
    pub ready: bool,
}

/// Where an application answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Application {
    /// At this port of its pod's own address.
    Port(u16),
    /// Here.
    Address(SocketAddr),
}

impl Application {
    fn parse(text: &str) -> Option<Self> {
        let port = text.parse().ok().map(Self::Port);
        let found = port.or_else(|| text.parse().ok().map(Self::Address))?;
        (found.at(Ipv4Addr::UNSPECIFIED.into()).port() > 0).then_some(found)
    }

    /// Its address, in a pod with this one.
    #[must_use]
    pub fn at(self, pod: IpAddr) -> SocketAddr {
        match self {
            Self::Port(port) => SocketAddr::new(pod, port),
            Self::Address(address) => address,
        }
    }
}

/// A Pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodModel {
    /// Its labels, which selectors of `LazyConfig`s match.
    pub labels: Labels,
    /// Where the application answers, by the port that clients use.
    pub inbound: BTreeMap<u16, Application>,
    /// Where the proxy takes what the application sends to other services.
    pub outbound: Option<WayOut>,
    /// What injection has put there.
    pub sidecar: Option<Sidecar>,
    /// What its annotations say of its metrics page.
    pub page: PageModel,
    /// CPU that the application's containers may use.
    pub cpu_cores: Option<Resource>,
    /// Memory that the application's containers may use, in bytes.
    pub memory_bytes: Option<Resource>,
}

/// Where a proxy takes what its application sends to other services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayOut {
    /// There it listens.
    pub listener: SocketAddr,
    /// iptables hands it whatever the application sends.
    pub intercepts: bool,
}

/// What a Pod's annotations say of its metrics page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageModel {
    /// `prometheus.io/scrape`: whether it is read.
    pub scrape: Option<bool>,
    /// `prometheus.io/port`.
    pub port: Option<u16>,
    /// `prometheus.io/path`, which begins with `/`.
    pub path: Option<String>,
    /// `prometheus.io/scheme` is `https`.
    pub tls: bool,
    /// The first TCP port that a container of the application declares.
    pub container_port: Option<u16>,
}

impl PageModel {
    /// Takes in one annotation of `prometheus.io`; others of that domain are left to those who know them.
    fn annotate(&mut self, name: &str, value: String) -> Result<(), (String, &'static str)> {
        let expected = |what: &str, mend| Err((format!("expected {what}, found {value:?}"), mend));
        match name {
            "scrape" => match value.as_str() {
                "true" => self.scrape = Some(true),
                "false" => self.scrape = Some(false),
                _ => return expected("\"true\" or \"false\"", "for example prometheus.io/scrape: \"true\""),
            },
            "port" => match value.parse() {
                Ok(port) if port > 0 => self.port = Some(port),
                _ => return expected("a port from 1 to 65535", "for example prometheus.io/port: \"9100\""),
            },
            "path" if value.starts_with('/') && value.parse::<http::uri::PathAndQuery>().is_ok() => {
                self.path = Some(value);
            }
            "path" => return expected("a path that begins with `/`", "for example prometheus.io/path: /metrics"),
            "scheme" => match value.as_str() {
                "http" => self.tls = false,
                "https" => self.tls = true,
                _ => return expected("`http` or `https`", "for example prometheus.io/scheme: http"),
            },
            _ => {}
        }
        Ok(())
    }
}

/// A resource of the application's containers, summed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resource {
    /// Cores or bytes; above zero.
    pub amount: f64,
    /// It is the request, since a container has no limit.
    pub from_request: bool,
}

fn invalid(field: impl Into<String>, message: impl Into<String>, help: &str) -> Problem {
    Problem {
        field: field.into(),
        reason: Reason::Invalid,
        message: message.into(),
        help: (!help.is_empty()).then(|| help.to_owned()),
        place: None,
    }
}

impl TryFrom<Service> for ServiceModel {
    type Error = Vec<Problem>;

    fn try_from(service: Service) -> Result<Self, Self::Error> {
        let mut problems = Vec::new();
        let mut ports = Vec::new();
        let spec = service.spec.unwrap_or_default();
        let selects = spec.selector.is_some_and(|selector| !selector.is_empty());
        let all_ports = spec.ports.unwrap_or_default();
        let is_tcp = |protocol: &Option<String>| protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let unfit = match spec.type_.as_deref() {
            Some("ExternalName") => Some(Unfit::ExternalName(spec.external_name.unwrap_or_default())),
            _ if all_ports.is_empty() || all_ports.iter().any(|port| is_tcp(&port.protocol)) => None,
            _ => Some(Unfit::NoTcpPort),
        };
        for (position, port) in all_ports.into_iter().enumerate() {
            if !is_tcp(&port.protocol) {
                continue; // UDP and SCTP do not pass a proxy of ours
            }
            let name = port.name.unwrap_or_default();
            let protocol = protocol(port.app_protocol.as_deref(), &name);
            match u16::try_from(port.port).ok().filter(|number| *number > 0) {
                Some(number) => ports.push(ServicePort { name, port: number, protocol }),
                None => {
                    let message = format!("expected a port from 1 to 65535, found {}", port.port);
                    problems.push(invalid(format!("spec.ports[{position}].port"), message, ""));
                }
            }
        }
        let mut addresses = Vec::new();
        let given = spec.cluster_ips.unwrap_or_else(|| spec.cluster_ip.into_iter().collect());
        for (position, text) in given.iter().enumerate().filter(|(_, text)| !matches!(text.as_str(), "" | "None")) {
            match text.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => {
                    let message = format!("expected an IP address or None, found {text:?}");
                    problems.push(invalid(format!("spec.clusterIPs[{position}]"), message, ""));
                }
            }
        }
        let labels = service.metadata.labels.unwrap_or_default();
        if problems.is_empty() { Ok(Self { labels, ports, addresses, selects, unfit }) } else { Err(problems) }
    }
}

/// What a port speaks: `appProtocol` first, else the name's prefix as Istio reads it, else HTTP.
fn protocol(app_protocol: Option<&str>, name: &str) -> Protocol {
    let word = app_protocol.unwrap_or_else(|| name.split('-').next().unwrap_or_default());
    match word.to_ascii_lowercase().as_str() {
        "kubernetes.io/h2c" | "http2" | "h2c" | "grpc" | "grpc-web" => Protocol::Http2,
        "tcp" | "tls" | "https" | "mysql" | "postgres" | "redis" | "mongo" | "kafka" => Protocol::Tcp,
        _ => Protocol::Http,
    }
}

impl TryFrom<EndpointSlice> for EndpointSliceModel {
    type Error = Vec<Problem>;

    fn try_from(slice: EndpointSlice) -> Result<Self, Self::Error> {
        let service = match owner(&slice) {
            Ok(service) => service.to_owned(),
            Err(problem) => return Err(vec![problem]),
        };
        let mut problems = Vec::new();
        let mut ports = Vec::new();
        for (position, port) in slice.ports.unwrap_or_default().into_iter().enumerate() {
            if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
                continue; // UDP and SCTP do not pass a proxy of ours
            }
            let number = port.port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
            let Some(number) = number else {
                let message = format!("expected a port from 1 to 65535, found {:?}", port.port);
                problems.push(invalid(format!("ports[{position}].port"), message, ""));
                continue;
            };
            let name = port.name.unwrap_or_default();
            let protocol = port.app_protocol.map(|word| protocol(Some(&word), &name));
            ports.push(PortModel { name, port: number, protocol });
        }
        let mut endpoints = Vec::new();
        for (position, endpoint) in slice.endpoints.into_iter().enumerate() {
            let text = endpoint.addresses.first().cloned().unwrap_or_default();
            let Ok(address) = text.parse::<IpAddr>() else {
                let message = format!("expected an IP address, found {text:?}");
                problems.push(invalid(format!("endpoints[{position}].addresses[0]"), message, ""));
                continue;
            };
            let ready = endpoint.conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
            let target = endpoint.target_ref.filter(|target| target.kind.as_deref().is_none_or(|kind| kind == "Pod"));
            let pod = target.and_then(|target| target.name).unwrap_or(text);
            if pod.contains('/') || pod.is_empty() {
                let message = format!("expected a pod's name, found {pod:?}");
                problems.push(invalid(format!("endpoints[{position}].targetRef.name"), message, ""));
                continue;
            }
            endpoints.push(EndpointModel { pod, address, ready });
        }
        if problems.is_empty() { Ok(Self { service, ports, endpoints }) } else { Err(problems) }
    }
}

/// The Service that a slice belongs to.
///
/// # Errors
/// Why it is none for Weir, though Kubernetes allows it.
pub(crate) fn owner(slice: &EndpointSlice) -> Result<&str, Problem> {
    if slice.address_type == "FQDN" {
        let help = "list the addresses of the pods, with addressType: IPv4 or IPv6";
        return Err(invalid("addressType", "FQDN: the endpoints are names, and proxies need addresses", help));
    }
    let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
    service.filter(|service| !service.is_empty()).map(String::as_str).ok_or_else(|| {
        let field = format!("metadata.labels[{SERVICE_NAME}]");
        invalid(field, "the label is missing", "set it to the name of the Service")
    })
}

impl TryFrom<Pod> for PodModel {
    type Error = Vec<Problem>;

    fn try_from(pod: Pod) -> Result<Self, Self::Error> {
        let mut problems = Vec::new();
        let annotations = pod.metadata.annotations.unwrap_or_default();
        let sidecar =
            |mode: &String| Sidecar { intercepts: mode == "Redirect", named: annotations.contains_key(NAMED) };
        let labels = pod.metadata.labels.unwrap_or_default().into_iter().collect();
        let mut model = Self { labels, sidecar: annotations.get(SIDECAR).map(sidecar), ..Self::default() };
        for (name, value) in annotations {
            let field = format!("metadata.annotations[{name}]");
            if let Some(port) = name.strip_prefix(INBOUND) {
                match (port.parse::<u16>(), Application::parse(&value)) {
                    (Ok(port), Some(Application::Port(same))) if port == same => problems.push(invalid(
                        field,
                        "the proxy listens at this port of the pod, and would be sent to itself",
                        "name the port of the pod at which the application listens",
                    )),
                    (Ok(port), Some(application)) if port > 0 => {
                        model.inbound.insert(port, application);
                    }
                    _ => problems.push(invalid(
                        field,
                        format!(
                            "expected `{INBOUND}PORT: PORT` or `{INBOUND}PORT: ADDRESS:PORT`, found the value {value:?}"
                        ),
                        "for example inbound.weir.dev/8080: \"9000\"",
                    )),
                }
            } else if name == OUTBOUND {
                match value.parse::<SocketAddr>() {
                    Ok(listener) if listener.port() > 0 => {
                        model.outbound.get_or_insert(WayOut { listener, intercepts: false });
                    }
                    _ => problems.push(invalid(
                        field,
                        format!("expected ADDRESS:PORT, found {value:?}"),
                        "for example outbound.weir.dev/listen: 127.0.0.1:15001",
                    )),
                }
            } else if name == INTERCEPT {
                match value.parse::<u16>() {
                    Ok(port) if port > 0 => {
                        let listener = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
                        // One proxy has one way out; whoever asks for a port of its own as well reaches this one there.
                        model.outbound = Some(WayOut { listener, intercepts: true });
                    }
                    _ => problems.push(invalid(
                        field,
                        format!("expected a port from 1 to 65535, found {value:?}"),
                        "for example outbound.weir.dev/intercept: \"15001\"",
                    )),
                }
            } else if name.starts_with("outbound.weir.dev/") {
                problems.push(invalid(
                    field,
                    "the annotation is not known",
                    "did you mean `outbound.weir.dev/listen` or `outbound.weir.dev/intercept`?",
                ));
            } else if let Some(setting) = name.strip_prefix("prometheus.io/")
                && let Err((message, mend)) = model.page.annotate(setting, value)
            {
                problems.push(invalid(field, message, mend));
            }
        }
        let spec = pod.spec.unwrap_or_default();
        let mut cpu = Sum::default();
        let mut memory = Sum::default();
        let containers = spec.containers.into_iter().enumerate().map(|(position, it)| ("containers", position, it));
        // Init containers that go on running are measured like all others.
        let sidecars = spec.init_containers.unwrap_or_default().into_iter().enumerate();
        let sidecars = sidecars.filter(|(_, container)| container.restart_policy.as_deref() == Some("Always"));
        let all = containers.chain(sidecars.map(|(position, it)| ("initContainers", position, it)));
        for (list, position, container) in all {
            if PROXY_CONTAINERS.contains(&container.name.as_str()) {
                continue;
            }
            let ports = container.ports.unwrap_or_default();
            let mut tcp = ports.iter().filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
            let first = tcp.find_map(|port| u16::try_from(port.container_port).ok());
            model.page.container_port = model.page.container_port.or(first);
            let resources = container.resources.unwrap_or_default();
            let (limits, requests) = (resources.limits.unwrap_or_default(), resources.requests.unwrap_or_default());
            let field = format!("spec.{list}[{position}].resources");
            for (sum, name) in [(&mut cpu, "cpu"), (&mut memory, "memory")] {
                if let Err(problem) = sum.add(&field, name, limits.get(name), requests.get(name)) {
                    problems.push(problem);
                }
            }
        }
        model.cpu_cores = cpu.resource();
        model.memory_bytes = memory.resource();
        if problems.is_empty() { Ok(model) } else { Err(problems) }
    }
}

/// Adds up one resource over containers; one container without limit and request makes the sum unknown.
#[derive(Default)]
struct Sum {
    amount: f64,
    containers: u32,
    from_request: bool,
    unknown: bool,
}

impl Sum {
    fn add(
        &mut self,
        field: &str,
        name: &str,
        limit: Option<&Quantity>,
        request: Option<&Quantity>,
    ) -> Result<(), Problem> {
        self.containers += 1;
        for (part, given) in [("limits", limit), ("requests", request)] {
            let Some(given) = given else { continue };
            let amount = quantity(&given.0).ok_or_else(|| {
                let message = format!("expected a quantity such as 500m, 2 or 512Mi, found {:?}", given.0);
                invalid(format!("{field}.{part}.{name}"), message, "")
            })?;
            // Zero is how Kubernetes writes "without".
            if amount > 0.0 {
                self.amount += amount;
                self.from_request |= part == "requests";
                return Ok(());
            }
        }
        self.unknown = true;
        Ok(())
    }

    fn resource(&self) -> Option<Resource> {
        let known = self.containers > 0 && !self.unknown && self.amount > 0.0;
        known.then_some(Resource { amount: self.amount, from_request: self.from_request })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_comes_from_app_protocol_then_name() {
        assert_eq!(protocol(Some("kubernetes.io/h2c"), "http"), Protocol::Http2);
        assert_eq!(protocol(None, "grpc-api"), Protocol::Http2);
        assert_eq!(protocol(None, "tcp-db"), Protocol::Tcp);
        assert_eq!(protocol(None, ""), Protocol::Http);
    }
}
