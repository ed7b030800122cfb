//! The mesh-wide table of resources, name to version and encoded bytes, and which node sees which names.
//!
//! One writer (the task that owns the index) replaces a service's resources as a whole; readers are the streams. A stream
//! holds a [`Watcher`]: it is woken only by a change that its node sees, and reads the latest state whenever it is ready to
//! send, so nothing is ever queued for a slow proxy.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::{
    intent::{ServiceIntent, ServiceKey},
    xds::{
        NodeKey, ResourceType, names,
        resources::{Needs, Resource, extension},
        trail::{Mark, Traced},
    },
};

/// A resource as the table holds it; cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Hash of the intent that it was built from.
    pub version: Arc<str>,
    /// The encoded `envoy.service.discovery.v3.Resource`.
    pub encoded: Bytes,
    /// See [`Resource::needs`].
    pub needs: Needs,
}

/// Resources of one type by name.
pub type Names = BTreeMap<Arc<str>, Entry>;

/// What one node sees, by type in push order. A snapshot: shared and never changed.
pub type View = [Arc<Names>; ResourceType::COUNT];

/// What a replacement changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Resources added, changed or removed.
    pub resources: usize,
    /// Nodes that see at least one of them.
    pub nodes: usize,
}

/// The table; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Table(Arc<RwLock<State>>);

#[derive(Debug, Default)]
struct State {
    /// Nodes of each service that has resources. Written by `replace` only.
    services: BTreeMap<ServiceKey, Vec<NodeKey>>,
    /// What each node sees. Written by `replace` only; kept apart from `watchers` because proxies may connect before there
    /// is anything for them, and go while there is.
    nodes: HashMap<NodeKey, View>,
    /// Streams to wake. Written by `watch` and when a watcher is dropped.
    watchers: HashMap<NodeKey, watch::Sender<u64>>,
    /// What extension configurations are made of, when a stream asks for one: few proxies do.
    intents: BTreeMap<ServiceKey, Arc<ServiceIntent>>,
    /// Streams for extension configurations, to wake. In order, so that those of a service stand together.
    attached: BTreeMap<NodeKey, watch::Sender<u64>>,
    /// The newest change that is followed, by the nodes that see it. Empty unless somebody traces.
    marks: HashMap<NodeKey, Mark>,
    /// Changes that were followed.
    followed: u64,
    /// Proxies that leave it to us which service they are of, to wake when their pod comes to one or leaves it. Written by `seek`
    /// and when a seeker is dropped.
    seekers: HashMap<NodeKey, watch::Sender<u64>>,
}

/// Looks for the service of a proxy whose node names none.
#[derive(Debug)]
pub struct Seeker {
    table: Table,
    unnamed: NodeKey,
    woken: watch::Receiver<u64>,
}

/// A stream's place at the table.
#[derive(Debug)]
pub struct Watcher {
    table: Table,
    node: NodeKey,
    woken: watch::Receiver<u64>,
    /// Of a stream for an extension configuration: what it was made of, and what came of it.
    extension: Option<Box<(Option<Arc<ServiceIntent>>, View)>>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes `resources` all that `service` has, and wakes the streams of the nodes for which that is a difference.
    /// A resource whose version has not changed keeps its bytes.
    pub fn replace(&self, service: &ServiceKey, resources: Vec<Resource>) -> Changed {
        self.replace_traced(service, resources, None)
    }

    /// As [`Self::replace`], with somebody who follows the change to the proxies.
    pub fn replace_traced(
        &self,
        service: &ServiceKey,
        resources: Vec<Resource>,
        traced: Option<Arc<dyn Traced>>,
    ) -> Changed {
        let mut resources = resources;
        // The stage before gives them in this order, so this only looks.
        if !resources.is_sorted_by(|one, next| one.node <= next.node) {
            resources.sort_by(|one, other| one.node.cmp(&other.node));
        }
        let nodes: Vec<NodeKey> =
            resources.chunk_by(|one, next| one.node == next.node).map(|of| of[0].node.clone()).collect();
        let mut changed = Changed::default();
        let mut state = self.0.write();
        let mark = traced.map(|traced| {
            state.followed += 1;
            Mark { number: state.followed, traced }
        });
        let before = state.services.remove(service).unwrap_or_default();
        for node in before.iter().filter(|node| nodes.binary_search(node).is_err()) {
            let view = state.nodes.remove(node).unwrap_or_default();
            state.marks.remove(node);
            changed.resources += view.iter().map(|names| names.len()).sum::<usize>();
            changed.nodes += 1;
            state.wake(node);
            state.wake_seekers(node);
        }
        if !state.seekers.is_empty() {
            for node in nodes.iter().filter(|node| before.binary_search(node).is_err()) {
                state.wake_seekers(node);
            }
        }
        if !nodes.is_empty() {
            state.services.insert(service.clone(), nodes);
        }
        for of_node in resources.chunk_by(|one, next| one.node == next.node) {
            let node = &of_node[0].node;
            let differences = state.replace_node(node, of_node);
            if differences > 0 {
                changed.resources += differences;
                changed.nodes += 1;
                // What nobody follows must not be told in the name of an older change.
                match &mark {
                    Some(mark) => drop(state.marks.insert(node.clone(), mark.clone())),
                    None => drop(state.marks.remove(node)),
                }
                state.wake(node);
            }
        }
        changed
    }

    /// Makes `intent` what extension configurations of `service` come from, and wakes the streams that have one.
    pub fn intend(&self, service: &ServiceKey, intent: Arc<ServiceIntent>) {
        let mut state = self.0.write();
        state.intents.insert(service.clone(), intent);
        state.wake_attached(service);
    }

    /// Removes all that `service` has.
    pub fn remove(&self, service: &ServiceKey) -> Changed {
        {
            let mut state = self.0.write();
            state.intents.remove(service);
            state.wake_attached(service);
        }
        self.replace(service, Vec::new())
    }

    /// What `node` sees now; empty for a node that has nothing.
    #[must_use]
    pub fn view(&self, node: &NodeKey) -> View {
        self.0.read().nodes.get(node).cloned().unwrap_or_default()
    }

    /// Type, name and version of all that `node` sees now, in push order: what [`crate::xds::proxies::Proxies::programmed`]
    /// takes.
    #[must_use]
    pub fn versions(&self, node: &NodeKey) -> Vec<(ResourceType, Arc<str>, Arc<str>)> {
        if self.is_attached(node) {
            let version = extension::version_of(node, self.intent(node).as_deref());
            return vec![(ResourceType::Extension, names::extension(node).into(), version)];
        }
        let view = self.view(node);
        ResourceType::ALL
            .into_iter()
            .flat_map(|t| view[t.index()].iter().map(move |(name, entry)| (t, name.clone(), entry.version.clone())))
            .collect()
    }

    /// A resource by type and name.
    #[must_use]
    pub fn get(&self, resource_type: ResourceType, name: &str) -> Option<Entry> {
        let state = self.0.read();
        state.nodes.values().find_map(|view| view[resource_type.index()].get(name).cloned())
    }

    /// Number of resources by type, in push order.
    #[must_use]
    pub fn counts(&self) -> [usize; ResourceType::COUNT] {
        let state = self.0.read();
        ResourceType::ALL.map(|t| state.nodes.values().map(|view| view[t.index()].len()).sum())
    }

    /// Takes a place at the table for a stream of `node`.
    #[must_use]
    pub fn watch(&self, node: &NodeKey) -> Watcher {
        let mut state = self.0.write();
        let woken = state.watchers.entry(node.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe();
        Watcher { table: self.clone(), node: node.clone(), woken, extension: None }
    }

    /// Takes a place at the table for a stream that fetches the extension configuration of `node` and sees nothing else. It is
    /// made when the stream looks, so that pods without such a stream cost nothing.
    #[must_use]
    pub fn attach(&self, node: &NodeKey) -> Watcher {
        let mut state = self.0.write();
        let woken = state.attached.entry(node.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe();
        Watcher { table: self.clone(), node: node.clone(), woken, extension: Some(Box::default()) }
    }

    /// Looks for the service of `unnamed`.
    #[must_use]
    pub fn seek(&self, unnamed: &NodeKey) -> Seeker {
        let mut state = self.0.write();
        let woken = state.seekers.entry(unnamed.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe();
        Seeker { table: self.clone(), unnamed: unnamed.clone(), woken }
    }

    /// Whether all streams of `node` are for its extension configuration: its listeners are another control plane's.
    #[must_use]
    pub fn is_attached(&self, node: &NodeKey) -> bool {
        let state = self.0.read();
        state.attached.contains_key(node) && !state.watchers.contains_key(node)
    }

    fn intent(&self, node: &NodeKey) -> Option<Arc<ServiceIntent>> {
        self.0.read().intents.get(&node.service_key()).cloned()
    }
}

impl State {
    /// Returns the number of differences; touches nothing if there are none.
    fn replace_node(&mut self, node: &NodeKey, new: &[Resource]) -> usize {
        let view = self.nodes.entry(node.clone()).or_default();
        let mut differences = 0;
        for (resource_type, held) in ResourceType::ALL.into_iter().zip(view) {
            let of_type = || new.iter().filter(|resource| resource.resource_type == resource_type);
            let kept = |resource: &Resource| held.get(&resource.name).filter(|old| old.version == resource.version);
            // Most changes touch one type; the others are only compared.
            if of_type().count() == held.len() && of_type().all(|resource| kept(resource).is_some()) {
                continue;
            }
            differences += of_type().filter(|resource| kept(resource).is_none()).count();
            let names: Names = of_type()
                .map(|resource| {
                    let entry = kept(resource).cloned().unwrap_or_else(|| Entry {
                        version: resource.version.clone(),
                        encoded: resource.encoded.clone(),
                        needs: resource.needs.clone(),
                    });
                    (resource.name.clone(), entry)
                })
                .collect();
            differences += held.keys().filter(|name| !names.contains_key(*name)).count();
            *held = Arc::new(names);
        }
        differences
    }

    fn wake(&self, node: &NodeKey) {
        if let Some(streams) = self.watchers.get(node) {
            streams.send_modify(|wakes| *wakes += 1);
        }
    }

    fn wake_seekers(&self, node: &NodeKey) {
        if let Some(seekers) = self.seekers.get(&NodeKey::unnamed(node.namespace(), node.pod())) {
            seekers.send_modify(|wakes| *wakes += 1);
        }
    }

    fn wake_attached(&self, service: &ServiceKey) {
        // No pod is called "", so this is before all of the service's.
        let from = NodeKey::of(service, "");
        let of_service = |node: &NodeKey| node.namespace() == service.namespace && node.service() == service.name;
        for (_, streams) in self.attached.range(from..).take_while(|(node, _)| of_service(node)) {
            streams.send_modify(|wakes| *wakes += 1);
        }
    }
}

impl Watcher {
    /// Waits until what the node sees has changed since the last call of this or of [`Self::view`].
    pub async fn changed(&mut self) {
        if self.woken.changed().await.is_err() {
            // The sender lives in the table as long as any watcher of the node does, so this is never reached.
            std::future::pending::<()>().await;
        }
    }

    /// What the node sees now.
    #[must_use]
    pub fn view(&mut self) -> View {
        // Marked first: a change between the two lines wakes the stream once too often, never too seldom.
        self.woken.mark_unchanged();
        let Some(extension) = &mut self.extension else { return self.table.view(&self.node) };
        let (made_of, view) = &mut **extension;
        let intent = self.table.intent(&self.node);
        let names = &mut view[ResourceType::Extension.index()];
        let same = made_of.as_ref().map(Arc::as_ptr) == intent.as_ref().map(Arc::as_ptr);
        if names.is_empty() || !same {
            let Resource { name, version, encoded, needs, .. } = extension::build(&self.node, intent.as_deref());
            *names = Arc::new(Names::from([(name, Entry { version, encoded, needs })]));
            *made_of = intent;
        }
        view.clone()
    }

    /// What the node sees now, and the newest change of it that is followed; an extension configuration's are not.
    pub(super) fn marked_view(&mut self) -> (View, Option<Mark>) {
        if self.extension.is_some() {
            return (self.view(), None);
        }
        self.woken.mark_unchanged();
        let state = self.table.0.read();
        (state.nodes.get(&self.node).cloned().unwrap_or_default(), state.marks.get(&self.node).cloned())
    }
}

impl Seeker {
    /// The proxy with the service that its pod stands behind: of several the first by name, so that every replica and every start
    /// says the same.
    #[must_use]
    pub fn found(&mut self) -> Option<NodeKey> {
        self.woken.mark_unchanged();
        let state = self.table.0.read();
        let (namespace, pod) = (self.unnamed.namespace(), self.unnamed.pod());
        let first = ServiceKey { namespace: namespace.to_owned(), name: String::new() };
        let of_namespace = state.services.range(first..).take_while(|(service, _)| service.namespace == namespace);
        of_namespace.map(|(service, nodes)| (NodeKey::of(service, pod), nodes)).find_map(|(node, nodes)| {
            let is_there = nodes.binary_search(&node).is_ok();
            is_there.then_some(node)
        })
    }

    /// Whether its pod has come to a service or left one since it was looked for.
    #[must_use]
    pub fn is_woken(&self) -> bool {
        self.woken.has_changed().unwrap_or_default()
    }

    /// Waits until its pod stands behind a service.
    pub async fn find(&mut self) -> NodeKey {
        loop {
            if let Some(node) = self.found() {
                return node;
            }
            self.changed().await;
        }
    }

    /// Waits until it is of another service than `node` says. Of none is no other: there may be one again.
    pub async fn moved(&mut self, node: &NodeKey) {
        while self.found().is_none_or(|found| found == *node) {
            self.changed().await;
        }
    }

    async fn changed(&mut self) {
        if self.woken.changed().await.is_err() {
            // The sender lives in the table as long as any seeker of the node does, so this is never reached.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Seeker {
    fn drop(&mut self) {
        let mut state = self.table.0.write();
        if state.seekers.get(&self.unnamed).is_some_and(|streams| streams.receiver_count() <= 1) {
            state.seekers.remove(&self.unnamed);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut state = self.table.0.write();
        let last = |streams: &watch::Sender<u64>| streams.receiver_count() <= 1;
        if self.extension.is_some() {
            if state.attached.get(&self.node).is_some_and(last) {
                state.attached.remove(&self.node);
            }
        } else if state.watchers.get(&self.node).is_some_and(last) {
            state.watchers.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests;
