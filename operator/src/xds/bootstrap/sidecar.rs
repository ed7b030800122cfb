//! What the bootstrap of a sidecar has besides: static listeners, which work while Weir is away, too.

use serde_json::{Value, json};

use super::{Options, bootstrap};

/// Where Envoy takes what iptables hands to it.
pub const INBOUND_PORT: u16 = 15006;
/// Where Envoy takes what iptables hands to it of what the application sends.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where kubelet asks whether Envoy is ready, and has it drain.
pub const HEALTH_PORT: u16 = 15021;
/// The page that says whether it is ready.
pub const READY_PATH: &str = "/ready";

const ADMIN_CLUSTER: &str = "weir-admin";
const PASSTHROUGH_CLUSTER: &str = "weir-passthrough";

/// What a sidecar does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    /// It takes what arrives at any port of the pod.
    pub intercepts: bool,
    /// Who knows it may have Envoy drain: kubelet, which reads it from the pod.
    pub drain_key: String,
}

impl Sidecar {
    /// The page that has Envoy drain.
    #[must_use]
    pub fn drain_path(&self) -> String {
        format!("/drain/{}", self.drain_key)
    }

    /// The bootstrap of `options` with all that.
    #[must_use]
    pub fn bootstrap(&self, options: &Options) -> Value {
        let mut value = bootstrap(options);
        let mut listeners = vec![self.health()];
        let mut clusters = vec![json!({
            "name": ADMIN_CLUSTER,
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {
                "cluster_name": ADMIN_CLUSTER,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": value["admin"]["address"]}}]}],
            },
        })];
        if self.intercepts {
            listeners.push(inbound());
            clusters.push(json!({
                "name": PASSTHROUGH_CLUSTER,
                "type": "ORIGINAL_DST",
                "lb_policy": "CLUSTER_PROVIDED",
                "connect_timeout": "1s",
                "circuit_breakers": {"thresholds": [{"max_connections": u32::MAX}]},
            }));
        }
        let statics = &mut value["static_resources"];
        statics["listeners"] = listeners.into();
        if let Some(held) = statics["clusters"].as_array_mut() {
            held.extend(clusters);
        }
        value
    }

    /// Two pages of Envoy's admin, and no other, for the node. Kubelet's hooks only GET, and to drain is a POST.
    fn health(&self) -> Value {
        const POST: &str = "function envoy_on_request(handle)\n  local headers = handle:headers()\n  \
             if headers:get(\":path\") ~= \"/ready\" then headers:replace(\":method\", \"POST\") end\nend\n";
        let route = |path: &str, page: &str| json!({"match": {"path": path}, "route": {"cluster": ADMIN_CLUSTER, "prefix_rewrite": page}});
        let routes = [route(READY_PATH, "/ready"), route(&self.drain_path(), "/healthcheck/fail")];
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "weir_health",
            "route_config": {"virtual_hosts": [{"name": "health", "domains": ["*"], "routes": routes}]},
            "http_filters": [
                {
                    "name": "envoy.filters.http.lua",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                        "default_source_code": {"inline_string": POST},
                    },
                },
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                },
            ],
        });
        json!({
            "name": "weir-health",
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": HEALTH_PORT}},
            "filter_chains": [{"filters": [
                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
            ]}],
        })
    }
}

/// Hands each connection to Weir's listener for the port that it was for, where there is one; what is left goes on to the
/// application as it came.
fn inbound() -> Value {
    json!({
        "name": "weir-inbound",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": INBOUND_PORT}},
        "traffic_direction": "INBOUND",
        "use_original_dst": true,
        "listener_filters": [{
            "name": "envoy.filters.listener.original_dst",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"},
        }],
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "weir_passthrough",
                "cluster": PASSTHROUGH_CLUSTER,
            },
        }]}],
    })
}
