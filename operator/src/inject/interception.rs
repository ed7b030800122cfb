//! Interception: rules of iptables that hand what arrives at the pod to Envoy, and the init container that loads them.
//!
//! What comes in over the network, and if it is wanted what the application sends over it. What stays within the pod is left alone, and all that
//! Envoy itself sends, so nothing can go round in a circle.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    Interception, RULES, VOLUME,
    probes::Direct,
    sidecar::{MOUNT, user},
    wish::Wish,
};
use crate::xds::bootstrap::sidecar::{HEALTH_PORT, INBOUND_PORT, OUTBOUND_PORT};

/// The file with the rules.
pub(super) const FILE: &str = "rules";

/// What `iptables-restore` reads. Loaded again, they do the same.
pub(super) fn rules(wish: &Wish, direct: &Direct) -> String {
    let outbound = wish.outbound == Interception::Redirect;
    let mut text = String::from("*nat\n:WEIR - [0:0]\n");
    if outbound {
        text.push_str(":WEIR_OUT - [0:0]\n");
    }
    text.push_str("-A PREROUTING -p tcp -j WEIR\n");
    let mut add =
        |rule: std::fmt::Arguments<'_>| writeln!(text, "-A WEIR -p tcp {rule}").expect("a String can be written");
    add(format_args!("--dport {HEALTH_PORT} -j RETURN"));
    for (port, application) in direct.pairs() {
        add(format_args!("--dport {port} -j REDIRECT --to-ports {application}"));
    }
    for port in &wish.excluded {
        add(format_args!("--dport {port} -j RETURN"));
    }
    add(format_args!("-j REDIRECT --to-ports {INBOUND_PORT}"));
    if outbound {
        text.push_str("-A OUTPUT -p tcp -j WEIR_OUT\n");
        let mut add = |rule: std::fmt::Arguments<'_>| {
            writeln!(text, "-A WEIR_OUT -p tcp {rule}").expect("a String can be written")
        };
        // The pod's own address goes there, too.
        add(format_args!("-o lo -j RETURN"));
        add(format_args!("-m owner --uid-owner {} -j RETURN", user(wish)));
        for port in &wish.excluded_outbound {
            add(format_args!("--dport {port} -j RETURN"));
        }
        add(format_args!("-j REDIRECT --to-ports {OUTBOUND_PORT}"));
    }
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
