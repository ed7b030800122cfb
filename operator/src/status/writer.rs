//! Brings the status of every object of ours onto the API server, and says by Events what turned.
//!
//! ```text
//! builder --reports that may differ--> plan (pure: cause or number, when) --> server-side apply of `status` -> Events
//!                                        ^ what stands there now (watch::live)
//! ```
//!
//! For people, never the source of a decision. Nothing waits for it: a write that fails is tried again with growing pauses, always
//! with the newest status.

mod events;
mod plan;
mod routes;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind, Status},
    runtime::events::{Event, Recorder, Reporter},
};
use limiter::{
    policy::Kind,
    problem::{Problem, Reason},
    split,
};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use serde_json::json;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::plan::{Outcome, Plan, Write};
use super::OwnStatus;
use crate::{
    index::{ObjectKey, ObjectKind},
    watch::live::Live,
};

/// Who writes: the field manager of every status, the reporter of every Event.
const MANAGER: &str = "weir";
/// How often the builder is asked what is new.
const LOOK: Duration = Duration::from_millis(250);
/// How often everything is looked at, new or not.
const FULL_LOOK: Duration = Duration::from_secs(30);
/// How long a write and its Events may take: an API server that hangs must not hold every place.
const LONGEST_WRITE: Duration = Duration::from_secs(10);
/// As long as that, an Event that comes again is counted on the one before: kube's recorder forgets it then.
const REPEATS: Duration = Duration::from_secs(6 * 60);
/// Writes on their way at a time.
const WIDTH: usize = 8;

/// What the builder is asked: the statuses that may differ since it was last asked.
#[derive(Debug)]
pub struct Look {
    /// All of them, whether something moved or not.
    pub all: bool,
    /// Takes the answer; dropped without one while not everything has been read.
    pub reply_tx: oneshot::Sender<Vec<(ObjectKey, OwnStatus)>>,
}

/// Statuses that cannot be written now, and why; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Refusals(Arc<Mutex<BTreeMap<ObjectKey, String>>>);

impl Refusals {
    /// As problems, by the object whose status it is.
    #[must_use]
    pub fn problems(&self) -> BTreeMap<String, Vec<Problem>> {
        let problem = |message: &String| Problem {
            field: "status".to_owned(),
            reason: Reason::Invalid,
            message: message.clone(),
            help: Some(
                "apply the definitions of chart weir-crds, and allow `patch` of the status to Weir's service account; \
                 what the object asks for is carried out all the same"
                    .to_owned(),
            ),
            place: None,
        };
        self.0.lock().iter().map(|(key, message)| (key.to_string(), vec![problem(message)])).collect()
    }

    /// Whether that is another one than before.
    fn set(&self, key: &ObjectKey, refusal: Option<String>) -> bool {
        let mut refusals = self.0.lock();
        match refusal {
            Some(message) => refusals.insert(key.clone(), message.clone()).is_none_or(|before| before != message),
            None => refusals.remove(key).is_some(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// Counts of what was written.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    writes: Family<ResultLabel, Counter<u64, AtomicU64>>,
    events: Family<ResultLabel, Counter<u64, AtomicU64>>,
    waiting: Gauge,
}

impl Meters {
    /// Shows them on the metrics page, as `weir_status_writes_total`, `weir_events_total` and `weir_statuses_waiting`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("weir");
        registry.register("status_writes", "Statuses written to the API server, by result", self.writes.clone());
        registry.register("events", "Events written to the API server, by result", self.events.clone());
        registry.register("statuses_waiting", "Statuses that are not on the API server yet", self.waiting.clone());
    }
}

/// Writes until `shutdown`.
#[must_use]
pub fn spawn(
    client: Client,
    live: Live,
    looks_tx: mpsc::Sender<Look>,
    refusals: Refusals,
    meters: Meters,
    shutdown: CancellationToken,
) -> JoinHandle<()> {
    let recorders = Recorders { client: client.clone(), by_note: Mutex::default() };
    let is_away = AtomicBool::new(false);
    let writer = Arc::new(Writer { recorders, client, live: live.clone(), refusals, meters, is_away });
    tokio::spawn(async move {
        shutdown.run_until_cancelled(run(writer, live, looks_tx)).await;
    })
}

async fn run(writer: Arc<Writer>, live: Live, looks_tx: mpsc::Sender<Look>) {
    let mut plan = Plan::default();
    let mut under_way = JoinSet::new();
    let mut beat = tokio::time::interval(LOOK);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looked_at_all: Option<Instant> = None;
    loop {
        tokio::select! {
            Some(ended) = under_way.join_next() => {
                if let Ok((key, outcome)) = ended {
                    plan.ended(&key, outcome, Timestamp::now());
                }
            }
            _ = beat.tick() => {
                let all = looked_at_all.is_none_or(|at| at.elapsed() >= FULL_LOOK);
                let (reply_tx, reply_rx) = oneshot::channel();
                if looks_tx.send(Look { all, reply_tx }).await.is_err() {
                    return;
                }
                let Ok(statuses) = reply_rx.await else { continue };
                if all {
                    looked_at_all = Some(Instant::now());
                    plan.retain(|key| live.get(key).is_some());
                    writer.refusals.0.lock().retain(|key, _| live.get(key).is_some());
                }
                plan.begin(Timestamp::now());
                for (key, mut status) in statuses {
                    if let (OwnStatus::Route(status), Some(live)) = (&mut status, live.get(&key)) {
                        status.complete(&live, Timestamp::now());
                    }
                    plan.want(key, status);
                }
            }
        }
        writer.meters.waiting.set(i64::try_from(plan.waiting()).unwrap_or(i64::MAX));
        while under_way.len() < WIDTH
            && let Some(write) = plan.next(|key| live.get(key), Timestamp::now())
        {
            let writer = writer.clone();
            under_way.spawn(async move {
                let written = tokio::time::timeout(LONGEST_WRITE, writer.write(&write)).await;
                let outcome = written.unwrap_or_else(|_| writer.away(&format!("no answer within {LONGEST_WRITE:?}")));
                (write.key, outcome)
            });
        }
    }
}

struct Writer {
    client: Client,
    live: Live,
    recorders: Recorders,
    refusals: Refusals,
    meters: Meters,
    /// The API server could not be reached the last time.
    is_away: AtomicBool,
}

impl Writer {
    async fn write(&self, write: &Write) -> Outcome {
        let Write { key, uid, turns, .. } = write;
        let Some(resource) = resource(key.kind) else { return Outcome::Failed };
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &key.namespace, &resource);
        let written = match write.status {
            OwnStatus::Route(_) => routes::write(&api, write).await,
            _ => self.apply(&api, &resource, write).await.map(Some),
        };
        let outcome = match written {
            Ok(Some(object)) => Outcome::Written(object.data.get("status").cloned().unwrap_or_default()),
            // Gone, or another object of this name by now: the watch will say so.
            Ok(None) => Outcome::Failed,
            Err(kube::Error::Api(status)) if status.code == 409 => Outcome::Failed,
            Err(kube::Error::Api(status)) => {
                self.answers();
                let message = said(&status);
                if self.refusals.set(key, Some(message.clone())) {
                    warn!(object = %key, error = %message, "the status cannot be written for now");
                }
                self.meters.writes.get_or_create(&ResultLabel { result: "failed" }).inc();
                return Outcome::Failed;
            }
            Err(error) => return self.away(&error.to_string()),
        };
        self.answers();
        self.refusals.set(key, None);
        let is_written = matches!(outcome, Outcome::Written(_));
        let result = if is_written { "written" } else { "conflict" };
        self.meters.writes.get_or_create(&ResultLabel { result }).inc();
        for turn in turns.iter().filter(|_| is_written) {
            let sent = self
                .recorders
                .publish(&turn.event(), &events::regarding(key, uid, &subject(key.kind, &resource)))
                .await;
            let result = if sent.is_ok() { "written" } else { "failed" };
            self.meters.events.get_or_create(&ResultLabel { result }).inc();
            if let Err(error) = sent {
                debug!(object = %key, %error, "an event cannot be written");
            }
        }
        outcome
    }

    /// Writes a status that is Weir's alone.
    async fn apply(
        &self,
        api: &Api<DynamicObject>,
        resource: &ApiResource,
        write: &Write,
    ) -> Result<DynamicObject, kube::Error> {
        let Write { key, uid, status, .. } = write;
        // A report is another object than the one that it speaks of.
        let uid_of_status = key.kind.is_own().then_some(uid);
        let mut object = json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": {"name": key.name, "uid": uid_of_status}, "status": status,
        });
        self.live.prune(key.kind, &mut object);
        let (parameters, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&object));
        let mut written = api.patch_status(&key.name, &parameters, &patch).await;
        if let (Err(kube::Error::Api(status)), false) = (&written, key.kind.is_own())
            && status.code == 404
        {
            let report = report(resource, key, uid);
            written = match api.patch(&key.name, &parameters, &Patch::Apply(&report)).await {
                Ok(_) => api.patch_status(&key.name, &parameters, &patch).await,
                Err(error) => Err(error),
            };
        }
        written
    }

    /// The API server gives no answer, which is nothing of the object's own: said once, whatever waits.
    fn away(&self, error: &str) -> Outcome {
        if !self.is_away.swap(true, Ordering::Relaxed) {
            warn!(error, "the API server gives no answer; statuses are written when it is back");
        }
        self.meters.writes.get_or_create(&ResultLabel { result: "failed" }).inc();
        Outcome::Away
    }

    fn answers(&self) {
        if self.is_away.swap(false, Ordering::Relaxed) {
            info!("the API server answers again; statuses are written");
        }
    }
}

/// An object's uid, and what is said of it.
type Note = (Option<String>, Option<String>);

/// What writes Events: kube's recorder counts those of one reason as one that repeats, and keeps the note of the first. So one is
/// kept for each note.
struct Recorders {
    client: Client,
    by_note: Mutex<BTreeMap<Note, (Instant, Recorder)>>,
}

impl Recorders {
    async fn publish(&self, event: &Event, regarding: &ObjectReference) -> Result<(), kube::Error> {
        let recorder = {
            let mut by_note = self.by_note.lock();
            by_note.retain(|_, (used, _)| used.elapsed() < REPEATS);
            let fresh = || {
                let reporter = Reporter { controller: MANAGER.to_owned(), instance: std::env::var("HOSTNAME").ok() };
                (Instant::now(), Recorder::new(self.client.clone(), reporter))
            };
            let (used, recorder) = by_note.entry((regarding.uid.clone(), event.note.clone())).or_insert_with(fresh);
            *used = Instant::now();
            recorder.clone()
        };
        recorder.publish(event, regarding).await
    }
}

fn said(status: &Status) -> String {
    match status.code {
        404 => format!("the API server has no such object, or no status subresource for it: {}", status.message),
        _ => status.message.clone(),
    }
}

/// A report without a status yet, which goes with what it is about.
fn report(resource: &ApiResource, key: &ObjectKey, uid: &str) -> serde_json::Value {
    let of = subject(key.kind, resource);
    json!({
        "apiVersion": resource.api_version, "kind": resource.kind,
        "metadata": {"name": key.name, "ownerReferences": [
            {"apiVersion": of.api_version, "kind": of.kind, "name": key.name, "uid": uid, "controller": true},
        ]},
        "spec": {},
    })
}

/// What a status that stands in `resource` speaks of.
fn subject(kind: ObjectKind, resource: &ApiResource) -> ApiResource {
    match kind {
        ObjectKind::Split(split::Kind::TrafficSplit) => {
            ApiResource::from_gvk(&GroupVersionKind::gvk("split.smi-spec.io", "v1alpha4", "TrafficSplit"))
        }
        _ => resource.clone(),
    }
}

/// What a kind of ours is to the API server; of one without a status, the report about it.
fn resource(kind: ObjectKind) -> Option<ApiResource> {
    match kind {
        ObjectKind::Policy(Kind::SmartLimiter) => Some(ApiResource::erase::<crds::SmartLimiter>(&())),
        ObjectKind::Policy(Kind::ArticleSmartLimiter) => Some(ApiResource::erase::<crds::ArticleSmartLimiter>(&())),
        ObjectKind::Lazy => Some(ApiResource::erase::<crds::LazyConfig>(&())),
        ObjectKind::Split(split::Kind::SmartSplit) => Some(ApiResource::erase::<crds::SmartSplit>(&())),
        ObjectKind::Split(split::Kind::TrafficSplit) => Some(ApiResource::erase::<crds::SplitReport>(&())),
        ObjectKind::HttpRoute => Some(route("HTTPRoute")),
        ObjectKind::GrpcRoute => Some(route("GRPCRoute")),
        _ => None,
    }
}

fn route(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", kind))
}
