//! Which `LazyConfig` holds for a pod: that of its workload, then its namespace's, then the mesh's; of two alike the older one.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use limiter::{
    lazy::{Lazy, LazyKey, Scope},
    problem::Problem,
};

use super::{Dirty, Index, Labels, LazyEntry, ObjectKey, dirty, entry};
use crate::intent::ServiceKey;

/// Accepted ones by namespace, in the order in which they hold.
type Ranked = BTreeMap<String, Vec<Arc<Lazy>>>;

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Lazies {
    entries: BTreeMap<LazyKey, LazyEntry>,
    ranked: Ranked,
}

/// For which pods one is in force, and why not for others that it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The pods for which it holds: namespace and name, in order.
    pub pods: Vec<(String, String)>,
    /// Older ones of the same scope that hold in its place, and for how many pods.
    pub older: BTreeMap<LazyKey, usize>,
    /// How many pods narrower ones hold for.
    pub narrower: usize,
}

impl Lazies {
    fn set(&mut self, key: &LazyKey, entry: Option<LazyEntry>, mesh: Option<&str>) {
        let list = self.ranked.entry(key.namespace.clone()).or_default();
        list.retain(|lazy| lazy.key != *key);
        list.extend(entry.iter().filter_map(|entry| entry.accepted.clone()));
        list.sort_by(|a, b| rank(a, mesh).cmp(&rank(b, mesh)));
        if list.is_empty() {
            self.ranked.remove(&key.namespace);
        }
        match entry {
            Some(entry) => drop(self.entries.insert(key.clone(), entry)),
            None => drop(self.entries.remove(key)),
        }
    }
}

/// The order in which they hold. One without an age is younger than all others.
fn rank<'a>(lazy: &'a Lazy, mesh: Option<&str>) -> impl Ord + use<'a> {
    (Reverse(lazy.scope(mesh)), lazy.created.is_none(), lazy.created, &lazy.key)
}

/// Whether it is for a pod of its namespace with these labels.
fn fits(lazy: &Lazy, labels: Option<&Labels>) -> bool {
    lazy.selector.as_ref().is_none_or(|wanted| labels.is_some_and(|labels| labels.contain(wanted)))
}

/// What holds for a pod.
fn holding<'a>(
    ranked: &'a Ranked,
    mesh: Option<&str>,
    namespace: &str,
    labels: Option<&Labels>,
) -> Option<&'a Arc<Lazy>> {
    let own = ranked.get(namespace).and_then(|list| list.iter().find(|lazy| fits(lazy, labels)));
    let of_mesh = || ranked.get(mesh?)?.iter().find(|lazy| lazy.selector.is_none());
    own.or_else(of_mesh)
}

impl Index {
    /// The configuration in force for a pod that is an endpoint of `service`. `None`: its proxy has everything from the start.
    #[must_use]
    pub fn lazy(&self, service: &ServiceKey, pod: &str) -> Option<&Arc<Lazy>> {
        // Most meshes have none.
        if self.lazies.ranked.is_empty() {
            return None;
        }
        self.lazy_of_pod(&(service.namespace.clone(), pod.to_owned()))
    }

    fn lazy_of_pod(&self, pod: &(String, String)) -> Option<&Arc<Lazy>> {
        let mesh = self.tenants.mesh.as_deref();
        holding(&self.lazies.ranked, mesh, &pod.0, self.labels_of(pod))
    }

    /// Every `LazyConfig`, accepted or not.
    pub fn lazies(&self) -> impl Iterator<Item = (&LazyKey, &LazyEntry)> {
        self.lazies.entries.iter()
    }

    /// One `LazyConfig`.
    #[must_use]
    pub fn lazy_config(&self, key: &LazyKey) -> Option<&LazyEntry> {
        self.lazies.entries.get(key)
    }

    /// How narrow a configuration is here.
    #[must_use]
    pub fn lazy_scope(&self, lazy: &Lazy) -> Scope {
        lazy.scope(self.tenants.mesh.as_deref())
    }

    /// Whether the application of a pod, by its namespace and name, sends requests through its proxy.
    pub(crate) fn calls(&self, pod: &(String, String)) -> bool {
        self.pods.get(pod).is_some_and(|model| model.outbound.is_some())
    }

    /// Whether there is a pod that it is for.
    #[must_use]
    pub fn fits_any(&self, lazy: &Lazy) -> bool {
        self.fitting(lazy).next().is_some()
    }

    /// Others of the same scope that hold in its place for some pods, or would if it were applied.
    #[must_use]
    pub fn rivals(&self, lazy: &Lazy) -> BTreeSet<&LazyKey> {
        let mesh = self.tenants.mesh.as_deref();
        let (scope, own) = (lazy.scope(mesh), rank(lazy, mesh));
        let others = self.lazies.ranked.get(&lazy.key.namespace).into_iter().flatten();
        let before =
            others.filter(|other| other.key != lazy.key && other.scope(mesh) == scope && rank(other, mesh) < own);
        let before: Vec<_> = before.collect();
        if before.is_empty() {
            return BTreeSet::new();
        }
        if lazy.selector.is_none() {
            return before.into_iter().map(|other| &other.key).collect();
        }
        let fitting: Vec<_> = self.fitting(lazy).collect();
        let shares = |other: &&&Arc<Lazy>| fitting.iter().any(|pod| fits(other, self.labels_of(pod)));
        before.iter().filter(shares).map(|other| &other.key).collect()
    }

    fn labels_of(&self, pod: &(String, String)) -> Option<&Labels> {
        self.pods.get(pod).map(|model| &model.labels)
    }

    /// Pods behind Services that it is for, whether or not another one holds for them.
    fn fitting<'a>(&'a self, lazy: &'a Lazy) -> impl Iterator<Item = &'a (String, String)> {
        let is_of_mesh = self.lazy_scope(lazy) == Scope::Mesh;
        let namespace = lazy.key.namespace.as_str();
        // From its namespace's first pod on; of the mesh, from the very first.
        let first = (if is_of_mesh { String::new() } else { namespace.to_owned() }, String::new());
        let pods = self.pod_services.range(first..).map(|(pod, _)| pod);
        let own = pods.take_while(move |(of, _)| is_of_mesh || of == namespace);
        own.filter(|pod| fits(lazy, self.labels_of(pod)))
    }

    /// For which pods a configuration is in force, or would be were it one of the accepted.
    #[must_use]
    pub fn standing(&self, lazy: &Lazy) -> Standing {
        let scope = self.lazy_scope(lazy);
        let mut standing = Standing::default();
        for pod in self.fitting(lazy) {
            match self.lazy_of_pod(pod) {
                Some(other) if other.key == lazy.key => standing.pods.push(pod.clone()),
                Some(other) if self.lazy_scope(other) == scope => {
                    *standing.older.entry(other.key.clone()).or_default() += 1;
                }
                Some(_) => standing.narrower += 1,
                None => {}
            }
        }
        standing
    }

    pub(super) fn apply_lazy(
        &mut self,
        key: &ObjectKey,
        origin: String,
        newest: Option<Lazy>,
        problems: Vec<Problem>,
    ) -> Dirty {
        let key = LazyKey { namespace: key.namespace.clone(), name: key.name.clone() };
        match entry::next(self.lazies.entries.get(&key), origin, newest, problems) {
            Some(entry) => dirty(self.set_lazy(&key, Some(entry))),
            None => Dirty::default(),
        }
    }

    pub(super) fn delete_lazy(&mut self, key: &ObjectKey, found: bool) -> Dirty {
        let key = LazyKey { namespace: key.namespace.clone(), name: key.name.clone() };
        if self.lazies.entries.contains_key(&key) {
            dirty(self.set_lazy(&key, None))
        } else {
            Dirty { any: found, ..Dirty::default() }
        }
    }

    /// Services with pods for which something else holds now.
    fn set_lazy(&mut self, key: &LazyKey, entry: Option<LazyEntry>) -> Vec<ServiceKey> {
        let mesh = self.tenants.mesh.clone();
        let mesh = mesh.as_deref();
        let old = self.lazies.entries.get(key).and_then(|old| old.accepted.clone());
        let new = entry.as_ref().and_then(|entry| entry.accepted.clone());
        let before = self.lazies.ranked.clone();
        self.lazies.set(key, entry, mesh);
        let is_same = match (&old, &new) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if is_same {
            return Vec::new();
        }
        let everywhere = old.iter().chain(&new).any(|lazy| lazy.scope(mesh) == Scope::Mesh);
        let differs = |namespace: &str, pod: &str| {
            let pod = (namespace.to_owned(), pod.to_owned());
            let labels = self.labels_of(&pod);
            let before = holding(&before, mesh, namespace, labels);
            let after = holding(&self.lazies.ranked, mesh, namespace, labels);
            before.map(Arc::as_ptr) != after.map(Arc::as_ptr)
        };
        let concerned = self.slices.iter().filter(|(service, slices)| {
            let mut endpoints = slices.values().flat_map(|slice| &slice.endpoints);
            (everywhere || service.namespace == key.namespace)
                && endpoints.any(|endpoint| differs(&service.namespace, &endpoint.pod))
        });
        concerned.map(|(service, _)| service.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
