//! Gateway API's `Gateway` and `HTTPRoute` (`gateway.networking.k8s.io/v1`): the fields that are carried out, and a problem for
//! each that is not, since a filter or a timeout that is dropped in silence changes what a route means.

mod grpc;

use std::collections::BTreeMap;

use crds::{ObjectMeta, smart_limiter::RequestMatch as Match};
use jiff::Timestamp;
use limiter::{
    policy::{PathMatch, RequestMatch, is_dns_label, weir},
    problem::{Problem, Reason},
};
use serde::Deserialize;
use serde_json::Value;

pub(crate) use self::grpc::GrpcRoute;
use crate::intent::{DestinationKey, ServiceKey};

/// Group of both kinds.
const GROUP: &str = "gateway.networking.k8s.io";

/// A Gateway. Its proxies are the endpoints of the Service of the same namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayModel {
    /// HTTP listeners, in the object's order; names are unique.
    pub listeners: Vec<ListenerModel>,
}

impl GatewayModel {
    /// The port on which the proxies listen for clients of `port`: the pods' port, where the Gateway's Service maps it.
    #[must_use]
    pub fn pod_port(port: u16, pod_ports: &BTreeMap<u16, u16>) -> u16 {
        pod_ports.get(&port).copied().unwrap_or(port)
    }

    /// Whether the proxies listen on this port of the pods.
    #[must_use]
    pub fn listens(&self, pod_port: u16, pod_ports: &BTreeMap<u16, u16>) -> bool {
        self.listeners.iter().any(|listener| Self::pod_port(listener.port, pod_ports) == pod_port)
    }
}

/// A listener of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerModel {
    /// Its name.
    pub name: String,
    /// The port that clients use.
    pub port: u16,
    /// The hosts that it takes: one, all below `*.`, or every one.
    pub hostname: Option<String>,
    /// Routes of every namespace may attach, not only those of the Gateway's own.
    pub any_namespace: bool,
}

/// An HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteModel {
    /// `metadata.generation` of the object (0 when the source has none).
    pub generation: i64,
    /// Decides between routes that are equally precise: the oldest wins.
    pub created: Option<Timestamp>,
    /// The Gateways that it attaches to.
    pub parents: Vec<ParentModel>,
    /// The Services whose requests it shares out among its backends, in the proxies of their callers.
    pub roots: Vec<RootModel>,
    /// Hosts that it is for; empty: all that the listener takes.
    pub hostnames: Vec<String>,
    /// Rules, in the object's order.
    pub rules: Vec<RouteRule>,
}

/// Names listeners of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentModel {
    /// The Gateway.
    pub gateway: ServiceKey,
    /// Only the listener of this name.
    pub section: Option<String>,
    /// Only listeners of this port.
    pub port: Option<u16>,
}

/// Names a Service, or a port of it, as the parent of a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RootModel {
    /// The Service.
    pub service: ServiceKey,
    /// Only this port.
    pub port: Option<u16>,
    /// Where it stands in `spec.parentRefs`.
    pub position: usize,
}

/// A rule of an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRule {
    /// Any of these must match; never empty.
    pub matches: Vec<RequestMatch>,
    /// Where the requests go, by weight.
    pub backends: Vec<(DestinationKey, u32)>,
}

impl RouteModel {
    /// Whether the route, which lives in `namespace`, attaches to this listener of `gateway`.
    #[must_use]
    pub fn attaches(&self, namespace: &str, gateway: &ServiceKey, listener: &ListenerModel) -> bool {
        let named = |parent: &ParentModel| {
            parent.gateway == *gateway
                && parent.section.as_ref().is_none_or(|section| *section == listener.name)
                && parent.port.is_none_or(|port| port == listener.port)
        };
        (listener.any_namespace || namespace == gateway.namespace) && self.parents.iter().any(named)
    }

    /// The Services that its rules send requests to.
    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        let backends = self.rules.iter().flat_map(|rule| &rule.backends);
        backends.filter(|(_, weight)| *weight > 0).map(|(destination, _)| &destination.service)
    }
}

/// Fields that are not read.
type Rest = BTreeMap<String, Value>;

/// The object as it is written.
#[derive(Deserialize)]
pub(crate) struct Gateway {
    spec: GatewaySpec,
}

#[derive(Deserialize)]
struct GatewaySpec {
    listeners: Vec<Listener>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listener {
    name: String,
    port: i64,
    protocol: String,
    hostname: Option<String>,
    allowed_routes: Option<AllowedRoutes>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Default, Deserialize)]
struct AllowedRoutes {
    namespaces: Option<RouteNamespaces>,
    #[serde(default)]
    kinds: Vec<RouteKind>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Default, Deserialize)]
struct RouteNamespaces {
    from: Option<String>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteKind {
    group: Option<String>,
    kind: String,
}

/// The object as it is written.
#[derive(Deserialize)]
pub(crate) struct HttpRoute {
    metadata: ObjectMeta,
    spec: RouteSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RouteSpec {
    #[serde(default)]
    parent_refs: Vec<ParentRef>,
    #[serde(default)]
    hostnames: Vec<String>,
    /// Absent: Gateway API's default, which has no backend.
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ParentRef {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    section_name: Option<String>,
    port: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    /// For people and for policies that name it.
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(default)]
    matches: Vec<Match>,
    #[serde(default)]
    backend_refs: Vec<BackendRef>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BackendRef {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    port: Option<i64>,
    weight: Option<i64>,
    #[serde(flatten)]
    rest: Rest,
}

fn problem(field: impl Into<String>, reason: Reason, message: impl Into<String>, help: &str) -> Problem {
    let help = (!help.is_empty()).then(|| help.to_owned());
    Problem { field: field.into(), reason, message: message.into(), help, place: None }
}

/// One problem for each field that is not read; what says nothing (`null`, `[]`, `{}`) costs nothing.
fn not_read(rest: &Rest, field: &str, known: &[&str], problems: &mut Vec<Problem>) {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    for (name, _) in rest.iter().filter(|(name, value)| !known.contains(&name.as_str()) && !empty(value)) {
        let message = format!("`{name}` is not carried out by this version, and to drop it would change the meaning");
        problems.push(problem(format!("{field}.{name}"), Reason::NotYetSupported, message, "leave it out"));
    }
}

fn port(number: i64, field: &str, problems: &mut Vec<Problem>) -> Option<u16> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    if port.is_none() {
        let message = format!("expected a port from 1 to 65535, found {number}");
        problems.push(problem(field, Reason::Invalid, message, ""));
    }
    port
}

/// Hosts are compared in lower case. Refused here: what Envoy would not take as a domain.
fn hostname(text: &str, field: &str, problems: &mut Vec<Problem>) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let name = lower.strip_prefix("*.").unwrap_or(&lower);
    if name.len() > 253 || !name.split('.').all(label) {
        let message = format!("expected a host such as shop.example.com or *.example.com, found {text:?}");
        problems.push(problem(field, Reason::Invalid, message, "ports and addresses do not belong here"));
        return None;
    }
    Some(lower)
}

impl Gateway {
    /// The model, and a problem for each listener that is left out of it.
    pub(crate) fn model(self) -> (GatewayModel, Vec<Problem>) {
        let mut problems = Vec::new();
        // The class does not matter: what counts is that the proxies of its Service ask Weir. The infrastructure is for whoever
        // installs them.
        not_read(&self.spec.rest, "spec", &["gatewayClassName", "infrastructure"], &mut problems);
        let mut model = GatewayModel::default();
        for (position, listener) in self.spec.listeners.into_iter().enumerate() {
            let field = format!("spec.listeners[{position}]");
            if model.listeners.iter().any(|other| other.name == listener.name) {
                let message = format!("{:?} is the name of two listeners", listener.name);
                problems.push(problem(format!("{field}.name"), Reason::Invalid, message, "rename one"));
                continue;
            }
            model.listeners.extend(listener.model(&field, &mut problems));
        }
        (model, problems)
    }
}

impl Listener {
    fn model(self, field: &str, problems: &mut Vec<Problem>) -> Option<ListenerModel> {
        let before = problems.len();
        if self.protocol != "HTTP" {
            let message = format!("the listener is left out: protocol {:?} is not carried out", self.protocol);
            let help = "write HTTP, and end TLS in front of the gateway";
            problems.push(problem(format!("{field}.protocol"), Reason::NotYetSupported, message, help));
            return None;
        }
        not_read(&self.rest, field, &[], problems);
        let allowed = self.allowed_routes.unwrap_or_default();
        let any_namespace = allowed.any_namespace(&format!("{field}.allowedRoutes"), problems);
        let port = port(self.port, &format!("{field}.port"), problems);
        let host = |text: String| hostname(&text, &format!("{field}.hostname"), problems);
        let hostname = self.hostname.filter(|text| !text.is_empty()).and_then(host);
        (problems.len() == before)
            .then_some(())
            .and_then(|()| Some(ListenerModel { name: self.name, port: port?, hostname, any_namespace }))
    }
}

impl AllowedRoutes {
    /// Whether HTTPRoutes of every namespace may attach, not only those of the Gateway's own.
    fn any_namespace(self, field: &str, problems: &mut Vec<Problem>) -> bool {
        not_read(&self.rest, field, &[], problems);
        let http = |kind: &RouteKind| kind.group.as_deref().unwrap_or(GROUP) == GROUP && kind.kind == "HTTPRoute";
        if !self.kinds.is_empty() && !self.kinds.iter().any(http) {
            let message = "the listener takes no HTTPRoute, and other routes are not carried out";
            let field = format!("{field}.kinds");
            problems.push(problem(field, Reason::NotYetSupported, message, "leave it out, or add HTTPRoute"));
        }
        let RouteNamespaces { from, rest } = self.namespaces.unwrap_or_default();
        // Gateway API: a selector counts only where `from` says so.
        not_read(&rest, &format!("{field}.namespaces"), &["selector"], problems);
        let from = from.as_deref().unwrap_or("Same");
        if !matches!(from, "Same" | "All") {
            let message = format!("routes cannot be chosen by {from:?}: Weir does not read Namespaces");
            let field = format!("{field}.namespaces.from");
            problems.push(problem(field, Reason::NotYetSupported, message, "write Same or All"));
        }
        from == "All"
    }
}

impl HttpRoute {
    /// The model.
    ///
    /// # Errors
    /// Everything that is wrong with it. A route is taken as a whole or not at all.
    pub(crate) fn model(self) -> Result<RouteModel, Vec<Problem>> {
        let mut problems = Vec::new();
        let namespace = self.metadata.namespace.unwrap_or_default();
        not_read(&self.spec.rest, "spec", &[], &mut problems);
        let Parents { gateways: parents, roots } = Parents::of(self.spec.parent_refs, &namespace, &mut problems);
        // Gateway API: among Services a backend may be anywhere.
        let anywhere = parents.is_empty() && !roots.is_empty();
        let mut hostnames = Vec::new();
        for (position, text) in self.spec.hostnames.iter().enumerate() {
            hostnames.extend(hostname(text, &format!("spec.hostnames[{position}]"), &mut problems));
        }
        let mut rules = Vec::new();
        for (position, rule) in self.spec.rules.into_iter().enumerate() {
            rules.extend(rule.model(&namespace, anywhere, &format!("spec.rules[{position}]"), &mut problems));
        }
        let created = self.metadata.creation_timestamp.map(|time| time.0);
        let generation = self.metadata.generation.unwrap_or(0);
        if problems.is_empty() {
            Ok(RouteModel { generation, created, parents, roots, hostnames, rules })
        } else {
            Err(problems)
        }
    }
}

/// What a route attaches to.
#[derive(Default)]
struct Parents {
    gateways: Vec<ParentModel>,
    roots: Vec<RootModel>,
}

impl Parents {
    fn of(refs: Vec<ParentRef>, namespace: &str, problems: &mut Vec<Problem>) -> Self {
        let mut parents = Self::default();
        for (position, parent) in refs.into_iter().enumerate() {
            if parent.group.as_deref() == Some("") && parent.kind.as_deref() == Some("Service") {
                parents.roots.extend(parent.root(namespace, position, problems));
            } else {
                let field = format!("spec.parentRefs[{position}]");
                parents.gateways.extend(parent.model(namespace, &field, problems));
            }
        }
        parents
    }
}

/// What matches every request, as Gateway API writes it.
fn every_request() -> RequestMatch {
    RequestMatch { path: Some(PathMatch::Prefix("/".to_owned())), ..RequestMatch::default() }
}

impl ParentRef {
    fn root(self, namespace: &str, position: usize, problems: &mut Vec<Problem>) -> Option<RootModel> {
        let field = format!("spec.parentRefs[{position}]");
        if self.section_name.is_some() {
            let message = "a Service has ports, which have no such names here";
            problems.push(problem(format!("{field}.sectionName"), Reason::NotYetSupported, message, "write `port`"));
        }
        let port = match self.port {
            None => None,
            Some(number) => Some(port(number, &format!("{field}.port"), problems)?),
        };
        let namespace = self.namespace.unwrap_or_else(|| namespace.to_owned());
        Some(RootModel { service: ServiceKey { namespace, name: self.name }, port, position })
    }

    fn model(self, namespace: &str, field: &str, problems: &mut Vec<Problem>) -> Option<ParentModel> {
        let (group, kind) = (self.group.as_deref().unwrap_or(GROUP), self.kind.as_deref().unwrap_or("Gateway"));
        if (group, kind) != (GROUP, "Gateway") {
            let message = format!("a route attaches to Gateways and Services, not to a {kind} of {group:?}");
            let help = "name a Gateway, or a Service with `group: \"\"` and `kind: Service`";
            problems.push(problem(format!("{field}.kind"), Reason::NotYetSupported, message, help));
            return None;
        }
        let port = match self.port {
            None => None,
            Some(number) => Some(port(number, &format!("{field}.port"), problems)?),
        };
        let namespace = self.namespace.unwrap_or_else(|| namespace.to_owned());
        Some(ParentModel { gateway: ServiceKey { namespace, name: self.name }, section: self.section_name, port })
    }
}

impl Rule {
    fn model(self, namespace: &str, anywhere: bool, field: &str, problems: &mut Vec<Problem>) -> Option<RouteRule> {
        not_read(&self.rest, field, &[], problems);
        let mut matches = Vec::new();
        for (position, entry) in self.matches.iter().enumerate() {
            match weir::request_match(entry, &format!("{field}.matches[{position}]")) {
                Ok(read) => matches.push(read),
                Err(found) => problems.extend(found),
            }
        }
        if matches.is_empty() {
            matches.push(every_request());
        }
        let mut backends = Vec::new();
        for (position, backend) in self.backend_refs.into_iter().enumerate() {
            backends.push(backend.model(namespace, anywhere, &format!("{field}.backendRefs[{position}]"), problems)?);
        }
        Some(RouteRule { matches, backends })
    }
}

impl BackendRef {
    /// `anywhere`: the Service may be of another namespace.
    fn model(
        self,
        namespace: &str,
        anywhere: bool,
        field: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<(DestinationKey, u32)> {
        not_read(&self.rest, field, &[], problems);
        let (group, kind) = (self.group.unwrap_or_default(), self.kind.unwrap_or_else(|| "Service".to_owned()));
        if !group.is_empty() || kind != "Service" {
            let message = format!("requests are sent to Services, not to a {kind} of {group:?}");
            problems.push(problem(format!("{field}.kind"), Reason::NotYetSupported, message, "name a Service"));
        }
        let of = self.namespace.as_deref().filter(|of| anywhere && is_dns_label(of)).unwrap_or(namespace).to_owned();
        if let Some(other) = self.namespace.filter(|other| *other != of) {
            let message = format!("namespace {other:?} would need a ReferenceGrant, which Weir does not read");
            let help = "put the HTTPRoute into the Service's namespace and allow it at the Gateway's listener";
            problems.push(problem(format!("{field}.namespace"), Reason::NotYetSupported, message, help));
        }
        let weight = self.weight.unwrap_or(1);
        let weight = u32::try_from(weight).ok().filter(|weight| *weight <= 1_000_000).or_else(|| {
            let message = format!("a weight is from 0 to 1000000, found {weight}");
            problems.push(problem(format!("{field}.weight"), Reason::Invalid, message, ""));
            None
        });
        let Some(number) = self.port else {
            let message = "a backend that is a Service needs its port";
            problems.push(problem(format!("{field}.port"), Reason::Invalid, message, "add `port`"));
            return None;
        };
        let port = port(number, &format!("{field}.port"), problems)?;
        let service = ServiceKey { namespace: of, name: self.name };
        Some((DestinationKey { service, port }, weight?))
    }
}

#[cfg(test)]
mod tests;
