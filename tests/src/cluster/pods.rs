//! Pods as objects, without a kubelet: created, given an address and said to be ready. The controller manager fills
//! EndpointSlices with them; what answers at their addresses is the test's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{Node, Pod as PodObject, Service as ServiceObject},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::Cluster;
use crate::{eventually, mesh::Service};

const DEADLINE: Duration = Duration::from_secs(30);
/// The node that all of them are on; the EndpointSlice controller leaves out a pod whose node is not there.
pub(super) const NODE: &str = "host";

/// A pod that is only an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its containers, as in the manifest of a pod.
    pub containers: Value,
    /// Its address: not a loopback one.
    pub address: IpAddr,
    /// Whether it says that it is ready.
    pub ready: bool,
}

impl Cluster {
    /// Makes this pod, or makes it again what is said here.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub async fn put_pod(&self, pod: &Pod) {
        let client = self.client().await;
        self.need_node().await;
        put_pod(&client, pod).await;
    }

    /// Makes the node, if it is not there.
    pub(super) async fn need_node(&self) {
        self.node.get_or_init(async || put_node(&self.client().await).await).await;
    }

    /// Makes a Service and its pods what they are now, takes away pods that are no more, and waits until EndpointSlices say so.
    /// Its namespace must exist.
    ///
    /// # Panics
    ///
    /// When the API server refuses something, or EndpointSlices do not follow.
    pub async fn put(&self, service: &Service) {
        let client = self.client().await;
        self.need_node().await;
        let Service { namespace, name, pods, .. } = service;
        let object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": service.port()}]},
        });
        let services = Api::<ServiceObject>::namespaced(client.clone(), namespace);
        services.patch(name, &ours(), &Patch::Apply(&object)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        for pod in pods {
            let labels = BTreeMap::from([("app".to_owned(), name.clone())]);
            let pod = Pod {
                namespace: namespace.clone(),
                name: pod.name.clone(),
                labels,
                annotations: service.annotations(pod).into(),
                containers: json!([{"name": "app", "image": "app", "resources": {"limits": {"cpu": "1"}}}]),
                address: pod.inbound.ip(),
                ready: pod.ready,
            };
            put_pod(&client, &pod).await;
        }
        let objects = Api::<PodObject>::namespaced(client.clone(), namespace);
        let labelled = ListParams::default().labels(&format!("app={name}"));
        for object in objects.list(&labelled).await.expect("pods can be listed") {
            if !pods.iter().any(|pod| pod.name == object.name_any()) {
                let gone = objects.delete(&object.name_any(), &DeleteParams::default()).await;
                gone.unwrap_or_else(|error| panic!("{}: {error}", object.name_any()));
            }
        }
        followed(&client, service).await;
    }
}

/// Waits until EndpointSlices hold these pods and no others.
async fn followed(client: &Client, service: &Service) {
    let expected: BTreeSet<_> = service.pods.iter().map(|pod| (pod.inbound.ip().to_string(), pod.ready)).collect();
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), &service.namespace);
    let labelled = ListParams::default().labels(&format!("kubernetes.io/service-name={}", service.name));
    eventually(DEADLINE, "EndpointSlices hold the pods", async || {
        let slices = slices.list(&labelled).await.map_err(|error| error.to_string())?;
        let endpoints = slices.items.into_iter().flat_map(|slice| slice.endpoints);
        let found: BTreeSet<_> = endpoints
            .map(|endpoint| {
                let ready = endpoint.conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
                (endpoint.addresses.concat(), ready)
            })
            .collect();
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// Server-side apply, against whoever else has touched it.
fn ours() -> PatchParams {
    PatchParams::apply("test-kit").force()
}

async fn put_node(client: &Client) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
    Api::<Node>::all(client.clone()).patch(NODE, &ours(), &Patch::Apply(&node)).await.expect("a node is accepted");
}

async fn put_pod(client: &Client, pod: &Pod) {
    let Pod { namespace, name, labels, annotations, containers, address, ready } = pod;
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels, "annotations": annotations},
        // Without a grace period it is gone when it is deleted: no kubelet says that its containers have ended.
        "spec": {"nodeName": NODE, "terminationGracePeriodSeconds": 0, "containers": containers},
    });
    let condition = |kind: &str, holds: bool| json!({"type": kind, "status": if holds { "True" } else { "False" }});
    let status = json!({"apiVersion": "v1", "kind": "Pod", "status": {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [condition("ContainersReady", *ready), condition("Ready", *ready)],
    }});
    let pods = Api::<PodObject>::namespaced(client.clone(), namespace);
    let refused = |error| panic!("pod {namespace}/{name}: {error}");
    pods.patch(name, &ours(), &Patch::Apply(&object)).await.unwrap_or_else(refused);
    pods.patch_status(name, &ours(), &Patch::Apply(&status)).await.unwrap_or_else(refused);
}
