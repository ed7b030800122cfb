//! A Kubernetes API server as a source of objects.
//!
//! ```text
//! resource (one task each: watch, decode) --Seen--> one task: listing, batches -> Batch
//! ```
//!
//! Nothing is sent before every watch has finished its first list, which is then one batch. A watch that the API server
//! refuses (403, 404) counts as listed: it is reported, and tried again. One that cannot reach it is tried again for ever,
//! and what was known stays in force.

mod client;
mod definition;
mod listing;
mod pauses;
mod resource;

use std::{collections::BTreeMap, time::Duration};

use limiter::problem::Problem;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::client::{Unreachable, client};
use self::{
    listing::Listing,
    resource::{Failure, Resource, Seen},
};
pub(crate) use self::{pauses::Pauses, resource::cause_of_client as cause};
use super::{Batch, LONGEST_WAIT, QUIET, live::Live};
use crate::index::{Change, ObjectKey, ObjectKind};

/// How often a start that waits says what for.
const PROGRESS: Duration = Duration::from_secs(5);
/// Where problems of the watches stand in the status.
const ORIGIN: &str = "API server";
/// The most that is built at once after the start.
const LARGEST_BATCH: usize = 1024;

/// What is watched, and with which rights.
#[derive(Clone)]
pub struct Config {
    /// Speaks to the API server.
    pub client: kube::Client,
    /// The namespaces that are watched; none: all of them.
    pub namespaces: Vec<String>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("namespaces", &self.namespaces).finish_non_exhaustive()
    }
}

/// Watches until `shutdown`. Whatever else the API server says of our own objects goes to `live`.
#[must_use]
pub fn spawn(
    config: Config,
    live: Live,
    batches_tx: mpsc::Sender<Batch>,
    shutdown: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        shutdown.run_until_cancelled(Source::new(config, live).run(batches_tx)).await;
    })
}

struct Source {
    client: kube::Client,
    resources: Vec<Resource>,
    listings: Vec<Listing>,
    live: Live,
    /// What is wrong with a watch now, by its place.
    failures: BTreeMap<usize, Failure>,
    /// What is wrong with a definition of ours, by the place of a watch of its kind.
    definitions: BTreeMap<usize, Problem>,
    changes: Vec<Change>,
    ready: bool,
}

impl Source {
    fn new(config: Config, live: Live) -> Self {
        let resources = resource::all(&config);
        let listings = resources.iter().map(|_| Listing::default()).collect();
        let (failures, definitions) = (BTreeMap::new(), BTreeMap::new());
        let client = config.client;
        Self { client, resources, listings, live, failures, definitions, changes: Vec::new(), ready: false }
    }

    async fn run(mut self, batches_tx: mpsc::Sender<Batch>) {
        let (seen_tx, mut seen_rx) = mpsc::channel(1024);
        // They end when this set is dropped.
        let mut watches = JoinSet::new();
        for (place, resource) in self.resources.iter().enumerate() {
            watches.spawn(resource.clone().watch(place, seen_tx.clone()));
            let others = self.resources[..place].iter().filter_map(Resource::own_kind);
            if let Some(own) = resource.own_kind().filter(|own| others.into_iter().all(|other| other != *own)) {
                let (_, kind) = own;
                watches.spawn(definition::follow(self.client.clone(), kind, place, seen_tx.clone()));
            }
        }
        let began = Instant::now();
        let mut progress = tokio::time::interval_at(began + PROGRESS, PROGRESS);
        loop {
            tokio::select! {
                Some((place, seen)) = seen_rx.recv() => self.take(place, seen),
                _ = progress.tick(), if !self.ready => {
                    let missing = self.missing();
                    info!(%missing, seconds = began.elapsed().as_secs(), "waiting for the first lists of the API server");
                    continue;
                }
                else => return,
            }
            if self.ready {
                let longest = Instant::now() + LONGEST_WAIT;
                while self.changes.len() < LARGEST_BATCH
                    && let Ok(Some((place, seen))) =
                        timeout_at(longest.min(Instant::now() + QUIET), seen_rx.recv()).await
                {
                    self.take(place, seen);
                }
            }
            let initial = !self.ready && self.listings.iter().all(Listing::is_complete);
            if initial {
                self.ready = true;
                let objects: usize = self.listings.iter().map(Listing::len).sum();
                info!(objects, milliseconds = began.elapsed().as_millis(), "read the API server");
            }
            let batch = Batch { changes: self.due(), initial };
            if (initial || !batch.changes.is_empty()) && batches_tx.send(batch).await.is_err() {
                return;
            }
        }
    }

    /// What can be sent: before the first lists are complete only what is wrong with the watches.
    fn due(&mut self) -> Vec<Change> {
        if self.ready {
            return std::mem::take(&mut self.changes);
        }
        let is_source = |change: &mut Change| matches!(change, Change::Source { .. });
        self.changes.extract_if(.., is_source).collect()
    }

    fn missing(&self) -> String {
        let watches = self.resources.iter().zip(&self.listings);
        let missing: Vec<_> =
            watches.filter(|(_, listing)| !listing.is_complete()).map(|(it, _)| it.to_string()).collect();
        missing.join(", ")
    }

    fn take(&mut self, place: usize, seen: Seen) {
        let listing = &mut self.listings[place];
        match seen {
            Seen::Begin => listing.begin(),
            Seen::Object { key, object, live, pod } => {
                if pod.is_some() {
                    self.live.set_pod(key.namespace.clone(), key.name.clone(), pod);
                }
                if let Some(live) = live {
                    self.live.set(key.clone(), live);
                }
                listing.saw(key.clone());
                self.changes.push(Change::Apply { origin: key.to_string(), key, object: *object });
                self.recovered(place);
            }
            Seen::Gone(key) => {
                listing.lost(&key);
                self.delete(key);
                self.recovered(place);
            }
            Seen::End => {
                if let Some(namespace) = self.resources[place].pods() {
                    self.live.set_listed(namespace.clone(), true);
                }
                listing.end().into_iter().for_each(|key| self.delete(key));
                self.recovered(place);
            }
            Seen::Failed(failure) => {
                if failure.refused {
                    if let Some(namespace) = self.resources[place].pods() {
                        self.live.set_listed(namespace.clone(), false);
                    }
                    listing.refused();
                }
                self.failed(place, failure);
            }
            Seen::Definition(lacking) => self.lacks(place, lacking),
        }
    }

    /// The definition of a kind of ours does not know these fields.
    fn lacks(&mut self, place: usize, lacking: Vec<String>) {
        let resource = &self.resources[place];
        let definition = resource.plural();
        if lacking.is_empty() {
            info!(%definition, "it knows all fields now");
            self.definitions.remove(&place);
        } else {
            let problem = definition::problem(&definition, &lacking);
            warn!(%problem, "a definition does not know all fields");
            self.definitions.insert(place, problem);
        }
        if let Some((kind, _)) = resource.own_kind() {
            self.live.set_dropped(kind, lacking);
        }
        self.report();
    }

    fn failed(&mut self, place: usize, failure: Failure) {
        let (watch, problem) = (&self.resources[place], &failure.problem);
        let is_new = self.failures.get(&place).is_none_or(|before| before.problem != *problem);
        // An API server that is away fails them all alike.
        let is_said = self.failures.values().any(|other| other.problem.message == problem.message);
        if failure.optional && is_new {
            info!(%watch, %problem, "not watched for now");
        } else if is_new && !is_said {
            warn!(%watch, %problem, "a watch failed; what was known stays in force");
        }
        self.failures.insert(place, failure);
        self.report();
    }

    /// Says what is wrong with the watches now.
    fn report(&mut self) {
        let mut problems: Vec<Problem> = Vec::new();
        for failure in self.failures.values().filter(|failure| !failure.optional) {
            match problems.iter_mut().find(|problem| problem.message == failure.problem.message) {
                Some(problem) => problem.field = format!("{}, {}", problem.field, failure.problem.field),
                None => problems.push(failure.problem.clone()),
            }
        }
        problems.extend(self.definitions.values().cloned());
        self.changes.push(Change::Source { origin: ORIGIN.to_owned(), problems });
    }

    fn delete(&mut self, key: ObjectKey) {
        if key.kind.is_told() {
            self.live.remove(&key);
        }
        if key.kind == ObjectKind::Pod {
            self.live.set_pod(key.namespace.clone(), key.name.clone(), None);
        }
        self.changes.push(Change::Delete(key));
    }

    fn recovered(&mut self, place: usize) {
        if self.failures.remove(&place).is_some() {
            info!(watch = %self.resources[place], "watching again");
            self.report();
        }
    }
}
