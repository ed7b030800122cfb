//! The intermediate representation: what every proxy should do, said without Envoy's or Kubernetes' words.
//!
//! Data only; ordered, comparable, serialisable. Imports nothing of ours but the limiter's plain values.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use limiter::{
    policy::{EnforceAt, Mode, RequestMatch},
    quota::Rate,
    split::Sticky,
};
use serde::{Deserialize, Serialize};

/// Namespace and name of a Service. Displays as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A text that is not `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected NAMESPACE/NAME of a Service, such as shop/cart, found {0:?}")]
pub struct NotAService(String);

impl FromStr for ServiceKey {
    type Err = NotAService;

    fn from_str(text: &str) -> Result<Self, NotAService> {
        // The letters of Kubernetes' names.
        let is_name = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        match text.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(NotAService(text.chars().take(100).collect())),
        }
    }
}

/// What an operator has paused: decided and reported as ever, enforced nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Pauses {
    /// Everything, services that come later too.
    pub all: bool,
    /// Single services, whether they exist or not.
    pub services: BTreeSet<ServiceKey>,
}

impl Pauses {
    /// Whether nothing of `service` is enforced.
    #[must_use]
    pub fn covers(&self, service: &ServiceKey) -> bool {
        self.all || self.services.contains(service)
    }

    /// Whether nothing is paused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.all && self.services.is_empty()
    }
}

/// Every service's intent.
pub type Intent = BTreeMap<ServiceKey, ServiceIntent>;

/// What the proxies of one service's pods do. Routes and limit shapes are the same for all pods; numbers may differ by pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ServiceIntent {
    /// Limits that routes may name by position. Their order never depends on whether they are in force.
    pub limits: Vec<LimitShape>,
    /// Which requests take which limits: the first route that matches applies, the last one matches everything.
    pub routes: Vec<Route>,
    /// The service's pods by name.
    pub pods: BTreeMap<String, PodIntent>,
}

/// The part of a limit that changes only with its policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LimitShape {
    /// Name of the bucket, unique in the service and stable: `<policy key>/<rule>`.
    pub bucket: String,
    /// Separate counter for each value of this.
    pub per: Option<limiter::policy::Key>,
    /// The limit concerns every request of the service (charged last) rather than some of them.
    pub service_wide: bool,
    /// Enforced, or only counted by the proxy.
    pub mode: Mode,
}

/// Requests that share one set of limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Name, unique in the service.
    pub name: String,
    /// All of these must match. Empty: every request.
    pub matches: Vec<RequestMatch>,
    /// Positions in [`ServiceIntent::limits`].
    pub limits: Vec<usize>,
    /// Which of the two queue bounds its requests count against.
    pub priority: Priority,
    /// Priority classes that its requests belong to, by the name under which the proxy counts them.
    pub classes: Vec<String>,
}

/// Envoy's routing priorities: each has a queue bound of its own, so that one class cannot fill the other's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Priority {
    /// Everything that no rule prefers.
    #[default]
    Default,
    /// The class that is shed last.
    High,
}

/// One pod's proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PodIntent {
    /// Ports on which the proxy takes requests for the application.
    pub inbound: Vec<Inbound>,
    /// This pod's numbers, by position in [`ServiceIntent::limits`]; `None`: not in force now.
    pub values: Vec<Option<LimitValue>>,
    /// Listeners on which the proxy takes requests to other services.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outbound: Vec<Outbound>,
    /// All that `outbound` leads to, in the order of their keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<Arc<Destination>>,
    /// Connections of other protocols than HTTP that `outbound` has asked about, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<Stream>,
    /// Most requests in flight from this pod to destinations that a limit which steers itself protects, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outbound_bounds: Vec<(DestinationKey, Bounds)>,
    /// Most requests in flight to the application, per inbound port.
    pub bounds: Bounds,
    /// Nothing is enforced at this proxy: an operator has paused it.
    pub paused: bool,
    /// What was put there by injection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<Sidecar>,
}

/// A proxy that was put beside its application by injection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sidecar {
    /// What arrives at the pod's ports is handed to it, so it listens at none of them itself.
    pub intercepts: bool,
    /// Its bootstrap names the service, rather than leave it to Weir to find out.
    pub named: bool,
}

/// Queue bounds by priority, in requests in flight. `None`: not bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bounds {
    /// Of [`Priority::Default`].
    pub default: Option<u32>,
    /// Of [`Priority::High`].
    pub high: Option<u32>,
}

impl Bounds {
    /// At most `high` of the preferred requests, and at most `default` of the others.
    pub fn tighten(&mut self, high: u32, default: u32) {
        for (held, bound) in [(&mut self.default, default), (&mut self.high, high)] {
            *held = Some(held.map_or(bound, |held| held.min(bound)));
        }
    }

    /// What both allow.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let both = |one: Option<u32>, other: Option<u32>| one.into_iter().chain(other).min();
        Self { default: both(self.default, other.default), high: both(self.high, other.high) }
    }
}

/// A port of the pod: the proxy listens, the application answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inbound {
    /// Where the proxy listens.
    pub listener: SocketAddr,
    /// Where the application listens.
    pub application: SocketAddr,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// A listener whose requests go to other services, chosen by host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outbound {
    /// [`EnforceAt::Client`]: the pod's application calls through it. [`EnforceAt::Gateway`]: it is a gateway.
    pub place: EnforceAt,
    /// Where the proxy listens.
    pub listener: SocketAddr,
    /// Hosts, each with domains that no other one has. Shared by pods with the same numbers.
    pub hosts: Vec<Arc<Host>>,
    /// Only some hosts are there, and how others come; `None`: all are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial: Option<Partial>,
    /// All that the application sends anywhere is handed to it, in whatever protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intercepted: Option<Intercepted>,
}

/// What a way out does with connections that are not HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Intercepted {
    /// Ports of Services that carry bytes, with the Services' own addresses; no two have an address and a port in common.
    pub services: Vec<(DestinationKey, Vec<IpAddr>)>,
    /// Addresses to which connections go as the application meant it, whatever is spoken.
    pub passed_on: Vec<SocketAddr>,
    /// What becomes of connections to everything else.
    pub others: Strays,
}

/// See [`Intercepted::others`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Strays {
    /// They go where the application wanted them to.
    PassedOn,
    /// They are held, and the proxy asks, for each name and each address once.
    Asked,
    /// Of those that were asked for it is known; others are closed.
    Known,
}

/// Connections that are not HTTP, by what they were for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stream {
    /// [`Called::Address`] or [`Called::Name`].
    #[serde(serialize_with = "displayed")]
    pub called: Called,
    /// Where they go.
    pub to: Hop,
}

fn displayed<S: serde::Serializer>(called: &Called, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(called)
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Hop {
    /// There.
    To(Arc<Destination>),
    /// Where the application wanted it to.
    Original,
    /// It is closed.
    Nowhere,
}

/// A way out on which only some hosts are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Partial {
    /// Counts how often hosts were taken away: with a higher number the proxy asks again for what it has asked before.
    pub round: u32,
    /// The longest that a request is held, in seconds.
    pub hold_seconds: u32,
    /// Connections that are kept for a next request are closed after this, in seconds, so that what is forgotten can go.
    pub idle_seconds: u32,
    /// What becomes of requests for hosts that are not there.
    pub others: Others,
    /// Limits of what may come, by service: a listener that has no place for them would change at the first call.
    #[serde(skip_serializing_if = "takes_nothing")]
    pub may_take: Arc<Vec<Vec<LimitShape>>>,
}

fn takes_nothing(shapes: &Arc<Vec<Vec<LimitShape>>>) -> bool {
    shapes.is_empty()
}

impl Partial {
    /// Whether requests for hosts that are not there go to the host that they name.
    #[must_use]
    pub fn passes_on(&self) -> bool {
        self.others == Others::PassedOn
    }
}

/// See [`Partial::others`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Others {
    /// They are held, and the proxy asks.
    Asked,
    /// They are answered 404.
    Refused,
    /// They go there.
    Sent(DestinationKey),
    /// They go to the host that they name.
    PassedOn,
}

/// Requests for some hosts. Complete in itself, so that a proxy may be given one without the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Name, unique in the listener; of one that a caller's proxy has asked for, what it displays as [`Called`].
    pub name: String,
    /// What the host of a request may be: a name, a name with a port, `*.` and a name, or `*`. None: it is what a proxy is told of hosts
    /// that can be none.
    pub domains: Vec<String>,
    /// Limits that routes may name by position; a bucket that several hosts name is the same one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitShape>,
    /// The first one that matches applies. None: nothing is known by this host, and it is answered 404.
    pub routes: Vec<Forward>,
    /// This pod's numbers, by position in `limits`; `None`: not in force now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Option<LimitValue>>,
}

/// A route that leads to other services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forward {
    /// Which requests, and what they are charged.
    pub route: Route,
    /// Where they go, by relative weight. Nothing of weight: they are answered 500, as Gateway API wants it.
    pub to: Vec<(DestinationKey, u32)>,
    /// Whose requests stay with one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
}

/// A port of a Service, by the number that callers use. Displays as `namespace/name/port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DestinationKey {
    /// The Service; a host outside has no namespace.
    pub service: ServiceKey,
    /// Its port.
    pub port: u16,
}

impl DestinationKey {
    /// A host outside, which has a name in DNS.
    #[must_use]
    pub fn outside(host: &str, port: u16) -> Self {
        Self { service: ServiceKey { namespace: String::new(), name: host.to_owned() }, port }
    }

    /// Whether it is a host outside.
    #[must_use]
    pub fn is_outside(&self) -> bool {
        self.service.namespace.is_empty()
    }

    /// For people: `namespace/name/port`, or `host:port` outside.
    #[must_use]
    pub fn named(&self) -> String {
        if self.is_outside() { format!("{}:{}", self.service.name, self.port) } else { self.to_string() }
    }
}

/// What an application calls. Displays as the destination does, or as `=HOST`, `@ADDRESS:PORT` or `+NAME:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Called {
    /// Something that is known.
    Destination(DestinationKey),
    /// A host that nothing was known of, as the request named it.
    Host(String),
    /// Where a connection was for, that is neither HTTP nor TLS.
    Address(SocketAddr),
    /// The name that a TLS connection is for, as the client gives it, and the port.
    Name(String, u16),
}

impl Called {
    /// Whether it is of a connection rather than of requests. Envoy asks for these once, so they are never forgotten.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(self, Self::Address(_) | Self::Name(..))
    }
}

impl fmt::Display for Called {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Destination(key) => key.fmt(f),
            Self::Host(host) => write!(f, "={host}"),
            Self::Address(address) => write!(f, "@{address}"),
            Self::Name(name, port) => write!(f, "+{name}:{port}"),
        }
    }
}

impl FromStr for Called {
    type Err = NotAService;

    fn from_str(text: &str) -> Result<Self, NotAService> {
        if let Some(host) = text.strip_prefix('=') {
            return Ok(Self::Host(host.to_owned()));
        }
        let not = || NotAService(text.chars().take(100).collect());
        if let Some(address) = text.strip_prefix('@') {
            return address.parse().map(Self::Address).map_err(|_| not());
        }
        if let Some((name, port)) = text.strip_prefix('+').and_then(|rest| rest.rsplit_once(':')) {
            return Ok(Self::Name(name.to_owned(), port.parse().map_err(|_| not())?));
        }
        let (service, port) = text.rsplit_once('/').ok_or_else(not)?;
        let port = port.parse().map_err(|_| not())?;
        let key = match service.strip_prefix('/') {
            Some(host) => DestinationKey::outside(host, port),
            None => DestinationKey { service: service.parse()?, port },
        };
        Ok(Self::Destination(key))
    }
}

impl fmt::Display for DestinationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.port)
    }
}

/// Where requests to a port of a Service go: to the ready pods, where each one's own proxy listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Destination {
    /// Which.
    pub key: DestinationKey,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Ready pods, in order.
    pub endpoints: Vec<SocketAddr>,
    /// It is found by this name in DNS instead, at this port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<(String, u16)>,
    /// It is where the application wanted to go instead, whatever address that was.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub original: bool,
    /// Requests for another Service are shared out to it, so what becomes of them is measured.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_arm: bool,
    /// Who has its connections, where they are shared out. `endpoints` is empty then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<Share>,
}

/// A Service's part of the connections for another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The Service.
    pub service: ServiceKey,
    /// Its part, relative to that of the others; not nothing.
    pub weight: u32,
    /// Ready pods, in order; there are some.
    pub endpoints: Vec<SocketAddr>,
}

impl Destination {
    /// Pods behind a port of a Service, in order.
    #[must_use]
    pub const fn of(key: DestinationKey, protocol: Protocol, endpoints: Vec<SocketAddr>) -> Self {
        Self { key, protocol, endpoints, dns: None, original: false, is_arm: false, shares: Vec::new() }
    }
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Protocol {
    /// HTTP/1.1 to the application; clients may speak HTTP/1.1 or HTTP/2.
    Http,
    /// HTTP/2 (gRPC) to the application.
    Http2,
    /// Bytes: passed on, no limits.
    Tcp,
}

/// A limit's number for one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LimitValue {
    /// The rate that this proxy admits (per value of the key, if any).
    pub rate: Rate,
    /// Requests that may pass at once at the lowest rate.
    pub burst: u32,
    /// The lowest value `rate` may take while the rule is as it is; with `burst` it fixes the class of the bucket.
    pub lowest: Rate,
}
