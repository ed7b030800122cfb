//! The kinds of protection that are compared, each as a user would run it.

use std::{net::SocketAddr, time::Duration};

use limiter::policy::LawKind;
use operator::demo::envoy::Envoy;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{ports, weir::Weir};
use tokio::time::Instant;

use crate::{clock, mesh, rig};

const PATIENCE: Duration = Duration::from_secs(20);

/// One kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Arm {
    /// A plain Envoy.
    None,
    /// Envoy's `adaptive_concurrency` filter.
    Gradient,
    /// Envoy's circuit breaker at eight requests: what somebody sets who knows that there are four workers.
    Oracle,
    /// Weir with `limit:` at this part of the capacity.
    Limit(f64),
    /// Weir with `adapt:`.
    Adapt(LawKind),
    /// The same, with a class that is shed last.
    Classes(LawKind),
}

impl Arm {
    /// In the order of the table.
    pub(crate) fn all() -> Vec<Self> {
        vec![
            Self::None,
            Self::Gradient,
            Self::Oracle,
            Self::Limit(0.95),
            Self::Limit(1.06),
            Self::Adapt(LawKind::CompletionRate),
            Self::Adapt(LawKind::Aimd),
            Self::Classes(LawKind::CompletionRate),
            Self::Classes(LawKind::Aimd),
        ]
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gradient => "Envoy adaptive_concurrency",
            Self::Oracle => "Envoy max_requests 8",
            Self::Limit(part) if *part < 1.0 => "Weir limit at 0.95 of capacity",
            Self::Limit(_) => "Weir limit at 1.06 of capacity",
            Self::Adapt(LawKind::CompletionRate) => "Weir adapt, CompletionRate",
            Self::Adapt(LawKind::Aimd) => "Weir adapt, Aimd",
            Self::Classes(LawKind::CompletionRate) => "Weir adapt with priorities, CompletionRate",
            Self::Classes(LawKind::Aimd) => "Weir adapt with priorities, Aimd",
        }
    }

    /// The rule for Weir, where it is Weir that protects.
    fn rule(self, capacity: f64) -> Option<String> {
        match self {
            Self::None | Self::Gradient | Self::Oracle => None,
            Self::Limit(part) => {
                Some(format!("name: fixed, limit: {:.0} requests per second per pod", capacity * part))
            }
            Self::Adapt(law) => Some(steer(law)),
            Self::Classes(law) => {
                let high = format!("headers: [{{name: {}, value: {}}}]", HIGH.0, HIGH.1);
                Some(format!("{}, priorities: [{{name: high, matches: [{{{high}}}]}}]", steer(law)))
            }
        }
    }
}

/// The header of requests of the high class.
pub(crate) const HIGH: (&str, &str) = ("tier", "gold");

fn steer(law: LawKind) -> String {
    format!(
        "name: steer, adapt: \"keep p99 latency below 80ms, between 20 and 5000 requests per second per pod\", law: {law:?}"
    )
}

/// An arm in front of a service. Everything ends when it is dropped.
pub(crate) struct Running {
    /// Where it takes requests.
    pub(crate) address: SocketAddr,
    _envoy: Envoy,
    weir: Option<Weir>,
    _folders: [TempDir; 2],
}

impl Running {
    /// Starts it in front of the service and waits until it is live.
    pub(crate) async fn start(arm: Arm, application: SocketAddr, capacity: f64) -> anyhow::Result<Self> {
        let address = ports::free();
        let (config, folder) = (testkit::temp_dir(), testkit::temp_dir());
        let (weir, envoy) = if let Some(rule) = arm.rule(capacity) {
            std::fs::write(config.path().join("pod.yaml"), rig::pod(address, application, application))?;
            std::fs::write(config.path().join("policy.yaml"), mesh::policy("gov", mesh::SERVICE, &[rule]))?;
            let weir = Weir::start(config.path(), &[]).await;
            let envoy = rig::start_envoy(weir.xds, &folder).await?;
            (Some(weir), envoy)
        } else {
            let mut envoy = Envoy::start(&bootstrap(arm, address, application), folder.path(), "envoy", &[])?;
            envoy.wait_ready(PATIENCE).await?;
            (None, envoy)
        };
        Ok(Self { address, _envoy: envoy, weir, _folders: [config, folder] })
    }

    /// CPU time that Weir has used.
    pub(crate) fn weir_cpu(&self) -> Option<Duration> {
        clock::cpu_of(self.weir.as_ref()?.id()?)
    }

    /// Notes for ever what Weir says is in force, in seconds since `begin`.
    pub(crate) async fn watch(&self, begin: Instant, limits: &mut Vec<(f64, Option<f64>, String)>) {
        let Some(weir) = &self.weir else { return std::future::pending().await };
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        loop {
            ticks.tick().await;
            let Ok(status) = weir.status().await else { continue };
            let rule = status.pointer("/policies/0/status/rules/0").or_else(|| status.pointer("/policies/0/rules/0"));
            let Some(rule) = rule else { continue };
            let at = Instant::now().checked_duration_since(begin).unwrap_or_default().as_secs_f64();
            limits.push((at, rule["perSecond"].as_f64(), rule["message"].as_str().unwrap_or_default().to_owned()));
        }
    }
}

/// An Envoy without Weir. The filter has the values of its documentation's example; its minimum is measured in the warm-up and
/// not again within the run.
fn bootstrap(arm: Arm, address: SocketAddr, application: SocketAddr) -> Value {
    let socket = |address: SocketAddr| json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    let typed = |name: &str, kind: &str, mut config: Value| {
        config["@type"] = format!("type.googleapis.com/envoy.extensions.filters.{kind}").into();
        json!({"name": name, "typed_config": config})
    };
    let mut filters = Vec::new();
    if arm == Arm::Gradient {
        filters.push(typed(
            "adaptive_concurrency",
            "http.adaptive_concurrency.v3.AdaptiveConcurrency",
            json!({"gradient_controller_config": {
                "sample_aggregate_percentile": {"value": 50},
                "concurrency_limit_params": {"concurrency_update_interval": "0.1s"},
                "min_rtt_calc_params": {"interval": "60s", "request_count": 50, "jitter": {"value": 10}},
            }}),
        ));
    }
    filters.push(typed("router", "http.router.v3.Router", json!({})));
    let most = 1_000_000;
    let requests = if arm == Arm::Oracle { 8 } else { most };
    let breakers = json!({"max_connections": most, "max_pending_requests": most, "max_requests": requests});
    json!({
        "admin": {"address": socket(ports::free())},
        "static_resources": {
            "listeners": [{
                "name": "in",
                "address": socket(address),
                "filter_chains": [{"filters": [typed(
                    "http",
                    "network.http_connection_manager.v3.HttpConnectionManager",
                    json!({
                        "stat_prefix": "in",
                        "http_filters": filters,
                        "route_config": {"virtual_hosts": [{
                            "name": "all",
                            "domains": ["*"],
                            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "application", "timeout": "0s"}}],
                        }]},
                    }),
                )]}],
            }],
            "clusters": [{
                "name": "application",
                "type": "STATIC",
                "connect_timeout": "1s",
                "circuit_breakers": {"thresholds": [breakers]},
                "load_assignment": {
                    "cluster_name": "application",
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(application)}}]}],
                },
            }],
        },
    })
}
