//! Interception: rules of iptables that hand what arrives at the pod to Envoy, and the init container that loads them.
//!
//! Only what comes in over the network: what the pod itself sends is left alone, Envoy's requests to the application among it, so
//! nothing can go round in a circle.

use std::{collections::BTreeSet, fmt::Write as _};

use serde_json::{Value, json};

use super::{RULES, VOLUME, probes::Direct, sidecar::MOUNT};
use crate::xds::bootstrap::sidecar::{HEALTH_PORT, INBOUND_PORT};

/// The file with the rules.
pub(super) const FILE: &str = "rules";

/// What `iptables-restore` reads. Loaded again, they do the same.
pub(super) fn rules(excluded: &BTreeSet<u16>, direct: &Direct) -> String {
    let mut text = String::from("*nat\n:WEIR - [0:0]\n-A PREROUTING -p tcp -j WEIR\n");
    let mut add =
        |rule: std::fmt::Arguments<'_>| writeln!(text, "-A WEIR -p tcp {rule}").expect("a String can be written");
    add(format_args!("--dport {HEALTH_PORT} -j RETURN"));
    for (port, application) in direct.pairs() {
        add(format_args!("--dport {port} -j REDIRECT --to-ports {application}"));
    }
    for port in excluded {
        add(format_args!("--dport {port} -j RETURN"));
    }
    add(format_args!("-j REDIRECT --to-ports {INBOUND_PORT}"));
    text.push_str("COMMIT\n");
    text
}

/// Loads them. iptables works for root alone, and with these two capabilities.
pub(super) fn container(image: &str) -> Value {
    json!({
        "name": RULES,
        "image": image,
        "command": ["iptables-restore", "--noflush", format!("{MOUNT}/{FILE}")],
        // The root of the container is read-only, and iptables locks a file.
        "env": [{"name": "XTABLES_LOCKFILE", "value": "/dev/shm/xtables.lock"}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": VOLUME, "mountPath": MOUNT, "readOnly": true}],
    })
}
