//! A kubelet that runs nothing: pods that controllers make, of Deployments and their like, get a node, an address that the test
//! chooses, and are ready once the test has there what stands for them.
//!
//! [`super::node`] runs real containers instead, on a cluster of its own; here other tests may use the same cluster.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, reflector, watcher},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{Cluster, pods::NODE};
use crate::{app::App, ports::Network};

/// What makes the pods of a namespace ready. Dropped, it does so no more, and drops what it keeps for them.
#[derive(Debug)]
pub struct Kubelet {
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Running {
    /// Asks it to end as Kubernetes ends a pod.
    stop: CancellationToken,
    task: AbortHandle,
}

impl Cluster {
    /// From now on every pod of this namespace that is on no node gets the address that `place` gives, and is ready then. What `place`
    /// gives beside it is kept until the pod's grace period is over.
    pub async fn run_pods<Kept, Placed>(
        &self,
        namespace: &str,
        place: impl FnMut(Pod) -> Placed + Send + 'static,
    ) -> Kubelet
    where
        Kept: Send + 'static,
        Placed: Future<Output = (IpAddr, Kept)> + Send + 'static,
    {
        self.need_node().await;
        let pods = Api::<Pod>::namespaced(self.client().await, namespace);
        let mut tasks = JoinSet::new();
        tasks.spawn(run(pods, place));
        Kubelet { _tasks: tasks }
    }
}

async fn run<Kept, Placed>(objects: Api<Pod>, mut place: impl FnMut(Pod) -> Placed)
where
    Kept: Send + 'static,
    Placed: Future<Output = (IpAddr, Kept)> + Send + 'static,
{
    let (reader, writer) = reflector::store();
    let changes = watcher(objects.clone(), watcher::Config::default()).default_backoff();
    let mut changes = std::pin::pin!(changes.reflect(writer).touched_objects());
    let mut tasks = JoinSet::new();
    let mut running = BTreeMap::<String, Running>::new();
    // An error is a watch that broke off; it is tried again.
    while changes.next().await.is_some() {
        let pods = reader.state();
        for pod in &pods {
            let uid = pod.uid().unwrap_or_default();
            let free = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none());
            let ends = pod.metadata.deletion_timestamp.is_some();
            match running.get(&uid) {
                None if free && !ends => {
                    let (stop, placed) = (CancellationToken::new(), place(Pod::clone(pod)));
                    let task = tasks.spawn(stand_in(objects.clone(), Arc::clone(pod), placed, stop.clone()));
                    running.insert(uid, Running { stop, task });
                }
                Some(running) if ends => running.stop.cancel(),
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

/// A pod from its beginning to its end. What the API server refuses, it refuses since the pod is gone, which ends this task soon.
async fn stand_in<Kept>(
    pods: Api<Pod>,
    pod: Arc<Pod>,
    placed: impl Future<Output = (IpAddr, Kept)>,
    stop: CancellationToken,
) {
    let name = pod.name_any();
    let (address, kept) = placed.await;
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
    });
    let _ = pods.create_subresource::<_, Value>("binding", &name, &PostParams::default(), &binding).await;
    let _ = pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(ready(&pod, address))).await;
    stop.cancelled().await;
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or_default();
    // Nothing to wait for: this is the time in which it still answers who has not heard of its end.
    sleep(Duration::from_secs(grace.unsigned_abs())).await;
    drop(kept);
    let _ = pods.delete(&name, &DeleteParams::default().grace_period(0)).await;
}

fn ready(pod: &Pod, address: IpAddr) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now});
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let containers: Vec<_> = containers
        .map(|container| {
            json!({
                "name": container.name, "image": container.image, "imageID": "", "ready": true, "started": true,
                "restartCount": 0, "state": {"running": {"startedAt": now}},
            })
        })
        .collect();
    json!({"status": {
        "phase": "Running", "startTime": now, "podIP": address, "podIPs": [{"ip": address}],
        "conditions": conditions, "containerStatuses": containers,
    }})
}

/// Applications in place of a namespace's pods: each pod has its own, at an address of its own and the port of all.
#[derive(Debug)]
pub struct Apps {
    placed: Arc<Mutex<Vec<Placed>>>,
    _kubelet: Kubelet,
}

/// A pod that a controller has made, and its application.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The pod's name.
    pub pod: String,
    /// The image of its first container.
    pub image: String,
    /// What answers at its address. When its pod is gone, it counts on only.
    pub app: Arc<App>,
    /// Whether the pod is there.
    pub runs: bool,
}

impl Apps {
    /// Starts one for every pod of the namespace that is on no node, after `prepare` has told it, by the image of its pod, how to answer.
    pub async fn start(
        cluster: &Cluster,
        namespace: &str,
        (network, port): (Network, u16),
        prepare: impl Fn(&str, &App) + Send + Sync + 'static,
    ) -> Self {
        let placed = Arc::<Mutex<Vec<Placed>>>::default();
        let (shared, prepare) = (Arc::clone(&placed), Arc::new(prepare));
        let mut hosts = 0;
        let place = move |pod: Pod| {
            hosts += 1;
            let (address, shared, prepare) = (network.address(hosts), Arc::clone(&shared), Arc::clone(&prepare));
            async move {
                let app = Arc::new(App::start((address, port).into()).await);
                let image = pod.spec.iter().flat_map(|spec| &spec.containers).find_map(|one| one.image.clone());
                let placed = Placed { pod: pod.name_any(), image: image.unwrap_or_default(), app, runs: true };
                prepare(&placed.image, &placed.app);
                shared.lock().push(placed);
                (address, Ended { placed: shared, pod: pod.name_any() })
            }
        };
        Self { placed, _kubelet: cluster.run_pods(namespace, place).await }
    }

    /// How many pods of an image there are.
    #[must_use]
    pub fn running(&self, image: &str) -> usize {
        self.placed.lock().iter().filter(|placed| placed.runs && placed.image == image).count()
    }

    /// How many requests the pods of an image have answered, those that are gone too.
    #[must_use]
    pub fn served(&self, image: &str) -> u64 {
        self.placed.lock().iter().filter(|placed| placed.image == image).map(|placed| placed.app.served()).sum()
    }

    /// Every pod that there has been, in the order of their beginnings.
    #[must_use]
    pub fn placed(&self) -> Vec<Placed> {
        self.placed.lock().clone()
    }
}

/// Stops a pod's application when dropped.
struct Ended {
    placed: Arc<Mutex<Vec<Placed>>>,
    pod: String,
}

impl Drop for Ended {
    fn drop(&mut self) {
        for placed in self.placed.lock().iter_mut().filter(|placed| placed.pod == self.pod) {
            placed.runs = false;
            placed.app.stop();
        }
    }
}
