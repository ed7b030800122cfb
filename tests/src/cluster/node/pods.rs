//! Which pods are the node's: those on no node become its own, each gets a task, and those that are gone lose it.

use std::{collections::BTreeMap, pin::pin, sync::Arc};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::PostParams,
    runtime::{WatchStreamExt, reflector, watcher},
};
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Host, pod};

#[derive(Debug)]
struct Running {
    /// Asks it to end as Kubernetes ends a pod.
    stop: CancellationToken,
    task: AbortHandle,
}

pub(super) async fn run(host: Arc<Host>) {
    let objects = Api::<Pod>::all(host.client.clone());
    let (reader, writer) = reflector::store();
    let mut changes =
        pin!(watcher(objects.clone(), watcher::Config::default()).default_backoff().reflect(writer).touched_objects());
    let mut tasks = JoinSet::new();
    let mut running = BTreeMap::<String, Running>::new();
    // An error is a watch that broke off; it is tried again.
    while changes.next().await.is_some() {
        let pods = reader.state();
        for pod in &pods {
            let uid = pod.uid().unwrap_or_default();
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let ends = pod.metadata.deletion_timestamp.is_some();
            match (node, running.get(&uid)) {
                (None, _) if !ends => bind(&host, pod).await,
                (Some(node), None) if node == host.name => {
                    let stop = CancellationToken::new();
                    let task = tasks.spawn(pod::run(Arc::clone(&host), Arc::clone(pod), stop.clone()));
                    running.insert(uid, Running { stop, task });
                }
                (_, Some(running)) if ends => running.stop.cancel(),
                _ => {}
            }
        }
        running.retain(|uid, running| {
            let there = pods.iter().any(|pod| pod.uid().as_deref() == Some(uid));
            if !there {
                running.task.abort();
            }
            there
        });
    }
}

/// Puts a pod on this node. Whoever was faster keeps it.
async fn bind(host: &Host, pod: &Pod) {
    let (Some(namespace), name) = (pod.namespace(), pod.name_any()) else { return };
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": host.name},
    });
    let pods = Api::<Pod>::namespaced(host.client.clone(), &namespace);
    let _ = pods.create_subresource::<_, Value>("binding", &name, &PostParams::default(), &binding).await;
}
