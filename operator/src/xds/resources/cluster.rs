//! Clusters: the application behind an inbound port, and the ports of other services.

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{
                CircuitBreakers, Cluster,
                circuit_breakers::Thresholds,
                cluster::{
                    ClusterDiscoveryType, CommonLbConfig, CustomClusterType, DiscoveryType, EdsClusterConfig, LbPolicy,
                    common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig},
                },
            },
            core::v3::{
                Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CoreOptions, RoutingPriority,
            },
        },
        extensions::{
            clusters::dynamic_forward_proxy::v3::{ClusterConfig, cluster_config::ClusterImplementationSpecifier},
            common::dynamic_forward_proxy::v3::DnsCacheConfig,
            upstreams::http::v3::{
                HttpProtocolOptions,
                http_protocol_options::{
                    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
                    explicit_http_config::ProtocolConfig,
                },
            },
        },
    },
    google::protobuf::{Any, Duration, UInt32Value},
};

use crate::{
    intent::{Destination, Hop, Inbound, Protocol},
    xds::{
        names,
        resources::{any, endpoint, from_ads},
    },
};

/// How long a connection may take. The application is on the same host or one hop away: what does not connect in a second is
/// not listening. Another service may be further.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const CONNECT_SECONDS: i64 = 1;
const CONNECT_ELSEWHERE_SECONDS: i64 = 5;

pub(super) fn build(name: &str, inbound: &Inbound) -> Cluster {
    eds(name, names::inbound_stat_prefix(inbound), inbound.protocol, CONNECT_SECONDS)
}

/// The cluster of another service's port.
/// Its idle connections are closed after `idle` seconds, if that is given.
pub(super) fn destination(name: &str, destination: &Destination, idle: Option<u32>) -> Cluster {
    let stat_name = names::destination_stat_name(&destination.key, destination.is_arm);
    let mut built = eds(name, stat_name, destination.protocol, CONNECT_ELSEWHERE_SECONDS);
    built.typed_extension_protocol_options = protocol_options(destination.protocol, idle);
    built.common_lb_config = by_share(destination);
    match &destination.dns {
        _ if destination.original => original(built),
        None => built,
        Some((host, port)) => Cluster {
            // One connection pool for whatever addresses the name has: those of a large service change with every answer.
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::LogicalDns.into())),
            eds_cluster_config: None,
            load_assignment: Some(endpoint::by_name(name, host, *port)),
            ..built
        },
    }
}

/// The cluster of connections that are not HTTP.
pub(super) fn stream(name: &str, stat_name: &str, to: &Hop) -> Cluster {
    let built = eds(name, stat_name.to_owned(), Protocol::Tcp, CONNECT_ELSEWHERE_SECONDS);
    match to {
        Hop::To(destination) => match &destination.dns {
            None => Cluster { common_lb_config: by_share(destination), ..built },
            Some((host, port)) => Cluster {
                cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::LogicalDns.into())),
                eds_cluster_config: None,
                load_assignment: Some(endpoint::by_name(name, host, *port)),
                ..built
            },
        },
        Hop::Original => original(built),
        Hop::Nowhere => Cluster {
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
            eds_cluster_config: None,
            load_assignment: Some(endpoint::build(name, &[])),
            ..built
        },
    }
}

/// Envoy chooses among the Services that connections are shared out to by their weights.
fn by_share(destination: &Destination) -> Option<CommonLbConfig> {
    let weighted = LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {});
    let config = || CommonLbConfig { locality_config_specifier: Some(weighted), ..CommonLbConfig::default() };
    (!destination.shares.is_empty()).then(config)
}

/// Of what goes where the application wanted it to. Requests go on in the protocol in which they came.
fn original(cluster: Cluster) -> Cluster {
    let same = UseDownstreamHttpConfig {
        http_protocol_options: Some(Http1ProtocolOptions::default()),
        http2_protocol_options: Some(Http2ProtocolOptions::default()),
        ..UseDownstreamHttpConfig::default()
    };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(same)),
        ..HttpProtocolOptions::default()
    };
    Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into())),
        eds_cluster_config: None,
        lb_policy: LbPolicy::ClusterProvided.into(),
        typed_extension_protocol_options: HashMap::from([(HTTP_OPTIONS.to_owned(), any(&options))]),
        ..cluster
    }
}

/// The cluster of requests that go to the host that they name, whichever it is.
pub(super) fn passthrough(name: &str) -> Cluster {
    let config = ClusterConfig {
        cluster_implementation_specifier: Some(ClusterImplementationSpecifier::DnsCacheConfig(dns_cache())),
        ..ClusterConfig::default()
    };
    let kind =
        CustomClusterType { name: "envoy.clusters.dynamic_forward_proxy".into(), typed_config: Some(any(&config)) };
    Cluster {
        name: name.into(),
        alt_stat_name: "out_passthrough".into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(kind)),
        lb_policy: LbPolicy::ClusterProvided.into(),
        connect_timeout: Some(Duration { seconds: CONNECT_ELSEWHERE_SECONDS, nanos: 0 }),
        circuit_breakers: Some(unlimited()),
        ..Cluster::default()
    }
}

/// The names that [`passthrough`] has looked up; its filter must have the same.
pub(super) fn dns_cache() -> DnsCacheConfig {
    DnsCacheConfig { name: names::PASSTHROUGH_CLUSTER.into(), ..DnsCacheConfig::default() }
}

fn eds(name: &str, stat_name: String, protocol: Protocol, connect_seconds: i64) -> Cluster {
    Cluster {
        name: name.into(),
        alt_stat_name: stat_name,
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(from_ads()), service_name: String::new() }),
        connect_timeout: Some(Duration { seconds: connect_seconds, nanos: 0 }),
        circuit_breakers: Some(unlimited()),
        typed_extension_protocol_options: protocol_options(protocol, None),
        ..Cluster::default()
    }
}

/// Envoy's default of 1,024 connections and requests would be a limit that no policy states. A queue bound that one does
/// state stands in the runtime layer, which wins over this.
fn unlimited() -> CircuitBreakers {
    let most = Some(UInt32Value { value: u32::MAX });
    let thresholds = [RoutingPriority::Default, RoutingPriority::High].map(|priority| Thresholds {
        priority: priority.into(),
        max_connections: most,
        max_pending_requests: most,
        max_requests: most,
        max_retries: most,
        ..Thresholds::default()
    });
    CircuitBreakers { thresholds: thresholds.into(), ..CircuitBreakers::default() }
}

fn protocol_options(protocol: Protocol, idle: Option<u32>) -> HashMap<String, Any> {
    let config = match protocol {
        Protocol::Http => ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()),
        Protocol::Http2 => ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default()),
        Protocol::Tcp => return HashMap::new(),
    };
    let common = idle.map(|seconds| CoreOptions {
        idle_timeout: Some(Duration { seconds: seconds.into(), nanos: 0 }),
        ..CoreOptions::default()
    });
    let options = HttpProtocolOptions {
        common_http_protocol_options: common,
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(config),
        })),
        ..HttpProtocolOptions::default()
    };
    HashMap::from([(HTTP_OPTIONS.to_owned(), any(&options))])
}
