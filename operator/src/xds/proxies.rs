//! What connected proxies said: who is there, what they took, what they refused. Streams write, status and metrics read.

mod report;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::RwLock;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::report::{Elsewhere, Report, Reporter};
use crate::xds::{NodeKey, ResourceType, resources::runtime::at_rest};

/// Refusals remembered for a node.
const MAX_REFUSALS: usize = 16;
/// Characters kept of what Envoy said.
const MAX_MESSAGE: usize = 1_000;
/// Nodes remembered after they disconnected because of a refusal; the oldest go first.
const MAX_GONE: usize = 1_000;

/// A response that a proxy refused (NACK). The resources it had before stay in force there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Type of the resources.
    #[serde(serialize_with = "label", deserialize_with = "of_label")]
    pub resource_type: ResourceType,
    /// Names and versions refused. More than one when Envoy did not say which of them it meant.
    pub resources: Vec<(String, String)>,
    /// What Envoy said, as far as it is kept ([`said`]).
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// What is kept of what a proxy said, in status, logs and traces: its first 1,000 characters.
#[must_use]
pub fn said(message: &str) -> &str {
    message.char_indices().nth(MAX_MESSAGE).map_or(message, |(end, _)| &message[..end])
}

/// One proxy, for status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proxy {
    /// Since when, if a stream is open.
    pub connected_since: Option<Timestamp>,
    /// What it says it is: `envoy 1.40.0`.
    pub user_agent: String,
    /// Number of resources that it acknowledged.
    pub acknowledged: usize,
    /// Refusals that still stand, newest last.
    pub refusals: Vec<Refusal>,
}

/// What all proxies said; clones share it.
#[derive(Clone, Debug)]
pub struct Proxies(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Written by streams; entries live while a stream is open, or while a refusal is remembered.
    nodes: RwLock<BTreeMap<NodeKey, Node>>,
    /// Nodes without a stream that are remembered, oldest first. Only taken with `nodes` held for writing.
    gone: parking_lot::Mutex<VecDeque<NodeKey>>,
    /// Nodes of which status may say something else since it was last asked.
    /// Absent where nobody asks for it.
    news: parking_lot::Mutex<Option<BTreeSet<NodeKey>>>,
    /// Where reports to other replicas look for news.
    reporters: parking_lot::Mutex<Vec<Weak<parking_lot::Mutex<BTreeSet<NodeKey>>>>>,
    /// Counts changes, to wake status.
    changes: watch::Sender<u64>,
    next_stream: AtomicU64,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Node {
    /// Open streams, oldest first: two during a hot restart of Envoy or a half-dead connection. The newest speaks for the node.
    streams: Vec<OpenStream>,
    user_agent: String,
    refusals: Vec<Refusal>,
}

/// Versions by the name of the resource, by type.
type Acknowledged = [HashMap<Arc<str>, Arc<str>>; ResourceType::COUNT];

/// One stream of a node.
#[derive(Debug)]
struct OpenStream {
    id: StreamId,
    since: Timestamp,
    /// Open to this process, not to another replica.
    here: bool,
    /// It is one of the state-of-the-world protocol.
    sotw: bool,
    /// What it has acknowledged; what an earlier stream did says nothing of this one, which may be another process.
    acknowledged: Acknowledged,
}

impl Node {
    /// What its newest stream has acknowledged.
    fn acknowledged(&self) -> Option<&Acknowledged> {
        self.streams.last().map(|stream| &stream.acknowledged)
    }
}

/// Identity of a stream within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId(u64);

/// A stream's handle; dropping it says that the stream ended.
#[derive(Debug)]
pub struct Connection {
    proxies: Proxies,
    node: NodeKey,
    id: StreamId,
    /// Connected to this process, not to another replica.
    here: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: &'static str,
}

/// Counters of this room.
#[derive(Clone, Debug, Default)]
struct Metrics {
    streams: Gauge,
    pushes: Family<TypeLabel, Counter>,
    resources: Family<TypeLabel, Counter>,
    acks: Family<TypeLabel, Counter>,
    nacks: Family<TypeLabel, Counter>,
    unknown_types: Counter,
    asked: Asked,
}

/// How long requests were held for what their proxy asked for, from when Weir could look until it was sent.
#[derive(Clone, Debug)]
struct Asked(Family<FoundLabel, Histogram, fn() -> Histogram>);

impl Default for Asked {
    fn default() -> Self {
        // 1 ms to 4 s.
        Self(Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 13))))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FoundLabel {
    found: &'static str,
}

fn of_label<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<ResourceType, D::Error> {
    let label = String::deserialize(deserializer)?;
    let of = ResourceType::ALL.into_iter().find(|kind| kind.label() == label);
    of.ok_or_else(|| serde::de::Error::custom(format!("{label:?} is no type of resources")))
}

fn label<S: serde::Serializer>(resource_type: &ResourceType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(resource_type.label())
}

impl Default for Proxies {
    fn default() -> Self {
        Self(Arc::new(Inner {
            nodes: RwLock::default(),
            gone: parking_lot::Mutex::default(),
            news: parking_lot::Mutex::default(),
            reporters: parking_lot::Mutex::default(),
            changes: watch::Sender::new(0),
            next_stream: AtomicU64::new(0),
            metrics: Metrics::default(),
        }))
    }
}

impl Proxies {
    /// Nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers the room's metrics, `weir_xds_…`, in `registry` (which must not add a prefix of its own).
    pub fn register(&self, registry: &mut Registry) {
        let metrics = &self.0.metrics;
        let registry = registry.sub_registry_with_prefix("weir_xds");
        registry.register("streams", "Open xDS streams", metrics.streams.clone());
        registry.register("pushes", "Responses sent, by type", metrics.pushes.clone());
        registry.register("resources", "Resources sent, by type", metrics.resources.clone());
        registry.register("acks", "Responses acknowledged, by type", metrics.acks.clone());
        registry.register("nacks", "Responses refused, by type", metrics.nacks.clone());
        registry.register(
            "held_seconds",
            "Time that requests were held for a host that their proxy asked for, until it was sent, by whether it is one",
            metrics.asked.0.clone(),
        );
        registry.register("unknown_types", "Requests for a type that is not served", metrics.unknown_types.clone());
    }

    /// Wakes when something that status shows has changed: a proxy came or went, acknowledged or refused.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// A host that was asked for has been sent.
    pub fn count_asked(&self, unknown: bool, after: Duration) {
        let found = if unknown { "nothing" } else { "service" };
        self.0.metrics.asked.0.get_or_create(&FoundLabel { found }).observe(after.as_secs_f64());
    }

    /// Number of streams that are open here, at this replica.
    #[must_use]
    pub fn streams(&self) -> i64 {
        self.0.metrics.streams.get()
    }

    /// Number of nodes with an open stream.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.0.nodes.read().values().filter(|node| !node.streams.is_empty()).count()
    }

    /// Whether `node` has an open stream.
    #[must_use]
    pub fn is_connected(&self, node: &NodeKey) -> bool {
        self.0.nodes.read().get(node).is_some_and(|node| !node.streams.is_empty())
    }

    /// A connected proxy of this pod, whichever service it says that it stands for.
    #[must_use]
    pub fn of_pod(&self, namespace: &str, pod: &str) -> Option<NodeKey> {
        let nodes = self.0.nodes.read();
        let mut connected = nodes.iter().filter(|(_, node)| !node.streams.is_empty()).map(|(key, _)| key);
        connected.find(|key| key.namespace() == namespace && key.pod() == pod).cloned()
    }

    /// Whether `node` is connected and has acknowledged exactly these versions (see [`crate::xds::table::Table::versions`]).
    /// False for an empty list: nothing was programmed.
    #[must_use]
    pub fn programmed<N: AsRef<str>, V: AsRef<str>>(&self, node: &NodeKey, versions: &[(ResourceType, N, V)]) -> bool {
        let nodes = self.0.nodes.read();
        let Some(node) = nodes.get(node) else { return false };
        let Some(acknowledged) = node.acknowledged() else { return false };
        !versions.is_empty()
            && versions.iter().all(|(t, name, version)| match acknowledged[t.index()].get(name.as_ref()) {
                Some(acked) => **acked == *version.as_ref(),
                // A bootstrap from before there was a runtime layer asks for none, and misses none while it is at rest.
                None => *t == ResourceType::Runtime && *version.as_ref() == *at_rest(),
            })
    }

    /// Whether the newest stream of `node` is one of the state-of-the-world protocol.
    #[must_use]
    pub fn speaks_sotw(&self, node: &NodeKey) -> bool {
        self.0.nodes.read().get(node).and_then(|node| node.streams.last()).is_some_and(|stream| stream.sotw)
    }

    /// The version of a resource that `node` has acknowledged on its newest stream.
    #[must_use]
    pub fn acknowledged(&self, node: &NodeKey, resource_type: ResourceType, name: &str) -> Option<Arc<str>> {
        self.0.nodes.read().get(node)?.acknowledged()?[resource_type.index()].get(name).cloned()
    }

    /// Refusals of `node` that still stand, newest last.
    #[must_use]
    pub fn refusals(&self, node: &NodeKey) -> Vec<Refusal> {
        self.0.nodes.read().get(node).map(|node| node.refusals.clone()).unwrap_or_default()
    }

    /// Every proxy that is connected or whose refusal is remembered.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<NodeKey, Proxy> {
        let nodes = self.0.nodes.read();
        nodes
            .iter()
            .map(|(key, node)| {
                let proxy = Proxy {
                    connected_since: node.streams.first().map(|stream| stream.since),
                    user_agent: node.user_agent.clone(),
                    acknowledged: node.acknowledged().into_iter().flatten().map(HashMap::len).sum(),
                    refusals: node.refusals.clone(),
                };
                (key.clone(), proxy)
            })
            .collect()
    }

    /// A stream of `node` opened.
    #[must_use]
    pub fn connect(&self, node: &NodeKey, user_agent: String, now: Timestamp) -> Connection {
        self.open(node, user_agent, now, true)
    }

    /// A stream of `node` opened, here or at another replica.
    fn open(&self, node: &NodeKey, user_agent: String, now: Timestamp, here: bool) -> Connection {
        let id = StreamId(self.0.next_stream.fetch_add(1, Ordering::Relaxed));
        {
            let mut nodes = self.0.nodes.write();
            let entry = nodes.entry(node.clone()).or_default();
            entry.streams.push(OpenStream { id, since: now, here, sotw: false, acknowledged: Acknowledged::default() });
            // Another replica may tell late of one that is older than ours.
            entry.streams.sort_by_key(|stream| stream.since);
            entry.user_agent = user_agent;
            self.0.gone.lock().retain(|gone| gone != node);
        }
        if here {
            self.0.metrics.streams.inc();
        }
        self.changed(node);
        Connection { proxies: self.clone(), node: node.clone(), id, here }
    }

    /// A request for a type that we do not serve came.
    pub fn count_unknown_type(&self) {
        self.0.metrics.unknown_types.inc();
    }

    /// Collects from now on the nodes of which status may say something else; to be taken often.
    pub fn collect_news(&self) {
        self.0.news.lock().get_or_insert_default();
    }

    /// The nodes of which status may say something else since this was last asked.
    #[must_use]
    pub fn take_news(&self) -> BTreeSet<NodeKey> {
        self.0.news.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn changed(&self, node: &NodeKey) {
        if let Some(news) = &mut *self.0.news.lock() {
            news.insert(node.clone());
        }
        self.0.reporters.lock().retain(|reporter| {
            let reporter = reporter.upgrade();
            reporter.is_some_and(|news| {
                news.lock().insert(node.clone());
                true
            })
        });
        self.0.changes.send_modify(|changes| *changes += 1);
    }
}

impl Connection {
    /// The stream is one of the state-of-the-world protocol.
    pub fn mark_sotw(&self) {
        {
            let mut nodes = self.proxies.0.nodes.write();
            let streams = nodes.get_mut(&self.node).into_iter().flat_map(|node| &mut node.streams);
            streams.filter(|stream| stream.id == self.id).for_each(|stream| stream.sotw = true);
        }
        self.proxies.changed(&self.node);
    }

    /// A response was handed to the transport.
    pub fn pushed(&self, resource_type: ResourceType, resources: usize) {
        let label = TypeLabel { r#type: resource_type.label() };
        self.proxies.0.metrics.pushes.get_or_create(&label).inc();
        self.proxies.0.metrics.resources.get_or_create(&label).inc_by(resources as u64);
    }

    /// The proxy holds these versions (`None`: has dropped the resource), as it acknowledged or, on reconnecting, said.
    pub fn holds(&self, resource_type: ResourceType, resources: Vec<(Arc<str>, Option<Arc<str>>)>) {
        self.update(|acknowledged, refusals| {
            for (name, version) in resources {
                refusals.iter_mut().filter(|r| r.resource_type == resource_type).for_each(|refusal| {
                    refusal.resources.retain(|(refused, _)| **refused != *name);
                });
                let acknowledged = &mut acknowledged[resource_type.index()];
                match version {
                    Some(version) => acknowledged.insert(name, version),
                    None => acknowledged.remove(&name),
                };
            }
            refusals.retain(|refusal| !refusal.resources.is_empty());
        });
    }

    /// A response was acknowledged.
    pub fn count_ack(&self, resource_type: ResourceType) {
        self.proxies.0.metrics.acks.get_or_create(&TypeLabel { r#type: resource_type.label() }).inc();
    }

    /// The proxy refused a response.
    pub fn refused(&self, refusal: Refusal) {
        self.proxies.0.metrics.nacks.get_or_create(&TypeLabel { r#type: refusal.resource_type.label() }).inc();
        self.update(|_, refusals| {
            // A newer refusal of the same resource replaces the older one.
            for old in refusals.iter_mut().filter(|old| old.resource_type == refusal.resource_type) {
                old.resources.retain(|(name, _)| !refusal.resources.iter().any(|(new, _)| new == name));
            }
            refusals.retain(|old| !old.resources.is_empty());
            refusals.push(refusal);
            if refusals.len() > MAX_REFUSALS {
                refusals.remove(0);
            }
        });
    }

    /// Applies `change` to what this stream has acknowledged and what the node has refused; to nothing of the latter when a newer stream
    /// of the same node speaks for it now.
    fn update(&self, change: impl FnOnce(&mut Acknowledged, &mut Vec<Refusal>)) {
        {
            let mut nodes = self.proxies.0.nodes.write();
            let Some(Node { streams, refusals, .. }) = nodes.get_mut(&self.node) else { return };
            let Some(place) = streams.iter().position(|stream| stream.id == self.id) else { return };
            let is_newest = place + 1 == streams.len();
            let mut of_nobody = Vec::new();
            change(&mut streams[place].acknowledged, if is_newest { refusals } else { &mut of_nobody });
        }
        self.proxies.changed(&self.node);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        {
            let mut nodes = self.proxies.0.nodes.write();
            if let Some(node) = nodes.get_mut(&self.node) {
                node.streams.retain(|stream| stream.id != self.id);
                if node.streams.is_empty() {
                    if node.refusals.is_empty() {
                        nodes.remove(&self.node);
                    } else {
                        let mut gone = self.proxies.0.gone.lock();
                        gone.push_back(self.node.clone());
                        if gone.len() > MAX_GONE
                            && let Some(oldest) = gone.pop_front()
                        {
                            nodes.remove(&oldest);
                        }
                    }
                }
            }
        }
        if self.here {
            self.proxies.0.metrics.streams.dec();
        }
        self.proxies.changed(&self.node);
    }
}

#[cfg(test)]
mod tests;
