//! A node for pods: kubelet and kube-proxy in one, so that Deployments run, as processes of this machine.
//!
//! Every pod has a network namespace with an address on the node's bridge; every container sees this machine's files under
//! overlays of its own, with the pod's volumes in them. Images are programs of this machine by a table. Services answer at their
//! ClusterIPs, and by name, which stands in every pod's `/etc/hosts`.
//!
//! What is missing: liveness and startup probes, `exec` hooks, resource limits, volumes that change while they are mounted, UDP.

mod bridge;
mod container;
mod environment;
mod hook;
mod pod;
mod pods;
mod probe;
mod services;
mod status;
mod volumes;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use anyhow::Context;
use bridge::Bridge;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::json;
use services::Names;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::Cluster;
use crate::temp_dir;

/// What runs in place of an image: by the image's last name without its tag (`envoy`), a program and its first arguments.
pub type Programs = BTreeMap<String, Vec<String>>;

/// A running node. Dropped, all that runs on it ends.
pub struct Node {
    host: Arc<Host>,
    // Ended when dropped, and with them the containers.
    _tasks: JoinSet<()>,
}

/// What all parts of a node know.
struct Host {
    name: String,
    client: Client,
    /// Where the API server is for pods: the ClusterIP of the Service `kubernetes`.
    api_server: IpAddr,
    programs: Programs,
    bridge: Bridge,
    names: Names,
    /// The processes of running containers, by namespace, pod and container.
    processes: Mutex<BTreeMap<[String; 3], u32>>,
    home: TempDir,
}

impl Node {
    /// Starts a node that takes every pod of the cluster that is on no other.
    ///
    /// # Panics
    ///
    /// When this process may not make networks and mounts: it needs to run in the namespace of `scripts/in-namespace`. Where that was
    /// made by somebody else than root, containers run as this user, whatever their manifest says.
    pub async fn start(cluster: &Cluster, programs: Programs) -> Self {
        let bridge = Bridge::new().await.expect("a bridge can be made");
        let home = temp_dir();
        for folder in ["pods", "hosts", "logs"] {
            std::fs::create_dir(home.path().join(folder)).expect("a fresh folder can be written");
        }
        let host = Arc::new(Host {
            name: format!("node-{}", bridge.name()),
            client: cluster.client().await,
            api_server: cluster.service_ip,
            programs,
            bridge,
            names: Names::new(home.path().join("hosts")),
            processes: Mutex::default(),
            home,
        });
        host.register().await.expect("a node is accepted");
        let mut tasks = JoinSet::new();
        tasks.spawn(services::run(Arc::clone(&host)));
        tasks.spawn(pods::run(Arc::clone(&host)));
        Self { host, _tasks: tasks }
    }

    /// What a container wrote so far, over its restarts.
    #[must_use]
    pub fn log(&self, namespace: &str, pod: &str, container: &str) -> String {
        std::fs::read_to_string(self.host.log_file(namespace, pod, container)).unwrap_or_default()
    }

    /// The folder with the output of all containers: `<namespace>.<pod>.<container>.log`.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.host.home().join("logs")
    }

    /// The `/etc/hosts` of a namespace's pods: all Services by name.
    #[must_use]
    pub fn hosts(&self, namespace: &str) -> PathBuf {
        self.host.names.file(namespace)
    }

    /// Runs a command in a running container: what it printed.
    ///
    /// # Errors
    ///
    /// When the container does not run, or the command fails.
    pub async fn exec(&self, namespace: &str, pod: &str, container: &str, command: &[&str]) -> anyhow::Result<String> {
        let process = [namespace, pod, container].map(str::to_owned);
        let process = *self.host.processes.lock().get(&process).context("the container does not run")?;
        let output = tokio::process::Command::new("nsenter")
            .args(["--target", &process.to_string(), "--net", "--mount", "--root", "--wd"])
            .args(command)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let (printed, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        anyhow::ensure!(output.status.success(), "{command:?}: {}\n{printed}{errors}", output.status);
        Ok(printed.into_owned())
    }
}

impl Host {
    async fn register(&self) -> kube::Result<()> {
        let nodes = Api::<NodeObject>::all(self.client.clone());
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux"}},
        });
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": self.bridge.gateway()}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "TestKit", "message": "pods are host processes"}],
        }});
        nodes.patch(&self.name, &PatchParams::apply("test-kit").force(), &Patch::Apply(&object)).await?;
        nodes.patch_status(&self.name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }

    fn home(&self) -> &Path {
        self.home.path()
    }

    fn log_file(&self, namespace: &str, pod: &str, container: &str) -> PathBuf {
        self.home().join("logs").join(format!("{namespace}.{pod}.{container}.log"))
    }
}
