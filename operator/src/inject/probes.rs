//! Kubelet's probes and hooks come over the network like any request, and must not meet a limit.
//!
//! With interception each port that kubelet asks gets a second number, which iptables leads past Envoy to the application: whatever
//! is spoken there works as before, also while Envoy is away. Only the number in the pod changes.

use std::collections::BTreeMap;

use limiter::problem::Problem;
use serde_json::{Value, json};

use super::{annotate, containers, invalid, wish::Wish};
use crate::xds::bootstrap::sidecar::{HEALTH_PORT, INBOUND_PORT, OUTBOUND_PORT};

const FIRST: u16 = 15_030;
const LAST: u16 = 15_059;
/// The numbers for ports that kubelet asks, in words.
pub(super) const RANGE: &str = "15030 to 15059";
const ADMIN_PORT: u16 = 15_000;

/// Where the number of a metrics page stands, and whether there is one.
const PAGE: &str = "prometheus.io/port";
const SCRAPE: &str = "prometheus.io/scrape";

/// What of a container kubelet asks over the network.
pub(super) const HANDLERS: [&str; 11] = [
    "/livenessProbe/httpGet",
    "/livenessProbe/tcpSocket",
    "/livenessProbe/grpc",
    "/readinessProbe/httpGet",
    "/readinessProbe/tcpSocket",
    "/readinessProbe/grpc",
    "/startupProbe/httpGet",
    "/startupProbe/tcpSocket",
    "/startupProbe/grpc",
    "/lifecycle/postStart/httpGet",
    "/lifecycle/preStop/httpGet",
];

pub(super) fn is_ours(port: u64) -> bool {
    [ADMIN_PORT, OUTBOUND_PORT, INBOUND_PORT, HEALTH_PORT].iter().any(|own| u64::from(*own) == port)
        || (u64::from(FIRST)..=u64::from(LAST)).contains(&port)
}

/// Ports that lead past Envoy, by the application's port.
#[derive(Debug, Default)]
pub(super) struct Direct(BTreeMap<u16, u16>);

impl Direct {
    /// The port past Envoy, and where it leads.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (u16, u16)> {
        self.0.iter().map(|(application, port)| (*port, *application))
    }

    fn to(&mut self, application: u16) -> Option<u16> {
        if let Some(port) = self.0.get(&application) {
            return Some(*port);
        }
        let port = FIRST + u16::try_from(self.0.len()).ok()?;
        (port <= LAST).then(|| *self.0.entry(application).or_insert(port))
    }
}

/// Gives every port that kubelet or Prometheus asks its number past Envoy.
pub(super) fn go_direct(pod: &mut Value, wish: &Wish, direct: &mut Direct) -> Result<(), Problem> {
    let too_many =
        || invalid("spec.containers", "kubelet asks more than 30 ports", "let several probes ask the same port");
    for list in ["/spec/initContainers", "/spec/containers"] {
        for container in pod.pointer_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let ports = container["ports"].clone();
            for handler in HANDLERS {
                let Some(handler) = container.pointer_mut(handler).filter(|handler| handler.is_object()) else {
                    continue;
                };
                if let Some(port) = asked(handler, &ports).filter(|port| !wish.excluded.contains(port)) {
                    handler["port"] = json!(direct.to(port).ok_or_else(too_many)?);
                }
            }
        }
    }
    // Whoever reads metrics would be counted as a client, and perhaps be refused.
    if let Some(page) = page(pod).filter(|port| !wish.excluded.contains(port)) {
        annotate(pod, PAGE, &direct.to(page).ok_or_else(too_many)?.to_string());
    }
    Ok(())
}

/// Probes that ask where Envoy listens, without interception: one sentence each.
pub(super) fn meet_limits(pod: &Value, wish: &Wish) -> Vec<String> {
    let mut warnings = Vec::new();
    for (list, position, container) in containers(pod) {
        for path in HANDLERS {
            let port = container.pointer(path).and_then(|handler| asked(handler, &container["ports"]));
            if let Some(port) = port.filter(|port| wish.listens.contains(port)) {
                warnings.push(format!(
                    "spec.{list}[{position}]{} asks port {port}, at which Envoy listens, so a limit may refuse it: name the \
                     application's own port",
                    path.replace('/', "."),
                ));
            }
        }
    }
    warnings
}

/// The port of the pod that a handler asks; `None` where it asks somebody else, or what nobody can tell.
fn asked(handler: &Value, ports: &Value) -> Option<u16> {
    if handler["host"].as_str().is_some_and(|host| !host.is_empty()) {
        return None;
    }
    let number = match &handler["port"] {
        Value::String(name) => {
            let named = ports.as_array().into_iter().flatten().find(|port| port["name"] == *name);
            named.and_then(|port| port["containerPort"].as_u64()).or_else(|| name.parse().ok())?
        }
        number => number.as_u64()?,
    };
    u16::try_from(number).ok().filter(|port| *port > 0)
}

/// The port of the metrics page, as Weir finds it.
fn page(pod: &Value) -> Option<u16> {
    let annotations = &pod["metadata"]["annotations"];
    if let Some(port) = annotations[PAGE].as_str() {
        return port.parse().ok().filter(|port| *port > 0);
    }
    let first = || {
        let mut ports = containers(pod).filter(|(list, ..)| *list == "containers").flat_map(|(.., container)| {
            let ports = container["ports"].as_array().into_iter().flatten();
            ports.filter(|port| port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP"))
        });
        ports.find_map(|port| u16::try_from(port["containerPort"].as_u64()?).ok())
    };
    (annotations[SCRAPE] == "true").then(first).flatten()
}
