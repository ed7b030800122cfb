//! Live metrics: providers bring samples of pods, `store` turns them into the observations that rules ask for.
//!
//! ```text
//! targets -> scrape (I/O) -> text -> rates -> Vec<PodSample> -> store -> limiter::metric::Observations
//! pods    -> kubernetes (I/O) -> usage -----> Vec<PodSample> -^
//! queries -> prometheus (I/O) -> answer ----> Vec<PodSample> -^
//! Envoys  -> stream (I/O) -> families -> window ---^
//!                 |---------> arms -----------> outbox
//!                 |---------> destinations -> calls::Calls
//!            logs (I/O) ----> entries --------^
//! ```
//!
//! A provider owns its connections and its clock; `text`, `rates`, `usage`, `families`, `arms`, `destinations`, `entries`, `window`, `histogram`
//! and `store` are plain functions of values. A target that misbehaves costs only itself: its last samples grow old, and [`TargetHealth`] says why.

mod backoff;
pub mod calls;
mod histogram;
mod inbound;
pub mod kubernetes;
pub mod logs;
pub(crate) mod outbox;
pub mod prometheus;
pub mod rates;
pub mod scrape;
pub mod store;
pub mod stream;
pub mod text;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use jiff::Timestamp;
use limiter::metric::Word;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub use self::histogram::Histogram;
use crate::intent::ServiceKey;

/// One measured value of one pod, as a provider brings it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSample {
    /// The target; shared, as there are thousands of samples a second.
    pub service: Arc<ServiceKey>,
    /// The pod; absent when the value speaks of the service as a whole, as a PromQL query without a pod label does.
    pub pod: Option<String>,
    /// What was measured (before any reduction over pods).
    pub measure: Measure,
    /// When it was true.
    pub at: Timestamp,
    /// How long it counts, in milliseconds: three intervals of the provider.
    pub fresh_for_ms: u64,
    /// Who measured it.
    pub source: Source,
}

/// What a sample holds. Ratios and quantiles cannot be averaged over pods, so they come as what they are made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Measure {
    /// A number in the word's base unit; finite.
    Number(Word, f64),
    /// Answers of the last interval, for `errors`.
    Errors {
        /// Those that failed, without those that Weir's own limits gave.
        failed: f64,
        /// All answers of the application.
        answered: f64,
    },
    /// Latencies of the last interval, for `p50`, `p90` and `p99 latency`.
    Latency(Histogram),
    /// How the service, as an arm of a split, has answered one caller since its sample before; the sample's pod is the caller's, as
    /// `<namespace>/<name>`.
    Called {
        /// The port that was called.
        port: u16,
        /// Requests that have ended.
        completed: f64,
        /// Those of them that failed: 5xx, and what never came.
        failed: f64,
        /// Requests that have not ended.
        inflight: f64,
        /// How long those took that have ended.
        latency: Histogram,
    },
}

impl Measure {
    /// Which quantity it is.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Number(word, _) => Kind::Number(word.clone()),
            Self::Errors { .. } => Kind::Errors,
            Self::Latency(_) => Kind::Latency,
            Self::Called { .. } => Kind::Called,
        }
    }
}

/// What a measure is a measure of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// See [`Measure::Number`].
    Number(limiter::metric::Word),
    /// See [`Measure::Errors`].
    Errors,
    /// See [`Measure::Latency`].
    Latency,
    /// See [`Measure::Called`].
    Called,
}

/// Who measures, the most direct first: the first of them whose value is fresh is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    /// What Envoy streams to us.
    Envoy,
    /// The targets' own metrics pages.
    Scrape,
    /// The Kubernetes metrics API.
    MetricsApi,
    /// Prometheus.
    Prometheus,
}

impl Source {
    /// All of them, in the order in which they are believed.
    pub const ALL: [Self; 4] = [Self::Envoy, Self::Scrape, Self::MetricsApi, Self::Prometheus];

    /// The name that status shows.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Scrape => "scrape",
            Self::MetricsApi => "metrics-api",
            Self::Prometheus => "prometheus",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.name() == name)
    }
}

/// What rules need measured now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Pods whose metrics pages are read.
    pub targets: Vec<Target>,
    /// Pods whose use of CPU or memory is wanted, whether or not they have a metrics page.
    pub resources: Vec<PodResources>,
    /// What Prometheus is asked.
    pub queries: Vec<Query>,
    /// Services whose proxies' statistics are read; those of others are left alone.
    pub streamed: BTreeSet<ServiceKey>,
    /// Services of whose pods it is wanted whom they call.
    pub called: BTreeSet<ServiceKey>,
}

/// A pod whose use of CPU or memory is wanted, and what it is measured against.
#[derive(Clone, Debug, PartialEq)]
pub struct PodResources {
    /// The Service that the pod belongs to.
    pub service: ServiceKey,
    /// The pod's name.
    pub pod: String,
    /// What the app containers may use of CPU, in cores. Absent: `cpu` cannot be a fraction of anything and is not measured.
    pub cpu_cores: Option<f64>,
    /// What they may use of memory, in bytes. Absent: `memory` is not measured.
    pub memory_bytes: Option<f64>,
}

/// A question to Prometheus about one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// The service that the answer is for.
    pub service: ServiceKey,
    /// The word that the answer becomes, as rules are told of it.
    pub word: Word,
    /// PromQL of an object, with its variables; absent: the built-in query of the word.
    pub promql: Option<String>,
    /// The service's ready pods, for `$pods`, in order.
    pub pods: Vec<String>,
    /// What each of them may use, for `cpu` in cores and for `memory` in bytes; empty when that is not known of all.
    pub amounts: BTreeMap<String, f64>,
}

/// A pod whose metrics are wanted, and what they are measured against.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The Service that the pod belongs to.
    pub service: ServiceKey,
    /// The pod's name.
    pub pod: String,
    /// The metrics page: `http://<address>:<port><path>`.
    pub url: String,
    /// The app containers' CPU limit in cores. Absent: `cpu` cannot be a fraction of anything and is not measured.
    pub cpu_limit_cores: Option<f64>,
    /// The app containers' memory limit in bytes. Absent: `memory` is not measured.
    pub memory_limit_bytes: Option<f64>,
    /// Series that policies define as words of their own.
    pub series: Vec<Series>,
}

/// A named series of a target's own page; see [`limiter::policy::MetricSource::Scrape`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// The word that it becomes: `Word::Named(name)`.
    pub name: String,
    /// Series name on the page; samples of that name are added up.
    pub series: String,
    /// Labels that a sample must have.
    pub labels: BTreeMap<String, String>,
    /// Take the increase per second.
    pub rate: bool,
}

impl Series {
    /// The series behind a policy's own word, if it is one that scraping gives.
    #[must_use]
    pub fn from_definition(name: &str, source: &limiter::policy::MetricSource) -> Option<Self> {
        match source {
            limiter::policy::MetricSource::Scrape { series, labels, rate } => {
                Some(Self { name: name.to_owned(), series: series.clone(), labels: labels.clone(), rate: *rate })
            }
            limiter::policy::MetricSource::Prometheus { .. } => None,
        }
    }
}

/// Something that measures targets until it is told to stop.
pub trait Provider {
    /// What its samples carry, and status shows as the source of a value.
    fn source(&self) -> Source;

    /// Starts measuring whatever `wanted` holds. Batches go to `samples`; when the receiver is slow, what waits
    /// is bounded: newer values take the place of older ones. The task ends when `shutdown` is cancelled or either channel closes.
    fn spawn(
        self,
        wanted: watch::Receiver<Arc<Wanted>>,
        samples: mpsc::Sender<Vec<PodSample>>,
        health: HealthBoard,
        shutdown: CancellationToken,
    ) -> JoinHandle<()>;
}

/// How measuring one target goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetHealth {
    /// What is wrong now; absent when the last attempt worked.
    pub last_error: Option<TargetError>,
    /// When the last attempt that worked ended.
    pub last_success: Option<Timestamp>,
    /// Words that cannot be had from a page that is otherwise fine, with the reason and the mend.
    pub unavailable: BTreeMap<Word, String>,
}

/// Why a target cannot be measured.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetError {
    /// One sentence.
    pub message: String,
    /// When attempts began to fail.
    pub since: Timestamp,
}

type Troubles = BTreeMap<ServiceKey, BTreeMap<Word, TargetError>>;

/// What providers say about their targets; cheap to clone. Written by providers, read by status and by the admin port.
#[derive(Clone, Debug, Default)]
pub struct HealthBoard {
    targets: Arc<Mutex<BTreeMap<ServiceKey, BTreeMap<String, TargetHealth>>>>,
    /// Streams by pod: the next one may begin before the end of the last is seen.
    streams: Arc<Mutex<BTreeMap<(ServiceKey, String), u32>>>,
    /// What is wrong with the words that Prometheus is asked for; absent: nothing can be asked.
    queries: Arc<Mutex<Option<Troubles>>>,
    /// What is wrong with the words that the metrics API is asked for.
    usage: Arc<Mutex<Troubles>>,
}

impl HealthBoard {
    /// How measuring one pod goes; absent before the first attempt.
    #[must_use]
    pub fn pod(&self, service: &ServiceKey, pod: &str) -> Option<TargetHealth> {
        self.targets.lock().get(service)?.get(pod).cloned()
    }

    /// How measuring goes, for each pod of a service.
    #[must_use]
    pub fn service(&self, service: &ServiceKey) -> BTreeMap<String, TargetHealth> {
        self.targets.lock().get(service).cloned().unwrap_or_default()
    }

    /// Whether there is a Prometheus to ask.
    #[must_use]
    pub fn has_prometheus(&self) -> bool {
        self.queries.lock().is_some()
    }

    /// Why Prometheus gives no value for a word of a service; absent when it does, or was not asked yet.
    #[must_use]
    pub fn query(&self, service: &ServiceKey, word: &Word) -> Option<TargetError> {
        self.queries.lock().as_ref()?.get(service)?.get(word).cloned()
    }

    pub(crate) fn set_prometheus(&self) {
        self.queries.lock().get_or_insert_default();
    }

    /// Keeps what is wrong with a word now, if anything is; says whether that turned.
    pub(crate) fn turn_query(&self, service: &ServiceKey, word: &Word, trouble: Option<&str>) -> bool {
        turn(self.queries.lock().get_or_insert_default(), service, word, trouble)
    }

    /// Why the metrics API gives no value for a word of a service; absent when it does, or was not asked yet.
    #[must_use]
    pub fn usage(&self, service: &ServiceKey, word: &Word) -> Option<TargetError> {
        self.usage.lock().get(service)?.get(word).cloned()
    }

    /// Keeps what the metrics API lacks of a word now, if anything; says whether that turned.
    pub(crate) fn turn_usage(&self, service: &ServiceKey, word: &Word, trouble: Option<&str>) -> bool {
        turn(&mut self.usage.lock(), service, word, trouble)
    }

    /// Whether the proxy of a pod streams the statistics of its inbound ports.
    #[must_use]
    pub fn streams(&self, service: &ServiceKey, pod: &str) -> bool {
        self.streams.lock().contains_key(&(service.clone(), pod.to_owned()))
    }

    /// Notes that the proxy of a pod streams, until the result is dropped.
    pub(crate) fn streaming(&self, service: &ServiceKey, pod: &str) -> Streaming {
        let key = (service.clone(), pod.to_owned());
        *self.streams.lock().entry(key.clone()).or_default() += 1;
        Streaming { board: self.clone(), key }
    }

    pub(crate) fn update<T>(&self, service: &ServiceKey, pod: &str, change: impl FnOnce(&mut TargetHealth) -> T) -> T {
        let mut targets = self.targets.lock();
        change(targets.entry(service.clone()).or_default().entry(pod.to_owned()).or_default())
    }

    pub(crate) fn forget(&self, service: &ServiceKey, pod: &str) {
        let mut targets = self.targets.lock();
        if let Some(pods) = targets.get_mut(service) {
            pods.remove(pod);
            if pods.is_empty() {
                targets.remove(service);
            }
        }
    }
}

/// Keeps what is wrong with a word now, if anything is; says whether that turned.
fn turn(troubles: &mut Troubles, service: &ServiceKey, word: &Word, trouble: Option<&str>) -> bool {
    let Some(message) = trouble else {
        let Some(words) = troubles.get_mut(service) else { return false };
        let turned = words.remove(word).is_some();
        if words.is_empty() {
            troubles.remove(service);
        }
        return turned;
    };
    match troubles.entry(service.clone()).or_default().entry(word.clone()) {
        Entry::Occupied(mut held) => {
            message.clone_into(&mut held.get_mut().message);
            false
        }
        Entry::Vacant(free) => {
            free.insert(TargetError { message: message.to_owned(), since: Timestamp::now() });
            true
        }
    }
}

/// A proxy streams while this lives.
#[derive(Debug)]
pub(crate) struct Streaming {
    board: HealthBoard,
    key: (ServiceKey, String),
}

impl Drop for Streaming {
    fn drop(&mut self) {
        let mut streams = self.board.streams.lock();
        if let Some(count) = streams.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                streams.remove(&self.key);
            }
        }
    }
}
