//! The only place that spells resource names, stat prefixes and metadata keys. A changed name is a breaking change.

use std::sync::Arc;

use crate::{
    intent::{Called, DestinationKey, Inbound, Outbound, Priority, ServiceKey},
    xds::NodeKey,
};

/// The types that we serve, in the order in which changes are pushed: what is referred to comes before what refers to it.
/// Removals go the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// RTDS: before everything else, since a kill switch waits for nothing.
    Runtime,
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// ECDS.
    Extension,
    /// LDS.
    Listener,
    /// RDS.
    Route,
    /// VHDS: parts of route configurations, of which a proxy has those that it asked for. Delta only.
    VirtualHost,
}

impl ResourceType {
    /// All of them, in push order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Runtime,
        Self::Cluster,
        Self::Endpoints,
        Self::Extension,
        Self::Listener,
        Self::Route,
        Self::VirtualHost,
    ];

    /// How many there are.
    pub const COUNT: usize = 7;

    /// Position in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Runtime => 0,
            Self::Cluster => 1,
            Self::Endpoints => 2,
            Self::Extension => 3,
            Self::Listener => 4,
            Self::Route => 5,
            Self::VirtualHost => 6,
        }
    }

    /// Envoy's type URL.
    #[must_use]
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
        }
    }

    /// The type of a type URL that we serve.
    #[must_use]
    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.type_url() == type_url)
    }

    /// Fixed word for labels and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoints",
            Self::Extension => "extension",
            Self::Listener => "listener",
            Self::Route => "route",
            Self::VirtualHost => "virtual_host",
        }
    }

    /// Whether an empty first request means all of them (LDS and CDS only).
    #[must_use]
    pub const fn has_wildcard(self) -> bool {
        match self {
            Self::Cluster | Self::Listener => true,
            Self::Runtime | Self::Endpoints | Self::Extension | Self::Route | Self::VirtualHost => false,
        }
    }
}

/// Name of everything that belongs to one inbound port, the same for all types: `in/<namespace>/<service>/<pod>/<port>`,
/// the port being the one the proxy listens on.
#[must_use]
pub fn inbound(node: &NodeKey, inbound: &Inbound) -> String {
    format!("in/{node}/{}", inbound.listener.port())
}

/// Name of the extension configuration with the limits of one pod: `limits/<namespace>/<service>/<pod>`. It says for whom
/// it is, since the node id is another control plane's.
#[must_use]
pub fn extension(node: &NodeKey) -> String {
    format!("{EXTENSION_PREFIX}{node}")
}

/// The pod that an extension configuration is for; `None`: it is not one of ours.
#[must_use]
pub fn extension_node(name: &str) -> Option<NodeKey> {
    name.strip_prefix(EXTENSION_PREFIX)?.parse().ok()
}

const EXTENSION_PREFIX: &str = "limits/";

/// Stat prefix of an inbound port's connection manager and cluster: `in_<port>`; the proxy is told apart by its node.
#[must_use]
pub fn inbound_stat_prefix(inbound: &Inbound) -> String {
    format!("{INBOUND_STAT_PREFIX}{}", inbound.listener.port())
}

/// What [`inbound_stat_prefix`] puts before the port.
pub const INBOUND_STAT_PREFIX: &str = "in_";

/// Name of a pod's runtime layer: `rt/<namespace>/<service>/<pod>`. It stands in the bootstrap too.
#[must_use]
pub fn runtime(node: &NodeKey) -> String {
    format!("rt/{node}")
}

/// Runtime key of the most requests in flight to a cluster; Envoy's own, by the cluster's name.
#[must_use]
pub fn max_requests_runtime_key(cluster: &str, priority: Priority) -> String {
    let priority = match priority {
        Priority::Default => "default",
        Priority::High => "high",
    };
    format!("circuit_breakers.{cluster}.{priority}.max_requests")
}

/// Name of the listener and the route configuration for requests to other services: `out/<namespace>/<service>/<pod>/<port>`,
/// the port being the one the proxy listens on.
#[must_use]
pub fn outbound(node: &NodeKey, outbound: &Outbound) -> String {
    format!("out/{node}/{}", outbound.listener.port())
}

/// Stat prefix of such a listener and its connection manager: `out_<port>`.
#[must_use]
pub fn outbound_stat_prefix(outbound: &Outbound) -> String {
    format!("out_{}", outbound.listener.port())
}

/// Name of a virtual host that is sent by itself: that of the route configuration, and the host's own with colons for its slashes, as Envoy
/// takes what comes before the last slash for the configuration.
#[must_use]
pub fn virtual_host(configuration: &str, host: &str) -> String {
    format!("{configuration}/{}", host.replace('/', ":"))
}

/// Whether a virtual host is one for a host that is no Service.
#[must_use]
pub fn is_unknown(virtual_host: &str) -> bool {
    virtual_host.rsplit_once('/').is_some_and(|(_, host)| host.starts_with('='))
}

/// What a cluster or a virtual host of this name, on the way out of `node`, is there for; `None`: it is none of those.
#[must_use]
pub fn called(node: &NodeKey, resource_type: ResourceType, name: &str) -> Option<Called> {
    let rest = way_out(node, name)?;
    if resource_type != ResourceType::VirtualHost {
        return rest.parse().ok();
    }
    let (_port, host) = rest.split_once('/')?;
    if host.starts_with('=') {
        return host.parse().ok();
    }
    let (namespace, rest) = host.split_once(':')?;
    let (name, port) = rest.rsplit_once(':')?;
    format!("{namespace}/{name}/{port}").parse().ok()
}

fn way_out<'a>(node: &NodeKey, name: &'a str) -> Option<&'a str> {
    name.strip_prefix("out/")?.strip_prefix(&node.to_string())?.strip_prefix('/')
}

/// What Envoy asks for by the name of a virtual host: the port of the listener, and the host of a request. `None`: it is not `node`'s.
#[must_use]
pub fn asked<'a>(node: &NodeKey, name: &'a str) -> Option<(u16, &'a str)> {
    let (port, host) = way_out(node, name)?.split_once('/')?;
    Some((port.parse().ok()?, host))
}

/// Name of the cluster and the load assignment of another service's port:
/// `out/<namespace>/<service>/<pod>/<its namespace>/<its name>/<its port>`.
#[must_use]
pub fn destination(node: &NodeKey, destination: &DestinationKey) -> String {
    format!("out/{node}/{destination}")
}

/// Stat name of such a cluster: `out_<its namespace>_<its name>_<its port>`, with `dns` for the namespace of a host outside; of an arm
/// of a split `arm_` and the rest.
#[must_use]
pub fn destination_stat_name(destination: &DestinationKey, is_arm: bool) -> String {
    let DestinationKey { service, port } = destination;
    let prefix = if is_arm { ARM_STAT_PREFIX } else { DESTINATION_STAT_PREFIX };
    let namespace = if destination.is_outside() { OUTSIDE } else { &service.namespace };
    format!("{prefix}{namespace}_{}_{port}", service.name)
}

/// What a cluster with this stat name leads to, in either spelling of [`destination_stat_name`]; `None`: it is of bytes, or none of the
/// way out.
#[must_use]
pub fn destination_of_stat_name(name: &str) -> Option<DestinationKey> {
    let rest = DESTINATION_STAT_PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let (rest, port) = rest.rsplit_once('_')?;
    let (namespace, name) = rest.split_once('_')?;
    let port = port.parse().ok()?;
    let is_label = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    match namespace {
        // No Service has a dot in its name, and hosts outside have one.
        OUTSIDE if !is_label => Some(DestinationKey::outside(name, port)),
        "" => None,
        _ => is_label.then(|| {
            let service = ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() };
            DestinationKey { service, port }
        }),
    }
}

/// What a cluster of the way out has before its stat name, unless it is an arm's.
pub const DESTINATION_STAT_PREFIX: &str = "out_";
/// What the cluster of an arm of a split has there: more is counted of it.
pub const ARM_STAT_PREFIX: &str = "arm_";
/// Either.
pub const DESTINATION_STAT_PREFIXES: [&str; 2] = [DESTINATION_STAT_PREFIX, ARM_STAT_PREFIX];
/// Stands for the namespace of a host outside.
const OUTSIDE: &str = "dns";

/// Name of the cluster of connections that are not HTTP, by what they are for: `out/<namespace>/<service>/<pod>/` and that.
#[must_use]
pub fn stream(node: &NodeKey, called: &Called) -> String {
    format!("out/{node}/{called}")
}

/// Format by which Envoy makes [`stream`]'s name of the address that a connection is for.
#[must_use]
pub fn stream_by_address(node: &NodeKey) -> String {
    format!("out/{node}/@%DOWNSTREAM_LOCAL_ADDRESS%")
}

/// Format by which Envoy makes [`stream`]'s name of the name that a TLS connection is for.
#[must_use]
pub fn stream_by_name(node: &NodeKey) -> String {
    format!("out/{node}/+%REQUESTED_SERVER_NAME%:%DOWNSTREAM_LOCAL_PORT%")
}

/// What `node` asks for by the name of such a cluster; `None`: it is none.
#[must_use]
pub fn asked_stream(node: &NodeKey, name: &str) -> Option<Called> {
    called(node, ResourceType::Cluster, name).filter(Called::is_stream)
}

/// Stat name of such a cluster: `out_tcp_<address>_<port>` or `out_sni_<name>_<port>`.
#[must_use]
pub fn stream_stat_name(called: &Called) -> String {
    match called {
        Called::Name(name, port) => format!("{DESTINATION_STAT_PREFIX}sni_{name}_{port}"),
        Called::Address(address) => format!("{DESTINATION_STAT_PREFIX}tcp_{}_{}", address.ip(), address.port()),
        Called::Destination(key) => destination_stat_name(key, false),
        Called::Host(host) => format!("{DESTINATION_STAT_PREFIX}dns_{host}"),
    }
}

/// Whether a resource belongs to the way out.
#[must_use]
pub fn is_outbound(name: &str) -> bool {
    name.starts_with("out/")
}

/// Version of a route configuration that is in this round of asking, whose content has the version `of`.
#[must_use]
pub fn version_of_round(of: &str, round: u32) -> Arc<str> {
    format!("{of}.{round}").into()
}

/// The round in a version of [`version_of_round`].
#[must_use]
pub fn round(version: &str) -> Option<u32> {
    version.split_once('.')?.1.parse().ok()
}

/// Cluster of requests that go to the host that they name.
pub const PASSTHROUGH_CLUSTER: &str = "out/passthrough";
/// Cluster of what goes where the application wanted it to.
pub const ORIGINAL_CLUSTER: &str = "out/original";
/// Cluster of connections that go nowhere.
pub const REFUSED_CLUSTER: &str = "out/refused";
/// Name of the virtual host for hosts that nothing takes.
pub const UNKNOWN_HOST: &str = "unknown-host";
/// Name of the virtual host, and of its route, that takes calls to hosts that a proxy does not know yet somewhere meanwhile.
pub const FALLBACK: &str = "fallback";
/// Names of the routes that are taken by calls to hosts that nothing is known of.
pub const UNKNOWN_ROUTES: [&str; 2] = [UNKNOWN_HOST, FALLBACK];
/// Name of the access log of such calls, which Weir takes.
pub const UNKNOWN_LOG: &str = "weir.unknown";
/// Name of a virtual host's last route, for requests that no other one takes.
pub const UNKNOWN_PATH: &str = "unknown-path";
/// Name of the virtual host that takes every host.
pub const VIRTUAL_HOST: &str = "all";

/// HTTP filter instance, and its stat prefix, that charges the narrow limits.
pub const NARROW_FILTER: &str = "weir.limit.narrow";
/// HTTP filter instance, and its stat prefix, that charges the service-wide limits.
pub const SERVICE_FILTER: &str = "weir.limit.service";
/// As [`NARROW_FILTER`], on the way out.
pub const OUTBOUND_NARROW_FILTER: &str = "weir.out.narrow";
/// As [`SERVICE_FILTER`], on the way out.
pub const OUTBOUND_SERVICE_FILTER: &str = "weir.out.service";
/// As [`SHADOW_FILTER_PREFIX`], on the way out.
pub const OUTBOUND_SHADOW_FILTER_PREFIX: &str = "weir.out.shadow.";
/// Before the bucket: HTTP filter instance, and its stat prefix, that counts what a limit in shadow mode would refuse.
pub const SHADOW_FILTER_PREFIX: &str = "weir.shadow.";
/// Runtime key: percentage of requests over a limit that are refused; 0 turns every limit of the proxy off.
pub const ENFORCED_RUNTIME_KEY: &str = "weir.enforced";
/// Runtime key of the status of our own refusals, which Envoy wants named; nobody sets it.
pub const OVER_LIMIT_RUNTIME_KEY: &str = "weir.over_limit_status";
/// Namespace in a route's metadata that carries the limits.
pub const METADATA: &str = "rl";
/// Key in it: the classes that the route's requests belong to, `<policy key>#<rule>/<class>`, separated by commas.
pub const CLASSES_KEY: &str = "classes";
/// Prefix of the counters that the listeners' access loggers keep: `<prefix>.<counter>.<tag>.<value>`, with each tag after the other.
pub const LOGGED_PREFIX: &str = "weir";
/// Requests that have ended, by the classes of their route.
pub const DEMAND_COUNTER: &str = "demand";
/// Tag of [`DEMAND_COUNTER`]: what the route has under [`CLASSES_KEY`].
pub const CLASSES_TAG: &str = "classes";
/// gRPC calls that have failed, by what Envoy had to do with it.
pub const GRPC_FAILED_COUNTER: &str = "grpc_failed";
/// gRPC calls on the way out that have failed, by the stat name of the cluster that answered, and by what Envoy had to do with it.
pub const GRPC_FAILED_AT_COUNTER: &str = "grpc_failed_at";
/// Tag of [`GRPC_FAILED_AT_COUNTER`].
pub const CLUSTER_TAG: &str = "cluster";
/// Tag of [`GRPC_FAILED_COUNTER`] and [`GRPC_FAILED_AT_COUNTER`]: Envoy's response flags.
pub const FLAGS_TAG: &str = "flags";
/// Its value when the answer is the application's own.
pub const NO_FLAGS: &str = "-";
/// Envoy's static cluster of Weir itself, in the bootstrap.
pub const WEIR_CLUSTER: &str = "weir";

#[cfg(test)]
mod tests;
