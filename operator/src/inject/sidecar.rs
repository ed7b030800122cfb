//! The container with Envoy: its bootstrap, its token, its probes, and as little right as possible.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Interception, PROXY, Settings, VOLUME, wish::Wish};
use crate::{
    identity::AUDIENCE,
    xds::{
        NodeKey,
        bootstrap::{
            Credential, DEFAULT_METRICS_INTERVAL, Options, Protocol, Trust, Upstream,
            sidecar::{HEALTH_PORT, READY_PATH, Sidecar},
        },
    },
};

/// Where the volume is in the containers.
pub(super) const MOUNT: &str = "/weir";
/// How long a token is good for, in seconds; kubelet renews it when four fifths are over.
const TOKEN_SECONDS: u32 = 3_600;
/// Nobody, as images without a system call it.
const USER: u32 = 65_532;
/// See [`user`].
pub(super) const OWN_USER: u32 = 15_001;
/// Worker threads. Envoy's default is one for each core of the node.
const WORKERS: &str = "2";

/// Whom Envoy runs as. What it sends is told by that from what the application sends, so it is then a user that nobody else is.
pub(super) fn user(wish: &Wish) -> u32 {
    match wish.outbound {
        Interception::Redirect => OWN_USER,
        Interception::None => USER,
    }
}

/// What is put into a pod.
pub(super) struct Built {
    pub(super) container: Value,
    /// Small files that it reads, by name.
    pub(super) files: Vec<(String, String)>,
}

/// The annotation that carries a file of the volume: a template has no other place for one.
pub(super) fn annotation(file: &str) -> String {
    format!("sidecar.weir.dev/{file}")
}

pub(super) fn build(wish: &Wish, drain_key: &str, settings: &Settings) -> Built {
    // Kubelet puts names in when it starts the container: of a template nobody knows them.
    let (namespace, pod) = ("$(POD_NAMESPACE)", "$(POD_NAME)");
    let unnamed = NodeKey::unnamed(namespace, pod);
    let (host, port) = settings.xds_address.clone();
    let folder = PathBuf::from(MOUNT);
    let trust = Trust {
        server_name: host.clone(),
        ca_file: folder.join("ca.crt"),
        credential: Credential::Token(folder.join("token")),
        secrets_folder: folder,
    };
    let files = trust.secrets().into_iter().map(|(name, secret)| (name, secret.to_string())).collect();
    let options = Options {
        service: wish.service.clone().unwrap_or_else(|| unnamed.service().to_owned()),
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        xds_address: Upstream::Name(host, port),
        trust: Some(trust),
        admin_address: ([127, 0, 0, 1], 15_000).into(),
        protocol: Protocol::Delta,
        metrics_interval: DEFAULT_METRICS_INTERVAL,
    };
    let sidecar = Sidecar { intercepts: wish.interception == Interception::Redirect, drain_key: drain_key.to_owned() };
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let ready = json!({"path": READY_PATH, "port": HEALTH_PORT});
    // Without interception nobody serves the port before Weir has told Envoy of it.
    let readiness = match (wish.interception, wish.listens.first()) {
        (Interception::None, Some(port)) => json!({"tcpSocket": {"port": port}, "periodSeconds": 2}),
        _ => json!({"httpGet": ready, "periodSeconds": 2}),
    };
    let container = json!({
        "name": PROXY,
        "image": settings.image,
        "restartPolicy": "Always",
        "args": [
            "--config-yaml", sidecar.bootstrap(&options).to_string(),
            "--concurrency", WORKERS,
            "--disable-hot-restart",
            "--log-level", "warning",
        ],
        "env": [field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace")],
        "startupProbe": {"httpGet": ready, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": readiness,
        // Not the page: it says no while Envoy drains.
        "livenessProbe": {"tcpSocket": {"port": HEALTH_PORT}, "periodSeconds": 10},
        // Kubelet runs it as soon as the pod is to end, and ends this container after all others.
        "lifecycle": {"preStop": {"httpGet": {"path": sidecar.drain_path(), "port": HEALTH_PORT}}},
        "resources": wish.resources,
        "securityContext": {
            "runAsUser": user(wish),
            "runAsGroup": user(wish),
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": VOLUME, "mountPath": MOUNT, "readOnly": true}],
    });
    Built { container, files }
}

/// The token, whom to trust, and the files that annotations carry.
pub(super) fn volume(files: &[String], settings: &Settings) -> Value {
    let items: Vec<Value> = files
        .iter()
        .map(|file| json!({"path": file, "fieldRef": {"fieldPath": format!("metadata.annotations['{}']", annotation(file))}}))
        .collect();
    json!({
        "name": VOLUME,
        "projected": {"sources": [
            {"serviceAccountToken": {"audience": AUDIENCE, "path": "token", "expirationSeconds": TOKEN_SECONDS}},
            {"configMap": {"name": settings.ca_config_map, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": items}},
        ]},
    })
}
