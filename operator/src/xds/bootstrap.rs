//! A ready bootstrap for Envoy: everything comes from Weir by one ADS stream.

pub mod sidecar;
mod statistics;
mod trust;
mod upstream;

use std::{net::SocketAddr, time::Duration};

use clap::ValueEnum;
use serde_json::{Value, json};
pub use trust::{Credential, Trust};
pub use upstream::{NoUpstream, Upstream};

use crate::xds::{NodeKey, names};

/// What a bootstrap is written for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Name of the Service.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// Name of the pod that the proxy stands in front of.
    pub pod: String,
    /// Where Weir serves xDS.
    pub xds_address: Upstream,
    /// How they trust each other; `None`: in plain text.
    pub trust: Option<Trust>,
    /// Where Envoy's admin page listens.
    pub admin_address: SocketAddr,
    /// Which form of xDS it speaks.
    pub protocol: Protocol,
    /// How often Envoy streams its statistics to Weir.
    pub metrics_interval: Duration,
}

/// The two forms of xDS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// Only what differs is sent.
    #[default]
    Delta,
    /// State of the world: all clusters and listeners whenever one changes.
    Sotw,
}

impl Protocol {
    /// Envoy's word, `ApiConfigSource.api_type`.
    #[must_use]
    pub const fn api_type(self) -> &'static str {
        match self {
            Self::Delta => "DELTA_GRPC",
            Self::Sotw => "GRPC",
        }
    }
}

/// How often Envoy streams its statistics to Weir, unless told otherwise.
pub const DEFAULT_METRICS_INTERVAL: Duration = Duration::from_millis(250);

/// Envoy's bootstrap as JSON (`envoy -c FILE` takes it).
#[must_use]
pub fn bootstrap(options: &Options) -> Value {
    let Options { service, namespace, pod, xds_address, trust, admin_address, protocol, metrics_interval } = options;
    let node = NodeKey::new(namespace, service, pod);
    // Without Weir, Envoy waits this long for each of the three before it goes live with what it has.
    let from_ads = json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "1s"});
    json!({
        "node": {"id": node.to_string(), "cluster": format!("{namespace}/{service}")},
        "admin": {"address": Upstream::from(*admin_address).addresses()[0]},
        "layered_runtime": {
            "layers": [
                // Envoy refuses regular expressions above 100 steps by default, and with them all routes; what Weir accepts is
                // smaller than this.
                {"name": "weir", "static_layer": {"re2.max_program_size.error_level": 32_768}},
                // Queue bounds, and whether anything is enforced.
                {"name": "rtds", "rtds_layer": {"name": names::runtime(&node), "rtds_config": from_ads.clone()}},
                // Last, so that an operator's hand wins: `weir.enforced` on Envoy's own admin page.
                {"name": "admin", "admin_layer": {}},
            ],
        },
        "dynamic_resources": {
            "ads_config": from_weir(*protocol),
            "lds_config": from_ads.clone(),
            "cds_config": from_ads,
        },
        "stats_flush_interval": statistics::flush_interval(*metrics_interval),
        "stats_sinks": statistics::sinks(),
        "stats_config": statistics::config(),
        "static_resources": {
            "clusters": [weir_cluster(xds_address, trust.as_ref())],
        },
    })
}

/// The static cluster of Weir itself.
pub(super) fn weir_cluster(xds_address: &Upstream, trust: Option<&Trust>) -> Value {
    const HTTP: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let endpoints = xds_address.addresses().into_iter().map(|address| json!({"endpoint": {"address": address}}));
    let endpoints: Vec<_> = endpoints.collect();
    let mut cluster = json!({
        "name": names::WEIR_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": names::WEIR_CLUSTER,
            "endpoints": [{"lb_endpoints": endpoints}],
        },
        "typed_extension_protocol_options": {
            HTTP: {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    // A connection that died silently is noticed within 7 s.
                    "http2_protocol_options": {"connection_keepalive": {"interval": "5s", "timeout": "2s"}},
                },
            },
        },
    });
    if xds_address.has_name() {
        cluster["type"] = json!("STRICT_DNS");
        // A name that is not known yet is asked for again about once a second, instead of every five.
        cluster["dns_failure_refresh_rate"] = json!({"base_interval": "0.5s", "max_interval": "1s"});
    }
    if let Some(trust) = trust {
        cluster["transport_socket"] = trust.transport_socket();
        if let Some(filters) = trust.http_filters() {
            cluster["typed_extension_protocol_options"][HTTP]["http_filters"] = filters;
        }
    }
    cluster
}

/// A stream to Weir, as `ApiConfigSource`.
pub(super) fn from_weir(protocol: Protocol) -> Value {
    json!({
        "api_type": protocol.api_type(),
        "transport_api_version": "V3",
        "set_node_on_first_message_only": true,
        "grpc_services": [{
            "envoy_grpc": {
                "cluster_name": names::WEIR_CLUSTER,
                // Envoy's default waits up to 30 s before it connects again.
                "retry_policy": {"retry_back_off": {"base_interval": "0.1s", "max_interval": "0.5s"}},
            },
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_node_and_both_addresses() {
        let written = bootstrap(&Options {
            service: "checkout".into(),
            namespace: "ns-a".into(),
            pod: "checkout-0".into(),
            xds_address: Upstream::Address(([127, 0, 0, 1], 18000).into()),
            trust: None,
            admin_address: "[::1]:19000".parse().expect("an address"),
            protocol: Protocol::Delta,
            metrics_interval: DEFAULT_METRICS_INTERVAL,
        });
        assert_eq!(written["node"]["id"], "ns-a/checkout/checkout-0");
        let layers = written["layered_runtime"]["layers"].as_array().expect("layers");
        let names: Vec<_> = layers.iter().map(|layer| layer["name"].as_str().expect("a name")).collect();
        assert_eq!(names, ["weir", "rtds", "admin"], "a later layer wins");
        assert_eq!(layers[1]["rtds_layer"]["name"], "rt/ns-a/checkout/checkout-0");
        let admin = json!({"socket_address": {"address": "::1", "port_value": 19000}});
        assert_eq!(written["admin"]["address"], admin);
        let endpoint =
            "/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
        assert_eq!(written.pointer(endpoint), Some(&json!({"address": "127.0.0.1", "port_value": 18000})));
        assert_eq!(written["dynamic_resources"]["ads_config"]["api_type"], "DELTA_GRPC");
    }
}
