//! The Kubernetes metrics API (`metrics.k8s.io`), as metrics-server answers it: what pods use of CPU and memory.
//!
//! ```text
//! Wanted.resources -> scopes (namespace -> pods) -> one task a scope: list (I/O) -> usage -> outbox -> samples
//! ```
//!
//! One request for each namespace, or one for all of them where there are many. A namespace that cannot be read costs only
//! itself; it is tried again after a pause that doubles, and its values grow old meanwhile.

mod list;
mod usage;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use limiter::metric::Word;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::usage::Reading;
use super::{
    HealthBoard, PodResources, PodSample, Provider, Source, Wanted,
    backoff::{backoff, spread},
    outbox::Outbox,
};
use crate::intent::ServiceKey;

/// Time between two requests, unless told otherwise. metrics-server measures every 15 s; asking more often only shortens the way
/// of what it has.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
/// How long an answer may take.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// With more namespaces than this, one request is for all of them.
pub const MOST_NAMESPACES: usize = 8;
/// Longest pause after failures, which is six intervals or one where those are shorter or longer.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Asks the metrics API.
#[derive(Clone)]
pub struct MetricsApi {
    /// Speaks to the API server.
    pub client: kube::Client,
    /// Time between two requests.
    pub interval: Duration,
    /// Pods of all namespaces may be listed at once.
    pub all_namespaces: bool,
}

/// What one request is about: a namespace, or all.
type Scope = Option<String>;

impl Provider for MetricsApi {
    fn source(&self) -> Source {
        Source::MetricsApi
    }

    fn spawn(
        self,
        wanted: watch::Receiver<Arc<Wanted>>,
        samples: mpsc::Sender<Vec<PodSample>>,
        health: HealthBoard,
        shutdown: CancellationToken,
    ) -> JoinHandle<()> {
        let shared = Arc::new(Shared { provider: self, health, outbox: Outbox::default() });
        tokio::spawn(async move {
            shutdown.run_until_cancelled(supervise(shared, wanted, samples)).await;
        })
    }
}

/// What the tasks of all scopes share.
struct Shared {
    provider: MetricsApi,
    health: HealthBoard,
    outbox: Outbox,
}

/// A scope that is asked about, and the task that does.
struct Running {
    pods: watch::Sender<Vec<PodResources>>,
    _task: AbortOnDropHandle<()>,
}

async fn supervise(
    shared: Arc<Shared>,
    mut wanted: watch::Receiver<Arc<Wanted>>,
    samples: mpsc::Sender<Vec<PodSample>>,
) {
    let mut running: BTreeMap<Scope, Running> = BTreeMap::new();
    wanted.mark_changed();
    let draining = shared.outbox.drain(&samples);
    tokio::pin!(draining);
    loop {
        tokio::select! {
            () = &mut draining => return,
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                let now_wanted = Arc::clone(&wanted.borrow_and_update());
                let scopes = scopes(&now_wanted.resources, shared.provider.all_namespaces);
                reconcile(&shared, &mut running, scopes);
            }
        }
    }
}

/// The requests that tell of all these pods.
fn scopes(resources: &[PodResources], all_namespaces: bool) -> BTreeMap<Scope, Vec<PodResources>> {
    let mut scopes: BTreeMap<Scope, Vec<PodResources>> = BTreeMap::new();
    for pod in resources {
        scopes.entry(Some(pod.service.namespace.clone())).or_default().push(pod.clone());
    }
    if all_namespaces && scopes.len() > MOST_NAMESPACES {
        scopes = BTreeMap::from([(None, resources.to_vec())]);
    }
    scopes
}

fn services(pods: &[PodResources]) -> BTreeSet<&ServiceKey> {
    pods.iter().map(|pod| &pod.service).collect()
}

/// Starts tasks for new scopes, ends those that nobody needs, and tells the others their pods.
fn reconcile(
    shared: &Arc<Shared>,
    running: &mut BTreeMap<Scope, Running>,
    mut scopes: BTreeMap<Scope, Vec<PodResources>>,
) {
    running.retain(|scope, task| {
        let pods = scopes.remove(scope);
        let kept = services(pods.as_deref().unwrap_or_default());
        for gone in services(&task.pods.borrow()).difference(&kept) {
            shared.turn(gone, None);
        }
        let stays = pods.is_some();
        task.pods.send_if_modified(|held| {
            let changed = pods.as_ref().is_some_and(|pods| pods != held);
            *held = pods.unwrap_or_default();
            changed
        });
        stays
    });
    for (scope, pods) in scopes {
        let (pods_tx, pods_rx) = watch::channel(pods);
        let task = tokio::spawn(ask(Arc::clone(shared), scope.clone(), pods_rx));
        running.insert(scope, Running { pods: pods_tx, _task: AbortOnDropHandle::new(task) });
    }
}

/// Asks about one scope for as long as it is wanted.
async fn ask(shared: Arc<Shared>, scope: Scope, pods: watch::Receiver<Vec<PodResources>>) {
    let MetricsApi { client, interval, .. } = &shared.provider;
    let name = scope.as_deref().unwrap_or_default();
    let mut failures = 0;
    let mut next = Instant::now();
    loop {
        tokio::time::sleep_until(next).await;
        let tick = Instant::now();
        let outcome = list::list(client, scope.as_deref(), DEADLINE).await;
        let pause = match outcome {
            Ok(list) => {
                failures = 0;
                shared.take(usage::read(&list, &pods.borrow(), *interval, Timestamp::now()));
                *interval
            }
            Err(error) => {
                shared.fail(&pods.borrow(), &error);
                failures += 1;
                backoff(*interval, failures, (*interval * 6).min(MAX_PAUSE).max(*interval), spread(name, failures))
            }
        };
        next = (tick + pause).max(Instant::now());
    }
}

impl Shared {
    fn take(&self, reading: Reading) {
        let Reading { samples, troubles } = reading;
        for (service, trouble) in &troubles {
            if self.turn(service, trouble.as_deref()) {
                match trouble {
                    // Whether another source has it is not known here; where none has, the status says so.
                    Some(why) => tracing::debug!(%service, why, "the metrics API gives no value"),
                    None => tracing::info!(%service, "the metrics API gives values again"),
                }
            }
        }
        if !samples.is_empty() {
            self.outbox.put(samples);
        }
    }

    fn fail(&self, pods: &[PodResources], error: &list::Error) {
        let why = error.to_string();
        let turned = services(pods).into_iter().filter(|service| self.turn(service, Some(&why))).count();
        if turned > 0 {
            tracing::info!(%error, "the metrics API gives no values; cpu and memory come from other sources or are missing");
        }
    }

    /// Keeps what is wrong with a service's values; says whether that turned.
    fn turn(&self, service: &ServiceKey, trouble: Option<&str>) -> bool {
        let mut turned = false;
        for word in [Word::Cpu, Word::Memory] {
            turned |= self.health.turn_usage(service, &word, trouble);
        }
        turned
    }
}

#[cfg(test)]
mod tests;
