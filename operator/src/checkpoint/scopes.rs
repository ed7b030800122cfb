//! What the pods of services call, kept in a cluster: one `WorkloadScope` for each Service, of its name.
//!
//! Every replica holds what it would write; only the one that leads writes. The watch of these objects brings them back, at the next start
//! and to the other replicas. A write that comes too late, of a replica that leads no more, costs nothing: the next one is right again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use crds::{WorkloadScope, WorkloadScopeSpec};
use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::{Keeper, News, Waiting, Wants, object::Epoch};
use crate::{
    index::{asked::Remembered, scope},
    intent::ServiceKey,
};

/// Between two writes of one object.
const PACE: Duration = Duration::from_secs(10);
/// Between two writes of any: five in a second.
const BETWEEN: Duration = Duration::from_millis(200);
/// For one question to the API server.
const PATIENCE: Duration = Duration::from_secs(5);
/// Who writes.
const MANAGER: &str = "weir";

/// How that goes.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    writes: Counter<u64, AtomicU64>,
    errors: Counter<u64, AtomicU64>,
    waiting: Gauge,
}

impl Meters {
    /// Shows them on the metrics page, as `weir_scopes_…`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("weir_scopes");
        registry.register("writes", "WorkloadScopes written or deleted", self.writes.clone());
        registry.register("errors", "Attempts to write a WorkloadScope that failed", self.errors.clone());
        registry.register("waiting", "WorkloadScopes that are not on the API server yet", self.waiting.clone());
    }
}

/// Writes what its keeper is given.
#[derive(Debug)]
pub struct Writer {
    waiting: Waiting,
    meters: Meters,
    /// What is not written yet.
    behind: BTreeMap<ServiceKey, Option<Arc<Vec<Remembered>>>>,
    /// When each may be written again.
    next: BTreeMap<ServiceKey, Instant>,
    said: String,
}

impl Writer {
    /// One, and where to leave what it writes.
    #[must_use]
    pub fn new(meters: Meters) -> (Keeper, Self) {
        let (keeper, waiting) = Keeper::new(Wants { decisions: None, memories: true });
        let writer = Self { waiting, meters, behind: BTreeMap::new(), next: BTreeMap::new(), said: String::new() };
        (keeper, writer)
    }

    /// Writes until the keeper is dropped, and then whatever waits, for as long as one question takes.
    pub async fn run(mut self, client: Client, mut epoch: Epoch) {
        let mut free = Instant::now();
        loop {
            let may = epoch.borrow_and_update().is_some();
            self.meters.waiting.set(i64::try_from(self.behind.len()).unwrap_or(i64::MAX));
            let due = self.due().filter(|_| may);
            tokio::select! {
                biased;
                news = self.waiting.next() => match news {
                    Some(News { memories, .. }) => {
                        self.behind.extend(memories);
                        self.waiting.settle(Timestamp::now());
                    }
                    None => break,
                },
                Ok(()) = epoch.changed() => {}
                () = sleep_until(due.as_ref().map_or(free, |(at, _)| (*at).max(free))), if due.is_some() => {
                    if let Some((_, service)) = due {
                        self.write(&client, &service).await;
                        free = Instant::now() + if self.said.is_empty() { BETWEEN } else { PATIENCE };
                    }
                }
            }
        }
        if epoch.borrow().is_some() {
            let all: BTreeSet<ServiceKey> = self.behind.keys().cloned().collect();
            let _ = timeout(PATIENCE, async {
                for service in all {
                    self.write(&client, &service).await;
                }
            })
            .await;
        }
    }

    /// The next to be written, and when.
    fn due(&self) -> Option<(Instant, ServiceKey)> {
        let at = |service: &ServiceKey| self.next.get(service).copied().unwrap_or_else(Instant::now);
        self.behind.keys().map(|service| (at(service), service.clone())).min()
    }

    async fn write(&mut self, client: &Client, service: &ServiceKey) {
        let Some(memory) = self.behind.get(service).cloned() else { return };
        let scopes = Api::namespaced(client.clone(), &service.namespace);
        let written = match &memory {
            Some(memory) => timeout(PATIENCE, put(&scopes, service, memory)).await,
            None => timeout(PATIENCE, delete(&scopes, service)).await,
        };
        self.next.retain(|_, at| *at > Instant::now());
        self.next.insert(service.clone(), Instant::now() + PACE);
        let error = match written {
            Ok(Ok(())) => {
                self.behind.remove(service);
                self.meters.writes.inc();
                if !std::mem::take(&mut self.said).is_empty() {
                    info!("what workloads call is kept again");
                }
                return;
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 404 && memory.is_some() => {
                // The namespace, or the definition: the former is gone for good, and the watch says so of the latter.
                self.behind.remove(service);
                status.message
            }
            Ok(Err(kube::Error::Api(status))) => status.message,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        self.meters.errors.inc();
        if error != self.said {
            warn!(workload = %service, error, "what workloads call is not kept now; Weir goes on and tries again");
            self.said = error;
        }
    }
}

/// Writes the status of an object, which is made if need be.
async fn put(scopes: &Api<WorkloadScope>, service: &ServiceKey, memory: &[Remembered]) -> kube::Result<()> {
    let applied = json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "WorkloadScope",
        "metadata": {"name": service.name}, "status": scope::status(memory),
    });
    let (parameters, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&applied));
    match scopes.patch_status(&service.name, &parameters, &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let scope = WorkloadScope::new(&service.name, WorkloadScopeSpec::default());
            match scopes.create(&PostParams::default(), &scope).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                other => drop(other?),
            }
            scopes.patch_status(&service.name, &parameters, &patch).await.map(drop)
        }
        other => other.map(drop),
    }
}

async fn delete(scopes: &Api<WorkloadScope>, service: &ServiceKey) -> kube::Result<()> {
    match scopes.delete(&service.name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}
